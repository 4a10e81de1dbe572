"""What scores without labels say of two models, by hand; and that all problems have a say."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import nn

from sfda import plugins
from sfda.decision.evidence import (
    SOURCE_NAME,
    Look,
    agreement_score,
    ask_referee,
    distinct,
    look_at_pool,
    lower_limit,
    member_weights,
    nuclear_score,
    preferences,
    resamples,
)
from sfda.errors import NotFinite
from sfda.loading.opened import Opened
from sfda.loading.scan import scan_views
from sfda.manifests.rows import Split
from sfda.measures.opinions import ClassOpinions
from sfda.problems.pose.change import JointOpinions
from sfda.problems.registry import PROBLEMS
from sfda.validators.nuclear_norm import NuclearNorm

CPU = torch.device("cpu")
OF_PROBLEM = {
    "classification": ("sfda:lenet", {"ensv", "nuclear_norm", "agreement"}),
    "segmentation": ("sfda:tinyunet", {"ensv", "nuclear_norm", "agreement"}),
    "multilabel": ("sfda:lenet", {"ensv", "agreement"}),
    "detection": ("sfda:tinyrcnn", {"ensv", "agreement"}),
    "pose": ("pose:tiny", {"ensv", "agreement"}),
}


def opinions(*answers: int, sure: float = 0.9, classes: int = 3) -> ClassOpinions:
    """As sure of each answer; the rest is even."""
    probs = np.full((len(answers), 1, classes), (1 - sure) / (classes - 1))
    probs[np.arange(len(answers)), 0, answers] = sure
    return ClassOpinions(probs.astype(np.float16))


def look(*answers: int, stays: Sequence[int] | None = None, sure: float = 0.9) -> Look:
    """Answers to the images, and whether each stays under a strong view (None: all)."""
    seen = np.eye(3)[list(answers)]
    kept = np.ones(len(answers)) if stays is None else np.array(stays)
    table = np.concatenate([seen, seen * kept[:, None]], axis=1)
    return Look(opinions(*answers, sure=sure), csr_matrix(table))


def by_score(found: Sequence[Any]) -> dict[str, Any]:
    return {one.score: one for one in found}


def test_each_family_has_its_gain() -> None:
    looks = {
        SOURCE_NAME: look(0, 0, 0, 1, stays=[1, 0, 1, 1]),
        "before": look(0, 0, 2, 1),
        "after": look(0, 1, 2, 1, stays=[1, 1, 1, 0]),
    }
    found = by_score(preferences(looks, SOURCE_NAME, "after"))
    assert {name: one.family for name, one in found.items()} == {
        "ensv": "ensemble",
        "nuclear_norm": "dispersity",
        "agreement": "perturbation",
    }
    # the consensus is 0, 0, 2, 1: the source agrees on 3 of 4, so does the candidate
    assert found["ensv"].gain == pytest.approx(0)
    # by class: the source 2/3, 1, nothing of the third; the candidate 1, 1/2, 1
    assert found["agreement"].gain == pytest.approx(2.5 / 3 - (2 / 3 + 1) / 3)
    norms = [
        np.linalg.norm(one.opinions.probs[:, 0].astype(float), "nuc") / math.sqrt(4 * 3)  # type: ignore[attr-defined]
        for one in (looks[SOURCE_NAME], looks["after"])
    ]
    assert found["nuclear_norm"].gain == pytest.approx(norms[1] - norms[0], abs=1e-6)


def test_swapped_models_have_the_opposite_gain() -> None:
    looks = {SOURCE_NAME: look(0, 0, 1, 1), "a": look(0, 1, 2, 1), "b": look(0, 1, 2, 2)}
    one, other = (by_score(preferences(looks, *pair)) for pair in (("a", "b"), ("b", "a")))
    assert one["ensv"].gain != 0
    for score, found in one.items():
        assert found.gain == pytest.approx(-other[score].gain)


def test_a_score_that_the_method_minimises_has_no_vote() -> None:
    looks = {SOURCE_NAME: look(0, 0, 1), "after": look(0, 1, 2)}
    found = preferences(looks, SOURCE_NAME, "after", minimised={"infomax", "nuclear_norm"})
    assert [one.score for one in found] == ["agreement"]


def test_an_ensemble_has_three_distinct_members_and_the_source() -> None:
    looks = {"epoch 1": look(0, 1, 2), SOURCE_NAME: look(0, 0, 1), "epoch 2": look(0, 1, 2)}
    assert distinct(looks) == [SOURCE_NAME, "epoch 1"]
    assert "ensv" not in by_score(preferences(looks, SOURCE_NAME, "epoch 1"))
    looks["epoch 3"] = look(1, 1, 2)
    assert "ensv" in by_score(preferences(looks, SOURCE_NAME, "epoch 1"))
    del looks[SOURCE_NAME]
    looks["epoch 4"] = look(2, 1, 2)
    assert "ensv" not in by_score(preferences(looks, "epoch 3", "epoch 1"))


def test_members_weigh_by_their_information() -> None:
    diverse, collapsed = opinions(0, 1, 2), opinions(0, 0, 0)
    information = [diverse.information(), collapsed.information()]
    assert information[1] == pytest.approx(0, abs=1e-6)
    mixed = math.log(3) + 0.9 * math.log(0.9) + 0.1 * math.log(0.05)
    assert information[0] == pytest.approx(mixed, abs=1e-3)
    weights = member_weights([diverse, collapsed])
    assert weights[0] / weights[1] == pytest.approx(math.exp(5 * mixed), rel=1e-2)
    assert sum(weights) == pytest.approx(1)


def test_members_without_information_weigh_the_same() -> None:
    still = JointOpinions(np.zeros((1, 2, 2), np.float32))
    assert member_weights([still, still]) == [0.5, 0.5]


def test_two_collapsed_models_do_not_outvote_a_good_one() -> None:
    good = look(0, 1, 2, 0, 1, 2)
    looks = {SOURCE_NAME: good, "a": look(0, 0, 0, 0, 0, 0), "b": look(0, 0, 0, 0, 0, 1, sure=0.8)}
    found = by_score(preferences(looks, SOURCE_NAME, "a"))
    assert found["ensv"].gain == pytest.approx(2 / 6 - 1)


def test_where_every_image_gains_alike_so_does_every_resample() -> None:
    # of one class alone, so that no resample lacks one
    table = np.array([[1.0, 1.0]])
    before, after = (
        Look(opinions(0), csr_matrix(np.repeat(table * [1, same], 50, axis=0)))
        for same in (0.25, 0.75)
    )
    assert lower_limit(agreement_score(before), agreement_score(after)) == pytest.approx(0.5)


def test_the_lower_limit_is_that_of_a_binomial() -> None:
    stays = np.arange(100) < 60
    before, after = (
        Look(opinions(0), csr_matrix(np.stack([np.ones(100), kept], axis=1)))
        for kept in (np.zeros(100), stays)
    )
    low = lower_limit(agreement_score(before), agreement_score(after), seed=3)
    assert low == pytest.approx(0.6 - 1.645 * math.sqrt(0.24 / 100), abs=0.02)
    assert low == lower_limit(agreement_score(before), agreement_score(after), seed=3)


def test_groups_are_drawn_whole() -> None:
    """Of two volumes one gains and one loses: in a fourth of the resamples the second alone is."""
    kept = np.repeat([1.0, 0.0], 50)
    before, after = (
        Look(opinions(0), csr_matrix(np.stack([np.ones(100), part], axis=1)))
        for part in (1 - kept, kept)
    )
    scores = agreement_score(before), agreement_score(after)
    assert lower_limit(*scores, groups=["a"] * 50 + ["b"] * 50) == -1
    assert lower_limit(*scores) > -0.3


def test_the_limit_of_the_norm_is_near_that_of_exact_resamples() -> None:
    rng = np.random.default_rng(0)
    before = rng.dirichlet(np.full(5, 0.5), 400).astype(np.float16)
    after = (before**1.3 / (before**1.3).sum(1, keepdims=True)).astype(np.float16)
    scores = [
        nuclear_score(Look(ClassOpinions(probs[:, None]), csr_matrix((400, 10))))
        for probs in (before, after)
    ]
    assert scores[0] is not None
    assert scores[1] is not None
    exact = []
    for weights in np.concatenate(list(resamples(400, None, 0))):
        norms = (
            np.linalg.norm(np.repeat(probs.astype(float), weights, axis=0), "nuc")
            for probs in (before, after)
        )
        exact.append(-np.subtract(*norms) / math.sqrt(400 * 5))
    gain = scores[1].value - scores[0].value
    low = lower_limit(scores[0], scores[1])
    assert low < gain - 5e-4
    assert low == pytest.approx(np.quantile(exact, 0.05), abs=2e-4)


def test_fewer_images_than_classes_have_a_norm_too() -> None:
    score = nuclear_score(Look(opinions(0, 1, sure=1.0), csr_matrix((2, 6))))
    assert score is not None
    assert score.value == pytest.approx(1, abs=1e-6)


def test_a_referee_is_against_what_it_backs_less_by_more_than_chance() -> None:
    before, after, guide = [0] * 12, [0] * 2 + [1] * 10, [0] * 12
    told = ask_referee("guide", *(opinions(*one) for one in (guide, before, after)))
    assert (told.with_candidate, told.with_champion, told.against) == (0, 10, True)
    split = [0, 0] + [0] * 6 + [1] * 4
    told = ask_referee("guide", *(opinions(*one) for one in (split, before, after)))
    assert (told.with_candidate, told.with_champion, told.against) == (4, 6, False)
    other = [2] * 12
    told = ask_referee("guide", *(opinions(*one) for one in (other, before, after)))
    assert (told.with_candidate, told.with_champion, told.against) == (0, 0, False)


def pool(problem: str, size: int = 6) -> tuple[nn.Module, Any, Opened]:
    arch, _ = OF_PROBLEM[problem]
    classes = ("a", "b", "c")
    spec = PROBLEMS[problem].make_spec(arch, classes)
    torch.manual_seed(0)
    network = PROBLEMS[problem].build_from_spec(spec).eval()
    channels = 1 if spec.input.channels == "gray" else 3
    shape = (size, *spec.input.stored, channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    names = tuple(f"{row}.png" for row in range(size))
    split = Split("m", problem, "test", names, names, classes, None)  # type: ignore[arg-type]
    return network, spec, Opened(split, images, "")


def disturbed(network: nn.Module, seed: int) -> nn.Module:
    other, generator = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in other.parameters():
            value += 0.5 * value.abs().mean() * torch.randn(value.shape, generator=generator)
    return other


@pytest.mark.parametrize("problem", OF_PROBLEM)
def test_every_problem_has_a_say(problem: str) -> None:
    network, spec, opened = pool(problem)
    if problem == "detection":  # an untrained one is sure of no box
        with torch.no_grad():
            network.roi_heads.box_predictor.cls_score.bias[1] += 4  # type: ignore[union-attr,index]
    networks = {SOURCE_NAME: network, "a": disturbed(network, 1), "b": disturbed(network, 2)}
    looks = {name: look_at_pool(own, spec, opened, CPU) for name, own in networks.items()}
    found = by_score(preferences(looks, SOURCE_NAME, "b"))
    assert set(found) == OF_PROBLEM[problem][1]
    for one in found.values():
        assert math.isfinite(one.gain)
        assert one.low <= one.gain + 1e-9
    # the same scores as the validators'
    validator = plugins.load("validators", "agreement")()
    validator.refer({"classes": dict.fromkeys("abc", 0)})
    for seen in scan_views(opened.images, spec.input, spec.views, seed=0, device=CPU)(network):
        validator.update(seen)
    assert agreement_score(looks[SOURCE_NAME]).value == pytest.approx(validator.compute(), abs=1e-6)


def test_the_norm_is_the_validators() -> None:
    network, spec, opened = pool("classification", 20)
    score = nuclear_score(look_at_pool(network, spec, opened, CPU))
    validator = NuclearNorm()
    for seen in scan_views(opened.images, spec.input, spec.views, seed=0, device=CPU)(network):
        validator.update(seen)
    assert score is not None
    assert score.value == pytest.approx(validator.compute(), abs=1e-3)


def test_outputs_that_are_not_finite_are_no_look() -> None:
    network, spec, opened = pool("classification")
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(NotFinite):
        look_at_pool(network, spec, opened, CPU)
