"""Metrics of masks with labels, for evaluation alone. Each name says which average it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from sfda.building_blocks.class_ratios import BACKGROUND
from sfda.errors import BadInput, listed
from sfda.formats.masks import IGNORE, Mask
from sfda.refs import Metrics

EMPTY = 1e-8  # of Dice: two empty masks agree


@dataclass
class Case:
    """What Dice and distances are taken over: one image, or all slices of one volume."""

    spacing: tuple[float, ...] | None
    both: Int[np.ndarray, " C"]  # pixels by class: in both, predicted, in the truth
    predicted: Int[np.ndarray, " C"]
    true: Int[np.ndarray, " C"]
    slices: list[tuple[Mask, Mask]] = field(default_factory=list)


class SegmentationMetric:
    """Confusion matrix, overlaps and surface distances over a set, fed image by image.

    Absent classes: IoU counts classes that occur in truth or prediction of the whole set. Dice of a
    case where neither has the class is 1, but a case without a pixel that counts has no Dice.
    Distances where either lacks the class are undefined, left out, and counted. The class
    "background", where there is one, has no part in the means of Dice and distances.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        size = len(self.classes)
        self.counted = [i for i, name in enumerate(self.classes) if name != BACKGROUND]
        self.confusion = np.zeros((size, size), dtype=np.int64)  # rows truth, columns prediction
        self.count = 0
        self.images = np.zeros(size, dtype=np.int64)  # that show the class
        self.dice: list[Float[np.ndarray, " C"]] = []
        self.distances: list[list[tuple[float, float]]] = [[] for _ in self.classes]
        self.undefined = 0
        self.seen: set[str] = set()
        self.group: str | None = None
        self.case: Case | None = None

    def update(
        self,
        prediction: Mask,
        truth: Mask,
        *,
        group: str | None = None,
        spacing: tuple[float, ...] | None = None,
    ) -> None:
        """Take in one image, or one slice of the volume `group`, whose slices follow each other.

        `spacing` is the size of a pixel in mm: (row, column), of volumes (slice, row, column).
        Raises BadInput where a volume's slices do not follow each other, or differ in size.
        """
        if group is None or group != self.group:
            self._end_case()
            if group in self.seen:
                raise BadInput(
                    f"the slices of volume {group} do not follow each other in the row file; sort "
                    "it by volume and slice"
                )
            self.group = group
            if group is not None:
                self.seen.add(group)
        size = len(self.classes)
        counts = truth != IGNORE
        pairs = truth[counts].astype(np.int64) * size + prediction[counts]
        table = np.bincount(pairs, minlength=size * size).reshape(size, size)
        self.confusion += table
        self.count += 1
        self.images += table.sum(1) > 0
        self._add(table, np.where(counts, prediction, IGNORE), truth, spacing)

    def _add(
        self,
        table: Int[np.ndarray, "C C"],
        prediction: Mask,
        truth: Mask,
        spacing: tuple[float, ...] | None,
    ) -> None:
        parts = (table.diagonal(), table.sum(0), table.sum(1))
        if self.case is None:
            both, predicted, true = (part.copy() for part in parts)
            self.case = Case(spacing, both, predicted, true)
        else:
            for sums, part in zip(
                (self.case.both, self.case.predicted, self.case.true), parts, strict=True
            ):
                sums += part
        if self.case.spacing is None:
            return
        if self.case.slices and self.case.slices[0][1].shape != truth.shape:
            raise BadInput(
                f"the slices of volume {self.group} differ in size, so that it has no distances; "
                "give each size a group of its own, or leave the spacing out"
            )
        self.case.slices.append((prediction, truth))

    def _end_case(self) -> None:
        """Dice and distances of the image or volume that is complete now."""
        case, self.case = self.case, None
        if case is None or not case.true.any():
            return
        self.dice.append((2 * case.both + EMPTY) / (case.predicted + case.true + EMPTY))
        dimensions = 2 if self.group is None else 3
        if case.spacing is None or len(case.spacing) != dimensions:
            return
        prediction, truth = (np.stack(part) for part in zip(*case.slices, strict=True))
        if self.group is None:
            prediction, truth = prediction[0], truth[0]
        for c in self.counted:
            if not case.predicted[c] or not case.true[c]:
                self.undefined += 1
                continue
            masks = (prediction == c, truth == c, case.spacing)
            self.distances[c].append((hd95(*masks), assd(*masks)))

    def compute(self) -> Metrics:
        """The metrics; ValueError if no pixel that counts was taken in.

        `mean_iou` over classes that occur and `mean_iou_absent_zero` over all, absent ones being 0;
        `pixel_accuracy` over all pixels, `macro_pixel_accuracy` the mean over classes in the truth;
        `mean_dice` over cases, then classes. Where spacing is known `hd95_mm` and `assd_mm`, over
        cases and classes that have a distance, and `hd95_undefined`, how many have none.
        """
        if not self.confusion.any():
            raise ValueError("metrics of no images, or of none with a pixel that counts")
        self._end_case()
        right, true = self.confusion.diagonal(), self.confusion.sum(1)
        union = true + self.confusion.sum(0) - right
        iou = right[union > 0] / union[union > 0]
        metrics = {
            "mean_iou": float(iou.mean()),
            "mean_iou_absent_zero": float(iou.sum() / len(self.classes)),
            "pixel_accuracy": float(right.sum() / true.sum()),
            "macro_pixel_accuracy": float((right[true > 0] / true[true > 0]).mean()),
        }
        if self.counted:
            metrics["mean_dice"] = float(np.mean(self.dice, axis=0)[self.counted].mean())
        known = [pair for pairs in self.distances for pair in pairs]
        if known or self.undefined:
            metrics["hd95_undefined"] = float(self.undefined)
        if known:
            metrics |= dict(
                zip(("hd95_mm", "assd_mm"), np.mean(known, axis=0).tolist(), strict=True)
            )
        return metrics

    def note(self) -> str:
        """What the metrics cannot show, for want of truth; '' where all classes occur."""
        absent = [self.classes[c] for c in np.flatnonzero(self.confusion.sum(1) == 0)]
        if not absent:
            return ""
        whose = "one class" if len(absent) == 1 else f"{len(absent)} classes"
        return (
            f"the masks have no pixel of {whose} ({listed(absent)}): a mean over classes says "
            "nothing of what is not there"
        )

    def per_class(self) -> dict[str, dict[str, float]]:
        """`pixels` and `images` of each class in the truth; where it occurs `iou` and `dice`, where
        it has distances `hd95_mm`.
        """
        self._end_case()
        right, true = self.confusion.diagonal(), self.confusion.sum(1)
        union = true + self.confusion.sum(0) - right
        dice = np.sum(self.dice, axis=0) / max(1, len(self.dice))
        rows = {}
        for c, name in enumerate(self.classes):
            row = {"pixels": float(true[c]), "images": float(self.images[c])}
            if union[c]:
                row |= {"iou": float(right[c] / union[c]), "dice": float(dice[c])}
            if self.distances[c]:
                row["hd95_mm"] = float(np.mean([pair[0] for pair in self.distances[c]]))
            rows[name] = row
        return rows


