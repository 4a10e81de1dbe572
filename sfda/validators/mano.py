"""Matrix norm of all predictions (Xie et al., NeurIPS 2024, arXiv:2405.18979)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor

from sfda.problems.class_outputs import rows_of
from sfda.types import SeenViews
from sfda.validators._base import Validator, ValidatorConfig


class ManoConfig(ValidatorConfig):
    """The paper's values."""

    order: PositiveFloat = 4.0  # p
    threshold: float = 5.0  # eta: above it a softmax can be trusted


class Mano(Validator):
    """||Q||_p / (N C)^(1/p) of the N x C matrix Q of normalised logits, in (0, 1].

    Phi, the mean over rows of the cross-entropy of the uniform distribution to the softmax, tells
    how sure the model is (eq. 6). Above the threshold Q is the softmax; else it is made of
    1 + x + x^2 / 2 less the row's smallest, divided by the row's sum (as the authors' code has it),
    which does not stretch what is large already.

    It assumes that a logit tells the distance to a border. It tells how good one model is, and
    does not choose: it rewards a sure collapse, and a shift of all logits changes it.
    """

    idea = "the norm of all normalised logits"
    Config = ManoConfig
    chooses: ClassVar[bool] = False
    tells_level: ClassVar[bool] = True
    config: ManoConfig

    def __init__(self, config: ManoConfig | None = None) -> None:
        super().__init__(config)
        self.sure, self.softmax, self.taylor = 0.0, 0.0, 0.0  # sums over rows
        self.count, self.classes = 0, 0

    def update(self, seen: SeenViews) -> None:
        """Take in one batch of outputs with logits [B, C], or of pixels [B, C, H, W]."""
        logits = rows_of(seen.output.logits).double()
        self.sure -= float(logits.log_softmax(1).mean(1).sum())
        self.softmax += float(logits.softmax(1).pow(self.config.order).sum())
        self.taylor += float(taylor_shares(logits).pow(self.config.order).sum())
        self.count += len(logits)
        self.classes = logits.shape[1]

    def compute(self) -> float:
        """The norm, scaled by the largest that N distributions could have without the classes."""
        if not self.count:
            raise ValueError("matrix norm of no predictions")
        trusted = self.sure / self.count > self.config.threshold
        total = self.softmax if trusted else self.taylor
        return float((total / (self.count * self.classes)) ** (1 / self.config.order))


def taylor_shares(logits: Float[Tensor, "M C"]) -> Float[Tensor, "M C"]:
    """Rows of 1 + x + x^2 / 2, less the smallest, as shares; equal where all logits are.

    >>> taylor_shares(torch.tensor([[0.0, 2.0], [1.0, 1.0]]))
    tensor([[0.0000, 1.0000],
            [0.5000, 0.5000]])
    """
    grown = 1 + logits + logits**2 / 2
    grown = grown - grown.amin(1, keepdim=True)
    total = grown.sum(1, keepdim=True)
    return torch.where(total > 0, grown / total.clamp(min=1e-300), 1 / logits.shape[1])


EXPORT = Mano
