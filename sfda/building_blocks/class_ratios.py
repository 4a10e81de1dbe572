"""How much of an image each class takes up: as predicted, as known beforehand, and how they differ.

AdaEnt and AdaMI (Bateson et al., MICCAI 2020 and Medical Image Analysis 2022).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sfda.building_blocks.precision import full_precision
from sfda.errors import BadInput
from sfda.types import TargetInfo

RATIO_EPS = 1e-10  # inside logarithms and denominators, as in the authors' code
LEAST_SHARE = 1e-3  # least share of a class that may be there
GONE = 1e-4  # share below which a class is no longer predicted
THERE = 5e-4  # share in a batch from which on a class is predicted
GROWTH = 0.3  # by which the largest class may exceed what is known of it
BACKGROUND = "background"  # a class of this name is what the others leave

ClassRatios = Float[Tensor, "B C"]
ShownPixels = Bool[Tensor, "B H W"]


@full_precision
def class_ratios(
    probs: Float[Tensor, "B C H W"],
    *,
    estimator: Literal["code", "mean"],
    power: float = 1.0,
    shown: ShownPixels | None = None,
) -> ClassRatios:
    """Share of each class in each image.

    "mean" is the paper's: the mean probability. "code" is what the released code computes: each
    pixel's vector is divided by its largest entry, so uncertain pixels count up to C times. Pixels
    that are not `shown` do not count.
    """
    if estimator == "mean":
        if shown is None:
            return probs.mean((2, 3))
        sizes = (probs * shown.unsqueeze(1)).sum((2, 3))
        return sizes / shown.sum((1, 2)).clamp_min(1).unsqueeze(1)
    relative = probs / (probs.amax(1, keepdim=True) + RATIO_EPS)
    relative = relative if power == 1 else relative.pow(power)
    if shown is not None:
        relative = relative * shown.unsqueeze(1)
    sizes = relative.sum((2, 3))
    return sizes / (sizes.sum(1, keepdim=True) + RATIO_EPS)


@full_precision
def weighted_entropy(
    probs: Float[Tensor, "B C H W"], weights: Float[Tensor, " C"], shown: ShownPixels | None = None
) -> Float[Tensor, ""]:
    """Mean Shannon entropy of the pixels (those `shown`) in nats, each class's term weighted."""
    if shown is not None:
        probs = probs * shown.unsqueeze(1)  # 0 log(0 + eps) = 0
    terms = (probs * (probs + RATIO_EPS).log()).sum((0, 2, 3))
    return -(weights * terms).sum() / (probs.sum() + RATIO_EPS)


@full_precision
def ratio_divergence(
    predicted: ClassRatios, prior: ClassRatios, *, reverse: bool
) -> Float[Tensor, ""]:
    """KL between class ratios in nats, averaged over images.

    AdaMI's KL(predicted || prior), or, in `reverse`, AdaEnt's KL(prior || predicted).
    """
    first, second = (prior, predicted) if reverse else (predicted, prior)
    return (first * ((first + RATIO_EPS).log() - (second + RATIO_EPS).log())).sum(1).mean()


def inverse_sizes(ratios: Float[Tensor, " C"]) -> Float[Tensor, " C"]:
    """Class weights inverse to the classes' sizes, with sum 1.

    >>> inverse_sizes(torch.tensor([0.9, 0.1]))
    tensor([0.1000, 0.9000])
    """
    inverse = 1 / ratios
    return inverse / inverse.sum()


def weights_by_name(
    shares: dict[str, float], target: TargetInfo, classes: int
) -> Float[Tensor, " C"]:
    """Class weights in the model's order, with sum 1. Raises BadInput unless each class has one."""
    names = target.classes or tuple(str(c) for c in range(classes))
    if set(shares) != set(names):
        raise BadInput(f"class_weights: give one for each of {', '.join(names)}, and for no other")
    weights = torch.tensor([shares[name] for name in names], dtype=torch.float32)
    if (weights < 0).any() or not weights.any():
        raise BadInput("class_weights must not be negative, nor all be 0")
    return weights / weights.sum()


def floored(ratios: Float[Tensor, "*B C"]) -> Float[Tensor, "*B C"]:
    """Ratios of at least 0.001 with sum 1: a share of 0 would drive a class to extinction.

    >>> floored(torch.tensor([3.0, 1.0]))
    tensor([0.7500, 0.2500])
    """
    share = ratios / ratios.sum(-1, keepdim=True).clamp_min(RATIO_EPS)
    share = share.clamp_min(LEAST_SHARE)
    return share / share.sum(-1, keepdim=True)


