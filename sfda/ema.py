"""The teacher: a frozen copy of the student, and its exponential moving average."""

from __future__ import annotations

import copy
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
    arXiv:1703.01780, eq. 1.
    """
    ours: list[torch.Tensor] = [*teacher.parameters()]
    theirs = [new.to(own.dtype) for own, new in zip(ours, student.parameters(), strict=True)]
    torch._foreach_lerp_(ours, theirs, 1 - decay)
    if buffers == "keep":
        return
    for own, new in zip(teacher.buffers(), student.buffers(), strict=True):
        if buffers == "average" and own.is_floating_point():
            own.lerp_(new, 1 - decay)
        else:
            own.copy_(new)
