"""How each problem is asked of people and how their answers are read: one file a problem."""

from __future__ import annotations

from types import MappingProxyType

from sfda.annotation.problems._base import Labelling, Unfit
from sfda.annotation.problems.classification import ClassLabelling
from sfda.annotation.problems.detection import BoxLabelling
from sfda.annotation.problems.pose import JointLabelling
from sfda.annotation.problems.segmentation import MaskLabelling

__all__ = ["LABELLING", "Labelling", "Unfit"]

LABELLING: MappingProxyType[str, Labelling] = MappingProxyType(
    {
        "classification": ClassLabelling(),
        "segmentation": MaskLabelling(),
        "detection": BoxLabelling(),
        "pose": JointLabelling(),
    }
)
