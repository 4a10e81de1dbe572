"""The teacher: a frozen copy of the student, and its exponential moving average."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal, TypeVar

import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)


def make_teacher(student: N) -> N:
    """A copy of the student in eval mode whose parameters take no gradient."""
    teacher = copy.deepcopy(student)
    return teacher.requires_grad_(False).eval()


@torch.no_grad()
def ema_update_(
    teacher: nn.Module,
    student: nn.Module,
    *,
    decay: float,
    buffers: Literal["average", "copy", "keep"],
) -> None:
    """teacher <- decay teacher + (1 - decay) student, for every parameter.

    Floating buffers (batch-norm statistics) are averaged likewise, copied, or kept as they are;
    integer buffers (counters) are copied unless kept. Tarvainen & Valpola, NeurIPS 2017,
    arXiv:1703.01780, eq. 1. Raises ValueError, and moves nothing, where one lacks what the other
    has, or a shape differs.
    """
    pairs = _pairs(dict(teacher.named_parameters()), dict(student.named_parameters()))
    beside = _pairs(dict(teacher.named_buffers()), dict(student.named_buffers()))
    ours = [own for own, _ in pairs]
    torch._foreach_lerp_(ours, [new.to(own.dtype) for own, new in pairs], 1 - decay)
    if buffers == "keep":
        return
    for own, new in beside:
        if buffers == "average" and own.is_floating_point():
            own.lerp_(new, 1 - decay)
        else:
            own.copy_(new)


def _pairs(
    ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Tensors of teacher and student by name."""
    if odd := sorted(ours.keys() ^ theirs.keys()):
        raise ValueError(f"teacher and student differ in {', '.join(odd)}")
    if odd := sorted(name for name, own in ours.items() if own.shape != theirs[name].shape):
        raise ValueError(f"teacher and student differ in the shape of {', '.join(odd)}")
    return [(own, theirs[name]) for name, own in ours.items()]
