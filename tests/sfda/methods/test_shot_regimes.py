"""SHOT where the target has fewer classes, or others, than the source."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sfda.building_blocks.losses import diversity, entropy
from sfda.methods.shot import Shot, ShotConfig, centroid_labels, known_centroid_labels
from sfda.testing.toys import classification as toy
from sfda.types import UNKNOWN, Clock, TargetBatch, TargetInfo


def make(declared: str | None, **settings: object) -> Shot:
    info = TargetInfo(toy.SIZE, toy.info().row_ids, regime=declared)
    return Shot(toy.source(), info, ShotConfig.from_settings(settings))


@pytest.mark.parametrize(
    ("declared", "settings", "regime", "diverse", "min_count", "rejection"),
    [
        (None, {}, "closed", True, 0, None),
        ("closed", {}, "closed", True, 0, None),
        ("partial", {}, "partial", False, 10, None),
        ("open", {}, "open", True, 0, "auto"),
        ("open-partial", {}, "open", True, 0, "auto"),
        ("open", {"regime": "closed"}, "closed", True, 0, None),
        ("partial", {"diversity": True, "min_count": 3}, "partial", True, 3, None),
        ("open", {"reject": "never"}, "open", True, 0, None),
        (None, {"reject": 0.4}, "closed", True, 0, 0.4),
    ],
)
def test_the_declared_regime_decides_unless_the_user_does(
    declared, settings, regime, diverse, min_count, rejection
):
    method = make(declared, **settings)
    assert (method.regime, method.diverse, method.min_count) == (regime, diverse, min_count)
    assert method.rejection == rejection


def open_set() -> tuple[torch.Tensor, torch.Tensor]:
    """Features and probabilities of 40 certain samples of two classes and 10 uncertain ones."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[3.0, 0.0], [0.0, 3.0], [-3.0, -3.0]])
    kinds = torch.tensor([0, 1] * 20 + [2] * 10)
    features = centres[kinds] + 0.1 * torch.randn(50, 2, generator=generator)
    sure = torch.tensor([[0.97, 0.01, 0.02], [0.01, 0.97, 0.02], [0.36, 0.33, 0.31]])
    return features, sure[kinds]


def test_the_uncertain_cluster_is_unknown_and_draws_no_centroid():
    features, probs = open_set()
    labels = known_centroid_labels(features, probs)
    assert labels.tolist() == [0, 1] * 20 + [UNKNOWN] * 10
    alone = centroid_labels(features[:40], probs[:40], refresh=False)
    assert torch.equal(labels[:40], alone)


def test_kept_classes_stay_those_of_the_start_without_refresh():
    # two samples are of class 1 at first, one after the first round: no more than `min_count`
    features = torch.tensor([[1.0, 0.0]] * 6 + [[0.0, 1.0]])
    probs = torch.tensor([[0.9, 0.1]] * 5 + [[0.45, 0.55], [0.1, 0.9]])
    assert centroid_labels(features, probs, min_count=1).tolist() == [0] * 7
    assert centroid_labels(features, probs, min_count=1, refresh=False).tolist() == [0] * 6 + [1]


def test_open_losses_concern_known_samples_but_diversity_all():
    x, _ = toy.images(0.3)
    method = make("open")
    method.eval()
    labels = torch.full((toy.SIZE,), UNKNOWN)
    labels[[1, 4]] = torch.tensor([2, 0])
    method.labels.copy_(labels)
    rows = torch.tensor([1, 3, 4, 7])
    out = method.student(x[rows])
    losses = method.losses(TargetBatch(rows, x[rows]), Clock(5, 5, 3))
    probs = out.logits.softmax(1)
    known = [0, 2]
    expected = {
        "diversity": diversity(probs),
        "entropy": entropy(probs[known]).mean(),
        "pseudo": 0.3 * F.cross_entropy(out.logits[known], torch.tensor([2, 0])),
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)


def test_a_batch_without_known_samples_takes_no_step():
    x, _ = toy.images(0.3)
    method = make("open")
    method.labels.fill_(UNKNOWN)
    assert method.losses(toy.batch(x, [0, 1, 2]), Clock(5, 5, 3)) == {}
