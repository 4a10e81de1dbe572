"""Scores of a network without labels: what its validators say of it after an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from sfda import plugins
from sfda.adaptation.plan import validators_for
from sfda.building_blocks.rejection import TwoClusters
from sfda.decision.vetoes import Expected, FigureCounter, Figures, watched_vetoes
from sfda.errors import BadInput
from sfda.inference.forward import refuse_not_finite
from sfda.loading.opened import Opened
from sfda.loading.scan import scan, scan_shown, scan_views
from sfda.methods._base import Method
from sfda.policy import VetoLimits
from sfda.problems.registry import problem_of
from sfda.refs import InputSpec, ModelSpec, Profile, Scores, Views
from sfda.types import SeenViews
from sfda.validators._base import Validator
from sfda.weights.source_card import Card


class EpochScores(NamedTuple):
    """What one scan of the target without labels tells of a network."""

    scores: Scores
    reject: float | None  # above which uncertainty its prediction should be "unknown"
    vetoes: tuple[str, ...] = ()  # what speaks against it, whatever its scores


@dataclass(frozen=True)
class Watched:
    """What the answers of an adapted network are held against, after every epoch."""

    before: Figures  # of the source model, on the same images
    limits: VetoLimits = field(default_factory=VetoLimits)
    expected: Expected = field(default_factory=Expected)
    surest: Mapping[int, int] = field(default_factory=dict)  # row -> the source's class
    classes: Sequence[str] = ()


def score_unlabelled(
    seen: Iterable[SeenViews],
    validators: dict[str, Validator],
    rejection: float | Literal["auto"] | None = None,
    watched: Watched | None = None,
    pseudo_labels: float | None = None,
) -> EpochScores:
    """Every validator's score, the threshold of rejection, and the vetoes where they are watched;
    `pseudo_labels` are those left of the first epoch's. Raises NotFinite.
    """
    clusters = TwoClusters()
    counter = FigureCounter(watched.surest if watched else None)
    for batch in seen:
        refuse_not_finite(batch.output.logits)
        for validator in validators.values():
            validator.update(batch)
        if rejection is not None:
            clusters.update(batch.output)
        if watched:
            _count(counter, batch)
    scores = {name: validator.compute() for name, validator in validators.items()}
    reject = clusters.compute() if rejection == "auto" else rejection
    if watched is None:
        return EpochScores(scores, reject)
    unknown = None if reject is None else clusters.share_above(reject)
    figures = counter.compute(unknown_share=unknown, pseudo_labels=pseudo_labels)
    against = watched_vetoes(
        figures, watched.before, watched.limits, watched.expected, watched.classes
    )
    return EpochScores(scores, reject, against)


def _count(counter: FigureCounter, batch: SeenViews) -> None:
    """Add the answers of a batch to the figures."""
    problem = problem_of(batch.output)
    if counter.surest:
        answers = problem.answered_classes(batch.output)
        counter.update(problem.tally(batch.output), batch.rows.tolist(), answers)
    else:
        counter.update(problem.tally(batch.output))


def make_scorer(
    opened: Opened,
    spec: InputSpec,
    views: Views,
    select_by: str,
    method: Method,
    problem: str,
    device: torch.device,
    profile: Profile,
    settings: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    watched: Watched | None = None,
) -> Callable[[nn.Module], EpochScores]:
    """How to score a network on a target: by the validators that cost no more than its scan, by
    the one that chooses, and by those that `settings` name. `profile` is what the source model said
    of the target, `watched` is what a network's answers are held against.
    """
    kinds = {
        name: plugins.load("validators", name)
        for name in validators_for(select_by, problem, settings)
    }
    look = _Looks(opened, spec, views, device)

    def score(network: nn.Module) -> EpochScores:
        validators = make_validators(kinds, network, problem, profile, settings)
        if select_by != "last" and select_by not in validators:
            raise BadInput(f"{select_by} cannot score this network; choose by another: --select-by")
        left = method.pseudo_labels_left() if watched else None
        seen = look.at(network, validators.values())
        return score_unlabelled(seen, validators, method.rejection, watched, left)

    return score


def make_validators(
    kinds: Mapping[str, type[Validator]],
    network: nn.Module,
    problem: str,
    profile: Profile,
    settings: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    card: Card | None = None,
) -> dict[str, Validator]:
    """Those that can score this network, with all that they need besides its outputs; those that
    need a source card are left out where there is none.
    """
    validators: dict[str, Validator] = {}
    for name, kind in kinds.items():
        if not kind.serves(network) or (kind.needs_card and card is None):
            continue
        validator = kind.with_settings(problem, settings.get(name, {}))
        if kind.needs_source:
            validator.refer(profile)
        if kind.needs_network:
            validator.take_network(network)
        if card is not None and kind.needs_card:
            validator.take_card(card)
        validators[name] = validator
    return validators


def source_levels(
    network: nn.Module,
    opened: Opened,
    spec: ModelSpec,
    device: torch.device,
    profile: Profile,
    card: Card | None,
    settings: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Scores:
    """How good a source model seems on a target, by every score that says so of one model by
    itself. Those that are read against its card are missing without one. Raises NotFinite.
    """
    every = {name: plugins.load("validators", name) for name in plugins.names("validators")}
    kinds = {
        name: kind
        for name, kind in every.items()
        if kind.tells_level and spec.problem in kind.problems
    }
    validators = make_validators(kinds, network, spec.problem, profile, settings, card)
    seen = _Looks(opened, spec.input, spec.views, device).at(network, validators.values())
    return score_unlabelled(seen, validators).scores if validators else {}


class _Looks:
    """The looks at a target that there are, from the cheapest on."""

    def __init__(self, opened: Opened, spec: InputSpec, views: Views, device: torch.device) -> None:
        self.alone = scan(opened.images, spec, device=device)
        self.shown = scan_shown(opened.images, spec, device=device)
        self.pairs = scan_views(opened.images, spec, views, seed=0, device=device)

    def at(self, network: nn.Module, validators: Iterable[Validator]) -> Iterator[SeenViews]:
        """One look that has all that these validators need."""
        kinds = [type(validator) for validator in validators]
        if any(kind.needs_views for kind in kinds):
            return self.pairs(network)
        if any(kind.needs_network for kind in kinds):
            return self.shown(network)
        return (SeenViews(*one) for one in self.alone(network))