class RatioPrior(nn.Module):
    """The class ratios that are expected of each target image, and where they come from.

    In this order: from the settings; by row, from the user's file, where 0 says that an image
    lacks a class; from the source card; else estimated from the target with `estimate_`.
    """

    ratios: Float[Tensor, "R C"]  # one row for all images, or one an image

    def __init__(self, target: TargetInfo, shares: dict[str, float] | None, classes: int) -> None:
        super().__init__()
        self.origin = "estimated from the target's confident images"
        ratios = torch.full((1, classes), 1 / classes)
        if shares is not None:
            self.origin = "from the settings"
            ratios = floored(_by_name(shares, target, classes))[None]
        elif target.priors is not None:
            self.origin = "by image, from the manifest's priors"
            ratios = target.priors.float()
            if not (ratios.sum(1) > 0).all():
                raise BadInput("the manifest's priors are all 0 for some image; leave that row out")
            ratios = ratios / ratios.sum(1, keepdim=True)
        elif target.source_ratios is not None:
            self.origin = "from the source card"
            ratios = floored(_with_background(target.source_ratios.float(), target))[None]
        self.known = not self.origin.startswith("estimated")
        self.register_buffer("ratios", ratios)

    def estimate_(self, seen: Iterable[Any]) -> None:
        """Mean predicted ratios over the half of the images that the network is surest of.

        `seen` are (rows, output with logits [B, C, H, W]); parts of one image count as images.
        """
        predicted, sure = [], []
        for _, output in seen:
            probs = output.logits.float().softmax(1)
            predicted.append(probs.mean((2, 3)))
            sure.append(probs.amax(1).mean((1, 2)))
        ratios, confidence = torch.cat(predicted), torch.cat(sure)
        best = confidence.topk(max(1, len(confidence) // 2)).indices
        self.ratios.copy_(floored(ratios[best].mean(0))[None])

    def of(self, index: Int[Tensor, " B"]) -> ClassRatios:
        """The prior of these rows."""
        return self.ratios[index] if len(self.ratios) > 1 else self.ratios.expand(len(index), -1)

    def mean(self) -> Float[Tensor, " C"]:
        """The prior of the whole target."""
        return self.ratios.mean(0)

    def status(self, classes: tuple[str, ...] | None) -> str:
        """The prior in words."""
        names = classes or tuple(str(c) for c in range(self.ratios.shape[1]))
        shares = ", ".join(
            f"{name} {share:.3f}" for name, share in zip(names, self.mean().tolist(), strict=True)
        )
        return f"class ratios {self.origin}: {shares}"


class CollapseGuard(nn.Module):
    """Watches the predicted ratios, and gives the last good network back where they collapse.

    Collapsed: after an epoch the largest class exceeds its prior by more than 0.3, or a class that
    the prior expects has a share below 0.0001, unless no batch ever had 0.0005 of it: what the
    source never predicts would else end every run.
    """

    total: Float[Tensor, " C"]
    most: Float[Tensor, " C"]
    count: Int[Tensor, ""]
    collapsed: Tensor

    def __init__(self, student: nn.Module, good: nn.Module, classes: int) -> None:
        super().__init__()
        self.good = good
        self.good.load_state_dict(student.state_dict())
        self.register_buffer("total", torch.zeros(classes))
        self.register_buffer("most", torch.zeros(classes))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("collapsed", torch.tensor(False))

    @torch.no_grad()
    def watch(self, predicted: ClassRatios) -> None:
        """Take in the predicted ratios of a batch."""
        self.total += predicted.detach().sum(0)
        self.count += len(predicted)
        self.most.copy_(torch.maximum(self.most, predicted.detach().mean(0)))

    @torch.no_grad()
    def end_epoch(self, student: nn.Module, prior: Float[Tensor, " C"]) -> None:
        """Keep the student where it is well, or give it back its last good state."""
        if not int(self.count):
            return
        share = self.total / self.count
        top = int(share.argmax())
        gone = (share < GONE) & (self.most > THERE) & (prior > LEAST_SHARE)
        if share[top] > prior[top] + GROWTH or gone.any():
            student.load_state_dict(self.good.state_dict())
            self.collapsed.fill_(True)
        else:
            self.good.load_state_dict(student.state_dict())
        self.total.zero_()
        self.count.zero_()


def _by_name(shares: dict[str, float], target: TargetInfo, classes: int) -> Float[Tensor, " C"]:
    """Ratios in the model's order. A background that was not given is the rest."""
    names = target.classes or tuple(str(c) for c in range(classes))
    if unknown := sorted(set(shares) - set(names)):
        raise BadInput(f"ratios: no class {', '.join(unknown)}; there are {', '.join(names)}")
    if bad := [n for n, v in shares.items() if not 0 <= v <= 1]:
        raise BadInput(f"ratios: the share of {', '.join(bad)} must lie between 0 and 1")
    missing = [name for name in names if name not in shares]
    rest = 1 - sum(shares.values())
    if missing != [] and (len(missing) > 1 or rest < 0):
        raise BadInput(f"ratios: give a share of {', '.join(missing)} too")
    return torch.tensor([shares.get(name, rest) for name in names], dtype=torch.float32)


def _with_background(ratios: Float[Tensor, " C"], target: TargetInfo) -> Float[Tensor, " C"]:
    """Sizes of classes where they are seen; a background is what they leave."""
    names = target.classes or ()
    if BACKGROUND not in names:
        return ratios
    background = names.index(BACKGROUND)
    others = ratios.clone()
    others[background] = 0
    others[background] = (1 - others.sum()).clamp_min(LEAST_SHARE)
    return others
