"""The contract that every query keeps, and what each chooses on cases worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_det
import torch
from golden_files import load

from sfda import plugins
from sfda.building_blocks.boxes import Boxes
from sfda.config import merged
from sfda.errors import BadInput
from sfda.images.preprocess import standardise
from sfda.inference.summaries import (
    Summary,
    keep_summaries,
    summarise,
)
from sfda.loading.scan import scan
from sfda.networks.own import own_detector
from sfda.problem_names import PROBLEM_NAMES
from sfda.problems.detection.inference import detect_all, summarise_boxes
from sfda.problems.pose.inference import summarise_poses
from sfda.queries._base import Before, Pool
from sfda.refs import InputSpec
from sfda.testing.queries import QUERY_CHECKS, Asking, require_query
from sfda.testing.toys import detection as toydet

NAMES = plugins.names("queries")


def pool(
    logits: torch.Tensor, features: torch.Tensor, labelled: Any = (), cut: int = 37, **more: Any
) -> Pool:
    """Summaries in shards of unequal size."""
    whole = summarise(features, logits)
    shards = [
        (start, Summary(*(part[start : start + cut] for part in whole)))
        for start in range(0, len(logits), cut)
    ]
    return Pool(shards, np.array(labelled, dtype=np.int64), **more)


def made(name: str, problem: str = "classification", **inputs: Any) -> Any:
    kind = plugins.load("queries", name)
    return kind(kind.Config.from_settings(merged(kind.defaults_for(problem), inputs)))


def drawn(seed: int = 0, size: int = 200, maps: bool = False) -> tuple[Any, Any]:
    g = torch.Generator().manual_seed(seed)
    shape = (4, 4) if maps else ()
    return (
        3 * torch.randn(size, 5, *shape, generator=g), torch.randn(size, 8, *shape, generator=g)
    )  # fmt: skip


@pytest.mark.parametrize("check", QUERY_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("problem", PROBLEM_NAMES)
@pytest.mark.parametrize("name", NAMES)
def test_every_query_keeps_the_contract(
    name: str, problem: str, check: Callable[[Asking], None]
) -> None:
    kind = plugins.load("queries", name)
    require_query(kind)
    assert problem in kind.problems
    check(Asking(kind, problem, {}))


def test_uncertain_rows_come_first() -> None:
    probs = torch.tensor([[0.9, 0.05, 0.05], [0.5, 0.49, 0.01], [0.4, 0.3, 0.3], [0.8, 0.1, 0.1]])
    inputs = pool(probs.log(), torch.zeros(4, 2))
    assert made("entropy").choose(inputs, 2).tolist() == [2, 1]
    assert made("margin").choose(inputs, 2).tolist() == [1, 2]


def test_a_diverse_choice_takes_no_twins() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.01], [0.0, 0.5], [0.0, 4.0]])
    features = torch.tensor([[1.0, 0], [1.0, 0.01], [0.0, 1], [5.0, 5]])
    inputs = pool(logits, features)
    assert made("margin").choose(inputs, 2).tolist() == [0, 1]
    rows = made("margin", "pose", diverse=3 // 2 + 1).choose(pool(logits[:3], features[:3]), 2)
    assert 2 in rows.tolist()


def test_coreset_takes_the_farthest_from_what_is_labelled() -> None:
    features = torch.tensor([[0.0], [1.0], [10.0], [4.0], [9.0]])
    inputs = pool(torch.zeros(5, 2), features, [0], cut=2)
    assert made("coreset").choose(inputs, 3).tolist() == [2, 3, 1]
    first = made("coreset").choose(pool(torch.zeros(5, 2), features), 1).tolist()
    assert first == [3], "the mean is 4.8"


@pytest.mark.parametrize("share", [1, 8])  # 1: the third row is drawn by old distances
def test_badge_draws_as_k_means_plus_plus_over_whole_gradients(
    monkeypatch: pytest.MonkeyPatch, share: int
) -> None:
    monkeypatch.setattr("sfda.queries._k_centre.SHARE", share)
    monkeypatch.setattr("sfda.queries._k_centre.FRESH_ROWS", 8 // share)
    logits, features = drawn(3)
    logits, features, draws = logits[:9], features[:9], 300
    whole = summarise(features, logits)
    gradient = torch.einsum("nk,nd->nkd", whole.residual, whole.features).flatten(1).double()
    apart = torch.cdist(gradient, gradient).square()
    first = int(gradient.square().sum(1).argmax())
    second = apart[first] / apart[first].sum()
    third = torch.zeros(9, dtype=torch.double)
    for row, chance in enumerate(second.tolist()):
        near = torch.minimum(apart[first], apart[row])
        third += chance * near / near.sum()
    seen = torch.zeros(2, 9, dtype=torch.double)
    for seed in range(draws):
        rows = made("badge").choose(pool(logits, features), 3, seed=seed).tolist()
        assert rows[0] == first
        seen[0, rows[1]] += 1
        seen[1, rows[2]] += 1
    for result, expected in zip(seen / draws, (second, third), strict=True):
        spread = (expected * (1 - expected) / draws).sqrt()
        assert ((result - expected).abs() <= 4.5 * spread + 1e-9).all()


def test_badge_takes_no_row_twice_and_is_the_same_under_one_seed() -> None:
    logits, features = drawn(3)
    inputs = pool(logits, features)
    rows = made("badge").choose(inputs, 30, seed=1)
    assert len(set(rows.tolist())) == 30
    np.testing.assert_array_equal(rows, made("badge").choose(inputs, 30, seed=1))


def test_badge_of_equal_rows_still_fills_the_budget() -> None:
    inputs = pool(torch.zeros(6, 2), torch.ones(6, 3))
    assert sorted(made("badge").choose(inputs, 4).tolist()) == [0, 1, 2, 3]


def test_lftl_chooses_as_the_released_code() -> None:
    g = load("lftl_cas_nocb")
    query = made(
        "lftl", contrast=float(g["cd_ratio"]), surest=int(g["topk"]),
        balance=float(g["lambda_topk"]),
    )  # fmt: skip
    labelled: list[int] = []
    before = None
    for r in range(int(g["rounds"])):
        probs = g["probs"][r]
        inputs = pool(probs.log(), torch.zeros(80, 2), labelled, before=before)
        free = g[f"r{r}_unlabeled_before"]
        assert inputs.free.tolist() == free.tolist()
        torch.testing.assert_close(query.scores(inputs)[free], g[f"r{r}_score"], atol=1e-6, rtol=0)
        rows = query.choose(inputs, int(g["n_query"]))
        assert rows.tolist() == g[f"r{r}_selected"].tolist()
        labelled += rows.tolist()
        before = Before(probs, summarise(torch.zeros(80, 2), probs.log()).margin)


def test_lftl_leaves_alone_the_classes_that_are_sure_already() -> None:
    probs = torch.tensor([[0.98, 0.01, 0.01], [0.97, 0.02, 0.01], [0.01, 0.98, 0.01],
                          [0.5, 0.2, 0.3], [0.3, 0.5, 0.2], [0.2, 0.29, 0.51]])  # fmt: skip
    inputs = pool(probs.log(), torch.zeros(6, 2))
    margin = torch.tensor([0.97, 0.95, 0.97, 0.2, 0.2, 0.22])
    weight = torch.tensor([1, 1, 0.5, 1, 0.5, 0])  # of the three surest: class 0 twice, 1 once
    query = made("lftl", surest=3)
    torch.testing.assert_close(query.scores(inputs), margin / 0.97 + 0.1 * weight)
    assert query.choose(inputs, 3).tolist() == [5, 4, 3]


def test_lftl_contrasts_logarithms_if_asked_to_and_not_new_rows() -> None:
    now = torch.tensor([[0.6, 0.4], [0.6, 0.4]])
    old = torch.tensor([[0.9, 0.1], [torch.nan, torch.nan]])
    inputs = pool(now.log(), torch.zeros(2, 2), before=Before(old, torch.zeros(2)))
    query = made("lftl", space="log", balance=0.0, contrast=0.1)
    gap, before = np.log(0.6 / 0.4), np.log(9)
    assert query.scores(inputs).tolist() == pytest.approx([gap + 0.1 * (gap - before), gap])


def test_another_number_of_classes_is_no_contrast() -> None:
    inputs = pool(torch.zeros(2, 2), torch.zeros(2, 2), before=Before(torch.zeros(2, 3),
                 torch.zeros(2)))  # fmt: skip
    with pytest.raises(BadInput, match="leave out --before"):
        made("lftl").choose(inputs, 1)


def test_a_map_is_summed_up_by_its_means() -> None:
    logits, features = drawn(5, 3, maps=True)
    result = summarise(features, logits)
    rows = summarise(
        features.permute(0, 2, 3, 1).reshape(-1, 8), logits.permute(0, 2, 3, 1).reshape(-1, 5)
    )
    for name in ("features", "probs", "entropy", "margin"):
        one = getattr(rows, name).unflatten(0, (3, 16)).mean(1)
        torch.testing.assert_close(getattr(result, name), one)


@pytest.mark.parametrize("labelled", [(), (3, 50)])
def test_a_cover_without_passes_is_the_greedy_one(labelled: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("sfda.queries._k_centre.NEXT", 7)
    logits, features = drawn(8)
    rows = made("coreset").choose(pool(logits, features, labelled), 60).tolist()
    taken = list(labelled)
    if not taken:
        taken.append(int((features - features.mean(0)).square().sum(1).argmin()))
    while len(taken) < 60 + len(labelled):
        near = torch.cdist(features.double(), features[taken].double()).amin(1)
        near[taken] = -1
        taken.append(int(near.argmax()))
    assert rows == taken[len(labelled) :]


def test_boxes_are_summed_up_by_how_unsure_they_are() -> None:
    def found(*pairs: tuple[float, int]) -> Boxes:
        scores, labels = (torch.tensor(part) for part in zip(*pairs, strict=True))
        return Boxes(torch.zeros(len(pairs), 4), labels, scores.float())

    inputs = [found((0.5, 1), (1.0, 0)), toydet.no_boxes(), found((0.9, 1), (0.05, 0))]
    summary = summarise_boxes(torch.zeros(3, 7), inputs, 2)
    torch.testing.assert_close(
        summary.probs, torch.tensor([[0.5, 0.25, 0.25], [0, 0, 1], [0, 0.9, 0.1]])
    )
    unsure = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    torch.testing.assert_close(summary.entropy, torch.tensor([np.log(2) / 2, 0, unsure]).float())
    torch.testing.assert_close(summary.margin, torch.tensor([0.5, 1, 0.8]))
    assert summary.residual.shape == (3, 1)


def test_persons_are_summed_up_by_how_their_maps_spread() -> None:
    maps = torch.zeros(3, 2, 9, 9)
    maps[0, :, 4, 4] = 1  # one place
    maps[1, :, 1, 1], maps[1, :, 7, 7] = 0.75, 0.25  # two places
    summary = summarise_poses(torch.ones(3, 5, 2, 2), maps)  # and nothing at all
    two = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    torch.testing.assert_close(summary.entropy, torch.tensor([0, two, np.log(81)]).float())
    torch.testing.assert_close(summary.margin, torch.tensor([1.0, 0.5, 0.0]))
    torch.testing.assert_close(summary.probs, torch.tensor([[1.0, 0], [0.75, 0.25], [0, 1]]))
    assert summary.features.shape == (3, 5)


def test_a_detector_is_summed_up_in_one_pass(tmp_path: Path) -> None:
    """Features are those of the backbone, boxes those of the detector, whatever the batch."""
    torch.manual_seed(0)
    network = own_detector("tinyrcnn", 2).eval()
    pictures, _ = small_det.images(9, seed=1)
    spec = InputSpec(size=(64, 64), mean=(0.3,) * 3, std=(0.3,) * 3)
    remaining = [
        keep_summaries(
            scan(pictures, spec, device="cpu", batch_size=size), network, "detection",
            tmp_path / str(size), 9,
        )
        for size in (4, 9)
    ]  # fmt: skip
    for one, other in zip(*(shards[0][1] for shards in remaining), strict=True):
        torch.testing.assert_close(one, other)
    ((_, summary),) = remaining[0]
    sizes = [(64, 64)] * 9
    result = [b for _, b in detect_all(network, pictures, spec, device="cpu", sizes=sizes)]
    expected = summarise_boxes(summary.features, result, network.num_classes)
    torch.testing.assert_close(summary.probs, expected.probs)
    maps = network.features(standardise(torch.from_numpy(pictures), spec, "cpu"))
    torch.testing.assert_close(summary.features, maps["0"].mean((2, 3)))
    assert float(summary.entropy.std()) > 0
