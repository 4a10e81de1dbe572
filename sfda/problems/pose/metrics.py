"""Metrics of poses with labels: the share of correct keypoints, and COCO's AP over OKS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sfda.formats.keypoints import Person
from sfda.problems.classification.metrics import BINS
from sfda.problems.coco_eval import coco_precision
from sfda.refs import Metrics, Skeleton

ALPHAS = (0.05, 0.1, 0.2)
RIGHT = 0.1  # the share below which a joint counts as right where there is one answer alone
OKS_SIGMA = 0.05  # of OKS where the skeleton names none


class PoseMetric:
    """PCK and OKS-AP over a set of persons, fed one by one.

    A distance counts as a share of the skeleton's `unit`: the distance between two joints of the
    truth, or the longer side of the person's box. A person whose unit is not to be had, since one
    of its two joints is not labelled, is left out of PCK.
    """

    def __init__(self, joints: Sequence[str], skeleton: Skeleton) -> None:
        self.joints, self.skeleton = tuple(joints), skeleton
        self.shares: list[np.ndarray[Any, Any]] = []  # [K] each, NaN where not labelled
        self.rows: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], Person]] = []

    def update(
        self, joints: np.ndarray[Any, Any], scores: np.ndarray[Any, Any], truth: Person
    ) -> None:
        """Take in one person: joints [K, 2] in pixels of the image, and their peaks [K]."""
        unit = self._unit(truth)
        far = np.linalg.norm(joints - truth.joints, axis=1) / unit if unit else np.nan
        self.shares.append(np.where(truth.visible > 0, far, np.nan))
        self.rows.append((joints, scores, truth))

    def _unit(self, truth: Person) -> float:
        if self.skeleton.unit == "box":
            return max(truth.box[2:])
        a, b = (self.joints.index(name) for name in self.skeleton.unit)
        if not truth.visible[a] or not truth.visible[b]:
            return 0.0
        return float(np.linalg.norm(truth.joints[a] - truth.joints[b]))

    @property
    def count(self) -> int:
        """Persons taken in."""
        return len(self.rows)

    def note(self) -> str:
        """What distances are a share of, in words."""
        unit = self.skeleton.unit
        what = "the longer side of the person's box" if unit == "box" else " and ".join(unit)
        between = "" if unit == "box" else "the distance between "
        return f"PCK at a: joints nearer to the truth than a times {between}{what}"

    def compute(self) -> Metrics:
        """`pck_at_0.05`, `pck_at_0.1` and `pck_at_0.2`, each over all labelled joints of all
        persons, in [0, 1]; `mean_distance` in units; `oks_ap` (pycocotools, 0.5 to 0.95, each
        person on its own, so that nothing is missed or doubled). ValueError without persons.
        """
        if not self.count:
            raise ValueError("metrics of no persons")
        table = np.stack(self.shares)
        known = ~np.isnan(table)
        metrics = {f"pck_at_{alpha:g}": _share(table[known] < alpha) for alpha in ALPHAS}
        metrics["mean_distance"] = float(table[known].mean()) if known.any() else 0.0
        metrics["oks_ap"] = oks_ap(self.rows, self.joints, self.skeleton.sigmas)
        return metrics

    def bins(self) -> Float[Tensor, "3 M"]:
        """Labelled joints by their peak, of 0 to 1: ones, peaks, and how many are right by PCK at
        0.1, summed.
        """
        bins = np.zeros((3, BINS))
        for shares, (_, scores, _) in zip(self.shares, self.rows, strict=True):
            known = ~np.isnan(shares)
            peaks = np.clip(scores[known].astype(np.float64), 0, 1)
            number = np.minimum((peaks * BINS).astype(np.int64), BINS - 1)
            sums = (np.ones(len(peaks)), peaks, shares[known] < RIGHT)
            for row, own in zip(bins, sums, strict=True):
                np.add.at(row, number, own)
        return torch.from_numpy(bins)

    def per_class(self) -> dict[str, dict[str, float]]:
        """`pck` (at 0.1), `pck_at_0.2` and `count` of each joint, and of each group of joints."""
        table = np.stack(self.shares) if self.shares else np.zeros((0, len(self.joints)))
        sets = {name: [i] for i, name in enumerate(self.joints)}
        for name, members in self.skeleton.groups.items():
            sets[f"group {name}"] = [self.joints.index(member) for member in members]
        rows = {}
        for name, columns in sets.items():
            part = table[:, columns]
            part = part[~np.isnan(part)]
            rows[name] = {"count": float(len(part))}
            if len(part):
                rows[name] |= {"pck": _share(part < 0.1), "pck_at_0.2": _share(part < 0.2)}
        return rows


def _share(right: np.ndarray[Any, Any]) -> float:
    return float(right.mean()) if right.size else 0.0


def oks_ap(
    rows: Sequence[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], Person]],
    joints: Sequence[str],
    sigmas: Mapping[str, float],
) -> float:
    """AP over object keypoint similarity 0.5 to 0.95, one person an image.

    The similarity's area is that of the person, its sigmas those that are named, else 0.05. A
    person's score is the mean of its peaks.
    """
    truth, predictions = [], []
    for number, (predicted, scores, person) in enumerate(rows):
        if not person.visible.any():
            continue
        marked = np.column_stack([person.joints, 2 * (person.visible > 0)])
        common = {"image_id": number, "category_id": 1}
        truth.append(
            common
            | {
                "id": number + 1,
                "keypoints": marked.ravel().tolist(),
                "iscrowd": 0,
                "num_keypoints": int((person.visible > 0).sum()),
                "area": max(1e-6, person.area),
                "bbox": list(person.box),
            }
        )
        marks = np.column_stack([predicted, np.ones(len(predicted))])
        predictions.append(
            common | {"keypoints": marks.ravel().tolist(), "score": float(np.mean(scores))}
        )
    if not truth:
        return 0.0
    document = {
        "info": {},
        "images": [{"id": i} for i in range(len(rows))],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": truth,
    }
    named = [sigmas.get(joint, OKS_SIGMA) for joint in joints]
    precision = coco_precision(document, predictions, "keypoints", sigmas=named)
    return float(precision[precision > -1].mean()) if (precision > -1).any() else 0.0
