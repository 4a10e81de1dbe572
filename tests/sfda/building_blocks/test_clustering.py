"""Clustering against scikit-learn, against subsets, and by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor

from sfda.building_blocks import clustering
from sfda.building_blocks.clustering import (
    Positives,
    first_centroids,
    k_means,
    lloyd_step,
    map_to_plane,
    margin,
    one_vs_all,
    positives,
    silhouettes,
    split_in_two,
)
from sfda.types import UNKNOWN


def blobs(size: int = 600, dim: int = 8, centres: int = 6, spread: float = 0.15) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    middle = F.normalize(torch.randn(centres, dim, generator=generator), dim=1)
    points = middle[torch.arange(size) % centres]
    return F.normalize(points + spread * torch.randn(size, dim, generator=generator), dim=1)


def inertia(x: Tensor, centroids: Tensor) -> float:
    return float(torch.cdist(x, centroids).min(1).values.square().sum())


@pytest.mark.parametrize("spread", [0.05, 0.4, 3.0])
@pytest.mark.parametrize("count", [1, 6, 25])
def test_k_means_is_as_tight_as_scikit_learns(spread: float, count: int) -> None:
    x = blobs(spread=spread)
    best = KMeans(count, n_init=10, random_state=0).fit(x.numpy()).inertia_
    assert inertia(x, k_means(x, count)) <= 1.03 * best, "short starts against ten long ones"
    ones = torch.ones(len(x))
    start = first_centroids(x, count, ones, torch.Generator().manual_seed(0))
    theirs = KMeans(count, init=start.numpy(), n_init=1, tol=0.0).fit(x.numpy()).inertia_
    assert inertia(x, k_means(x, count, starts=1, tol=0.0)) == pytest.approx(theirs, rel=1e-4)


def test_centroids_are_the_means_of_their_rows() -> None:
    x = blobs()
    result = k_means(x, 7, tol=0.0)
    nearest = torch.cdist(x, result).argmin(1)
    for folder in range(7):
        torch.testing.assert_close(result[folder], x[nearest == folder].mean(0))


def test_weight_zero_is_the_same_as_absence() -> None:
    x = blobs()
    weights = (torch.arange(len(x)) % 3 > 0).float()
    masked, subset = k_means(x, 5, weights=weights), k_means(x[weights > 0], 5)
    torch.testing.assert_close(masked, subset)
    outlier = torch.cat([x, 100 * torch.ones(1, x.shape[1])])
    remaining = F.pad(weights, (0, 1))
    torch.testing.assert_close(k_means(outlier, 5, weights=remaining), masked)


def test_weight_two_is_the_same_as_two_copies() -> None:
    x, start = blobs(60), blobs()[100:104]
    weights = 1 + (torch.arange(60) % 2).float()
    copies = torch.cat([x, x[weights == 2]])
    weighted = lloyd_step(x, start, weights)
    copied = lloyd_step(copies, start, torch.ones(len(copies)))
    torch.testing.assert_close(weighted[0], copied[0])
    assert weighted[1] == pytest.approx(copied[1], rel=1e-5)


def test_k_means_draws_by_its_seed_alone() -> None:
    x = blobs(spread=1.0)
    first = k_means(x, 9, seed=1)
    torch.rand(7)
    assert torch.equal(first, k_means(x, 9, seed=1))
    assert not torch.equal(first, k_means(x, 9, seed=2))


@pytest.mark.parametrize("tile", [1, 500, 10**6])
def test_tiles_change_nothing(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = blobs()
    whole = k_means(x, 6)
    monkeypatch.setattr(clustering, "PRODUCT_TILE", tile)
    torch.testing.assert_close(k_means(x, 6), whole)


def test_a_cluster_without_rows_moves_to_the_worst_served_row() -> None:
    x = torch.tensor([[0.0, 0.0], [0.0, 0.2], [4.0, 0.0], [9.0, 9.0]])
    start = torch.tensor([[0.0, 0.0], [-50.0, 0.0]])
    moved, _ = lloyd_step(x, start, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    torch.testing.assert_close(moved[0], x[:3].mean(0))
    assert torch.equal(moved[1], x[2]), "row 3 is further away but has no weight"


def test_fewer_distinct_rows_than_clusters_is_finite() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(5, 1)
    result = k_means(x, 4)
    assert result.isfinite().all()
    assert inertia(x, result) == 0
    zeros = k_means(torch.zeros(6, 3), 2, weights=torch.tensor([0.0, 0, 0, 1, 1, 1]))
    assert torch.equal(zeros, torch.zeros(2, 3))


def test_more_clusters_than_rows_of_weight_is_an_error() -> None:
    with pytest.raises(ValueError, match="asked for 3 clusters of 2 rows"):
        k_means(torch.eye(4), 3, weights=torch.tensor([1.0, 1.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="asked for 0 clusters"):
        k_means(torch.eye(4), 0)


def test_k_means_computes_in_float32_under_autocast() -> None:
    x = blobs(spread=1.0)
    plain = k_means(x, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(k_means(x, 6), plain)


def test_split_in_two_by_hand() -> None:
    upper, threshold = split_in_two(torch.tensor([0.9, 0.1, 0.2, 0.8, 0.3]))
    assert upper.tolist() == [True, False, False, True, False]
    assert threshold == pytest.approx((0.2 + 0.85) / 2)
    upper, threshold = split_in_two(torch.tensor([0.0] * 8 + [1.0, 1.0]))
    assert upper.sum() == 2
    assert threshold == 0.5


def test_split_in_two_leaves_equal_values_together() -> None:
    upper, threshold = split_in_two(torch.full((4,), 0.3))
    assert not upper.any()
    assert threshold == pytest.approx(0.3)
    assert split_in_two(torch.tensor([2.0]))[1] == 2.0
    near = torch.tensor([1.0, 1.0]).nextafter(torch.tensor([1.0, 2.0]))
    assert split_in_two(near)[0].tolist() == [False, True]
    with pytest.raises(ValueError, match="no values"):
        split_in_two(torch.empty(0))


@pytest.mark.parametrize("seed", range(5))
def test_split_in_two_is_the_best_of_all_cuts_and_what_scikit_learn_finds(seed: int) -> None:
    values = torch.rand(60, generator=torch.Generator().manual_seed(seed)).square()
    upper, threshold = split_in_two(values)
    assert torch.equal(upper, values > threshold)

    def cost(mask: Tensor) -> float:
        return sum(float((v - v.mean()).square().sum()) for v in (values[mask], values[~mask]))

    ordered = values.sort().values
    assert cost(upper) == pytest.approx(min(cost(values >= v) for v in ordered[1:]))
    fit = KMeans(2, n_init=10, random_state=0).fit(values[:, None].numpy())
    assert cost(upper) <= fit.inertia_ * (1 + 1e-5)
    assert threshold == pytest.approx(float(fit.cluster_centers_.mean()), abs=1e-4)


def test_silhouettes_prefer_the_true_number_and_skip_what_cannot_be() -> None:
    x = torch.cat([torch.randn(30, 2, generator=torch.Generator().manual_seed(n)) / 9 + 5 * n
                   for n in range(3)])  # fmt: skip
    result = silhouettes(x, (2, 3, 6, 90, 1))
    assert result.argmax() == 1
    assert result[3] == result[4] == 0
    assert torch.equal(silhouettes(torch.zeros(9, 2), (2, 3)), torch.zeros(2))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_few_or_equal_rows_have_a_finite_map(size: int) -> None:
    x = blobs(size)
    assert map_to_plane(x).shape == (size, 2)
    assert map_to_plane(x).isfinite().all()
    assert torch.equal(map_to_plane(x[:1].repeat(size, 1)), torch.zeros(size, 2))


def test_the_map_keeps_clusters_apart_and_repeats() -> None:
    x = blobs(90, centres=3)
    plane = map_to_plane(x)
    assert torch.equal(plane, map_to_plane(x))
    near = torch.cdist(plane, plane).fill_diagonal_(torch.inf).argmin(1)
    assert torch.equal(near % 3, torch.arange(90) % 3)


def test_a_tie_is_positive_and_trust_weighs_the_positive_side_alone() -> None:
    x = torch.eye(3)
    prototype, against = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([[0.75, 1.0, 0.0]])
    assert margin(x, prototype, torch.tensor(0.75), against).tolist() == [0.0, -1.0, 0.0]
    classes = Positives(
        members=torch.zeros(3, 2),
        prototypes=torch.stack([prototype, torch.tensor([0.0, 1.0, 0.0])]),
        trust=torch.tensor([0.75, 0.75]),
    )
    labels = one_vs_all(x, classes, lambda c: against)
    # row 0 ties with class 0; row 1 loses against the negative; row 2 ties at 0 everywhere
    assert labels.tolist() == [0, UNKNOWN, 0]


def test_another_class_that_fires_is_ignored() -> None:
    x = torch.tensor([[0.8, 0.6]])
    classes = Positives(torch.zeros(1, 2), torch.eye(2), torch.ones(2))
    asked = []

    def negatives(chosen: int) -> Tensor:
        asked.append(chosen)
        return torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])[chosen]

    # nearest is class 0, whose negative is as near: still 0; with one nearer: unknown, though
    # class 1 would fire
    assert one_vs_all(x, classes, negatives).tolist() == [0]
    nearer = torch.tensor([[0.8, 0.6]])
    assert one_vs_all(x, classes, lambda c: nearer if c == 0 else 0 * nearer).tolist() == [UNKNOWN]
    assert asked == [0], "no negatives are made for a class that nobody chose"


def test_positives_by_hand() -> None:
    features = F.normalize(torch.tensor([[1.0, 0], [1, 1], [0, 1], [-1, 0]]), dim=1)
    probs = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.5, 0.5]])
    result = positives(features, probs, count=2, rho=0.75)
    assert result.members.T.tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    torch.testing.assert_close(result.trust, 0.75 + 0.25 * torch.tensor([0.8, 0.65]))
    expected = F.normalize(torch.stack([features[:2].mean(0), features[2:].mean(0)]), dim=1)
    torch.testing.assert_close(result.prototypes, expected)
