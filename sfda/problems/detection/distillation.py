"""LPLD's distillation of regions half seen (Yoon et al., ECCV 2024, arXiv:2407.13524)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.ops import box_iou


def mine(
    logits: Float[Tensor, "N C"],
    refined: Float[Tensor, "N 4"],
    sure: Float[Tensor, "M 4"],
    *,
    iou: float = 0.4,
    confidence: float = 0.9,
    background: float = 0.99,
) -> Bool[Tensor, " N"]:
    """Which proposals the teacher half sees: away from its sure boxes, but of one class if of any.

    Kept are those whose refined box overlaps every sure box by at most `iou`, whose softmax over
    the foreground alone reaches `confidence`, and whose background probability, in the softmax over
    all, is at most `background`; all three limits included. Without a sure box none is kept.
    """
    if not len(sure):
        return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    far = box_iou(refined.float(), sure.float()).amax(1) <= iou
    certain = logits[:, :-1].softmax(1).amax(1) >= confidence
    half_seen: Tensor = far & certain & (logits.softmax(1)[:, -1] <= background)
    return half_seen


def feature_distance(
    student: Float[Tensor, "N D"], teacher: Float[Tensor, "N D"]
) -> Float[Tensor, " N"]:
    """1 - cosine of the two feature vectors of a region; nothing flows back through it."""
    alike: Tensor = F.cosine_similarity(student.detach().float(), teacher.detach().float(), dim=1)
    return 1 - alike


def distillation(
    student: Float[Tensor, "n C"],
    teacher: Float[Tensor, "n C"],
    weight: Float[Tensor, " n"] | None = None,
    *,
    floor: float = 1e-9,
) -> Float[Tensor, ""]:
    """Mean over rows of weight x KL(target || softmax(student)), 0 for no rows.

    The target is the teacher's softmax over the foreground, with `floor` for the background and not
    normalised again; the student's softmax includes the background. In float32, from
    `log_softmax`: the released code's log of a softmax is infinite for logits far apart.
    """
    if not len(student):
        return 0.0 * student.sum()
    teacher_logs = teacher.detach().float()[:, :-1].log_softmax(1)
    last = torch.full_like(teacher_logs[:, :1], floor)
    target = torch.cat([teacher_logs.exp(), last], 1)
    logs = torch.cat([teacher_logs, last.log()], 1)
    student_logs = student.float().log_softmax(1)
    # q log q is 0 where q is, also where its logarithm is not finite
    rows = torch.where(
        target > 0, target * (logs - student_logs), torch.zeros_like(student_logs)
    ).sum(1)
    return (rows if weight is None else weight * rows).mean()
