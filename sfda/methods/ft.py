"""Fine-tuning of all layers on a few labelled target images (arXiv:2304.00792, FT)."""

from __future__ import annotations

from typing import ClassVar

from sfda.methods._few_shot import FewShot, FewShotConfig


class FineTuning(FewShot):
    """All layers at one small rate, batch norm in train mode, but for detectors."""

    problems: ClassVar[frozenset[str]] = FewShot.problems | {"detection"}
    Config = FewShotConfig


EXPORT = FineTuning
