"""What labels say of two models on the same images: a gain and its interval (level 3)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import ndtr, stdtrit

from sfda.config import Config
from sfda.decision.change import Side
from sfda.errors import BadInput
from sfda.inference.over_split import infer_split
from sfda.manifests.rows import Split
from sfda.measures.resampled import Resampled
from sfda.problems.registry import PROBLEMS

NOTHING_KNOWN = (-1.0, 1.0)  # of the gain in a metric from 0 to 1


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

    @property
    def too_few(self) -> bool:
        """Whether there are too few units to tell anything of the gain."""
        return (self.low, self.high) == NOTHING_KNOWN

    def text(self) -> str:
        """The numbers in one clause."""
        name = self.metric.replace("_", " ")
        points = f"{name} {self.after:.4f}, before {self.before:.4f}: "
        where = f"{self.count:,} {self.units} of {self.split}"
        if self.too_few:
            return f"{points}{where} are too few to tell a gain"
        return (
            f"{points}gain {100 * self.low:+.1f} to {100 * self.high:+.1f} points "
            f"({100 * self.level:.0f} % interval) on {where}"
        )


def paired_interval(
    before: Side, after: Side, device: torch.device, *, alpha: float, seed: int = 0
) -> PairedInterval:
    """The gain in the problem's main metric by bootstrap over the images of the split, or over its
    groups where it has some: each resample counts the same images for both models.

    Rows of one image, such as its persons, are drawn together. Raises BadInput where the split has
    no labels that fit, or the models are measured by different metrics.
    """
    metrics = [_resampled(model, device) for model in (before, after)]
    if metrics[0].metric != metrics[1].metric:
        raise BadInput(f"one model has {metrics[0].metric}, the other {metrics[1].metric}")
    split = before.opened.split
    groups = _numbered(split)
    ones = np.ones(len(split), np.int64)
    gains = resampled_gains(metrics[0], metrics[1], groups, seed)
    count = int(groups.max(initial=-1)) + 1
    low, high = gain_limits(gains, count, alpha)
    return PairedInterval(
        metric=metrics[0].metric,
        before=metrics[0].of(ones),
        after=metrics[1].of(ones),
        low=low,
        high=high,
        level=1 - 2 * alpha,
        resamples=len(gains),
        units="images" if split.groups is None else "groups",
        count=count,
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


def gain_limits(gains: Float[np.ndarray, " R"], count: int, alpha: float) -> tuple[float, float]:
    """Lower and upper limit of the gain, out of resamples of so many units.

    They are quantiles of the resamples' gains. The alpha quantile itself is too narrow for few
    units: of 5 volumes without a gain it is above 0 in 11 % of all cases at alpha 5 %. So a smaller
    one is taken, as Student's t asks (Hesterberg, arXiv:1411.5279, "expanded percentile"). Where
    even all units could agree by chance more often than alpha, nothing is known.
    """
    if count < math.log2(1 / alpha):
        return NOTHING_KNOWN
    tail = ndtr(math.sqrt(count / (count - 1)) * stdtrit(count - 1, alpha))
    low, high = np.quantile(gains, [tail, 1 - tail])
    return float(low), float(high)


def _numbered(split: Split) -> Int[np.ndarray, " N"]:
    """The number of each row's group; without groups rows of one image are one."""
    problem = PROBLEMS[split.problem]
    groups = split.groups or tuple(map(problem.row_file, split.names))
    numbers: Int[np.ndarray, " N"] = np.unique(np.array(groups), return_inverse=True)[1]
    return numbers
