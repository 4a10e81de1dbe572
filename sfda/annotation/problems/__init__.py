"""How each problem is asked of people and how their answers are read: one file a problem."""

from __future__ import annotations

from types import MappingProxyType

from sfda.annotation.problems._base import Labelling, Unfit
from sfda.annotation.problems.classification import Classes
from sfda.annotation.problems.detection import DrawnBoxes
from sfda.annotation.problems.pose import PlacedJoints
from sfda.annotation.problems.segmentation import PaintedMasks

__all__ = ["LABELLING", "Labelling", "Unfit"]

LABELLING: MappingProxyType[str, Labelling] = MappingProxyType(
    {
        "classification": Classes(),
        "segmentation": PaintedMasks(),
        "detection": DrawnBoxes(),
        "pose": PlacedJoints(),
    }
)
