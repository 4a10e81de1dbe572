"""How a run is optimised: optimiser, learning rate over time, batch size and length."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from sfda.config import Config


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
