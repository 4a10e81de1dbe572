"""Clusters of features: k-means on the features' device, a split in two, and how many there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sfda.building_blocks.precision import full_precision
from sfda.types import UNKNOWN

PRODUCT_TILE = 16 * 2**20  # numbers in one tile of row-to-centroid products: 64 MB in float32


@torch.no_grad()
@full_precision
def k_means(
    features: Float[Tensor, "N D"],
    count: int,
    *,
    weights: Float[Tensor, " N"] | None = None,
    seed: int = 0,
    starts: int = 5,
    steps: int = 100,
    tol: float = 1e-3,
) -> Float[Tensor, "K D"]:
    """Centroids of Euclidean k-means: the best of several short starts, then Lloyd's steps.

    The starts matter more than `tol`: from one alone, the labels that GLC makes of the centroids
    differ by several per cent from seed to seed.

    A row of weight 0 takes no part, so a subset needs a mask and no copy. Stops once no centroid
    moves further than `tol`, which is meant for features of about unit length. Random numbers are
    drawn on the CPU, so a seed means the same draws on every device. Memory beside the features:
    a few numbers a row, and two tiles of 64 MB. ValueError for fewer rows than clusters.
    """
    if weights is None:
        weights = features.new_ones(len(features))
    if (taking_part := int((weights > 0).sum())) < count or count < 1:
        raise ValueError(f"asked for {count} clusters of {taking_part} rows")
    generator = torch.Generator().manual_seed(seed)
    best, centroids = -math.inf, features[:count]
    for _ in range(starts):
        start, fit = first_centroids(features, count, weights, generator), 0.0
        for _ in range(3):
            start, fit = lloyd_step(features, start, weights)
        if fit > best:
            best, centroids = fit, start
    for _ in range(steps):
        before, (centroids, _) = centroids, lloyd_step(features, centroids, weights)
        if float((centroids - before).norm(dim=1).max()) <= tol:
            break
    return centroids


def first_centroids(
    features: Float[Tensor, "N D"],
    count: int,
    weights: Float[Tensor, " N"],
    generator: torch.Generator,
) -> Float[Tensor, "K D"]:
    """Greedy k-means++ (Arthur & Vassilvitskii, SODA 2007, section 6).

    Rows are drawn with a chance in proportion to weight times squared distance from the nearest
    centroid so far; of 2 + log K draws the one that leaves the least inertia is kept. Where every
    row lies on a centroid, by weight alone.
    """
    trials = 2 + int(math.log(count))
    draws = torch.rand(count, trials, generator=generator).double().to(features.device)
    squares = features.norm(dim=1).square()
    nearest = torch.full_like(squares, torch.inf)
    picked: list[Tensor] = []
    for draw in draws:
        chance = weights * nearest if picked else weights
        chance = torch.where(chance.sum() > 0, chance, weights).double()
        below = chance.cumsum(0)
        rows = torch.searchsorted(below, draw * below[-1], right=True).clamp_max(len(below) - 1)
        products = features @ features[rows].T
        distances = (squares[:, None] + squares[rows] - 2 * products).clamp_min(0)
        distances = distances.minimum(nearest[:, None])
        best = (weights @ distances).argmin()
        nearest = distances[:, best]
        picked.append(rows[best])
    return features[torch.stack(picked)]


def lloyd_step(
    features: Float[Tensor, "N D"], centroids: Float[Tensor, "K D"], weights: Float[Tensor, " N"]
) -> tuple[Float[Tensor, "K D"], float]:
    """Every centroid at the weighted mean of its rows; one without rows at a badly served row.

    Also how well the centroids fitted before they moved: the larger, the less inertia.

    Sums are products with a one-hot matrix: unlike scattered additions, they come out the same on
    every run of a GPU.
    """
    sums, mass = torch.zeros_like(centroids), centroids.new_zeros(len(centroids))
    closeness = weights.new_empty(len(features))
    for rows, products in _tiles(features, centroids):
        best = products.max(1)
        closeness[rows] = best.values
        members = products.zero_().scatter_(1, best.indices[:, None], weights[rows, None])
        sums.addmm_(members.T, features[rows])
        mass += members.sum(0)
    moved = sums / mass[:, None]
    empty = (mass == 0).nonzero().flatten()
    if len(empty):
        distances = features.norm(dim=1).square() - 2 * closeness
        distances[weights == 0] = -torch.inf
        moved[empty] = features[distances.topk(len(empty)).indices]
    return moved, float(weights @ closeness)


def _tiles(
    features: Float[Tensor, "N D"], centroids: Float[Tensor, "K D"]
) -> Iterator[tuple[slice, Float[Tensor, "n K"]]]:
    """<x, c> - |c|^2 / 2, largest for the nearest centroid, for some rows at a time."""
    half = centroids.square().sum(1) / 2
    step = max(1, PRODUCT_TILE // len(centroids))
    for start in range(0, len(features), step):
        rows = slice(start, start + step)
        yield rows, torch.addmm(-half, features[rows], centroids.T)


@torch.no_grad()
def split_in_two(values: Float[Tensor, " N"]) -> tuple[Bool[Tensor, " N"], float]:
    """Which values belong to the upper of two clusters, and the midpoint of the clusters' means.

    The global optimum of 2-means on a line: clusters are intervals, so all N - 1 cuts of the
    sorted values are compared by their prefix sums. Ten starts of scikit-learn's KMeans find the
    same split, or one a few rows away with a larger inertia. Where all values are equal, the upper
    cluster is empty and the threshold is that value. ValueError for no values.

    >>> split_in_two(torch.tensor([0.0, 5.0, 1.0, 4.0]))
    (tensor([False,  True, False,  True]), 2.5)
    """
    if not len(values):
        raise ValueError("there are no values to split")
    ordered = values.cpu().double().sort().values
    size, centre = len(ordered), float(ordered.mean())
    below = torch.arange(1, size)
    sums = (ordered - centre).cumsum(0)[:-1]
    gain = sums.square() / (below * (size - below))  # variance between the clusters / N
    gain[ordered[1:] == ordered[:-1]] = -torch.inf  # equal values stay together
    if not gain.isfinite().any():
        return torch.zeros_like(values, dtype=torch.bool), float(ordered[0])
    cut = int(gain.argmax()) + 1
    threshold = (ordered[:cut].mean() + ordered[cut:].mean()) / 2
    return values >= ordered[cut].to(values.dtype).item(), float(threshold)


def map_to_plane(features: Float[Tensor, "N D"], *, seed: int = 0) -> Float[Tensor, "N 2"]:
    """The features by t-SNE in two dimensions, on the CPU; features without spread on one point.

    Every option is stated, since scikit-learn's defaults have moved: these are those of release
    1.0, which GLC was made with, but the PCA that it starts from is scaled down since release 1.2.
    So the map, and what is made of it, may differ from one release of scikit-learn to the next.
    One thread, because more would add up in another order on every run.
    """
    from sklearn.manifold import TSNE  # takes a second, and most runs have no use for it
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    rows = features.detach().float().cpu().numpy()
    if min(rows.shape) < 2 or not np.ptp(rows, axis=0).any():
        return torch.zeros(len(rows), 2)
    tsne = TSNE(
        n_components=2,
        perplexity=min(30.0, (len(rows) - 1) / 3),
        early_exaggeration=12.0,
        learning_rate=200.0,
        max_iter=1000,
        n_iter_without_progress=300,
        min_grad_norm=1e-7,
        metric="euclidean",
        init="pca",
        random_state=seed,
        method="barnes_hut",
        angle=0.5,
        n_jobs=1,
    )
    with threadpool_limits(1):
        return torch.from_numpy(tsne.fit_transform(rows))


def silhouettes(
    points: Float[Tensor, "N 2"], counts: Sequence[int], *, seed: int = 0
) -> Float[Tensor, " S"]:
    """Mean silhouette, in [-1, 1], of k-means with each of these numbers of clusters.

    0, which is no better than none, where there are not more points than clusters or the points
    do not fall apart into two.
    """
    from sklearn import config_context
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score
    from threadpoolctl import threadpool_limits

    scores, plane = torch.zeros(len(counts)), points.cpu().numpy()
    distinct = len(np.unique(plane, axis=0))
    for row, count in enumerate(counts):
        if not 1 < count < len(plane) or distinct < count:
            continue
        fit = KMeans(
            count,
            init="k-means++",
            n_init=10,
            max_iter=300,
            tol=1e-4,
            random_state=seed,
            algorithm="lloyd",
        )
        with threadpool_limits(1), config_context(working_memory=256):
            labels = fit.fit_predict(plane)
            scores[row] = float(silhouette_score(plane, labels))
    return scores


class Positives(NamedTuple):
    """What the samples that are most confident of a class say of it."""

    members: Float[Tensor, "N C"]  # 1 for these samples, else 0
    prototypes: Float[Tensor, "C D"]  # their mean, of unit length
    trust: Float[Tensor, " C"]  # pi, in [rho, 1]: low for a class that the target seems to lack


@torch.no_grad()
@full_precision
def positives(
    features: Float[Tensor, "N D"], probs: Float[Tensor, "N C"], *, count: int, rho: float
) -> Positives:
    """The `count` samples with the largest probability of each class, and their prototype."""
    top = probs.topk(count, dim=0)
    members = torch.zeros_like(probs).scatter_(0, top.indices, 1.0)
    prototypes = F.normalize(members.T @ features / count, dim=1, eps=1e-12)
    return Positives(members, prototypes, rho + (1 - rho) * top.values.mean(0))


@torch.no_grad()
@full_precision
def one_vs_all(
    features: Float[Tensor, "N D"],
    classes: Positives,
    negatives: Callable[[int], Float[Tensor, "K D"]],
) -> Int[Tensor, " N"]:
    """The class of the nearest prototype where the sample passes that class's test, else UNKNOWN.

    The nearest is found without trust, the test made with it. No other class is tested: one that
    fires as well is ignored. `negatives` are asked for only where a sample chose the class.
    """
    choice = (features @ classes.prototypes.T).argmax(1)
    labels = torch.full_like(choice, UNKNOWN)
    for chosen in choice.unique().tolist():
        rows = (choice == chosen).nonzero().flatten()
        lead = margin(
            features[rows], classes.prototypes[chosen], classes.trust[chosen], negatives(chosen)
        )
        labels[rows[lead >= 0]] = chosen
    return labels


@full_precision
def margin(
    features: Float[Tensor, "N D"],
    prototype: Float[Tensor, " D"],
    trust: Float[Tensor, ""],
    negatives: Float[Tensor, "K D"],
) -> Float[Tensor, " N"]:
    """How much more similar to the class than to its nearest negative; a tie, 0, is positive."""
    return trust * (features @ prototype) - (features @ negatives.T).amax(1)
