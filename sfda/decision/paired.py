"""What labels say of two models on the same images: a gain and its interval (level 3)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from sfda.config import Config
from sfda.decision.change import Side
from sfda.inference.over_split import infer_split
from sfda.problems._resampled import Resampled
from sfda.problems.registry import PROBLEMS


class PairedInterval(Config):
    """A metric of A and of B on one labelled split, and the interval of its gain by bootstrap."""

    metric: str
    before: float
    after: float
    low: float  # of after - before, in 1 - 2 alpha of all samples
    high: float
    level: float  # 1 - 2 alpha
    resamples: int
    units: Literal["images", "groups"]
    count: int  # of these
    split: str

    def text(self) -> str:
        """The numbers in one clause."""
        name = self.metric.replace("_", " ")
        return (
            f"{name} {self.after:.4f}, before {self.before:.4f}: gain {100 * self.low:+.1f} to "
            f"{100 * self.high:+.1f} points ({100 * self.level:.0f} % interval) on {self.count:,} "
            f"{self.units} of {self.split}"
        )


def paired_interval(
    before: Side, after: Side, device: torch.device, *, alpha: float, seed: int = 0
) -> PairedInterval:
    """The gain in the problem's main metric by bootstrap over the images of the split, or over its
    groups where it has some: each resample counts the same images for both models.

    The limits are the alpha and the 1 - alpha quantiles of the resamples' gains (percentile
    bootstrap: Efron, 1979). Raises BadInput where the split has no labels that fit.
    """
    metrics = [_resampled(model, device) for model in (before, after)]
    split = before.opened.split
    groups = _numbered(split.groups, len(split))
    ones = np.ones(len(split), np.int64)
    gains = resampled_gains(metrics[0], metrics[1], groups, seed)
    low, high = np.quantile(gains, [alpha, 1 - alpha])
    return PairedInterval(
        metric=metrics[0].metric,
        before=metrics[0].of(ones),
        after=metrics[1].of(ones),
        low=float(low),
        high=float(high),
        level=1 - 2 * alpha,
        resamples=len(gains),
        units="images" if split.groups is None else "groups",
        count=int(groups.max()) + 1 if len(groups) else 0,
        split=split.name,
    )


def resampled_gains(
    before: Resampled, after: Resampled, groups: Int[np.ndarray, " N"], seed: int
) -> Float[np.ndarray, " R"]:
    """Gains of resamples: groups (numbered from 0) are drawn with replacement, as many as there
    are, each with all its images.
    """
    random, count = np.random.default_rng(seed), int(groups.max(initial=-1)) + 1
    gains = np.zeros(min(before.resamples, after.resamples))
    for number in range(len(gains)):
        drawn = np.bincount(random.integers(0, count, count), minlength=count)[groups]
        gains[number] = after.of(drawn) - before.of(drawn)
    return gains


def _resampled(model: Side, device: torch.device) -> Resampled:
    network, spec, opened = model
    outputs = infer_split(network, opened, spec, device)
    return PROBLEMS[spec.problem].resampled(opened, spec, outputs)


def _numbered(groups: tuple[str, ...] | None, size: int) -> Int[np.ndarray, " N"]:
    """The number of each row's group; rows without groups are one each."""
    if groups is None:
        return np.arange(size)
    numbers: Int[np.ndarray, " N"] = np.unique(np.array(groups), return_inverse=True)[1]
    return numbers
