"""A classifier's last layer in closed form: Gaussians of equal covariance on unit features.

GDA (Wang et al., "A hard-to-beat baseline for training-free CLIP-based adaptation", ICLR 2024,
arXiv:2402.04087): class means and a shrunk pooled covariance give a linear score, and nothing is
learnt by gradient. Formulas: docs/methods/guided.md, section 6.1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sfda.building_blocks.precision import exact
from sfda.problems.classification.network import Classifier, GaussianHead
from sfda.types import UNSURE

LEAST_COUNT = 1e-6  # samples, in sum of their weights, below which a class has no mean
FLAT = 1e-12  # trace of a covariance below which there is none


class GaussianFit(NamedTuple):
    """A linear score of unit features, score = x W^T + b, in float64."""

    weight: Float[Tensor, "C D"]
    bias: Float[Tensor, " C"]
    active: Bool[Tensor, " C"]  # classes that have a mean; the others never win
    stretch: float  # (n - 1 + D) / D: what the score falls short of log-odds by, 1 without spread

    def scores(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N C"]:
        """Scores of unit features; -inf for classes that are not active."""
        scores = features.double() @ self.weight.T + self.bias
        return scores.masked_fill(~self.active, -torch.inf)


def fit_gaussians(
    features: Float[Tensor, "N D"],
    shares: Float[Tensor, "N C"],
    *,
    prior: Float[Tensor, " C"] | None = None,
    spare_means: Float[Tensor, "C D"] | None = None,
) -> GaussianFit:
    """Gaussians of one covariance on unit features, each sample a member of classes by `shares`
    (non-negative, of any sum; a row of zeros takes no part).

    `prior` are class probabilities (sum 1; none: all alike). A class without samples has the mean
    of `spare_means` where that row is not zero, else none. Without any spread about the means the
    nearest mean wins.
    """
    x, r = features.double(), shares.double()
    counts = r.sum(0)
    own = counts > LEAST_COUNT
    means = r.T @ x / counts.clamp_min(LEAST_COUNT)[:, None]
    active = own
    if spare_means is not None:
        spare = spare_means.double()
        means = torch.where(own[:, None], means, spare)
        active = own | spare.any(1)
    means = means * active[:, None]
    total, dim = float(counts.sum()), x.shape[1]
    scatter = (x * r.sum(1, keepdim=True)).T @ x - (means[own] * counts[own, None]).T @ means[own]
    spread = float(scatter.trace()) / max(total - 1, 1.0)  # trace of the covariance
    weight, stretch = means, 1.0
    if total > 1 and spread > FLAT:
        shrunk = scatter + spread * torch.eye(dim, dtype=x.dtype, device=x.device)
        weight = dim * torch.linalg.solve(shrunk, means.T).T
        stretch = (total - 1 + dim) / dim
    prior_ = torch.full_like(counts, 1 / len(counts)) if prior is None else prior.double()
    logs = prior_.clamp_min(1e-12).log()
    bias = (logs - 0.5 * (weight * means).sum(1)) * active
    return GaussianFit(weight * active[:, None], bias, active, stretch)


LEAST_ROWS, MOST_ROWS, ROWS_SHARE = 9, 16, 0.3  # that a class begins with, TFUP's quota
SMALLEST_CLASS = 2  # below which a class is left out


def starting_labels(probs: Float[Tensor, "N C"], *, own: bool) -> Int[Tensor, " N"]:
    """The class that each row stands for at the start, UNSURE for most: of each class the rows of
    largest probability, 0.3 N / C of them but 9 to 16 (TFUP). Rows of zeros stand for none.

    `own`: those alone whose likeliest class it is, which keeps a rare class from taking others'
    rows; else any row, and one that two classes take stands for none. A class with fewer than two
    rows has none.
    """
    size, classes = probs.shape
    quota = int(min(max(ROWS_SHARE * size / classes, LEAST_ROWS), MOST_ROWS))
    likeliest = F.one_hot(probs.argmax(1), classes).bool()
    may = (likeliest if own else torch.ones_like(likeliest)) & probs.any(1, keepdim=True)
    ranks = probs.masked_fill(~may, -1.0).argsort(dim=0, descending=True, stable=True)[:quota]
    chosen = torch.zeros_like(may).scatter(0, ranks, True) & may
    chosen &= chosen.sum(1, keepdim=True) == 1
    chosen &= chosen.sum(0, keepdim=True) >= SMALLEST_CLASS
    return torch.where(chosen.any(1), chosen.int().argmax(1), UNSURE)


def effective_classes(labels: Int[Tensor, " N"], classes: int) -> float:
    """exp(H) of the shares of the classes: how many there would be if all were equally frequent.

    >>> effective_classes(torch.tensor([0, 0, 1, 1]), 3)
    2.0
    """
    shares = torch.bincount(labels, minlength=classes).double() / max(len(labels), 1)
    return float(torch.exp(-torch.xlogy(shares, shares).sum()))


def fitted_head(
    network: Classifier, fit: GaussianFit | None, *, mixed: bool = True
) -> GaussianHead:
    """A Gaussian head without the layer that it stands beside; None: one that changes nothing, and
    so the network's own where it has one.

    `mixed`: the score is added to the network's own logits, matched to them row by row; else it
    stands alone, as log-odds.
    """
    head = GaussianHead(nn.Identity(), network.feature_dim, network.num_classes)
    head.to(next(network.parameters()).device)
    if fit is None and isinstance(network.head, GaussianHead):
        head.load_state_dict(network.head.state_dict(), strict=False)
    if fit is not None:
        scale = 1.0 if mixed else fit.stretch
        with torch.no_grad():
            head.weight.copy_(scale * fit.weight)
            head.bias.copy_(scale * fit.bias)
        head.active.copy_(fit.active)
        head.own_share.fill_(float(mixed))
    return head


def with_head(network: Classifier, head: GaussianHead) -> Classifier:
    """The network with this Gaussian head about its own last layer, sharing all else."""
    own = network.head.base if isinstance(network.head, GaussianHead) else network.head
    about = GaussianHead(own, network.feature_dim, network.num_classes)
    about.to(head.weight.device)
    about.load_state_dict(head.state_dict(), strict=False)
    made = Classifier(
        network.backbone,
        network.bottleneck,
        about,
        feature_dim=network.feature_dim,
        num_classes=network.num_classes,
    )
    made.frozen = network.frozen
    return made.train(network.training)


def unit_head_rows(network: Classifier) -> Float[Tensor, "C D"]:
    """Unit rows of the last layer's weight, one a class; zeros where it has no such weight."""
    shape, base = (network.num_classes, network.feature_dim), network.head
    base = base.base if isinstance(base, GaussianHead) else base
    with torch.no_grad(), exact():
        for layer in reversed(list(base.modules())):
            weight = getattr(layer, "weight", None)
            if isinstance(weight, Tensor) and weight.squeeze().shape == shape:
                return F.normalize(weight.detach().float().reshape(shape), dim=1)
    return torch.zeros(shape)
