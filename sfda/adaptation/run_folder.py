"""What one run of the loop keeps on disk, so that a later start can go on: state, history, weights.

The history is a list with a document an epoch: its losses, scores, and where its weights lie.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, FailFast, Field, FiniteFloat, TypeAdapter

from sfda.config import Config
from sfda.documents import cut_off
from sfda.errors import BadInput
from sfda.manifests.digests import bytes_digest, file_digest
from sfda.refs import Candidate, Digest, MetricPoint
from sfda.sandbox.crossing import read_within
from sfda.sandbox.leftovers import remove_tree
from sfda.sandbox.messages import Unacceptable, valid
from sfda.state_folder import disk_errors
from sfda.types import State
from sfda.weights.bundle import bundle_digest

log = logging.getLogger("sfda")
# of a file that is no state, or one of something else: the process inside writes it
SPOILT = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError)
HISTORY_SIZE = 1 << 28  # bytes at most
EPOCH_SIZE = 1 << 18  # bytes of what a history says of one epoch: some 90 losses of 100 points
EPOCH_VALUES = 25_000  # of an epoch: all curves at their longest
HISTORY_VALUES = 2_000_000  # of all epochs
MOST_CURVES = 200

LONGEST_METRIC = 200  # characters of a metric's name
METRIC_NAME = re.compile(r"[\w-][\w. :-]*(/[\w-][\w. :-]*)*")  # what MLflow takes, by its own \w


def _metric_name(name: str) -> str:
    if not METRIC_NAME.fullmatch(name):
        raise ValueError("it is no name that MLflow takes for a metric")
    return name


MetricName = Annotated[str, Field(max_length=LONGEST_METRIC), AfterValidator(_metric_name)]
Curve = Annotated[list[float], Field(max_length=100)]
Count = Annotated[int, Field(ge=0, le=2**53)]
METRIC_POINTS = TypeAdapter(
    Annotated[list[tuple[MetricName, FiniteFloat, Count]], FailFast(), Field(max_length=1 << 16)]
)


class Epoch(Config):
    """What a history says of an epoch: curves by step, scores without labels, and its weights."""

    epoch: Count  # 0 for the first
    steps: Annotated[list[Count], Field(max_length=100)]
    losses: Annotated[dict[MetricName, Curve], Field(max_length=MOST_CURVES)]
    rate: Curve
    last_step: Count
    images: Count
    seconds: Annotated[float, Field(ge=1e-6, le=1e9)]
    scores: Annotated[dict[MetricName, float], Field(max_length=MOST_CURVES)]
    sha256: Digest
    weights: str | None  # path of its bundle; None: the scores alone are left
    spent: FiniteFloat = 0.0  # seconds of the work so far, in all its starts
    # what speaks against it: such an epoch is never chosen
    vetoes: Annotated[tuple[Annotated[str, Field(max_length=300)], ...], Field(max_length=20)] = ()


History = list[Epoch]
_OWN = TypeAdapter(History)  # may be empty
_EPOCH = TypeAdapter(Epoch)


def loss_name_fault(names: Iterable[object]) -> str:
    """What is wrong with the first name of a loss that MLflow does not take; '' if all are well.

    >>> loss_name_fault(["kl(p||q)"])[:26]
    "the loss 'kl(p||q)' has no"
    """
    most = LONGEST_METRIC - len("loss/")
    for name in names:
        if not isinstance(name, str) or len(name) > most or not METRIC_NAME.fullmatch(name):
            return (
                f"the loss {cut_off(repr(name))} has no name that MLflow takes: at most {most} "
                "letters, digits, '_', '-', and after the first one also '.', ':', ' ' and '/'"
            )
    return ""


def epoch_folder(folder: Path, epoch: int) -> Path:
    """Where the weights of an epoch lie."""
    return folder / f"epoch-{epoch:04d}"


def save_state(folder: Path, state: State, history: History) -> None:
    """One file, replaced in one step: a kill at any moment leaves the old or the new."""
    part = folder / f".state.{os.getpid()}"
    document = {
        "next_epoch": state.next_epoch,
        "method": dict(state.method),
        "optimizer": dict(state.optimizer) if state.optimizer else None,
        "history": json.dumps([epoch.model_dump() for epoch in history]),
    }
    part.unlink(missing_ok=True)  # a link would be followed
    with part.open("xb") as file:  # given a path, torch would hide what the disk says
        torch.save(document, file)
    os.replace(part, folder / "state.pt")


def load_state(folder: Path, device: torch.device) -> tuple[State, History] | None:
    """Where an earlier start stopped; None if there was none, or what it left is spoilt."""
    file = folder / "state.pt"
    for left in folder.glob(".state.*"):
        remove_tree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    if not file.is_file():
        return None
    try:
        document = torch.load(file, map_location=device, weights_only=True)
        history = _OWN.validate_json(document["history"])
        state = State(document["next_epoch"], document["method"], document["optimizer"])
    except SPOILT as error:
        log.warning("%s is no state of a run (%s); it begins anew", file, type(error).__name__)
        return None
    return (state, history) if all(map(_has_weights, history)) else None


def finished_history(folder: Path, steps: int) -> History:
    """The history of a run that took all of so many steps and whose state was dropped since;
    empty where there is none, or weights that it refers to are gone.
    """
    try:
        history = _OWN.validate_json(read_within(folder, "history.json", limit=HISTORY_SIZE))
    except (BadInput, OSError, ValueError):
        return []
    whole = bool(history) and history[-1].last_step + 1 == steps
    return history if whole and all(map(_has_weights, history)) else []


def sweep_weights(folder: Path, history: History) -> None:
    """Delete weights that the history does not refer to."""
    referred = {epoch.weights for epoch in history}
    for weights in folder.glob("epoch-*"):
        if str(weights) not in referred:
            shutil.rmtree(weights, ignore_errors=True)


def write_history(folder: Path, history: History) -> str:
    """Write `history.json` in one step; its digest."""
    text = json.dumps([epoch.model_dump() for epoch in history], indent=1)
    part = folder / ".history"
    with disk_errors(str(part)):
        part.unlink(missing_ok=True)  # that a kill has left, or a link
        with part.open("x") as file:
            file.write(text)
        os.replace(part, folder / "history.json")
    return file_digest(folder / "history.json")


def read_history(folder: Path, sha256: str) -> History:
    """The history of a run that is over. Raises BadInput if it is no longer the one of `sha256`."""
    content = read_within(folder, "history.json", limit=HISTORY_SIZE)
    if bytes_digest(content) != sha256:
        raise BadInput(
            f"{folder / 'history.json'} was changed after it was written; delete {folder} and "
            "start the command again"
        )
    return _OWN.validate_json(content)


def history_size(epochs: int) -> int:
    """Bytes that the history of so many epochs can have."""
    return min(epochs * EPOCH_SIZE + (1 << 20), HISTORY_SIZE)


def checked_history(
    content: bytes, *, epochs: int, by: str, keep: Literal["best", "all"]
) -> History:
    """A history that somebody else wrote: at most `epochs`, counted from 0, to be chosen from by
    the score `by`, with the weights that `keep` asks for.

    Raises Unacceptable; BadInput for a score that is not a number.
    """
    history = [valid(_EPOCH, one, "a history") for one in _documents(content, epochs)]
    if [epoch.epoch for epoch in history] != list(range(len(history))):
        raise Unacceptable("a history of other epochs than were ordered")
    for epoch in history:
        sizes = {len(epoch.steps), len(epoch.rate), *map(len, epoch.losses.values())}
        if len(sizes) != 1:
            raise Unacceptable("curves of different lengths")
        if by != "last" and by not in epoch.scores:
            raise Unacceptable(f"an epoch without the score '{by}'")
        check_score(epoch.scores, by, epoch.epoch)
        if not all(math.isfinite(value) for _, value, _ in points_of(epoch)):
            raise Unacceptable("a curve or a score that is not finite")
    weighed = [epoch.weights is not None for epoch in history]
    best = best_epoch(history, by)
    needed = [] if best is None else [weighed[best]]
    if not (all(needed) and weighed[-1] if keep == "best" else all(weighed)):
        raise Unacceptable("a history without the weights that were to be there")
    return history


def _documents(content: bytes, epochs: int) -> Iterator[dict[str, object]]:
    """What a history says of each epoch, looked at before it is validated, which would gather a
    fault for every name that is none. Raises Unacceptable.
    """
    most = min(epochs * EPOCH_VALUES, HISTORY_VALUES)
    if sum(map(content.count, (b",", b"[", b"{"))) > most:
        raise Unacceptable(f"a history of more than {most} values")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise Unacceptable("a history that is no JSON") from None
    if not isinstance(document, list) or not 1 <= len(document) <= epochs:
        raise Unacceptable(f"a history that is no list of 1 to {epochs} epochs")
    for one in document:
        if not isinstance(one, dict) or not one.keys() <= Epoch.model_fields.keys():
            raise Unacceptable("a history that says of an epoch what none has")
        if any(isinstance(part, dict) and len(part) > MOST_CURVES for part in one.values()):
            raise Unacceptable(f"a history of more than {MOST_CURVES} curves or scores")
        yield one


def check_score(scores: Mapping[str, float], by: str, epoch: int) -> None:
    """Raise BadInput where an epoch, counted from 0, has no number to be compared by."""
    if by != "last" and math.isnan(scores.get(by, 0.0)):
        raise BadInput(
            f"after epoch {epoch + 1} the score '{by}' is not a number; choose by another one: "
            "--select-by"
        )


def drop_weights(folder: Path, candidates: Sequence[Candidate], *, but: int) -> None:
    """Delete the weights of all epochs but one, after the state that would resume from them."""
    (folder / "state.pt").unlink(missing_ok=True)  # it would resume a run whose weights are gone
    for candidate in candidates:
        if candidate.epoch != but:
            weights = epoch_folder(folder, candidate.epoch)
            hidden = weights.with_name(f".removed.{weights.name}")
            remove_tree(hidden)  # that a kill has left
            with suppress(OSError):  # first the name goes: a kill leaves all of it, or none
                weights.rename(hidden)
            remove_tree(hidden)


def best_epoch(history: History, select_by: str) -> int | None:
    """The epoch with the highest score, the earliest of equals, or the last one for "last", of
    those without a veto; None where every one has met one.
    """
    clean = [epoch for epoch in history if not epoch.vetoes]
    if not clean:
        return None
    if select_by == "last":
        return clean[-1].epoch
    return max(clean, key=lambda epoch: epoch.scores[select_by]).epoch


def points_of(epoch: Epoch) -> list[MetricPoint]:
    """One epoch of the history as metrics: losses and rate by step, scores by epoch."""
    points = [
        (f"loss/{name}", value, step)
        for name, values in epoch.losses.items()
        for step, value in zip(epoch.steps, values, strict=True)
    ]
    points += [("rate", value, step) for step, value in zip(epoch.steps, epoch.rate, strict=True)]
    number = epoch.epoch + 1
    points += [(f"score/{name}", value, number) for name, value in epoch.scores.items()]
    points.append(("images_per_second", epoch.images / epoch.seconds, number))
    points.append(("epoch", number, number))  # the last one: it says that the epoch is logged
    return points


def _has_weights(epoch: Epoch) -> bool:
    """Whether the weights that an epoch refers to are there as they were written."""
    try:
        return not epoch.weights or bundle_digest(Path(epoch.weights)) == epoch.sha256
    except BadInput:
        return False
