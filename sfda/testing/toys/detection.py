"""A toy shift of detection: squares of two colours under another light, a tiny two-stage net."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from sfda.building_blocks.boxes import Boxes
from sfda.networks.detector import Detector
from sfda.networks.torchvision_detection import TorchvisionDetector
from sfda.problems.detection import loss as detection_loss
from sfda.problems.detection.metrics import BoxesOf, DetectionMetric
from sfda.settings import Schedule
from sfda.testing.toys import classification as blobs
from sfda.types import TargetBatch, TargetInfo

PROBLEM = Detector.problem
NAMES = ("red", "blue")
SIZE = 12
SIDE = 32
COLOURS = torch.tensor([[1.0, -0.6, -0.6], [-0.6, -0.6, 1.0]])
LIGHT = torch.tensor([0.5, 0.2, -0.6])
MILD = 0.4  # at 0.5 a whole class is lost
SLACK = 0.02  # of AP50, a step function of few boxes
ROUNDING = 1e-5
FAST = Schedule(lr=2e-3, epochs=3, batch_size=4, clip_norm=5.0)

scan = blobs.scan


class Batches(blobs.Batches):
    """Four images a batch."""

    def __init__(self, x: Tensor) -> None:
        super().__init__(x, 4)


def no_boxes() -> Boxes:
    """None at all, as tensors: a box of zeros would give infinite regression targets."""
    labels = torch.zeros(0, dtype=torch.long)
    return Boxes(torch.zeros(0, 4), labels, torch.zeros(0))


def images(shift: float = 0.0, *, seed: int = 0, size: int = SIZE) -> tuple[Tensor, list[Boxes]]:
    """One or two squares on a ground [N, 3, 32, 32], the light `shift` away, and their boxes."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.15 * torch.randn(size, 3, SIDE, SIDE, generator=generator)
    result = []
    for image in x:
        boxes, labels = [], []
        for half in range(int(torch.randint(1, 3, (1,), generator=generator))):
            side = int(torch.randint(7, 11, (1,), generator=generator))
            top = int(torch.randint(0, SIDE - side, (1,), generator=generator))
            left = 16 * half + int(torch.randint(0, 17 - side, (1,), generator=generator))
            label = int(torch.randint(0, 2, (1,), generator=generator))
            image[:, top : top + side, left : left + side] += COLOURS[label].view(3, 1, 1)
            boxes.append([left, top, left + side, top + side])
            labels.append(label)
        result.append(
            Boxes(torch.tensor(boxes).float(), torch.tensor(labels), torch.ones(len(labels)))
        )
    return (1 - 0.5 * shift) * x + shift * LIGHT.view(1, 3, 1, 1), result


def body() -> nn.Sequential:
    """Eight channels on stride 4."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
    )


def from_body(backbone: nn.Module) -> TorchvisionDetector:
    """A Faster R-CNN of torchvision on maps of stride 4 with eight channels.

    More anchors and regions are sampled than there are, so that nothing is drawn at random.
    """
    backbone.out_channels = 8  # type: ignore[assignment]
    model = FasterRCNN(
        backbone,
        None,
        rpn_anchor_generator=AnchorGenerator(((8,),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=3, sampling_ratio=2),
        box_head=TwoMLPHead(8 * 9, 32),
        box_predictor=FastRCNNPredictor(32, len(NAMES) + 1),
        rpn_pre_nms_top_n_test=64,
        rpn_post_nms_top_n_test=20,
        rpn_pre_nms_top_n_train=64,
        rpn_post_nms_top_n_train=30,
        rpn_batch_size_per_image=512,
        box_batch_size_per_image=512,
    )
    return TorchvisionDetector(model, len(NAMES))


def network() -> Detector:
    """A detector with all parts that a real one has."""
    torch.manual_seed(0)
    return from_body(body())


@torch.enable_grad()
def trained(model: Detector, steps: int = 250) -> Detector:
    """The model after some steps on the source's images."""
    x, y = images(size=24)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    torch.manual_seed(0)
    model.train()
    for step in range(steps):
        rows = [(8 * step + i) % len(x) for i in range(8)]
        optimizer.zero_grad()
        losses = detection_loss.loss(model, x[rows], [y[i] for i in rows], append=True)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    return model.eval()


@cache
def _trained() -> Detector:
    return trained(network())


def source() -> Detector:
    """A fresh copy of the trained source model."""
    model = network()
    model.load_state_dict(_trained().state_dict())
    return model.eval()


def info(size: int = SIZE, *, priors: Tensor | None = None) -> TargetInfo:
    """What a method may know of the toy target."""
    return TargetInfo(size, tuple(f"row-{i}" for i in range(size)), classes=NAMES, priors=priors)


def batch(x: Tensor, rows: list[int] | Tensor) -> TargetBatch:
    """A batch of these rows; the strong view is a fixed disturbance of each row."""
    rows = torch.as_tensor(rows)
    return blobs.batch(x, rows[rows < len(x)])


def norm(model: Detector) -> nn.Module:
    """One of its layers that normalise."""
    return next(m for m in model.modules() if isinstance(m, nn.GroupNorm))


def accuracy(model: nn.Module, x: Tensor, y: list[Boxes]) -> float:
    """COCO's AP50, in eval mode."""
    model.eval()
    metric = DetectionMetric(NAMES)
    with torch.no_grad():
        for result, truth in zip(model(x).boxes, y, strict=True):
            answer = BoxesOf(*(np.asarray(part) for part in result))
            metric.update(answer, BoxesOf(truth.boxes.numpy(), truth.labels.numpy()))
    return metric.compute()["coco_ap50"]
