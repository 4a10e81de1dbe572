"""Teaching a detector with a teacher's boxes: what every such method shares, and its alarms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sfda.building_blocks.boxes import SIDE, Boxes, sure_boxes
from sfda.config import Config
from sfda.networks.detector import Detector, DetOutput
from sfda.problems._teaching import BoxSettings, Guard, Taught, TeacherSettings
from sfda.problems.detection.loss import loss
from sfda.refs import Share
from sfda.types import Losses, TargetBatch, TargetInfo

FEW, MANY = 0.2, 5.0  # of the boxes an image had in the first epoch: below or above is an alarm
STEM = ("conv1", "bn1", "layer1")  # of a ResNet: stem and res2, frozen in LPLD


class BoxTeaching(Config):
    """How a student learns boxes. In LPLD's release an image without boxes is all background, which
    can lead a detector to see nothing: by default such an image counts nothing here.
    """

    empty: Literal["background", "skip"] = "skip"
    # boxes scored above this and not above the threshold are no background; None: they are
    doubt: Share | None = 0.05
    regression: bool = True  # boxes teach places too, not classes alone
    append: bool = False  # the boxes join the proposals, as in IRG
    side: NonNegativeFloat = SIDE  # pixels: the least width and height of a pseudo-box
    freeze_stem: bool = True  # a ResNet's first layers stay; batch norm always does


def freeze_stem_(student: nn.Module, stem: bool) -> None:
    """Freeze scale and shift of batch norm, and with `stem` a ResNet's stem and first stage."""
    for layer in student.modules():
        if isinstance(layer, _BatchNorm):
            layer.requires_grad_(False)
    backbone = getattr(student, "backbone", None)
    body = getattr(backbone, "body", backbone)
    for name in STEM if stem else ():
        if isinstance(part := getattr(body, name, None), nn.Module):
            part.requires_grad_(False)


def sorted_out(
    detections: Sequence[Boxes], threshold: float, config: BoxSettings
) -> tuple[list[Boxes], list[Boxes] | None]:
    """The boxes of each image that are sure, and those that are doubtful."""
    sure = [sure_boxes(boxes, threshold, config.side) for boxes in detections]
    if config.doubt is None:
        return sure, None
    doubt = config.doubt
    doubtful = [b.where((b.scores > doubt) & (b.scores <= threshold)) for b in detections]
    return sure, doubtful


@torch.no_grad()
def teach(teacher: Detector, batch: TargetBatch, settings: TeacherSettings) -> Taught:
    """Boxes of the weak view that the teacher is sure of, and those that are doubtful."""
    assert batch.strong is not None
    output: DetOutput = teacher(batch.weak)
    return Taught(batch.strong, *sorted_out(output.boxes, settings.threshold, settings.boxes))


def learn(
    student: Detector, batch: TargetBatch, taught: Taught, settings: TeacherSettings
) -> Losses:
    """The detector's own losses."""
    how = settings.boxes
    return loss(
        student,
        taught.images,
        taught.targets,
        append=how.append,
        doubtful=taught.doubtful,
        empty=how.empty,
        regression=how.regression,
    )


class BoxGuard(Guard):
    """Counts pseudo-boxes by class and epoch, and says where they run away.

    An alarm: fewer than a fifth, or more than five times, of the boxes that an image had in the
    first epoch, or a class of the first epoch without a single box.
    """

    first: Float[Tensor, " C"]
    last: Float[Tensor, " C"]
    now: Float[Tensor, " C"]
    images: Int[Tensor, ""]
    epochs: Int[Tensor, ""]
    mined: Float[Tensor, 2]  # regions that were distilled, in this epoch and the last

    def __init__(self, target: TargetInfo, classes: int) -> None:
        super().__init__()
        self.names = target.classes or tuple(str(c) for c in range(classes))
        for name in ("first", "last", "now"):
            self.register_buffer(name, torch.zeros(classes))
        self.register_buffer("images", torch.tensor(0))
        self.register_buffer("epochs", torch.tensor(0))
        self.register_buffer("mined", torch.zeros(2))

    @torch.no_grad()
    def watch(self, taught: Taught, mined: int = 0) -> None:
        """Take in the pseudo-boxes of a batch, and how many of its regions were distilled."""
        self.mined[0] += mined
        for boxes in taught.targets:
            self.now += boxes.labels.bincount(minlength=len(self.now))
        self.images += len(taught.targets)

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Close the epoch's count."""
        if not int(self.images):
            return
        self.last.copy_(self.now / self.images)
        if not int(self.epochs):
            self.first.copy_(self.last)
        self.epochs += 1
        self.mined[1] = self.mined[0] / self.images
        self.mined[0] = 0
        self.now.zero_()
        self.images.zero_()

    def left(self) -> float | None:
        """The last epoch's boxes an image as a share of the first one's."""
        first = float(self.first.sum())
        return float(self.last.sum()) / first if int(self.epochs) > 1 and first else None

    def status(self) -> str:
        """The last epoch's boxes an image, and what is alarming about them; '' before the first."""
        if not int(self.epochs):
            return ""
        total, before = float(self.last.sum()), float(self.first.sum())
        text = f"{total:.2f} pseudo-boxes an image"
        if float(self.mined[1]):
            text += f" and {float(self.mined[1]):.1f} regions half seen"
        if not before:
            return f"{text}: the teacher is never sure enough; lower `threshold`"
        faults = []
        if total < FEW * before or total > MANY * before:
            faults.append(f"{before:.2f} in the first epoch")
        gone = [
            name
            for name, first, last in zip(self.names, self.first, self.last, strict=True)
            if first > 0 and last == 0
        ]
        if gone:
            faults.append(f"no box of {', '.join(gone)} any more")
        return f"{text}, alarming: {'; '.join(faults)}" if faults else text
