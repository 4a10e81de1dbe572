"""The learning-rate schedule of a run, and the optimiser that it drives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import optim

from sfda.settings import Schedule
from sfda.types import Clock


def learning_rate(schedule: Schedule, clock: Clock) -> float:
    """Learning rate of this step. SHOT: lr (1 + 10 t/T)^-0.75 with t counted from 1; poly:
    lr (1 - t/T)^0.9; steps: lr times a factor every so many epochs, first after one more, as the
    code of AdaMI counts.
    """
    match schedule.decay:
        case "none":
            return schedule.lr
        case "poly":
            return float(schedule.lr * (1 - clock.fraction) ** 0.9)
        case "steps":
            falls = max(0, clock.epoch - 1) // schedule.decay_every
            return float(schedule.lr * schedule.decay_factor**falls)
    return shot_rate(schedule.lr, (clock.step + 1) / clock.steps)


def make_optimizer(schedule: Schedule, groups: Iterable[dict[str, Any]]) -> optim.Optimizer | None:
    """The optimiser over groups that carry a `scale`; None where nothing is trained."""
    groups = [{**g, "lr": schedule.lr * g["scale"]} for g in groups if g["params"]]
    if not groups:
        return None
    if schedule.optimizer != "sgd":
        kind = optim.Adam if schedule.optimizer == "adam" else optim.AdamW
        return kind(groups, lr=schedule.lr, weight_decay=schedule.weight_decay)
    return optim.SGD(
        groups,
        lr=schedule.lr,
        momentum=schedule.momentum,
        nesterov=schedule.nesterov and schedule.momentum > 0,
        weight_decay=schedule.weight_decay,
    )


def shot_rate(lr: float, done: float) -> float:
    """SHOT's decay, lr (1 + 10 done)^-0.75, for the part `done` of the run in (0, 1].

    >>> round(shot_rate(1.0, 0.5), 4)
    0.2608
    """
    return float(lr * (1 + 10 * done) ** -0.75)
