"""Fixed labels: a detector learns boxes that were found once (SF-UT, ECCV 2024, arXiv:2407.07586).

A teacher that never moves cannot collapse. The source with its batch-norm statistics renewed looks
at every image once, and what it is sure of is learnt on strong views as a person's boxes are. Its
errors are permanent, so what it found is told before the first step. No teacher is kept: half the
memory of a mean teacher. Of the release an image without boxes is dropped, as here; its schedule
of 100,000 steps is not followed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import NonNegativeInt
from torch import Tensor, nn

from sfda.building_blocks.boxes import Boxes, mirrored, usable
from sfda.errors import BadInput
from sfda.inference.forward import evaluating
from sfda.methods._base import Method, MethodConfig
from sfda.methods._norm_statistics import detector_norms, renew_statistics_
from sfda.networks.detector import Detector
from sfda.problems.detection import loss as detection_loss
from sfda.problems.detection.teaching import BoxTeaching, freeze_stem_
from sfda.refs import Share
from sfda.settings import Schedule
from sfda.types import Clock, Images, Losses, Scan, TargetBatch, TargetInfo


class FixedLabelsConfig(MethodConfig):
    """Threshold: the release's, not strict."""

    schedule: Schedule = Schedule(
        lr=1e-3,
        nesterov=False,
        weight_decay=1e-4,
        decay="none",
        batch_size=4,
        epochs=10,
        clip_norm=10.0,
    )
    lr_scale: dict[str, float] = {"backbone": 0.1}
    threshold: Share = 0.7  # a box is a label from this score on
    statistics: Literal["target", "source"] = "target"  # of the batch norm of what finds the boxes
    renew: NonNegativeInt = 0  # epochs after which the student finds them anew; 0: never
    boxes: BoxTeaching = BoxTeaching()


