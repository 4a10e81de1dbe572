"""Bank, losses, teacher, schedule and loop parts against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sfda.adaptation.schedule import learning_rate, make_optimizer
from sfda.building_blocks import bank as bank_module
from sfda.building_blocks.bank import MemoryBank
from sfda.building_blocks.ema import ema_update_, make_teacher
from sfda.building_blocks.losses import (
    batch_agreement,
    dispersion,
    diversity,
    entropy,
    neighbour_attraction,
)
from sfda.building_blocks.precision import full_precision
from sfda.errors import BadInput
from sfda.methods.shot import centroid_labels
from sfda.settings import Schedule
from sfda.testing.toys import classification as toy
from sfda.types import Clock, TargetInfo


def filled(size: int = 50, dim: int = 6, classes: int = 4) -> tuple[MemoryBank, torch.Tensor]:
    x = torch.randn(size, dim, generator=torch.Generator().manual_seed(1))
    result = MemoryBank(size, dim, classes)
    result.update(torch.arange(size), x, x[:, :classes].softmax(1))
    return result, x


def test_bank_rows_are_addressed_by_index_and_of_unit_length() -> None:
    result, x = filled()
    rows = torch.tensor([7, 3])
    result.update(rows, 5 * x[[0, 1]], torch.eye(4)[:2])
    assert torch.allclose(result.features[7], F.normalize(x[0], dim=0))
    assert torch.equal(result.probs[3], torch.eye(4)[1])
    assert torch.allclose(result.features[4], F.normalize(x[4], dim=0)), "no other row may change"


def test_a_zero_feature_stays_zero_and_is_no_nan() -> None:
    result, _ = filled()
    result.update(torch.tensor([0]), torch.zeros(1, 6), torch.full((1, 4), 0.25))
    assert torch.equal(result.features[0], torch.zeros(6))


@pytest.mark.parametrize("tile", [1, 7, 10**6])
def test_neighbours_are_the_sorted_similarities_without_the_own_row(
    tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, x = filled()
    monkeypatch.setattr(bank_module, "SIMILARITY_TILE", tile)
    rows = torch.tensor([5, 0, 49])
    unit = F.normalize(x, dim=1)
    got = result.neighbours(rows, x[rows], 4)
    plain = result.nearest(x[rows], 4)
    for folder, row in enumerate(rows.tolist()):
        order = sorted(range(50), key=lambda j: -float(unit[row] @ unit[j]))
        assert plain[folder].tolist() == order[:4]
        assert got[folder].tolist() == [j for j in order if j != row][:4]


def test_more_neighbours_than_others_is_an_error() -> None:
    result, x = filled(size=4)
    with pytest.raises(ValueError, match="4 neighbours among 4"):
        result.neighbours(torch.arange(2), x[:2], 4)


def test_similarities_are_taken_in_float32_under_autocast() -> None:
    @full_precision
    def product(a: torch.Tensor) -> torch.Tensor:
        return a @ a.T

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        assert product(torch.ones(2, 2)).dtype == torch.float32


def test_entropy_and_diversity_by_hand() -> None:
    probs = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    by_hand = [-2 * 0.5 * math.log(0.5 + 1e-5), -1 * math.log(1 + 1e-5)]
    assert entropy(probs).tolist() == pytest.approx(by_hand, abs=1e-6)
    mean = [0.75, 0.25]
    expected = sum(m * math.log(m + 1e-5) for m in mean)
    assert float(diversity(probs)) == pytest.approx(expected, abs=1e-6)


def test_attraction_by_hand_and_its_gradient() -> None:
    probs = torch.tensor([[0.7, 0.3]], requires_grad=True)
    near = torch.tensor([[[1.0, 0.0], [0.4, 0.6]]])
    by_hand = (0 - 0.7) + 0.4 * (math.log(0.4) - 0.7) + 0.6 * (math.log(0.6) - 0.3)
    loss = neighbour_attraction(probs, near)
    assert loss.item() == pytest.approx(by_hand, abs=1e-6)
    loss.backward()
    assert torch.allclose(probs.grad, -near.sum(1))


def test_batch_agreement_leaves_the_diagonal_out() -> None:
    probs = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    pairs = sum(float(probs[i] @ probs[j]) for i in range(3) for j in range(3) if i != j)
    assert float(batch_agreement(probs)) == pytest.approx(pairs / 3)


def test_dispersion_fades_from_one_and_knows_the_batch_size() -> None:
    assert dispersion(Clock(0, 10, 2), fade=5, batch_size=64) == 1
    assert dispersion(Clock(10, 10, 2), fade=1, batch_size=64) == pytest.approx(1 / 6)
    assert dispersion(Clock(0, 10, 2), fade=5, batch_size=22) == pytest.approx(3)


def test_centroids_of_rare_classes_are_dropped() -> None:
    features = torch.tensor([[3.0, 0.0], [3.0, 0.1], [3.0, -0.1], [0.0, 3.0]])
    probs = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9]])
    assert centroid_labels(features, probs).tolist() == [0, 0, 0, 1]
    assert centroid_labels(features, probs, min_count=1).tolist() == [0, 0, 0, 0]
    assert centroid_labels(features, probs, min_count=9).tolist() == [0, 0, 0, 1], "none left"


@pytest.mark.parametrize("buffers", ["average", "copy", "keep"])
def test_the_teacher_is_an_average(buffers: str) -> None:
    student = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    teacher = make_teacher(student)
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    before = teacher[0].weight.clone()
    student[0].weight.data.add_(1)
    student[1].running_mean.fill_(4)
    student[1].num_batches_tracked.fill_(3)
    ema_update_(teacher, student, decay=0.75, buffers=buffers)
    assert torch.allclose(teacher[0].weight, before + 0.25)
    mean = {"average": 1.0, "copy": 4.0, "keep": 0.0}[buffers]
    assert teacher[1].running_mean.tolist() == [mean, mean]
    assert int(teacher[1].num_batches_tracked) == (0 if buffers == "keep" else 3)


def test_a_student_that_does_not_fit_moves_no_teacher() -> None:
    teacher = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    for student, message in (
        (
            nn.Sequential(nn.Linear(2, 2), nn.Identity(), nn.BatchNorm1d(2)),
            r"1\.bias, 1\.weight, 2",
        ),
        (nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(2)), r"shape of 0\.bias, 0\.weight"),
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)), "running"),
    ):
        with pytest.raises(ValueError, match=message):
            ema_update_(teacher, student, decay=0.5, buffers="average")
    assert all(value.equal(before[name]) for name, value in teacher.state_dict().items())


def test_three_averages_of_a_fixed_student() -> None:
    student = nn.Linear(1, 1, bias=False)
    teacher = make_teacher(student)
    student.weight.data.fill_(1)
    teacher.weight.data.fill_(0)
    for _ in range(3):
        ema_update_(teacher, student, decay=0.5, buffers="keep")
    assert float(teacher.weight) == pytest.approx(1 - 0.5**3)


def test_groups_carry_their_scaled_rate() -> None:
    weight = nn.Parameter(torch.ones(1))
    schedule = Schedule(lr=0.1, optimizer="adam", weight_decay=0)
    optimizer = make_optimizer(schedule, [{"params": [weight], "scale": 0.5, "name": "part"}])
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    assert make_optimizer(schedule, [{"params": [], "scale": 1.0}]) is None


def test_a_constant_rate_stays() -> None:
    schedule = Schedule(decay="none", lr=0.3)
    assert {learning_rate(schedule, Clock(step, 5, 2)) for step in range(10)} == {0.3}


def test_settings_go_over_the_defaults_part_by_part() -> None:
    from sfda.methods.shot import ShotConfig

    result = ShotConfig.from_settings({"schedule": {"lr": 0.5}, "lr_scale": {"backbone": 1}})
    assert result.schedule == Schedule(lr=0.5, epochs=15)
    assert result.lr_scale == {"backbone": 1.0, "head": 0.0}
    with pytest.raises(BadInput, match=r"there is no 'schedule\.epoch'; did you mean 'epochs'"):
        ShotConfig.from_settings({"schedule": {"epoch": 3}})
    with pytest.raises(BadInput, match="pseudo_weight = -1"):
        ShotConfig.from_settings({"pseudo_weight": -1})


def test_row_ids_must_be_one_a_row() -> None:
    with pytest.raises(ValueError, match="3 rows but 2 row ids"):
        TargetInfo(3, ("a", "b"))


def test_the_clock_counts() -> None:
    clock = Clock(step=7, steps_per_epoch=4, epochs=3)
    assert (clock.epoch, clock.steps, clock.ends_epoch) == (1, 12, True)
    assert clock.fraction == pytest.approx(7 / 12)


def test_the_toy_has_a_source_worth_adapting() -> None:
    assert toy.accuracy(toy.source(), *toy.images()) > 0.97
