"""One run of the loop as a stage lives through it: resume, score, keep the best, log."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import torch
from torch import nn

from sfda.adaptation.loop import adapt
from sfda.adaptation.run_folder import (
    Epoch,
    History,
    best_epoch,
    check_score,
    epoch_folder,
    finished_history,
    load_state,
    loss_name_fault,
    points_of,
    save_state,
    sweep_weights,
    write_history,
)
from sfda.adaptation.scoring import EpochScores
from sfda.building_blocks.device import peak_memory_mb
from sfda.decision.vetoes import AS_BEFORE
from sfda.errors import BadInput, NotFinite
from sfda.loading.progress import ProgressBar
from sfda.methods._base import Method
from sfda.refs import Adaptation, Candidate, MetricPoint, ModelSpec
from sfda.settings import Schedule
from sfda.state_folder import disk_errors
from sfda.types import Batches, EpochEnd, EpochStart, Scan, State, StepEnd
from sfda.weights.bundle import write_bundle

POINTS = 25  # logged per epoch and loss; each is the mean over its steps


class _NoNumber(BadInput):
    """Losses or outputs are no longer finite."""


class Watch(Protocol):
    """Who hears how far a run of the loop is."""

    def shown(self) -> int:
        """How many epochs it shows already; -1 if none."""

    def points(self, points: list[MetricPoint]) -> None:
        """Metrics to show."""

    def share(self, done: float) -> None:
        """So much of the work is done, 0 to 1."""


class Curves(NamedTuple):
    """What the steps of one epoch came to; a point of a curve is the mean of some steps."""

    epoch: int
    steps: list[int]  # the first of each point
    losses: dict[str, list[float]]
    rate: list[float]
    last_step: int
    images: int
    seconds: float


@dataclass
class Training:
    """What one run of the loop needs besides the loop itself."""

    folder: Path  # state, history and weights; the same folder resumes the same run
    method: Method
    spec: ModelSpec
    batches: Batches
    scan: Scan
    schedule: Schedule
    seed: int
    scorer: Callable[[nn.Module], EpochScores]
    select_by: str  # a score, or "last"
    keep: Literal["best", "all"]
    watch: Watch
    title: str
    budget: float | None = None  # seconds for all epochs together; None: as many as it takes
    falls_back: bool = False  # to the epochs before, where numbers are no longer finite
    parts: int = 1  # that networks take a batch in
    now: Callable[[], float] = time.perf_counter
    history: History = field(default_factory=list)
    cut: str | None = None  # what the budget left out
    _begun: float = 0.0
    _before: float = 0.0

    def run(self) -> Adaptation:
        """Go through all epochs, or those that are left: their candidates and what they cost.

        Where the budget ends before they do, what is finished by then is the result; in the first
        epoch that is the network as it is. An epoch that meets a veto ends the run, unless all are
        kept to be compared; so does one whose numbers are no longer finite, where the run falls
        back to those before. Raises BadInput where it does not, or there are none, or a loss has
        a name that cannot be logged.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        total = self.batches.steps(self.method.sample(0)) * self.schedule.epochs
        resume = self._load_state(total)
        self._log_missing()
        self._begun = self.now()
        self._before = self.history[-1].spent if self.history else 0.0
        self.watch.share(len(self.history) / self.schedule.epochs)
        done = self.history[-1].last_step + 1 if self.history else 0
        with ProgressBar(self.title, total, done=done) as progress:
            try:
                self._go_through(resume, progress)
            except _NoNumber as error:
                if not (self.falls_back and self.history):
                    raise
                self._stop(progress, str(error).removeprefix(f"{self.title}: "))
        return self._result()

    def _stop(self, progress: ProgressBar, why: str) -> None:
        """Say that the run ends before its time."""
        whole = len(self.history)
        self.cut = f"stopped after {whole} of {self.schedule.epochs} epochs: {why}"
        progress.say(self.cut)

    def _go_through(self, resume: State | None, progress: ProgressBar) -> None:
        """The epochs, until they or the budget end, or one meets a veto."""
        steps: list[StepEnd] = []
        started, status = time.perf_counter(), self.method.status()
        fixed = {"seed": self.seed, "parts": self.parts}
        events = adapt(self.method, self.batches, self.scan, self.schedule, resume=resume, **fixed)
        over = self.history and (resume is None or self._is_over())
        for event in () if over else events:
            match event:
                case EpochStart():
                    steps, started = [], time.perf_counter()
                    if status := self.method.status():
                        progress.say(status)
                case StepEnd():
                    if fault := loss_name_fault(event.losses):
                        raise BadInput(f"{self.title}: {fault}")
                    steps.append(event)
                    progress.advance()
                    if self._is_over() and not event.clock.ends_epoch:
                        break
                case EpochEnd():
                    curves = self._summary(steps, time.perf_counter() - started)
                    epoch = self._end_epoch(event.adapted, event.state, curves)
                    progress.say(_line(epoch, self.schedule.epochs))
                    self.watch.share(len(self.history) / self.schedule.epochs)
                    steps = []
                    if self._is_over():
                        break
        whole = len(self.history)
        if steps and not self.history:
            curves = self._summary(steps, time.perf_counter() - started)
            self._end_epoch(self.method.adapted, None, curves)
        if against := self._against():
            self._stop(progress, "; ".join(against))
        elif whole < self.schedule.epochs:
            self.cut = (
                f"the budget of {self.budget:g} s ended after {whole} of "
                f"{self.schedule.epochs} epochs"
            )
            progress.say(self.cut)
        if (last := self.method.status()) != status:  # of the last epoch
            progress.say(last)

    def _summary(self, steps: list[StepEnd], seconds: float) -> Curves:
        """Losses of one epoch as numbers: the device is waited for here, once an epoch."""
        first, last = steps[0].clock, steps[-1].clock
        table = {
            name: torch.stack(
                [step.losses.get(name, torch.zeros(())).detach().float().cpu() for step in steps]
            )
            for name in sorted({name for step in steps for name in step.losses})
        }
        for name, values in table.items():
            if not values.isfinite().all():
                number = first.step + int((~values.isfinite()).nonzero()[0])
                raise _NoNumber(
                    f"{self.title}: the loss '{name}' is not finite at step {number}; "
                    + self._slower()
                )
        width = max(1, -(-len(steps) // POINTS))
        return Curves(
            epoch=first.epoch,
            steps=[first.step + i for i in range(0, len(steps), width)],
            losses={
                name: [float(chunk.mean()) for chunk in values.split(width)]
                for name, values in table.items()
            },
            rate=[steps[i].rate for i in range(0, len(steps), width)],
            last_step=last.step,
            images=sum(step.images for step in steps),
            seconds=seconds,
        )

    def _is_over(self) -> bool:
        """Whether the budget is spent, or the last epoch has met a veto."""
        return bool(self._against()) or (self.budget is not None and self._spent() > self.budget)

    def _against(self) -> tuple[str, ...]:
        """The vetoes that end the run: those of its last epoch, where the best alone is kept."""
        if not self.history or self.keep == "all":
            return ()
        last = self.history[-1].vetoes
        return tuple(text for text in last if not text.startswith(AS_BEFORE))

    def _spent(self) -> float:
        """Seconds that this work took so far, in all its starts; pauses between them are free."""
        return self._before + self.now() - self._begun

    def _slower(self) -> str:
        rate = self.schedule.lr / 10
        return f"lower the learning rate, e.g. --set schedule.lr={rate:g}"

    def _end_epoch(self, adapted: nn.Module, state: State | None, curves: Curves) -> Epoch:
        """Score it, keep it, log it; without a state the next start cannot go on from here."""
        try:
            scores, reject, against = self.scorer(adapted)
        except NotFinite as error:
            raise _NoNumber(
                f"{self.title}: after step {curves.last_step} {error}; {self._slower()}"
            ) from error
        check_score(scores, self.select_by, curves.epoch)
        with disk_errors(f"weights and state below {self.folder}"):
            weights = epoch_folder(self.folder, curves.epoch)
            spec = self.method.adapted_spec(self.spec).model_copy(update={"reject": reject})
            more = {"sha256": write_bundle(weights, adapted, spec), "weights": str(weights)}
            judged = {"vetoes": tuple(text[:300] for text in against[:20]), "spent": self._spent()}
            epoch = Epoch(**curves._asdict(), **more, **judged, scores=scores)
            self.history.append(epoch)
            self._forget_worse()
            if state is not None:
                save_state(self.folder, state, self.history)
            # after the state: what an old state refers to must still be there
            sweep_weights(self.folder, self.history)
        self._log(epoch)
        return epoch

    def _forget_worse(self) -> None:
        """Refer to the weights of the best epoch so far and of the last; others keep scores."""
        if self.keep == "all":
            return
        referred: set[int | None] = {self.history[-1].epoch}
        referred.add(best_epoch(self.history, self.select_by))
        self.history[:] = [
            epoch if epoch.epoch in referred else epoch.model_copy(update={"weights": None})
            for epoch in self.history
        ]

    def _load_state(self, total: int) -> State | None:
        """Where an earlier start stopped, its history taken over; of one that took all of `total`
        steps its history alone may be left.
        """
        earlier = load_state(self.folder, next(self.method.parameters()).device)
        state, self.history = earlier or (None, finished_history(self.folder, total))
        return state

    def _log_missing(self) -> None:
        """What an earlier start finished and this run does not show yet."""
        logged = self.watch.shown() if self.history else -1
        for epoch in self.history:
            if epoch.epoch + 1 > logged:
                self._log(epoch)

    def _log(self, epoch: Epoch) -> None:
        self.watch.points(points_of(epoch))

    def _result(self) -> Adaptation:
        seconds = sum(epoch.seconds for epoch in self.history)
        device = next(self.method.parameters()).device
        return Adaptation(
            folder=str(self.folder),
            history_sha256=write_history(self.folder, self.history),
            candidates=tuple(
                Candidate(
                    epoch=epoch.epoch,
                    scores=epoch.scores,
                    weights=epoch.weights if self.keep == "best" else None,
                    sha256=epoch.sha256,
                )
                for epoch in self.history
            ),
            seconds=seconds,
            images_per_second=sum(epoch.images for epoch in self.history) / seconds,
            peak_memory_mb=peak_memory_mb(device),
            cut=self.cut,
            parts=self.parts,
        )


def _line(epoch: Epoch, epochs: int) -> str:
    scores = ", ".join(f"{name} {value:.4f}" for name, value in epoch.scores.items())
    return f"epoch {epoch.epoch + 1}/{epochs}: {scores}"
