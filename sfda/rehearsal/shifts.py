"""Synthetic targets out of a source's labelled split: which there are, and how one is made.

Labels choose which rows a target has, and at the end they measure the gain; what is adapted to
comes without them. A third of all targets are of kinds that often harm, so that there are gains
of both signs to compare with; they carry a photometric shift as well, as real targets would.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sfda.augment.corruptions import MOVING, shifted, shuffled_patches
from sfda.augment.photometric import seeds
from sfda.images.intensity_window import Picture
from sfda.images.store import Pictures, Ragged, RaggedWriter
from sfda.loading.opened import Opened
from sfda.manifests.labels import Indices
from sfda.manifests.rows import Split
from sfda.problems.registry import PROBLEMS
from sfda.refs import ModelSpec
from sfda.weights.rehearsals import ShiftKind

TARGET_ROWS = 600  # of a synthetic target: half is adapted to, half is judged
FEWEST_REHEARSED = 40  # of a split that can be rehearsed on
PHOTOMETRIC: tuple[ShiftKind, ...] = (
    "noise",
    "blur",
    "brightness",
    "contrast",
    "gamma",
    "fog",
    "jpeg",
    "colour",
)
DOMINANT = (0.4, 0.55, 0.7)  # share of the one class of "imbalance", by severity
CLASSES_LEFT = (0.7, 0.5, 0.3)  # share of all classes that "few_classes" has
STRANGE = (0.3, 0.5, 0.7)  # share of the rows that are of nothing


class SyntheticShift(NamedTuple):
    """One shift: what is done to the images, how strongly (1 to 3), and the seed of it all."""

    kind: ShiftKind
    severity: int
    seed: int


class SyntheticTarget(NamedTuple):
    """A target out of the source's own rows: what is adapted to and what is judged, both without
    labels and without rows in common, and of the latter those whose labels hold, with these.
    """

    learnt: Opened
    judged: Opened
    labelled: Opened


def kinds_for(spec: ModelSpec) -> tuple[tuple[ShiftKind, ...], tuple[ShiftKind, ...]]:
    """Kinds of shift that a model's labels outlive, and those among them that often harm.

    Images are scaled, turned and drawn by their class where one answer is of the whole image.
    """
    problem = PROBLEMS[spec.problem]
    mild = tuple(kind for kind in PHOTOMETRIC if kind != "colour" or spec.input.depth == 3)
    harmful: tuple[ShiftKind, ...] = ("strange", "negative")
    if problem.whole_image:
        mild = (*mild, "scale", "turn")
    if problem.one_class_an_image:
        harmful = ("few_classes", "imbalance", *harmful)
    return mild, harmful


def synthetic_shifts(spec: ModelSpec, count: int, seed: int) -> list[SyntheticShift]:
    """So many shifts, every third of a harmful kind; the first of them are of as many kinds as
    there can be, and fewer begin like more. Severities go round: 2, 3, 1.
    """
    mild, harmful = kinds_for(spec)
    shifts = []
    for number in range(count):
        turn, third = divmod(number, 3)
        kinds, position = (harmful, turn) if third == 2 else (mild, 2 * turn + third)
        round_, kind = divmod(position, len(kinds))
        severity = (2, 3, 1)[(round_ + kind) % 3]
        shifts.append(SyntheticShift(kinds[kind], severity, seed + number))
    return shifts


def synthetic_target(
    opened: Opened, spec: ModelSpec, shift: SyntheticShift, folder: Path
) -> SyntheticTarget:
    """A target with this shift, out of a labelled split; images of sizes of their own go into
    `folder`. At most TARGET_ROWS rows, drawn by class where rows have classes.
    """
    random = np.random.default_rng(shift.seed)
    classes = _row_classes(opened.split)
    order = _by_class(classes, random)[:TARGET_ROWS]
    halves = [_drawn(half, classes, shift, random) for half in (order[::2], order[1::2])]
    strange = [
        random.random(len(rows)) < STRANGE[shift.severity - 1]
        if shift.kind == "strange"
        else np.zeros(len(rows), bool)
        for rows in halves
    ]
    if strange[1].all():
        strange[1][0] = False  # a row to measure the gain on
    learnt, judged = (
        _shifted_rows(opened, spec, shift, rows, odd, folder / name)
        for name, rows, odd in zip(("learnt", "judged"), halves, strange, strict=True)
    )
    valid = np.flatnonzero(~strange[1])
    return SyntheticTarget(
        learnt=_without_labels(learnt),
        judged=_without_labels(judged),
        labelled=replace(judged, split=judged.split.take(valid), images=_at(judged.images, valid)),
    )


def _row_classes(split: Split) -> np.ndarray:
    """[N]: a number for each row by the classes that it has; all 0 where rows have none."""
    stated = split.labels.row_classes() if split.labels else None
    if stated is None:
        return np.zeros(len(split), np.int64)
    numbers: dict[tuple[int, ...], int] = {}
    return np.array([numbers.setdefault(tuple(one), len(numbers)) for one in stated])


def _by_class(classes: np.ndarray, random: np.random.Generator) -> Indices:
    """All rows in an order whose beginnings have the classes as all rows have them."""
    places = np.zeros(len(classes))
    for one in np.unique(classes):
        rows = random.permutation(np.flatnonzero(classes == one))
        places[rows] = (np.arange(len(rows)) + random.random()) / len(rows)
    return np.argsort(places, kind="stable")


def _drawn(
    rows: Indices, classes: np.ndarray, shift: SyntheticShift, random: np.random.Generator
) -> Indices:
    """As many rows, with repetitions where the shift is one of the classes' shares; the classes
    that are left, or that dominate, are the same for both halves: the seed names them.
    """
    present = np.unique(classes)
    chosen = np.random.default_rng((shift.seed, 1)).permutation(present)
    weights = np.ones(len(rows))
    if shift.kind == "few_classes":
        left = chosen[: max(1, round(CLASSES_LEFT[shift.severity - 1] * len(present)))]
        weights = np.isin(classes[rows], left).astype(float)
    elif shift.kind == "imbalance":
        dominant, share = classes[rows] == chosen[0], DOMINANT[shift.severity - 1]
        weights = np.where(dominant, share / max(1, dominant.sum()), 0.0)
        weights[~dominant] = (1 - share) / max(1, (~dominant).sum())
    if not weights.sum() or (weights == weights[0]).all():
        return rows
    return np.sort(random.choice(rows, size=len(rows), p=weights / weights.sum()))


def _shifted_rows(
    opened: Opened,
    spec: ModelSpec,
    shift: SyntheticShift,
    rows: Indices,
    strange: np.ndarray,
    file: Path,
) -> Opened:
    """Rows with their images shifted; repeated ones are shifted each by numbers of its own."""
    own = seeds(shift.seed, 0, np.arange(len(rows)) + len(rows) * (file.name == "judged"), 0)
    images = (
        _shifted_image(opened.images[row], spec, shift, number, odd)
        for row, number, odd in zip(rows.tolist(), own.tolist(), strange.tolist(), strict=True)
    )
    split = opened.split.take(rows)
    ids = tuple(f"{name}-{number}" for number, name in enumerate(split.row_ids))
    made = _stored(images, file, ragged=isinstance(opened.images, Ragged))
    return Opened(replace(split, row_ids=ids), made, opened.seen)


def _shifted_image(
    image: Picture, spec: ModelSpec, shift: SyntheticShift, seed: int, strange: bool
) -> Picture:
    """One image; what is no shift of images is one of classes, and has a photometric one too."""
    kind, severity = shift.kind, shift.severity
    if kind not in (*PHOTOMETRIC, *MOVING, "negative"):
        mild = kinds_for(spec)[0][: len(PHOTOMETRIC) - 1]
        kind = mild[shift.seed % len(mild)]
    if strange:
        return shuffled_patches(image, seed)
    return shifted(image, kind, severity, seed, bgr=spec.input.channels == "bgr")


def _stored(images: Iterable[Picture], file: Path, *, ragged: bool) -> Pictures:
    every = list(images)
    if not ragged:
        return np.stack(every)
    with file.open("wb") as handle:
        writer = RaggedWriter(handle)
        for image in every:
            writer.write(image)
        writer.finish()
    return Ragged(file)


def _at(images: Pictures, rows: Indices) -> Pictures:
    return images.take(rows) if isinstance(images, Ragged) else images[rows]


def _without_labels(opened: Opened) -> Opened:
    bare = replace(opened.split, labels=None, annotations=None, priors=None)
    return replace(opened, split=bare)
