"""Agreement of predictions on a weak and a strong view (FixMatch, arXiv:2001.07685)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from sfda.building_blocks.boxes import Boxes
from sfda.building_blocks.heatmaps import peaks
from sfda.problems.detection.metrics import matched
from sfda.types import SeenViews
from sfda.validators._base import Validator, rows_of

NEAR = 0.05  # of a heatmap's side


class Agreement(Validator):
    """Mean over classes of the share of images (or pixels) of that class whose strong view agrees.

    In [0, 1]. The mean is over all C classes and a class that is never predicted counts 0, so
    that a model which sees one class everywhere scores 1/C and not 1.

    Of boxes, by class: 2 sum min(a, b) / (sum a + sum b), with a and b the scores on the two views
    and the minimum over pairs, one to one, that overlap by an IoU of at least 0.5 (that boxes which
    stay where they are tell a good detector is the finding of the box stability score, NeurIPS
    2023). Of poses, by joint: how often its peaks on two views that were turned and moved, brought
    back to one frame, lie within a twentieth of its side.
    """

    networks: ClassVar[tuple[type[nn.Module], ...]] = (nn.Module,)
    needs_views: ClassVar[bool] = True
    needs_source: ClassVar[bool] = True

    def __init__(self) -> None:
        self.same: list[float] = []
        self.seen: list[float] = []
        self.classes = 0

    def update(self, seen: SeenViews) -> None:
        """Take in one batch with logits [B, C], or of pixels [B, C, H, W], of both views."""
        if seen.weak is None or seen.strong is None:
            raise ValueError("agreement needs the weak and the strong view")
        if isinstance(getattr(seen.weak, "boxes", None), list):
            for pair in zip(seen.weak.boxes, seen.strong.boxes, strict=True):
                self._boxes(*pair)
            return
        if (maps := getattr(seen.weak, "heatmaps", None)) is not None:
            near = NEAR * maps.shape[-1]
            one, other = (peaks(view.heatmaps)[0].double() for view in (seen.weak, seen.strong))
            same = ((one - other).norm(dim=-1) <= near).sum(0)
            self._add(torch.full_like(same, len(maps)), same)
            return
        classes = seen.weak.logits.shape[1]
        weak, strong = (rows_of(view.logits).argmax(1) for view in (seen.weak, seen.strong))
        self._add(
            weak.bincount(minlength=classes), weak[weak == strong].bincount(minlength=classes)
        )

    def _boxes(self, weak: Boxes, strong: Boxes) -> None:
        """Take in one image's boxes on both views."""
        iou = box_iou(weak.boxes.float(), strong.boxes.float())
        iou[weak.labels[:, None] != strong.labels[None]] = 0
        pairs = matched(iou.cpu().numpy(), 0.5)
        labels = torch.cat([weak.labels, strong.labels]).cpu()
        scores = torch.cat([weak.scores, strong.scores]).double().cpu() / 2
        classes = max(int(labels.max()) + 1 if len(labels) else 0, self.classes)
        seen, same = torch.zeros(2, classes, dtype=torch.double)
        seen.index_add_(0, labels, scores)
        for one, other in pairs:
            same[int(weak.labels[one])] += min(float(weak.scores[one]), float(strong.scores[other]))
        self._add(seen, same)

    def refer(self, profile: Mapping[str, Any]) -> None:
        """Take the number of classes: a class that no box is of counts too."""
        self.classes = len(profile["classes"])

    def _add(self, seen: Tensor, same: Tensor) -> None:
        longest = max(len(seen), len(self.seen))
        for total, part in ((self.seen, seen), (self.same, same)):
            total += [0.0] * (longest - len(total))
            for label, value in enumerate(part.tolist()):
                total[label] += value

    def compute(self) -> float:
        """The mean share."""
        if not self.seen:
            raise ValueError("agreement of no predictions")
        shares = [same / n if n else 0.0 for same, n in zip(self.same, self.seen, strict=True)]
        return sum(shares) / len(shares)


EXPORT = Agreement
