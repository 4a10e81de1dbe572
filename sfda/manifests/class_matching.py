"""Class matching: the classes (and joints) of a manifest and those of a model, by name."""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np

from sfda.config import Config
from sfda.errors import BadInput, listed
from sfda.manifests.rows import Split
from sfda.types import UNKNOWN, Regime

ClassIndices = np.ndarray[Any, np.dtype[np.int64]]  # [C]: of every class that in another list


def class_map(
    classes: tuple[str, ...] | int | None, model: tuple[str, ...], what: str
) -> ClassIndices:
    """For every class of a manifest its index in the model, by name, whatever the order.

    Classes that the model lacks are UNKNOWN. Without names the count must be the model's. Raises
    BadInput otherwise, and where no class is shared.
    """
    if classes is None or isinstance(classes, int):
        count = len(model) if classes is None else classes
        if count != len(model):
            raise BadInput(
                f"{what} has {count} unnamed classes, the model has {len(model)} "
                f"({', '.join(model[:5])} ...); name the classes in the manifest"
            )
        return np.arange(count)
    index_of = {name: i for i, name in enumerate(model)}
    if not any(name in index_of for name in classes):
        raise BadInput(
            f"{what} shares no class with the model: it names {listed(classes)}, the model "
            f"has {listed(model)}"
        )
    return np.array([index_of.get(name, UNKNOWN) for name in classes], dtype=np.int64)


def shared_classes(split: Split, model: tuple[str, ...]) -> list[int]:
    """The model's classes that the split's list names too: those that metrics are about."""
    return sorted({int(i) for i in class_map(split.classes, model, split.manifest) if i != UNKNOWN})


class ClassShift(Config):
    """How a target's list of classes differs from the model's."""

    regime: Regime | None  # None where the target does not name its classes
    extra: tuple[str, ...] = ()  # the target's own: "unknown" to the model
    missing: tuple[str, ...] = ()  # the model's, absent from the target

    def text(self) -> str:
        """For the user, every class by name; empty where nothing differs."""
        lines = []
        if self.extra:
            lines.append(f"classes that the model lacks, counted as unknown: {listed(self.extra)}")
        if self.missing:
            lines.append(f"classes of the model that the target lacks: {listed(self.missing)}")
        pairs = [
            (name, *difflib.get_close_matches(name, self.missing, n=1, cutoff=0.75))
            for name in self.extra
        ]
        lines += [
            f"if '{pair[0]}' is meant to be '{pair[1]}', correct the manifest"
            for pair in pairs
            if len(pair) > 1
        ]
        return f"{self.regime} target: " + "; ".join(lines) if lines else ""


def class_shift(
    classes: tuple[str, ...] | int | None, model: tuple[str, ...], what: str
) -> ClassShift:
    """The regime that the target's list of classes declares. Raises BadInput as `class_map`."""
    class_map(classes, model, what)
    if not isinstance(classes, tuple):
        return ClassShift(regime=None)
    extra = tuple(name for name in classes if name not in model)
    missing = tuple(name for name in model if name not in classes)
    regimes: dict[tuple[bool, bool], Regime] = {
        (False, False): "closed",
        (False, True): "partial",
        (True, False): "open",
        (True, True): "open-partial",
    }
    return ClassShift(regime=regimes[bool(extra), bool(missing)], extra=extra, missing=missing)


def foreign_classes(
    classes: tuple[str, ...] | int | None, model: tuple[str, ...], what: str, labelled: str
) -> BadInput:
    """What to raise where `labelled` things, such as boxes, are of classes that the model lacks
    and are to be learnt from.
    """
    extra = class_shift(classes, model, what).extra
    return BadInput(
        f"{what} has {labelled} of classes that the model lacks, and learning from labels needs "
        f"them: {listed(extra)}; the model has {listed(model)}"
    )


def joint_order(own: tuple[str, ...], joints: tuple[str, ...], what: str) -> list[int]:
    """Where each of the model's joints stands among `own`. Raises BadInput where they differ."""
    if set(own) != set(joints):
        raise BadInput(
            f"{what} has the joints {listed(own)}, the model {listed(joints)}; a pose model is for "
            "the joints that it was trained on"
        )
    return [own.index(name) for name in joints]
