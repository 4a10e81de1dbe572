"""A method on a toy shift: what the contract tests of methods have in hand."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor

from sfda.adaptation.loop import adapt
from sfda.config import merged
from sfda.errors import BadInput
from sfda.methods._base import Method
from sfda.problems.registry import PROBLEMS
from sfda.testing.toys import Toy
from sfda.types import Batches, Clock, EpochEnd, Guide, Labelled, State, StepEnd, TargetBatch

LABELLED_EVERY = 2  # of a toy's rows one is labelled, where a method learns from such
TRIAL_ROWS = 24
MOMENT = Clock(0, 5, 3)
Tried = TypeVar("Tried")  # what a contract is checked on


def require(holds: bool, otherwise: str) -> None:
    """Raise AssertionError that says what is broken; also where Python leaves out `assert`."""
    if not holds:
        raise AssertionError(otherwise)


def require_refused(make: Callable[..., Any], settings: Mapping[str, Any], word: str) -> None:
    """Raise AssertionError unless these settings are refused by a message with the word."""
    try:
        make(**settings)
    except BadInput as error:
        require(word in str(error), f"the message on {settings} does not name it: {error}")
    else:
        raise AssertionError(f"settings {settings} are taken: a typo would go unseen")


def require_kind(kind: type[Any], base: type[Any], config: type[Any]) -> str:
    """The class's name, if it is of the right kind, its settings have defaults, and it serves
    problems that there are. Raises AssertionError.
    """
    name = getattr(kind, "__name__", repr(kind))
    require(isinstance(kind, type) and issubclass(kind, base), f"{name} is no {base.__name__}")
    own = getattr(kind, "Config", None)
    fits = isinstance(own, type) and issubclass(own, config)
    require(fits, f"{name}.Config is no {config.__name__}")
    try:
        kind.Config()
    except ValueError as error:
        raise AssertionError(f"{name}.Config has a field without a default: {error}") from None
    unknown = sorted(kind.problems - set(PROBLEMS))
    require(not unknown, f"{name}.problems names {', '.join(unknown)}; there are {list(PROBLEMS)}")
    require(bool(kind.problems), f"{name} serves no problem: see `networks`")
    return name


def require_same(one: Mapping[str, Any], other: Mapping[str, Any], what: str, atol: float) -> None:
    """Raise AssertionError where two states are not the same up to `atol` (0: to the bit)."""
    require(one.keys() == other.keys(), f"{what}: {sorted(one.keys() ^ other.keys())} is in one")
    for name, value in one.items():
        if isinstance(value, Tensor):
            near = torch.allclose(
                value.double(),
                other[name].double(),
                rtol=1e-4 if atol else 0.0,
                atol=atol,
                equal_nan=True,
            )
            require(near, f"{what}: {name} differs")
        else:
            require(value == other[name], f"{what}: {name} differs")


def run_checks(title: str, checks: Sequence[Callable[[Tried], None]], case: Tried) -> None:
    """Each check on the case. Raises AssertionError that begins with the title, also for whatever
    else the code that is tried raises; BadInput goes through.
    """
    for check in checks:
        try:
            check(case)
        except AssertionError as error:
            raise AssertionError(f"{title}: {error}") from error
        except BadInput:
            raise
        except Exception as error:
            what = f"{check.__name__} ended with {type(error).__name__}: {error}"
            raise AssertionError(f"{title}: {what}") from error


class Annotated:
    """Batches of a toy with labelled rows beside them."""

    def __init__(self, trial: Trial, batches: Batches, shift: float) -> None:
        self.trial, self.batches, self.shift = trial, batches, shift

    def steps(self, rows: Tensor | None = None) -> int:
        """Batches of an epoch."""
        return int(self.batches.steps(rows))

    def epoch(self, epoch: int, rows: Tensor | None = None) -> Iterator[TargetBatch]:
        """All rows in batches."""
        for batch in self.batches.epoch(epoch, rows):
            yield self.trial.annotated(batch, shift=self.shift)


@dataclass(frozen=True)
class Run:
    """What a run has left: an end for every epoch, and the parameters that the optimiser had."""

    method: Method
    ends: tuple[EpochEnd, ...]
    trained: frozenset[str]


@dataclass(frozen=True)
class Trial:
    """A method, a toy, and the settings to try it with."""

    kind: type[Method]
    toy: Toy
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def method(self, **settings: object) -> Method:
        """It, for the toy's three short epochs. Raises BadInput for settings it does not know."""
        own: dict[str, Any] = {"schedule": self.toy.FAST.model_dump()}
        for more in (self.kind.brief, self.settings, settings):
            own = merged(own, dict(more))
        inputs = merged(self.kind.defaults_for(self.toy.PROBLEM), own)
        info = self.toy.info()
        if self.kind.labelled_rows == "own":
            info = replace(info, labelled=self.rows)
        if self.kind.needs_guide:
            info = replace(info, guide=self.guide)
        return self.kind(self.toy.source(), info, self.kind.Config.from_settings(inputs))

    @property
    def learns(self) -> bool:
        """Whether it trains parameters."""
        return self.kind.learns == "network"

    @cached_property
    def guide(self) -> Guide:
        """A second opinion on the toy's target: of the source model, before the shift."""
        x, _ = self.toy.images(0.0, seed=1)
        with torch.no_grad():
            out = self.toy.source()(x)
        answered = torch.ones(len(x), dtype=torch.bool)
        return Guide("toy", out.logits, answered, features=out.features)

    @property
    def rows(self) -> Tensor:
        """Rows that a person has labelled."""
        return torch.arange(0, min(TRIAL_ROWS, self.toy.SIZE), LABELLED_EVERY)

    def begun(self, **settings: object) -> tuple[Method, Tensor]:
        """A method that has looked at the target, in train mode, and the target."""
        x, _ = self.toy.images(0.5, seed=1)
        method = self.method(**settings)
        method.start_epoch(self.toy.scan(x), MOMENT)
        method.train()
        return method, x

    def batch(self, x: Tensor, rows: Tensor) -> TargetBatch:
        """A batch as the method gets one."""
        batch = self.toy.batch(x, rows)
        return self.annotated(batch) if self.kind.labelled_rows == "own" else batch

    def annotated(self, batch: TargetBatch, *, shift: float = 0.5) -> TargetBatch:
        """The batch with labelled rows beside it."""
        x, y = self.toy.images(shift, seed=1)
        targets: Any
        if isinstance(y, list):
            targets = [y[row] for row in self.rows.tolist()]
        elif isinstance(y, tuple):
            targets = type(y)(*(part[self.rows] for part in y))
        else:
            targets = y[self.rows]
        return replace(batch, labelled=Labelled(self.rows, x[self.rows], targets))

    def run(self, *, shift: float = 0.5, resume: State | None = None) -> Run:
        """Three epochs under one seed; states come back as from a file."""
        x, _ = self.toy.images(shift, seed=1)
        method, batches = self.method(), self.toy.Batches(x)
        if self.kind.labelled_rows == "own":
            batches = Annotated(self, batches, shift)
        ends, trained = [], set[str]()
        schedule = self.toy.FAST
        for event in adapt(method, batches, self.toy.scan(x), schedule, seed=3, resume=resume):
            if isinstance(event, StepEnd):
                trained |= trained_names(method, method.parameter_groups(schedule))
            if isinstance(event, EpochEnd):
                ends.append(EpochEnd(event.clock, event.adapted, stored(event.state)))
        return Run(method, tuple(ends), frozenset(trained))

    @cached_property
    def whole(self) -> Run:
        """An undisturbed run, made once."""
        return self.run()


def trained_names(method: Method, groups: list[dict[str, Any]]) -> set[str]:
    """Names of the parameters that an optimiser of these groups moves."""
    inside = {id(parameter) for group in groups for parameter in group["params"]}
    return {n for n, p in method.named_parameters() if id(p) in inside and p.requires_grad}


def stored(state: State) -> State:
    """A state as it comes back from a file that holds tensors and plain values alone."""
    file = io.BytesIO()
    torch.save({"method": dict(state.method), "optimizer": state.optimizer}, file)
    file.seek(0)
    content = torch.load(file, weights_only=True)
    return State(state.next_epoch, content["method"], content["optimizer"])