class FixedLabels(Method):
    """Boxes found once, with the target's statistics, then learnt on strong views."""

    idea = "boxes found once with renewed statistics, learnt on strong views"
    Config = FixedLabelsConfig
    networks: ClassVar[tuple[type[nn.Module], ...]] = (Detector,)
    views: ClassVar[Literal["none", "photometric", "geometric"]] = "photometric"
    moves_views: ClassVar[bool] = False
    mixes_batch: ClassVar[bool] = True  # images are mirrored by batch
    config: FixedLabelsConfig

    rows: Int[Tensor, " T"]  # of the target, ascending
    corners: Float[Tensor, "T 4"]
    classes: Int[Tensor, " T"]
    scores: Float[Tensor, " T"]

    def __init__(self, source: Detector, target: TargetInfo, config: FixedLabelsConfig) -> None:
        if not target.whole:
            raise BadInput(
                "fixed_labels finds boxes in whole images, and this model sees tiles of them; use "
                "mean_teacher"
            )
        super().__init__(source, target, config)
        freeze_stem_(self.student, config.boxes.freeze_stem)
        self._names = target.classes or tuple(str(c) for c in range(source.num_classes))
        self._status = ""
        for name, empty in _table([], [], torch.device("cpu")).items():
            self.register_buffer(name, empty)

    def start_epoch(self, scan: Scan, clock: Clock) -> None:
        """Before the first epoch, and where they are renewed, find the boxes."""
        every = self.config.renew
        if clock.epoch and not (every and clock.epoch % every == 0):
            return
        before = self._find(scan) if not clock.epoch else None
        renewed = 0
        if not clock.epoch and self.config.statistics == "target" and detector_norms(self.student):
            renewed = renew_statistics_(self.student, scan)
        counts = self._find(scan) if renewed or before is None else before
        self._status = self._report(counts, before if renewed else None)

    def _find(self, scan: Scan) -> Float[Tensor, " C"]:
        """Fill the table; boxes an image and class."""
        with evaluating(self.student):
            seen = [(one.rows.cpu(), one.output.boxes) for one in scan(self.student)]
        rows = torch.cat([part for part, _ in seen]).tolist()
        boxes = [one for _, own in seen for one in own]
        doubt = self.config.boxes.doubt
        least = self.config.threshold if doubt is None else min(doubt, self.config.threshold)
        chosen = [
            b.where((b.scores >= least) & usable(b.boxes, self.config.boxes.side)) for b in boxes
        ]
        device = boxes[0].boxes.device if boxes else torch.device("cpu")
        for name, part in _table(rows, chosen, device).items():
            setattr(self, name, part)
        sure = self.classes[self.scores >= self.config.threshold]
        return sure.bincount(minlength=len(self._names)).cpu() / max(1, self.target.size)

    def _report(self, now: Tensor, before: Tensor | None) -> str:
        """How many labels there are, and what is alarming about them."""
        text = f"{float(now.sum()):.2f} fixed labels an image"
        if before is not None:
            text += f" ({float(before.sum()):.2f} with the source's statistics)"
        if not float(now.sum()):
            return f"{text}: no box is scored {self.config.threshold:g}; lower `threshold`"
        none = [name for name, count in zip(self._names, now, strict=False) if not float(count)]
        return f"{text}, alarming: none of {', '.join(none)}" if none else text

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """The detector's own losses on the labels; none where no image of the batch has any."""
        if batch.strong is None:
            raise ValueError("fixed_labels needs the strong view")
        images, labels = self._mirrored(batch.strong, [self._of(int(r)) for r in batch.index])
        threshold, how = self.config.threshold, self.config.boxes
        sure = [boxes.where(boxes.scores >= threshold) for boxes in labels]
        doubtful = [boxes.where(boxes.scores < threshold) for boxes in labels]
        return detection_loss.loss(
            self.student,
            images,
            sure,
            append=how.append,
            doubtful=None if how.doubt is None else doubtful,
            empty=how.empty,
            regression=how.regression,
        )

    def _of(self, row: int) -> Boxes:
        """The boxes of a row of the target."""
        ends = torch.tensor([row, row + 1], device=self.rows.device)
        first, last = torch.searchsorted(self.rows, ends).tolist()
        part = slice(first, last)
        return Boxes(self.corners[part], self.classes[part], self.scores[part])

    def _mirrored(self, images: Images, labels: Sequence[Boxes]) -> tuple[Images, list[Boxes]]:
        """Half of the images left to right, with their boxes, if the model's views do that."""
        if not self.flips:
            return images, list(labels)
        chosen = (torch.rand(len(images)) < 0.5).tolist()
        turned = [
            image.flip(-1) if turn else image for image, turn in zip(images, chosen, strict=True)
        ]
        width = images.shape[-1]
        pairs = zip(labels, chosen, strict=True)
        return torch.stack(turned), [mirrored(b, width) if turn else b for b, turn in pairs]

    def status(self) -> str:
        """How many labels an image has."""
        return self._status

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *more: object, **others: object
    ) -> None:
        """The table is as long as it was."""
        for name in ("rows", "corners", "classes", "scores"):
            if isinstance(part := state_dict.get(prefix + name), Tensor):
                setattr(self, name, torch.empty_like(part, device=self.rows.device))
        super()._load_from_state_dict(state_dict, prefix, *more, **others)


def _table(rows: list[int], boxes: Sequence[Boxes], device: torch.device) -> dict[str, Tensor]:
    """All boxes one after the other, by row."""
    order = sorted(range(len(rows)), key=lambda n: rows[n])
    own = [boxes[n] for n in order]
    numbers = [rows[n] for n in order for _ in range(len(boxes[n].labels))]
    none = torch.zeros(0, device=device)
    return {
        "rows": torch.tensor(numbers, dtype=torch.long, device=device),
        "corners": torch.cat([none.reshape(0, 4), *(b.boxes.float() for b in own)]),
        "classes": torch.cat([none.long(), *(b.labels for b in own)]),
        "scores": torch.cat([none, *(b.scores.float() for b in own)]),
    }


EXPORT = FixedLabels
