"""Scores that tell how good one model is, by hand."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from sfda.errors import BadInput
from sfda.problems.classification.network import Classifier, ClassOutput
from sfda.problems.segmentation.network import SegOutput
from sfda.types import SeenViews
from sfda.validators.aetta import Aetta, AettaConfig, takes_vectors, usual_rate
from sfda.validators.atc import Atc
from sfda.validators.consistency import Consistency
from sfda.validators.doc import Doc
from sfda.validators.mano import Mano, ManoConfig
from sfda.validators.soft_dice import SoftDice
from sfda.weights.source_card import Card, CardFacts


def seen_of(logits: Tensor, features: Tensor | None = None) -> SeenViews:
    output = ClassOutput(logits if features is None else features, logits)
    return SeenViews(torch.arange(len(logits)), output)


def test_the_norm_of_logits_that_a_softmax_may_not_stretch() -> None:
    mano = Mano()
    mano.update(seen_of(torch.tensor([[2.0, 1.0, 0.0]])))  # 1 + x + x^2 / 2: 5, 2.5, 1
    rows = torch.tensor([4.0, 1.5, 0.0]) / 5.5
    assert mano.compute() == pytest.approx(float((rows**4).sum() / 3) ** 0.25)


def test_the_norm_of_logits_that_are_sure_is_of_their_softmax() -> None:
    logits = torch.tensor([[12.0, 0.0, 0.0]])
    phi = float(-logits.log_softmax(1).mean())
    assert phi > 5
    mano = Mano()
    mano.update(seen_of(logits))
    assert mano.compute() == pytest.approx((1 / 3) ** 0.25, rel=1e-4)
    other = Mano(ManoConfig(threshold=phi + 0.1))
    other.update(seen_of(logits + 1))
    rows = torch.tensor([13.0 + 13**2 / 2 - 1.5, 0.0, 0.0])
    assert other.compute() == pytest.approx(float(((rows / rows.sum()) ** 4).sum() / 3) ** 0.25)


def test_which_norm_is_for_all_rows_to_decide() -> None:
    rows = [torch.tensor([[20.0, 0.0, 0.0]]), torch.tensor([[2.0, 1.0, 0.0]])]
    parts, whole = Mano(), Mano()
    for row in rows:
        parts.update(seen_of(row))
    whole.update(seen_of(torch.cat(rows)))
    assert parts.compute() == pytest.approx(whole.compute())
    assert whole.compute() == pytest.approx(  # Phi is 7.04 on average
        float((torch.cat(rows).softmax(1) ** 4).sum() / 6) ** 0.25, rel=1e-5
    )


def classifier() -> Classifier:
    """Two classes, each sure of its own feature: without that, the first is answered."""
    head = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(4 * torch.eye(2))
    return Classifier(nn.Identity(), nn.Identity(), head, feature_dim=2, num_classes=2)


def aetta_of(features: Tensor) -> float:
    network, aetta = classifier(), Aetta()
    aetta.take_network(network)
    with torch.no_grad():
        aetta.update(seen_of(network.head(features), features))
    return aetta.compute()


def test_answers_that_need_one_feature_are_lost_as_often_as_it_is() -> None:
    rate = usual_rate(2)
    assert rate == 0.4
    # half of the rows lose their answer with their feature; H is 1, as both classes are even
    assert aetta_of(torch.eye(2).repeat(300, 1)) == pytest.approx(1 - rate / 2, abs=0.02)


def test_an_error_of_few_classes_weighs_more() -> None:
    few = torch.eye(2)[[0, 0, 0, 1]].repeat(200, 1)
    rate = 0.4
    second = 0.25 * ((1 - rate) + rate / 2) + 0.75 * rate / 2  # mean probability of the second
    entropy = -(second * math.log(second) + (1 - second) * math.log(1 - second)) / math.log(2)
    assert aetta_of(few) == pytest.approx(1 - rate / 4 / entropy**3, abs=0.02)


def test_a_collapse_has_the_accuracy_of_chance() -> None:
    head = nn.Linear(2, 2)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([50.0, 0.0]))
        network = Classifier(nn.Identity(), nn.Identity(), head, feature_dim=2, num_classes=2)
        features, aetta = torch.ones(50, 2), Aetta()
        aetta.take_network(network)
        aetta.update(seen_of(head(features), features))
    assert aetta.compute() == 0.5


def test_of_maps_whole_channels_are_dropped() -> None:
    linear = classifier()
    conv = nn.Conv2d(2, 2, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(linear.head.weight[:, :, None, None])  # type: ignore[index,union-attr]
    head = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    mapped = Classifier(nn.Identity(), nn.Identity(), head, feature_dim=2, num_classes=2)
    assert takes_vectors(linear)
    assert not takes_vectors(mapped)
    features = torch.eye(2).repeat(20, 1)
    images = features[:, :, None, None] * torch.tensor([[0.5, 1.5], [1.0, 1.0]])
    aetta = Aetta()
    aetta.take_network(mapped)
    with torch.no_grad():
        aetta.update(SeenViews(torch.arange(40), mapped(images), images=images))
    assert aetta.compute() == pytest.approx(aetta_of(features), abs=1e-6)
    with pytest.raises(ValueError, match="images"):
        aetta.update(seen_of(features))


def test_no_pass_is_no_score() -> None:
    with pytest.raises(BadInput, match="passes"):
        AettaConfig.from_settings({"passes": 0})


def card(counts: dict[float, tuple[int, int]]) -> Card:
    """Of confidences: how many there are, and how many of them are right."""
    calibration, histogram = torch.zeros(3, 15), torch.zeros(20)
    for sure, (count, hits) in counts.items():
        calibration[:, int(sure * 15)] += torch.tensor([count, count * sure, hits])
        histogram[int(sure * 20)] += count
    facts = CardFacts(
        classes=("a", "b"),
        source_sha256="0" * 64,
        manifest="m",
        manifest_sha256="0" * 64,
        split="val",
        count=sum(count for count, _ in counts.values()),
        metrics={},
        temperature=1.0,
    )
    return Card(facts, {"calibration": calibration, "confidence_histogram": histogram})


def sure_rows(*sure: float) -> SeenViews:
    return seen_of(torch.tensor([[p, 1 - p] for p in sure]).log())


def test_as_many_are_right_as_lie_above_the_sources_threshold() -> None:
    atc = Atc()
    atc.take_card(card({0.52: (4, 0), 0.92: (6, 6)}))  # 60 % right: above 0.9 lie 60 %
    assert atc.threshold == pytest.approx(0.9)
    atc.update(sure_rows(0.95, 0.91, 0.89, 0.6))
    assert atc.compute() == 0.5


def test_a_source_without_errors_has_its_lowest_confidence_as_threshold() -> None:
    atc = Atc()
    atc.take_card(card({0.72: (5, 5), 0.92: (5, 5)}))
    assert atc.threshold == pytest.approx(0.7)


def test_what_confidence_loses_accuracy_loses() -> None:
    doc = Doc()
    doc.take_card(card({0.7: (5, 2), 0.9: (5, 4)}))  # sure 0.8, right 0.6
    doc.update(sure_rows(0.8, 0.6))
    assert doc.compute() == pytest.approx(0.5)


@pytest.mark.parametrize("kind", [Atc, Doc])
def test_a_card_without_calibration_is_refused(kind: type[Any]) -> None:
    bare = card({0.7: (1, 1)})
    del bare.tensors["calibration"]
    with pytest.raises(BadInput, match="calibration"):
        kind().take_card(bare)


def masks(*rows: list[float]) -> SegOutput:
    """Maps of one row of pixels, by the probability of the second of two classes."""
    second = torch.tensor(rows)
    logits = torch.stack([1 - second, second], 1)[:, :, None].log()
    return SegOutput(logits, logits)


def test_the_dice_that_a_model_expects() -> None:
    soft = SoftDice()
    output = masks([0.9, 0.8, 0.2, 0.1])  # of each class: 2 (0.9 + 0.8) / (2 + 2)
    soft.update(SeenViews(torch.arange(1), output))
    assert soft.compute() == pytest.approx(0.85)
    soft.update(SeenViews(torch.arange(1), masks([0.1, 0.1, 0.1, 0.1])))  # the first class alone
    assert soft.compute() == pytest.approx((0.85 + 2 * 3.6 / (3.6 + 4)) / 2)


def test_consistency_counts_small_classes_as_large_ones() -> None:
    consistency = Consistency()
    weak, strong = masks([0.9, 0.9, 0.1, 0.1]), masks([0.9, 0.1, 0.1, 0.1])
    consistency.update(SeenViews(torch.arange(1), weak, weak, strong))
    assert consistency.compute() == pytest.approx((2 * 1 / 3 + 2 * 2 / 5) / 2)
    with pytest.raises(ValueError, match="view"):
        Consistency().update(SeenViews(torch.arange(1), weak))


def test_nothing_seen_is_an_error() -> None:
    for kind in (Mano, Aetta, Atc, Doc, SoftDice, Consistency):
        with pytest.raises(ValueError, match=" of no "):
            cast(Any, kind)().compute()