MaskArray = Bool[np.ndarray, "..."]


def surface_distances(
    predicted: MaskArray, truth: MaskArray, spacing: Sequence[float]
) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, " T"]]:
    """From each surface pixel of one mask the distance to the other's surface, both ways.

    In the units of `spacing`, the size of a pixel along each axis. A surface are the pixels that an
    erosion by the 4 (in volumes 6) neighbours takes away; beyond the image there is nothing.
    ValueError where a mask is empty: there is no distance.
    """
    if not predicted.any() or not truth.any():
        raise ValueError("the distance to an empty mask is undefined")
    box = ndimage.find_objects((predicted | truth).astype(np.uint8))[0]
    ours, theirs = surface(predicted[box]), surface(truth[box])
    return (
        ndimage.distance_transform_edt(~theirs, sampling=spacing)[ours],
        ndimage.distance_transform_edt(~ours, sampling=spacing)[theirs],
    )


def surface(mask: MaskArray) -> MaskArray:
    """Pixels of the mask with a neighbour, or the image's border, beside them."""
    near = ndimage.generate_binary_structure(mask.ndim, 1)
    edge: MaskArray = mask ^ ndimage.binary_erosion(mask, near)
    return edge


def hd95(predicted: MaskArray, truth: MaskArray, spacing: Sequence[float]) -> float:
    """95 % of all distances between the surfaces, both ways taken together, are not larger.

    Linear interpolation; not the maximum of two directed percentiles, which other tools report.
    """
    return float(np.percentile(np.concatenate(surface_distances(predicted, truth, spacing)), 95))


def assd(predicted: MaskArray, truth: MaskArray, spacing: Sequence[float]) -> float:
    """Average symmetric surface distance: the mean of the two directed means."""
    return float(np.mean([one.mean() for one in surface_distances(predicted, truth, spacing)]))
