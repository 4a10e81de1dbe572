"""A two-stage detector so small that it learns in a minute on a CPU: for demos and tests."""

from __future__ import annotations

from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from sfda.errors import BadInput
from sfda.networks.torchvision_detection import TorchvisionDetector
from sfda.refs import InputSpec

WIDTH = 32
SIZES = {"tinyrcnn": 64, "smallrcnn": 96}  # pixels of a side


def build(name: str, classes: int, depth: int = 3) -> TorchvisionDetector:
    """`tinyrcnn` (for images of 64 pixels) or `smallrcnn` (96, twice as wide); stride 8.

    Group norm, so that nothing depends on the batch.
    """
    if name not in SIZES:
        raise BadInput(f"no detector sfda:{name}; there are {', '.join(SIZES)}")
    wide = WIDTH if name == "tinyrcnn" else 2 * WIDTH
    backbone = nn.Sequential(
        *_block(depth, wide // 2), *_block(wide // 2, wide), *_block(wide, wide),
    )  # fmt: skip
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


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    """Half the size, `outputs` channels."""
    return [
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
        nn.GroupNorm(8, outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.GroupNorm(8, outputs),
        nn.ReLU(),
    ]


def usual_input(name: str) -> InputSpec:
    """Colours in -1 to 1."""
    if name not in SIZES:
        raise BadInput(f"no detector sfda:{name}; there are {', '.join(SIZES)}")
    half = (0.5, 0.5, 0.5)
    return InputSpec(size=(SIZES[name], SIZES[name]), letterbox=True, mean=half, std=half)
