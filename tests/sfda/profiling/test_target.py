"""Profiles of targets: of built-in digits, of every problem, and of files that repeat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from sfda.authoring.from_folder import build_manifest
from sfda.building_blocks.norm import norms
from sfda.demo.digits import CLASSES, digits_source, digits_target
from sfda.images.preprocess import standardise
from sfda.inference.over_split import infer_split
from sfda.loading.opened import Opened, manifest_ref, open_part, split_ref
from sfda.manifests.class_matching import ClassShift
from sfda.manifests.rows import Split
from sfda.problems.registry import PROBLEMS
from sfda.profiling.findings import TargetProfile
from sfda.profiling.scale import ZOOMS, best_zoom, zoomed
from sfda.profiling.target import Subject, distinct_images, profile_part, profile_target
from sfda.refs import ModelSpec
from sfda.settings import AdaptSettings
from sfda.weights.source_card import Card, CardFacts

CPU = torch.device("cpu")
ARCHES = {
    "classification": "sfda:lenet",
    "segmentation": "sfda:tinyunet",
    "multilabel": "sfda:lenet",
    "detection": "sfda:tinyrcnn",
    "pose": "pose:tiny",
}


def opened_of(images: np.ndarray, problem: str, classes: tuple[str, ...]) -> Opened:
    names = tuple(f"{row}.png" for row in range(len(images)))
    split = Split("m", problem, "adapt", names, names, classes, None)  # type: ignore[arg-type]
    return Opened(split, images, "")


def settled_on(images: np.ndarray) -> tuple[nn.Module, ModelSpec]:
    """A network with random weights whose batch norms have the statistics of these digits."""
    spec = PROBLEMS["classification"].make_spec("sfda:lenet", CLASSES)
    torch.manual_seed(0)
    network = PROBLEMS["classification"].build_from_spec(spec)
    for layer in norms(network):
        layer.momentum = None  # the mean of all batches
    stored = torch.from_numpy(images[..., None])
    with torch.no_grad():
        for part in standardise(stored, spec.input, CPU).split(64):
            network.train()(part)
    return network.eval(), spec


def answers_of(network: nn.Module, spec: ModelSpec, opened: Opened, part: Path) -> Any:
    outputs = infer_split(network, opened, spec, CPU)
    part.mkdir()
    return PROBLEMS[spec.problem].keep_outputs(outputs, spec, part, len(opened.images))


def profiled(
    network: nn.Module,
    spec: ModelSpec,
    images: np.ndarray,
    part: Path,
    card: Card | None = None,
    **asked: object,
) -> TargetProfile:
    images = images if images.ndim == 4 else images[..., None]
    opened = opened_of(images, spec.problem, spec.classes)
    answers = answers_of(network, spec, opened, part)
    shift = ClassShift(regime=None)
    subject = Subject(network, spec, card, opened, shift, len(images), answers)
    return profile_target(subject, AdaptSettings(**asked), CPU)


def by_name(profile: TargetProfile) -> dict[str, Any]:
    return {one.name: one for one in profile.findings}


def test_other_digits_of_the_same_scanner_are_not_shifted(tmp_path):
    digits = digits_source()
    network, spec = settled_on(digits.images[~digits.held_out])
    profile = profiled(network, spec, digits.images[digits.held_out], tmp_path / "same")
    statistics = by_name(profile)["statistics"]
    assert statistics.figure < statistics.limit
    assert "shift" in profile.against
    assert profile.recommendation.kind == "leave"


def test_digits_of_the_other_scanner_are_shifted(tmp_path):
    digits = digits_source()
    network, spec = settled_on(digits.images[~digits.held_out])
    profile = profiled(network, spec, digits_target().images, tmp_path / "other")
    statistics = by_name(profile)["statistics"]
    assert statistics.figure > 2 * statistics.limit
    assert "shift" not in profile.against


def test_a_network_without_norms_is_told_of_by_the_features_on_its_card(tmp_path):
    digits = digits_source()
    network, spec = settled_on(digits.images[~digits.held_out])
    opened = opened_of(digits.images[~digits.held_out, ..., None], "classification", CLASSES)
    features = torch.cat([one.output.features for one in infer_split(network, opened, spec, CPU)])
    facts = CardFacts(
        classes=CLASSES,
        source_sha256="0" * 64,
        manifest="",
        manifest_sha256="0" * 64,
        split="val",
        count=len(features),
        metrics={},
        temperature=1.0,
    )
    tensors = {"feature_mean": features.mean(0), "feature_covariance": features.T.cov()}
    card = Card(facts, tensors)
    same = profiled(network, spec, digits.images[digits.held_out], tmp_path / "same", card)
    other = profiled(network, spec, digits_target().images, tmp_path / "other", card)
    near, far = by_name(same)["features"], by_name(other)["features"]
    assert near.figure < near.limit
    assert far.figure > far.limit


@pytest.mark.parametrize("problem", ARCHES)
def test_every_problem_has_a_profile(problem, tmp_path, home):
    spec = PROBLEMS[problem].make_spec(ARCHES[problem], ("a", "b", "c"))
    torch.manual_seed(0)
    network = PROBLEMS[problem].build_from_spec(spec).eval()
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        cv2.imwrite(str(folder / f"{number}.png"), rng.integers(0, 256, (40, 48, 3), np.uint8))
    made = build_manifest(folder, problem=problem, out=tmp_path / "target.yaml")
    target = split_ref(manifest_ref(made), "adapt")
    profile = profile_part(network, spec, None, target, AdaptSettings(), CPU)
    findings = by_name(profile)
    assert {"size", "duplicates", "statistics", "class shares", "noise"} <= set(findings)
    assert ("scale" in findings) == (problem in ("detection", "pose"))
    assert findings["features"].standing == "not known"
    assert bool(norms(network)) == (findings["statistics"].standing != "not known")
    assert profile == TargetProfile.model_validate_json(profile.model_dump_json())


def test_unknown_settings_of_the_method_are_refused(tmp_path):
    digits = digits_source()
    network, spec = settled_on(digits.images[:64])
    with pytest.raises(ValueError, match="nonsense"):
        profiled(network, spec, digits.images[:64], tmp_path / "p", settings={"nonsense": 1})


def test_a_rate_is_looked_at_whichever_the_method(tmp_path):
    digits = digits_source()
    network, spec = settled_on(digits.images[~digits.held_out])
    asked = {"method": "auto", "settings": {"schedule": {"lr": 1.0}}}
    profile = profiled(network, spec, digits_target().images, tmp_path / "part", **asked)
    assert by_name(profile)["rate"].figure == pytest.approx(100)
    assert "rate" in profile.against


def test_copies_of_a_file_are_counted_once(tmp_path, home):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        if number < 4:
            image = rng.integers(0, 256, (28, 28, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    made = build_manifest(folder, problem="classification", out=tmp_path / "target.yaml")
    target = split_ref(manifest_ref(made), "adapt")
    spec = PROBLEMS["classification"].make_spec("sfda:lenet", ("a", "b", "c"))
    assert distinct_images(target, open_part(target, spec)) == 4
    torch.manual_seed(0)
    network = PROBLEMS["classification"].build_from_spec(spec).eval()
    profile = profile_part(network, spec, None, target, AdaptSettings(), CPU)
    findings = by_name(profile)
    assert findings["duplicates"].figure == pytest.approx(1 / 3)
    assert findings["size"].figure == 4


def test_the_surest_zoom_is_named_only_if_resamples_agree():
    certainty = np.full((len(ZOOMS), 40), 0.5)
    certainty[ZOOMS.index(1.32)] = 0.8
    assert best_zoom(certainty) == (1.32, 1.0)
    flat = np.full((len(ZOOMS), 40), 0.5)
    flat[:, ::2] += np.linspace(-0.2, 0.2, len(ZOOMS))[:, None]  # half of them favour either side
    flat[:, 1::2] -= np.linspace(-0.2, 0.2, len(ZOOMS))[:, None]
    assert best_zoom(flat).agree < 0.95


def test_a_zoom_enlarges_about_the_middle():
    image = np.zeros((1, 9, 9, 1), np.uint8)
    image[0, 3:6, 3:6] = 200
    large, small = zoomed(image, 2.0), zoomed(image, 0.5)
    assert large.shape == image.shape
    assert large[0, 4, 4, 0] == small[0, 4, 4, 0] == 200
    assert (large > 0).sum() > 2 * (image > 0).sum()
    assert (small > 0).sum() < (image > 0).sum()
    assert zoomed(image, 1.0) is image
