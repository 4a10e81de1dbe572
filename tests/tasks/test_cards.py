"""Source cards: numbers that numpy finds too, kept whole, and a word for what is missing."""

import numpy as np
import pytest
import small
import torch

from sfda.errors import BadInput
from sfda.loading.scan import labelled_scan
from sfda.problems.classification.card import make_classification_card
from sfda.problems.registry import PROBLEMS
from sfda.weights.source_card import CARD_FILE, Card, CardFacts, missing, read_card, write_card

FACTS = {"source_sha256": "a" * 64, "manifest": "toy", "manifest_sha256": "b" * 64, "split": "val"}
SOME_CLASSES_MORE = (*small.CLASSES, "ring")


@pytest.fixture(scope="module")
def seen() -> dict[str, np.ndarray]:
    """What the source model makes of its own data, as numpy sees it: the classes are uneven."""
    inputs = small.source_arrays()
    remaining = np.flatnonzero(
        (inputs["split"] == 1) & ((inputs["y"] != 1) | (inputs["x"].sum((1, 2)) % 2))
    )
    images, labels = inputs["x"][remaining], inputs["y"][remaining]
    network = small.source().eval()
    with torch.no_grad():
        out = network((torch.from_numpy(images)[:, None].float() / 255 - 0.5) / 0.5)
    probs = np.exp(out.logits.double().numpy())
    probs /= probs.sum(1, keepdims=True)
    return {
        "images": images,
        "labels": labels,
        "features": out.features.double().numpy(),
        "logits": out.logits.double().numpy(),
        "probs": probs,
    }


@pytest.fixture(scope="module")
def card(seen) -> Card:
    network = small.source()
    look = labelled_scan(
        seen["images"][..., None], seen["labels"], small.SPEC.input, device="cpu", batch_size=7
    )
    return make_classification_card(network, look(network), FACTS, small.CLASSES)


def test_prior_mean_and_covariance_are_those_of_numpy(card, seen):
    features, labels = seen["features"], seen["labels"]
    prior = [(labels == c).mean() for c in range(3)]
    assert len(set(prior)) > 1
    assert np.allclose(card.tensors["class_prior"], prior)
    assert np.allclose(card.tensors["feature_mean"], features.mean(0), atol=1e-5)
    assert np.allclose(card.tensors["feature_covariance"], np.cov(features.T, bias=True), atol=1e-4)
    for c in range(3):
        by_hand = features[labels == c].mean(0)
        assert np.allclose(card.tensors["class_feature_mean"][c], by_hand, atol=1e-5)


def test_confidences_and_calibration_are_those_of_numpy(card, seen):
    confidence = seen["probs"].max(1)
    right = seen["probs"].argmax(1) == seen["labels"]
    histogram = np.histogram(confidence, bins=20, range=(0, 1))[0]
    assert card.tensors["confidence_histogram"].tolist() == histogram.tolist()
    folder = np.minimum((confidence * 15).astype(int), 14)
    by_hand = [np.bincount(folder, w, 15) for w in (np.ones(len(right)), confidence, right)]
    assert np.allclose(card.tensors["calibration"], by_hand, atol=1e-5)
    counts, sums, hits = by_hand
    error = np.abs(sums - hits).sum() / counts.sum()
    assert card.facts.metrics["expected_calibration_error"] == pytest.approx(error, abs=1e-6)
    assert card.facts.metrics["overall_accuracy"] == pytest.approx(right.mean())
    assert card.facts.count == len(right)


def test_the_temperature_has_the_least_log_loss_of_its_neighbours(card, seen):
    def loss(temperature: float) -> float:
        logits = seen["logits"] / temperature
        top = logits.max(1, keepdims=True)
        log_sum = np.log(np.exp(logits - top).sum(1)) + top[:, 0]
        return float((log_sum - logits[np.arange(len(logits)), seen["labels"]]).mean())

    t = card.facts.temperature
    assert 0.05 <= t <= 20
    assert loss(t) <= min(loss(t * 1.1), loss(t / 1.1), loss(1.0))


def test_statistics_of_every_batch_norm_are_there_by_name(card):
    network = small.source()
    norms = [n for n, m in network.named_modules() if "BatchNorm" in type(m).__name__]
    assert len(norms) == 4
    assert {n for n in card.tensors if n.startswith("norm.")} == {
        f"norm.{name}.{what}" for name in norms for what in ("mean", "var")
    }
    for name in norms:
        layer = network.get_submodule(name)
        assert torch.equal(card.tensors[f"norm.{name}.mean"], layer.running_mean)
        assert torch.equal(card.tensors[f"norm.{name}.var"], layer.running_var)


def test_a_class_without_samples_has_no_share_and_no_nan(seen):
    network = small.source()
    network.head = torch.nn.Linear(network.feature_dim, 4)
    look = labelled_scan(seen["images"][..., None], seen["labels"], small.SPEC.input, device="cpu")
    card = make_classification_card(network, look(network), FACTS, SOME_CLASSES_MORE)
    assert card.tensors["class_prior"][3] == 0
    assert all(tensor.isfinite().all() for tensor in card.tensors.values())


def test_a_card_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no samples"):
        make_classification_card(small.source(), iter(()), FACTS, small.CLASSES)


def test_a_card_comes_back_as_it_was(card, tmp_path):
    write_card(tmp_path, card)
    again = read_card(tmp_path)
    assert again is not None
    assert again.facts == card.facts
    assert again.tensors.keys() == card.tensors.keys()
    for name, tensor in card.tensors.items():
        assert torch.equal(again.tensors[name], tensor)
    assert [file.name for file in tmp_path.iterdir()] == [CARD_FILE]


@pytest.mark.parametrize("keep", [0, 1, 60, -1])
def test_a_damaged_card_is_named_with_its_remedy(card, tmp_path, keep):
    write_card(tmp_path, card)
    content = (tmp_path / CARD_FILE).read_bytes()
    (tmp_path / CARD_FILE).write_bytes(content[:keep])
    with pytest.raises(BadInput, match=r"card\.safetensors is damaged .*`sfda card`"):
        read_card(tmp_path)


def test_a_safetensors_file_without_facts_is_no_card(tmp_path):
    from safetensors.torch import save_file

    for metadata in (None, {"facts": "{}"}, {"other": "x"}):
        save_file({"a": torch.zeros(1)}, tmp_path / CARD_FILE, metadata=metadata)
        with pytest.raises(BadInput, match="is damaged"):
            read_card(tmp_path)


def test_what_is_missing_is_named(card, tmp_path):
    assert read_card(tmp_path) is None
    everything = missing(None, PROBLEMS["classification"].card_parts)
    assert {"class_prior", "feature_covariance", "calibration"} <= set(everything)
    assert missing(card, PROBLEMS["classification"].card_parts) == []
    facts = CardFacts.model_validate(card.facts.model_dump())
    partial = Card(facts, {"class_prior": card.tensors["class_prior"]})
    assert missing(partial, PROBLEMS["classification"].card_parts) == [
        name for name in everything if name != "class_prior"
    ]
