"""MMDetection 3.x: `mmdet:CONFIG.py`, a file, or one of the configurations that mmdet ships."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from sfda.errors import BadInput
from sfda.networks.families._base import Answer, Family
from sfda.refs import InputSpec


class Mmdet(Family):
    """Detectors by configuration, whose model part a bundle stores. mmdet takes seconds to
    import, so it is asked for late.
    """

    idea = "detectors of MMDetection 3.x, by a configuration"
    answers: ClassVar[frozenset[Answer]] = frozenset({"boxes"})
    forms: ClassVar = {"boxes": "mmdet:CONFIG.py"}

    def known(self, name: str, answer: Answer) -> str | None:
        """Whatever is named: whether there is such a file shows where it is read."""
        return name or None

    def input(self, name: str, answer: Answer) -> InputSpec | None:
        """What the configuration states."""
        from sfda.networks.mmdet_config import config_input

        return config_input(name)

    def build(self, name: str, answer: Answer, outputs: int, depth: int) -> nn.Module:
        """A detector is built of a stored configuration, `from_config`. Raises BadInput."""
        raise BadInput(f"mmdet:{name} is built of the configuration that its model stores")

    def stored_config(self, name: str, outputs: int) -> tuple[str, dict[str, Any] | None]:
        """The file's name, and the part that says what the model is."""
        from sfda.networks.mmdet_config import resolved

        arch, config = resolved(name, outputs)
        return arch.removeprefix("mmdet:"), config

    def from_config(self, config: Mapping[str, Any], outputs: int, depth: int) -> nn.Module:
        """The detector of a model part."""
        from sfda.networks.mmdet import mmdet_detector

        return mmdet_detector(config, outputs, depth)


EXPORT = Mmdet
