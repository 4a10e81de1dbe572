"""NRC: against the authors' numbers, against the sum written out, and at its edges."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_files import PassThrough
from torch import Tensor, nn

from sfda.adaptation.loop import adapt
from sfda.methods.nrc import Nrc, NrcConfig
from sfda.problems.classification.network import Classifier
from sfda.settings import Schedule
from sfda.testing.toys import classification as toy
from sfda.types import Clock, StepEnd, TargetBatch

GOLDEN = Path(__file__).parents[2] / "golden" / "nrc_step_officehome.npz"
START = Clock(0, 4, 5)


def method_of(weight: Tensor, size: int, **settings: Any) -> Nrc:
    """NRC over features as given and a bare linear head."""
    classes, dim = weight.shape
    head = nn.Linear(dim, classes, bias=False)
    head.weight.data.copy_(weight)
    network = Classifier(PassThrough(), nn.Identity(), head, feature_dim=dim, num_classes=classes)
    return Nrc(network, toy.info(size), NrcConfig.from_settings({"lr_scale": {}, **settings}))


def filled(x: Tensor, weight: Tensor, **settings: Any) -> Nrc:
    """The same after the first look at the target."""
    method = method_of(weight, len(x), **settings)
    with torch.no_grad():
        method.start_epoch(lambda model: iter([(torch.arange(len(x)), model(x))]), START)
    return method


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attraction(q: Tensor, p: Tensor) -> float:
    """Sum over classes of q (ln q - p)."""
    return sum(float(a) * (math.log(float(a)) - float(b)) for a, b in zip(q, p, strict=True))


def test_one_step_equals_the_authors_code() -> None:
    with np.load(GOLDEN, allow_pickle=False) as result:
        g = {key: torch.from_numpy(np.array(result[key])) for key in result.files}
    method = method_of(g["cls_w"], 50, neighbours=int(g["K"]), expanded=int(g["KK"]))
    method.bank.features.copy_(g["fea_bank0"])
    method.bank.probs.copy_(g["score_bank0"])
    features = g["features"].clone().requires_grad_()
    losses = method.losses(TargetBatch(g["tar_idx"], features), START)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    near, further = method.neighbourhood(g["tar_idx"], features, START)
    assert torch.equal(near, g["idx_near"])
    assert torch.equal(further, g["idx_near_near"])
    mutual = (further == g["tar_idx"][:, None, None]).sum(2)
    assert torch.equal(mutual.float(), g["match"])
    assert 0 < mutual.sum() < mutual.numel(), "both kinds of neighbours must occur"
    assert total.item() == pytest.approx(float(g["loss_total"]), rel=1e-5)
    torch.testing.assert_close(features.grad, g["g_feat"], rtol=1e-4, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("alias", [False, True])
def test_one_batch_equals_the_objective_written_out(alias: bool) -> None:
    x, weight = drawn(7, 3, seed=0), drawn(4, 3, seed=1)
    settings = {"neighbours": 2, "expanded": 3, "one_sided_weight": 0.3, "expanded_weight": 0.2}
    method = filled(x, weight, **settings, visda_alias=alias)
    batch = [4, 1, 3]
    got = method.losses(TargetBatch(torch.tensor(batch), x[batch]), START)
    p, z = (x @ weight.T).softmax(1), F.normalize(x, dim=1)

    def nearest(i: int, k: int) -> list[int]:
        return sorted(set(range(7)) - {i}, key=lambda j: -float(z[i] @ z[j]))[:k]

    attract, expand, weights = 0.0, 0.0, []
    for i in batch:
        for j in nearest(i, 2):
            weights.append(0.2 if alias else 1.0 if i in nearest(j, 3) else 0.3)
            attract += weights[-1] * attraction(p[j], p[i]) / 3
            expand += sum(0.2 * attraction(p[m], p[i]) / 3 for m in nearest(j, 3))
    assert alias or set(weights) == {0.3, 1.0}, "both kinds of neighbours must occur"
    mean = p[batch].mean(0)
    assert got["attract"].item() == pytest.approx(attract, rel=1e-5)
    assert float(got["expand"]) == pytest.approx(expand, rel=1e-5)
    assert float(got["diversity"]) == pytest.approx(float((mean * (mean + 1e-5).log()).sum()))


def test_the_alias_takes_reciprocity_away_by_hand() -> None:
    # three points on a circle: 0 and 1 are each other's nearest, 2 looks to 1, which looks away
    angles = torch.tensor([0.0, 0.2, 0.6])
    x = torch.stack([angles.cos(), angles.sin()], 1)
    settings = {"neighbours": 1, "expanded": 1}
    rows = torch.tensor([0, 2])
    batch = TargetBatch(rows, x[rows])
    p = (x @ torch.eye(2).T).softmax(1)
    mutual, one_sided = attraction(p[1], p[0]), attraction(p[1], p[2])
    right = filled(x, torch.eye(2), **settings).losses(batch, START)
    alias = filled(x, torch.eye(2), **settings, visda_alias=True).losses(batch, START)
    assert right["attract"].item() == pytest.approx((mutual + 0.1 * one_sided) / 2, rel=1e-5)
    assert alias["attract"].item() == pytest.approx((0.1 * mutual + 0.1 * one_sided) / 2, rel=1e-5)
    assert torch.equal(right["expand"], alias["expand"])


@torch.no_grad()
def test_the_second_half_of_the_run_has_sizes_of_its_own() -> None:
    settings = {"neighbours": 3, "expanded": 2, "late_neighbours": 5, "late_expanded": 4}
    x = drawn(30, 3, seed=0)
    method = filled(x, drawn(4, 3, seed=1), **settings)
    assert [method.sizes(Clock(step, 4, 5)) for step in (0, 9, 10, 19)] == [
        (3, 2), (3, 2), (5, 4), (5, 4)
    ]  # fmt: skip
    near, further = method.neighbourhood(torch.arange(6), x[:6], Clock(10, 4, 5))
    assert (near.shape, further.shape) == ((6, 5), (6, 5, 4))
    unset = filled(x, drawn(4, 3, seed=1), neighbours=3, expanded=2, late_expanded=4)
    assert unset.sizes(Clock(10, 4, 5)) == (3, 4)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_a_tiny_target_has_fewer_neighbours_and_still_a_loss(size: int) -> None:
    x = drawn(size, 3, seed=0)
    method = filled(x, drawn(4, 3, seed=1), late_neighbours=9, late_expanded=9)
    assert method.sizes(START) == (min(5, size - 1),) * 2
    for clock in (START, Clock(19, 4, 5)):
        features = x.clone().requires_grad_()
        losses = method.losses(TargetBatch(torch.arange(size), features), clock)
        torch.stack(list(losses.values())).sum().backward()
        assert all(loss.isfinite() and loss.shape == () for loss in losses.values())
        assert features.grad.isfinite().all()


def test_an_approximate_search_runs_and_falls_back_on_a_small_target() -> None:
    x, _ = toy.images(0.5, seed=1)
    result = {}
    for search in ("exact", "approximate"):
        config = NrcConfig.from_settings({"search": search})
        method = Nrc(toy.source(), toy.info(), config)
        schedule = Schedule(lr=0.02, epochs=2, batch_size=24)
        events = adapt(method, toy.Batches(x), toy.scan(x), schedule, seed=3)
        result[search] = [e.losses for e in events if isinstance(e, StepEnd)]
    for one, other in zip(result["exact"], result["approximate"], strict=True):
        assert {k: float(v) for k, v in one.items()} == {k: float(v) for k, v in other.items()}


def test_no_similarity_or_feature_of_the_whole_bank_is_held_for_every_item() -> None:
    size, batch, dim = 20_000, 8, 32
    x = drawn(size, dim, seed=0)
    method = filled(x, drawn(4, dim, seed=1))
    with torch.profiler.profile(profile_memory=True) as seen:
        method.losses(TargetBatch(torch.arange(batch), x[:batch]), START)
    largest = max(event.cpu_memory_usage for event in seen.events())
    assert largest <= 1.1 * 5 * batch * size * 4, "the neighbours' similarities are the largest"
