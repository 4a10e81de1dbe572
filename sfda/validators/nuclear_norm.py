"""Nuclear norm of all predictions (Cui et al., CVPR 2020, arXiv:2003.12237)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sfda.problems.class_outputs import rows_of
from sfda.types import SeenViews
from sfda.validators._base import Validator, ValidatorConfig


class NuclearNorm(Validator):
    """||P||_* / sqrt(N min(N, C)) of the N x C matrix of class distributions, in (0, 1].

    1 where every prediction is certain and every class equally often predicted. Computed from
    P^T P, so that memory is C x C whatever N.
    """

    idea = "the nuclear norm of all predictions"

    def __init__(self, config: ValidatorConfig | None = None) -> None:
        super().__init__(config)
        self.gram: Tensor | None = None
        self.count = 0

    def update(self, seen: SeenViews) -> None:
        """Take in one batch of outputs with logits [B, C], or of pixels [B, C, H, W]."""
        probs = rows_of(seen.output.logits).double().softmax(1)
        gram = probs.T @ probs
        self.gram = gram if self.gram is None else self.gram + gram
        self.count += len(probs)

    def compute(self) -> float:
        """The norm, scaled by its largest possible value."""
        if self.gram is None:
            raise ValueError("nuclear norm of no predictions")
        singular = torch.linalg.eigvalsh(self.gram).clamp(min=0).sqrt()
        largest = math.sqrt(self.count * min(self.count, len(self.gram)))
        return float(singular.sum()) / largest


EXPORT = NuclearNorm
