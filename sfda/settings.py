"""How a run is optimised: optimiser, learning rate over time, batch size and length."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import optim

from sfda.config import Config
from sfda.types import Clock


class Schedule(Config):
    """Defaults: SHOT's (Liang et al., ICML 2020, arXiv:2002.08546)."""

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: PositiveFloat = 1e-2
    momentum: float = Field(0.9, ge=0, lt=1)  # sgd alone
    nesterov: bool = True  # sgd alone
    weight_decay: NonNegativeFloat = 1e-3
    decay: Literal["shot", "poly", "steps", "none"] = "shot"
    decay_every: PositiveInt = 20  # epochs; steps alone
    decay_factor: float = Field(0.9, gt=0, le=1)  # steps alone
    batch_size: int = Field(64, ge=1)
    drop_last: bool = False
    epochs: PositiveInt = 15
    clip_norm: PositiveFloat | None = None

    def rate(self, clock: Clock) -> float:
        """Learning rate of this step. SHOT: lr (1 + 10 t/T)^-0.75 with t counted from 1; poly:
        lr (1 - t/T)^0.9; steps: lr times a factor every so many epochs.
        """
        match self.decay:
            case "none":
                return self.lr
            case "poly":
                return float(self.lr * (1 - clock.fraction) ** 0.9)
            case "steps":
                return float(self.lr * self.decay_factor ** (clock.epoch // self.decay_every))
        return shot_rate(self.lr, (clock.step + 1) / clock.steps)

    def make_optimizer(self, groups: Iterable[dict[str, Any]]) -> optim.Optimizer | None:
        """The optimiser over groups that carry a `scale`; None where nothing is trained."""
        groups = [{**g, "lr": self.lr * g["scale"]} for g in groups if g["params"]]
        if not groups:
            return None
        if self.optimizer != "sgd":
            kind = optim.Adam if self.optimizer == "adam" else optim.AdamW
            return kind(groups, lr=self.lr, weight_decay=self.weight_decay)
        return optim.SGD(
            groups,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov and self.momentum > 0,
            weight_decay=self.weight_decay,
        )


def shot_rate(lr: float, done: float) -> float:
    """SHOT's decay, lr (1 + 10 done)^-0.75, for the part `done` of the run in (0, 1].

    >>> round(shot_rate(1.0, 0.5), 4)
    0.2608
    """
    return float(lr * (1 + 10 * done) ** -0.75)
