"""Fine-tuning of all layers on a few labelled target images (arXiv:2304.00792, FT)."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from sfda.methods._few_shot import FewShot, FewShotConfig
from sfda.networks.detector import Detector


class FineTuning(FewShot):
    """All layers at one small rate, batch norm in train mode, but for detectors."""

    idea = "fine-tuning of all layers on labelled rows alone"
    networks: ClassVar[tuple[type[nn.Module], ...]] = (*FewShot.networks, Detector)
    Config = FewShotConfig


EXPORT = FineTuning
