"""Box stability under feature dropout (Yang et al., ICLR 2024, arXiv:2403.13803)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from sfda.building_blocks.boxes import Boxes, box_iou
from sfda.inference.forward import infer
from sfda.networks.detector import Detector
from sfda.types import Images, SeenViews
from sfda.validators._base import Validator, ValidatorConfig


class BosConfig(ValidatorConfig):
    """The authors' values: of four stages the two in the middle lose 15 %."""

    rate: float = Field(0.15, gt=0, lt=1)
    levels: tuple[int, ...] = (1, 2)  # of the backbone's maps; where none of them is there, all
    least_score: float = Field(0.3, ge=0, lt=1)  # of a box that counts


class Bos(Validator):
    """Mean over images of sum IoU / min(n, m), in [0, 1]: how far boxes stay where they were.

    n boxes of the network and m of the same network with dropout on its backbone's maps are matched
    one to one so that the sum of their IoU is largest. Boxes of two classes do not match, and an
    image with boxes on one side alone counts 0; both are ours, as the paper has one class and
    leaves such images out. Without any box it is 0.

    It assumes that a good detector is stable, and rewards one that has lost its hard boxes: only
    beside a veto on the number of boxes. Of detectors with a part called `backbone`.
    """

    idea = "boxes stay under dropout of the backbone's maps"
    Config = BosConfig
    networks: ClassVar[tuple[type[nn.Module], ...]] = (Detector,)
    needs_network: ClassVar[bool] = True
    tells_level: ClassVar[bool] = True
    config: BosConfig

    def __init__(self, config: BosConfig | None = None) -> None:
        super().__init__(config)
        self.network: nn.Module | None = None
        self.total, self.count, self.images = 0.0, 0, 0

    @classmethod
    def serves(cls, network: nn.Module) -> bool:
        """Those whose backbone is a part of its own."""
        return isinstance(getattr(network, "backbone", None), nn.Module)

    def take_network(self, network: nn.Module) -> None:
        """It looks at every image once more, with dropout."""
        self.network = network

    def update(self, seen: SeenViews) -> None:
        """Take in one batch; a row's dropout is the same in whatever batch it comes."""
        if self.network is None or seen.images is None:
            raise ValueError("bos needs the network and the images")
        dropped = self._dropped(self.network, seen.images, seen.rows.tolist())
        for one, other in zip(seen.output.boxes, dropped, strict=True):
            self.images += 1
            self._add(self._sure(one), self._sure(other))

    def compute(self) -> float:
        """The mean stability."""
        if not self.images:
            raise ValueError("stability of no images")
        return self.total / max(1, self.count)

    def _dropped(self, network: nn.Module, images: Images, rows: list[int]) -> list[Boxes]:
        drawn = [np.random.Generator(np.random.Philox(key=row)) for row in rows]

        def drop(module: nn.Module, inputs: object, maps: Any) -> Any:
            return _thinned(maps, self.config.levels, self.config.rate, drawn)

        assert isinstance(network.backbone, nn.Module)
        body = getattr(network.backbone, "body", network.backbone)  # below a pyramid, if there is
        hook = body.register_forward_hook(drop)
        try:
            boxes: list[Boxes] = infer(network, images, images.device).boxes
        finally:
            hook.remove()
        return boxes

    def _sure(self, boxes: Boxes) -> Boxes:
        return boxes.where(boxes.scores >= self.config.least_score)

    def _add(self, one: Boxes, other: Boxes) -> None:
        count, fewest = len(one.labels) + len(other.labels), min(len(one.labels), len(other.labels))
        if not count:
            return
        self.count += 1
        if not fewest:
            return
        iou = box_iou(one.boxes.double(), other.boxes.double())
        iou[one.labels[:, None] != other.labels[None]] = 0
        overlap = iou.cpu().numpy()
        self.total += float(overlap[linear_sum_assignment(-overlap)].sum()) / fewest


def _thinned(
    maps: Any, levels: tuple[int, ...], rate: float, drawn: Sequence[np.random.Generator]
) -> Any:
    """The backbone's maps with dropout at some of them; of a single map, at that one. `drawn` are
    an image's each.
    """
    if isinstance(maps, Tensor):
        size = maps.shape[1:]
        stays = np.stack([own.random(size, dtype=np.float32) >= rate for own in drawn])
        return maps * torch.from_numpy(stays).to(maps) / (1 - rate)
    keys = list(maps) if isinstance(maps, dict) else list(range(len(maps)))
    chosen = [keys[n] for n in levels if n < len(keys)] or keys
    thinned = {
        key: _thinned(maps[key], levels, rate, drawn) if key in chosen else maps[key]
        for key in keys
    }
    return type(maps)(thinned) if isinstance(maps, dict) else type(maps)(thinned.values())


EXPORT = Bos
