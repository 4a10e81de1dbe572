"""How each problem is asked of people and how their answers are read: one file a problem."""

from __future__ import annotations

from types import MappingProxyType

from sfda.data.labelling._base import Labelling, Unfit
from sfda.data.labelling.classification import Classes
from sfda.data.labelling.detection import DrawnBoxes
from sfda.data.labelling.pose import PlacedJoints
from sfda.data.labelling.segmentation import PaintedMasks

__all__ = ["LABELLING", "Labelling", "Unfit"]

LABELLING: MappingProxyType[str, Labelling] = MappingProxyType(
    {
        "classification": Classes(),
        "segmentation": PaintedMasks(),
        "detection": DrawnBoxes(),
        "pose": PlacedJoints(),
    }
)
