"""Which scores an epoch gets, and which may choose it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sfda import plugins
from sfda.adaptation.plan import default_choice, validators_for
from sfda.adaptation.scoring import make_validators, source_levels
from sfda.errors import BadInput
from sfda.loading.opened import Opened
from sfda.loading.scan import labelled_scan
from sfda.manifests.rows import Split
from sfda.problems.classification.card import make_classification_card
from sfda.problems.registry import PROBLEMS
from sfda.testing.toys import pose


def test_an_epoch_gets_what_costs_no_more_than_its_scan_and_may_choose() -> None:
    names = set(validators_for("last", "classification"))
    assert {"entropy", "infomax", "nuclear_norm"} <= names
    assert not names & {"aetta", "agreement", "atc", "doc", "mano"}
    assert validators_for("aetta", "classification")[0] == "aetta"
    assert "soft_dice" in validators_for("last", "segmentation")
    names = set(validators_for("last", "detection"))
    assert {"boxes", "entropy"} <= names
    assert not names & {"bos", "pcr"}


def test_what_costs_more_or_tells_a_level_runs_where_it_is_asked_for() -> None:
    names = validators_for("last", "classification", {"mano": {}, "agreement": {}})
    assert {"mano", "agreement"} <= set(names)
    assert "pcr" in validators_for("last", "detection", ["pcr"])


@pytest.mark.parametrize("name", ["mano", "atc", "doc"])
def test_a_level_chooses_no_epoch(name: str) -> None:
    with pytest.raises(BadInput, match=f"{name} tells how good one model is.*agreement.*last"):
        validators_for(name, "classification")


def test_a_score_of_another_problem_chooses_no_epoch() -> None:
    with pytest.raises(BadInput, match="bos is not for classification; for that there are"):
        validators_for("bos", "classification")
    with pytest.raises(BadInput, match="no 'snd' in"):
        validators_for("snd", "classification")


def test_no_method_is_chosen_by_a_level() -> None:
    for method in plugins.names("methods"):
        for problem in plugins.load("methods", method).problems:
            by = default_choice(method, problem)
            assert by == "last" or plugins.load("validators", by).chooses


@pytest.mark.parametrize(
    ("method", "by"),
    [("bn", "infomax"), ("mean_teacher", "infomax"), ("shot", "aetta"), ("lftl", "aetta")],
)
def test_a_classifier_is_chosen_by_what_its_method_does_not_minimise(method: str, by: str) -> None:
    assert default_choice(method, "classification") == by


def test_what_cannot_score_a_network_is_left_out() -> None:
    kinds = {name: plugins.load("validators", name) for name in ("plausible", "entropy")}
    network = pose.source()
    assert set(make_validators(kinds, network, "pose", {"classes": {}})) == {"plausible", "entropy"}
    network.prior = None  # type: ignore[assignment]
    assert set(make_validators(kinds, network, "pose", {"classes": {}})) == {"entropy"}


def test_levels_of_a_source_with_and_without_its_card() -> None:
    classes, device = ("a", "b", "c"), torch.device("cpu")
    spec = PROBLEMS["classification"].make_spec("sfda:lenet", classes)
    network = PROBLEMS["classification"].build_from_spec(spec).eval()
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28, 1), np.uint8)
    names = tuple(f"{row}.png" for row in range(20))
    split = Split("m", "classification", "test", names, names, classes, None)  # type: ignore[arg-type]
    opened, profile = Opened(split, images, ""), {"classes": dict.fromkeys(classes, 0)}
    bare = source_levels(network, opened, spec, device, profile, None)  # type: ignore[arg-type]
    assert set(bare) == {"aetta", "mano"}
    labels = np.arange(20) % 3
    outputs = labelled_scan(images, labels, spec.input, device=device)(network)
    about = {"source_sha256": "0" * 64, "manifest": "m", "manifest_sha256": "0" * 64}
    card = make_classification_card(network, outputs, {**about, "split": "val"}, classes)
    levels = source_levels(network, opened, spec, device, profile, card)  # type: ignore[arg-type]
    assert levels == bare | {"atc": levels["atc"], "doc": levels["doc"]}
    # on its own images: what the card says of them
    assert levels["doc"] == pytest.approx(card.facts.metrics["overall_accuracy"], abs=1e-5)
    assert levels["atc"] == pytest.approx(card.facts.metrics["overall_accuracy"], abs=0.3)
