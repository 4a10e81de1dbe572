"""One run of the loop as a stage lives through it: resume, score, keep the best, log."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from sfda.adaptation.loop import adapt
from sfda.building_blocks.device import peak_memory_mb
from sfda.decision.evaluation import Judged
from sfda.errors import BadInput, NotFinite
from sfda.loading.progress import Progress
from sfda.manifests.digests import file_digest
from sfda.methods._base import Method
from sfda.refs import Adaptation, Candidate, ModelSpec
from sfda.settings import Schedule
from sfda.state_folder import disk_errors
from sfda.types import Batches, EpochEnd, EpochStart, Scan, State, StepEnd
from sfda.weights.bundle import bundle_digest, write_bundle

Point = tuple[str, float, int]  # name, value, step
POINTS = 25  # logged per epoch and loss; each is the mean over its steps


class Watch(Protocol):
    """Who is told how far a run of the loop is."""

    def shown(self) -> int:
        """How many epochs it shows already; -1 if none."""

    def points(self, points: list[Point]) -> None:
        """Metrics to show."""

    def share(self, done: float) -> None:
        """So much of the work is done, 0 to 1."""


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
    judge: Callable[[nn.Module], Judged]
    select_by: str  # a score, or "last"
    keep: Literal["best", "all"]
    watch: Watch
    title: str
    budget: float | None = None  # seconds for all epochs together; None: as many as it takes
    now: Callable[[], float] = time.perf_counter
    history: list[dict[str, Any]] = field(default_factory=list)
    cut: str | None = None  # what the budget left out
    _begun: float = 0.0
    _before: float = 0.0

    def run(self) -> Adaptation:
        """Go through all epochs, or those that are left, and say what they gave.

        Where the budget ends before they do, what is finished by then is the result; in the first
        epoch that is the network as it is. Raises BadInput where a loss is no longer finite.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        resume = self._load_state()
        self._log_missing()
        self._begun = self.now()
        self._before = float(self.history[-1].get("spent", 0.0)) if self.history else 0.0
        self.watch.share(len(self.history) / self.schedule.epochs)
        total = self.batches.steps(self.method.sample(0)) * self.schedule.epochs
        with Progress(self.title, total, done=self._steps_done()) as progress:
            found: list[tuple[dict[str, Tensor], StepEnd]] = []
            started, said = time.perf_counter(), self.method.remark()
            events = adapt(
                self.method,
                self.batches,
                self.scan,
                self.schedule,
                seed=self.seed,
                resume=resume,
            )
            for event in () if self.history and self._is_over() else events:
                match event:
                    case EpochStart():
                        found, started = [], time.perf_counter()
                        if said := self.method.remark():
                            progress.say(said)
                    case StepEnd():
                        found.append((event.losses, event))
                        progress.advance()
                        if self._is_over() and not event.clock.ends_epoch:
                            break
                    case EpochEnd():
                        epoch = self._summary(found, time.perf_counter() - started)
                        self._end_epoch(event.adapted, event.state, epoch)
                        progress.say(_line(epoch, self.schedule.epochs))
                        self.watch.share(len(self.history) / self.schedule.epochs)
                        found = []
                        if self._is_over():
                            break
            whole = len(self.history)
            if found and not self.history:
                epoch = self._summary(found, time.perf_counter() - started)
                self._end_epoch(self.method.adapted, None, epoch)
            if whole < self.schedule.epochs:
                self.cut = (
                    f"the budget of {self.budget:g} s ended after {whole} of "
                    f"{self.schedule.epochs} epochs"
                )
                progress.say(self.cut)
            if (last := self.method.remark()) != said:  # of the last epoch
                progress.say(last)
        return self._result()

    def _summary(self, found: list[tuple[dict[str, Tensor], StepEnd]], seconds: float) -> Any:
        """Losses of one epoch as numbers: the device is waited for here, once an epoch."""
        first, last = found[0][1].clock, found[-1][1].clock
        names = sorted({name for losses, _ in found for name in losses})
        table = {
            name: torch.stack(
                [losses.get(name, torch.zeros(())).detach().float().cpu() for losses, _ in found]
            )
            for name in names
        }
        for name, values in table.items():
            if not values.isfinite().all():
                step = first.step + int((~values.isfinite()).nonzero()[0])
                raise BadInput(
                    f"{self.title}: the loss '{name}' is not finite at step {step}; "
                    + self._slower()
                )
        width = max(1, -(-len(found) // POINTS))
        return {
            "epoch": first.epoch,
            "steps": [first.step + i for i in range(0, len(found), width)],
            "losses": {
                name: [float(chunk.mean()) for chunk in values.split(width)]
                for name, values in table.items()
            },
            "rate": [found[i][1].rate for i in range(0, len(found), width)],
            "last_step": last.step,
            "images": sum(event.images for _, event in found),
            "seconds": seconds,
        }

    def _is_over(self) -> bool:
        """Whether the budget is spent."""
        return self.budget is not None and self._spent() > self.budget

    def _spent(self) -> float:
        """Seconds that this work took so far, in all its starts; pauses between them are free."""
        return self._before + self.now() - self._begun

    def _slower(self) -> str:
        rate = self.schedule.lr / 10
        return f"lower the learning rate, e.g. --set schedule.lr={rate:g}"

    def _end_epoch(self, adapted: nn.Module, state: State | None, epoch: dict[str, Any]) -> None:
        """Score it, keep it, log it; without a state the next start cannot go on from here."""
        try:
            epoch["scores"], reject = self.judge(adapted)
        except NotFinite as error:
            raise BadInput(
                f"{self.title}: after step {epoch['last_step']} {error}; {self._slower()}"
            ) from error
        with disk_errors(f"weights and state below {self.folder}"):
            weights = self.folder / f"epoch-{epoch['epoch']:04d}"
            epoch["sha256"] = write_bundle(
                weights, adapted, self.spec.model_copy(update={"reject": reject})
            )
            epoch["weights"] = str(weights)
            epoch["spent"] = self._spent()
            self.history.append(epoch)
            self._forget_worse()
            if state is not None:
                self._save_state(state)
            self._sweep()  # after the state: what an old state refers to must still be there
        self._log(epoch)

    def _forget_worse(self) -> None:
        """Refer to the weights of the best epoch so far and of the last; others keep scores."""
        if self.keep == "all":
            return
        kept = {self.history[-1]["epoch"], best_epoch(self.history, self.select_by)}
        for epoch in self.history:
            if epoch["epoch"] not in kept:
                epoch["weights"] = None

    def _sweep(self) -> None:
        """Delete weights that the history does not refer to."""
        kept = {epoch["weights"] for epoch in self.history}
        for weights in self.folder.glob("epoch-*"):
            if str(weights) not in kept:
                shutil.rmtree(weights, ignore_errors=True)

    def _save_state(self, state: State) -> None:
        """One file, replaced in one step: a kill at any moment leaves the old or the new."""
        part = self.folder / f".state.{os.getpid()}"
        kept = {
            "next_epoch": state.next_epoch,
            "method": dict(state.method),
            "optimizer": dict(state.optimizer) if state.optimizer else None,
            "history": json.dumps(self.history),
        }
        with part.open("wb") as file:  # given a path, torch would hide what the disk says
            torch.save(kept, file)
        os.replace(part, self.folder / "state.pt")

    def _load_state(self) -> State | None:
        """Where an earlier start stopped; None if there was none, or its weights are spoilt."""
        file = self.folder / "state.pt"
        for left in self.folder.glob(".state.*"):
            left.unlink()
        if not file.is_file():
            return None
        device = next(self.method.parameters()).device
        kept = torch.load(file, map_location=device, weights_only=True)
        history = json.loads(kept["history"])
        if not all(_has_weights(epoch) for epoch in history):
            return None
        self.history = history
        return State(kept["next_epoch"], kept["method"], kept["optimizer"])

    def _steps_done(self) -> int:
        return int(self.history[-1]["last_step"]) + 1 if self.history else 0

    def _log_missing(self) -> None:
        """What an earlier start finished and this run does not show yet."""
        logged = self.watch.shown() if self.history else -1
        for epoch in self.history:
            if epoch["epoch"] + 1 > logged:
                self._log(epoch)

    def _log(self, epoch: dict[str, Any]) -> None:
        self.watch.points(points_of(epoch))

    def _result(self) -> Adaptation:
        text = json.dumps(self.history, indent=1)
        part = self.folder / ".history"
        with disk_errors(str(part)):
            part.write_text(text)
            os.replace(part, self.folder / "history.json")
        seconds = sum(epoch["seconds"] for epoch in self.history)
        device = next(self.method.parameters()).device
        return Adaptation(
            folder=str(self.folder),
            history_sha256=file_digest(self.folder / "history.json"),
            candidates=tuple(
                Candidate(
                    epoch=epoch["epoch"],
                    scores=epoch["scores"],
                    weights=epoch["weights"] if self.keep == "best" else None,
                    sha256=epoch["sha256"],
                )
                for epoch in self.history
            ),
            seconds=seconds,
            images_per_second=sum(epoch["images"] for epoch in self.history) / seconds,
            peak_memory_mb=peak_memory_mb(device),
            cut=self.cut,
        )


def _has_weights(epoch: dict[str, Any]) -> bool:
    """Whether the weights that an epoch refers to are there as they were written."""
    try:
        return not epoch["weights"] or bundle_digest(Path(epoch["weights"])) == epoch["sha256"]
    except BadInput:
        return False


def best_epoch(history: list[dict[str, Any]], select_by: str) -> int:
    """The epoch with the highest score, the earliest of equals; the last one for "last"."""
    if select_by == "last":
        return int(history[-1]["epoch"])
    return int(max(history, key=lambda epoch: epoch["scores"][select_by])["epoch"])


def points_of(epoch: dict[str, Any]) -> list[Point]:
    """One epoch of the history as metrics: losses and rate by step, scores by epoch."""
    points = [
        (f"loss/{name}", value, step)
        for name, values in epoch["losses"].items()
        for step, value in zip(epoch["steps"], values, strict=True)
    ]
    points += [
        ("rate", value, step) for step, value in zip(epoch["steps"], epoch["rate"], strict=True)
    ]
    number = epoch["epoch"] + 1
    points += [(f"score/{name}", value, number) for name, value in epoch["scores"].items()]
    points.append(("images_per_second", epoch["images"] / epoch["seconds"], number))
    points.append(("epoch", number, number))  # the last one: it says that the epoch is logged
    return points


def _line(epoch: dict[str, Any], epochs: int) -> str:
    scores = ", ".join(f"{name} {value:.4f}" for name, value in epoch["scores"].items())
    return f"epoch {epoch['epoch'] + 1}/{epochs}: {scores}"
