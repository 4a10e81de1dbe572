"""Our own networks, small enough for a CPU: for digits, demos and tests."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfda.errors import BadInput
from sfda.networks.probe import SegParts

if TYPE_CHECKING:
    from sfda.networks.torchvision_detection import TorchvisionDetector

UNETS = MappingProxyType({"unet": (16, 32, 64, 128), "tinyunet": (8, 16)})  # channels by level
RCNN_SIDES = MappingProxyType({"tinyrcnn": 64, "smallrcnn": 96})  # pixels of a side
RCNN_WIDTH = 32


def lenet(classes: int) -> nn.Module:
    """SHOT's digit network for gray 28x28 images: 800 features."""
    body = nn.Sequential(
        nn.Conv2d(1, 20, kernel_size=5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(20, 50, kernel_size=5),
        nn.Dropout2d(0.5),
        nn.MaxPool2d(2),
        nn.ReLU(),
    )
    # the name is the authors', so that their checkpoints fit as they are
    parts = [("conv_params", body), ("flatten", nn.Flatten()), ("fc", nn.Linear(800, classes))]
    return nn.Sequential(OrderedDict(parts))


def tiny(classes: int) -> nn.Module:
    """A network for tests: gray images of about 16x16, batch norm, 32 features, 4k parameters."""
    body = nn.Sequential(
        nn.Conv2d(1, 8, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d((1, 2)),  # left and right half apart, so that a mirror image differs
    )
    parts = [("body", body), ("flatten", nn.Flatten()), ("fc", nn.Linear(32, classes))]
    return nn.Sequential(OrderedDict(parts))


OWN_CLASSIFIERS: Mapping[str, Callable[[int], nn.Module]] = MappingProxyType(
    {"lenet": lenet, "tiny": tiny}
)


class UNet(nn.Module):
    """Our own U-Nets: `unet` with 0.5 million parameters, `tinyunet` with 3,500, for tests."""

    def __init__(self, name: str, outputs: int, channels: int) -> None:
        super().__init__()
        widths, convs = UNETS[name], 2 if name == "unet" else 1
        self.backbone = Levels(channels, widths, convs)
        self.decoder = Climb(widths, convs)
        self.head = nn.Conv2d(widths[0], outputs, kernel_size=1)
        self.multiple = 2 ** (len(widths) - 1)

    @property
    def parts(self) -> SegParts:
        """Its modules by what they do."""
        head = self.head
        return SegParts(self.backbone, self.decoder, head, head.in_channels, self.multiple)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of every pixel; sides are multiples of `multiple`."""
        logits: Tensor = self.head(self.decoder(self.backbone(images)))
        return logits


class Levels(nn.Module):
    """The encoder of our own U-Nets: maps of falling size, the largest first."""

    def __init__(self, channels: int, widths: Sequence[int], convs: int) -> None:
        super().__init__()
        inputs = (channels, *widths[:-1])
        self.levels = nn.ModuleList(
            _same_size(a, b, convs) for a, b in zip(inputs, widths, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """One map a level, each half as large as the one before."""
        maps = [self.levels[0](images)]
        for level in list(self.levels)[1:]:
            maps.append(level(F.max_pool2d(maps[-1], 2)))
        return maps


class Climb(nn.Module):
    """The decoder of our own U-Nets: from the smallest map up, each level joined."""

    def __init__(self, widths: Sequence[int], convs: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            _same_size(below + beside, beside, convs)
            for beside, below in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Features of the images' size."""
        features = maps[-1]
        for level, beside in zip(self.levels, maps[-2::-1], strict=True):
            features = F.interpolate(features, beside.shape[-2:], mode="nearest")
            features = level(torch.cat([features, beside], 1))
        return features


def _same_size(inputs: int, outputs: int, convs: int) -> nn.Sequential:
    """So many times: convolution of 3x3, batch norm, ReLU."""
    layers: list[nn.Module] = []
    for n in range(convs):
        layers += [
            nn.Conv2d(outputs if n else inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


def own_detector(name: str, classes: int, depth: int = 3) -> TorchvisionDetector:
    """`tinyrcnn` (for images of 64 pixels) or `smallrcnn` (96, twice as wide); stride 8.

    A two-stage detector that learns in a minute on a CPU. Group norm, so that nothing depends on
    the batch.
    """
    if name not in RCNN_SIDES:
        raise BadInput(f"no detector sfda:{name}; there are {', '.join(RCNN_SIDES)}")
    # slow to import
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign

    from sfda.networks.torchvision_detection import TorchvisionDetector

    wide = RCNN_WIDTH if name == "tinyrcnn" else 2 * RCNN_WIDTH
    backbone = nn.Sequential(
        *_half_size(depth, wide // 2, _group_norm),
        *_half_size(wide // 2, wide, _group_norm),
        *_half_size(wide, wide, _group_norm),
    )
    backbone.out_channels = wide  # type: ignore[assignment]
    pool = MultiScaleRoIAlign(["0"], output_size=5, sampling_ratio=2)
    model = FasterRCNN(
        backbone,
        None,
        rpn_anchor_generator=AnchorGenerator(((8, 16, 28),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=pool,
        box_head=TwoMLPHead(wide * 25, 2 * wide),
        box_predictor=FastRCNNPredictor(2 * wide, classes + 1),
        rpn_pre_nms_top_n_test=500,
        rpn_post_nms_top_n_test=60,
        rpn_pre_nms_top_n_train=500,
        rpn_post_nms_top_n_train=120,
        box_batch_size_per_image=64,
        rpn_batch_size_per_image=64,
        box_detections_per_img=30,
    )
    return TorchvisionDetector(model, classes)


def own_map() -> nn.Module:
    """The backbone of `sfda:tiny` for poses: colour images to maps of 64 channels, stride 8."""
    return nn.Sequential(
        *_half_size(3, 16, nn.BatchNorm2d),
        *_half_size(16, 32, nn.BatchNorm2d),
        *_half_size(32, 64, nn.BatchNorm2d),
    )


def _half_size(inputs: int, outputs: int, norm: Callable[[int], nn.Module]) -> list[nn.Module]:
    """Half the size, `outputs` channels."""
    return [
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
        norm(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        norm(outputs),
        nn.ReLU(),
    ]


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(8, channels)
