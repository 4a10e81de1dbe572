"""Audits of made-up units on small pictures, for tests: no model is needed to ask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfda.annotation.audit.questions import AuditedModel, AuditRequest
from sfda.annotation.audit.request import audit_order, write_audit
from sfda.decision.audit import AuditPlan
from sfda.decision.change import ChangeReport, PoolUnit
from sfda.formats.keypoints import CropReader
from sfda.manifests.digests import row_id
from sfda.manifests.rows import Split
from sfda.measures.change import NO, YES, Unit
from sfda.policy import DecisionPolicy
from sfda.problems.registry import PROBLEMS
from sfda.refs import ManifestRef, SplitRef

CLASSES = ("cat", "dog", "cow", "</script><script>alert(1)</script>")
MODELS = (
    AuditedModel(uri="models:/secret-champion/1", sha256="a" * 64),
    AuditedModel(uri="models:/secret-candidate/2", sha256="b" * 64),
)


@dataclass
class Arrays:
    """Pictures in memory, as a reader."""

    pictures: list[np.ndarray]

    def image(self, row: int, window: Any = None) -> np.ndarray:
        return self.pictures[row]

    def size(self, row: int) -> tuple[int, int]:
        return self.pictures[row].shape[:2]

    def name_of(self, row: int) -> str:
        return str(row)

    def raw(self, row: int) -> np.ndarray:
        return self.pictures[row]

    values = raw


def split_of(problem: str, count: int, classes: tuple[str, ...] = CLASSES, side: int = 64) -> Split:
    """A split of noise; persons of a pose split lie a little off the middle."""
    rng = np.random.default_rng(0)
    reader: Any = Arrays([rng.integers(0, 255, (side, side, 3), np.uint8) for _ in range(count)])
    if problem == "pose":
        reader = CropReader(reader, ((8.0, 4.0, 40.0, 50.0),) * count, 1.2)
    names = tuple(f"images/{n:03d}.png" for n in range(count))
    return Split("toy/target", problem, "test", tuple(map(row_id, names)), names, classes, reader)


def unit_of(problem: str, number: int, classes: tuple[str, ...] = CLASSES) -> Unit:
    """The n-th made-up changed unit."""
    first, second = classes[number % len(classes)], classes[(number + 1) % len(classes)]
    if problem == "segmentation":
        return Unit((float(number), 40.0), "", first, second)
    if problem == "detection":
        return Unit(
            (5.0 + number, 8.0, 20.0, 12.0), first, *((YES, NO) if number % 2 else (NO, YES))
        )
    if problem == "multilabel":
        return Unit((), first, YES, NO)
    if problem == "pose":
        return Unit((), first, f"{20 + number}.00,30.00", "40.00,30.00", 5.0)
    return Unit((), "", first, second)


def swapped(unit: Unit) -> Unit:
    """The same with A and B in each other's place."""
    return unit._replace(first=unit.second, second=unit.first)


def audit_of(
    folder: Path,
    problem: str = "classification",
    count: int = 6,
    *,
    unchanged: int = 0,
    classes: tuple[str, ...] = CLASSES,
    swap: bool = False,
    seed: int = 0,
    total: int = 40,
    side: int = 64,
    units: list[PoolUnit] | None = None,
    **changes: Any,
) -> AuditRequest:
    """An audit of so many changed units of a row each, and of unchanged ones of further rows; or
    of these units.
    """
    claim = PROBLEMS[problem].claim
    before, candidate = MODELS[::-1] if swap else MODELS
    facts: dict[str, Any] = {
        "id": "",
        "problem": problem,
        "manifest": "toy/target",
        "target": SplitRef(
            manifest=ManifestRef(path="target.yaml", sha256="0" * 64), split="test", seen="1" * 64
        ),
        "column": "file",
        "before": before,
        "candidate": candidate,
        "classes": classes,
        "question": claim.question,
        "change": ChangeReport(
            answers=total, changed=count, share=count / total, images=total, images_changed=count,
            units=claim.units, metric=claim.metric, by_class={},
        ),
        "plan": AuditPlan(
            units=count, answers=total, metric=claim.metric, detection=problem == "detection"
        ),
        "seed": seed,
        "policy": DecisionPolicy(),
        "questions": (),
    }  # fmt: skip
    units = units or [PoolUnit(n, unit_of(problem, n, classes)) for n in range(count)]
    changed = [PoolUnit(n, swapped(unit) if swap else unit) for n, unit in units]
    same = [
        PoolUnit(n, unit_of(problem, n, classes)._replace(first="cat", second="cat"))
        for n in range(count, count + unchanged)
    ]
    asked = audit_order(changed, same, 0.2 if unchanged else 0.0, seed)
    split = split_of(problem, count + unchanged, classes, side)
    return write_audit(folder, AuditRequest(**(facts | changes)), asked, split, None)
