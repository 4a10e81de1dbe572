"""LPLD and boxes as pseudo-labels: limits, absent terms, alarms, choices without labels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from sfda import plugins
from sfda.building_blocks.boxes import Boxes, mirrored, spared, sure_boxes, usable
from sfda.config import merged
from sfda.errors import BadInput
from sfda.networks.detector import DetOutput
from sfda.problems._teaching import Taught
from sfda.problems.detection import loss as detection_loss
from sfda.problems.detection.distillation import distillation, feature_distance, mine
from sfda.problems.detection.teaching import BoxGuard, BoxTeaching, sorted_out
from sfda.testing.toys import detection as toydet
from sfda.testing.toys import mmdet_detection as toymm
from sfda.types import Clock, SeenViews

SURE = torch.tensor([[0.0, 0, 10, 10]])


def logits(*probs: list[float]) -> torch.Tensor:
    return torch.tensor(probs).clamp_min(1e-9).log()


def test_all_three_limits_of_mining_are_included() -> None:
    # background is last; the foreground's share of its first class is 0.9, 0.89, 0.95 ...
    rows = logits(
        [0.45, 0.05, 0.5], [0.445, 0.055, 0.5], [0.0105, 0.0005, 0.989], [0.0085, 0.0005, 0.991]
    )
    far = torch.tensor([[20.0, 20, 30, 30]]).expand(4, 4)
    assert mine(rows, far, SURE).tolist() == [True, False, True, False]
    # an IoU of exactly 0.4, 4 of 10 rows, is kept; any more is not
    near = torch.tensor([[0.0, 0, 10, 4], [0.0, 0, 10, 4.1]])
    certain = logits([0.9, 0.0, 0.1], [0.9, 0.0, 0.1])
    assert mine(certain, near, SURE).tolist() == [True, False]
    # a row whose likeliest class is the background counts too; without sure boxes none does
    assert mine(logits([0.02, 0, 0.98]), far[:1], SURE).tolist() == [True]
    assert not mine(certain, near, torch.zeros(0, 4)).any()


def test_the_target_has_no_background_and_the_weight_no_gradient() -> None:
    student = torch.tensor([[1.0, -1.0, 0.5], [0.0, 2.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[2.0, 0.0, 5.0], [0.0, 3.0, -1.0]], requires_grad=True)
    weight = torch.tensor([0.5, 0.25])
    loss = distillation(student, teacher, weight)
    q = teacher.detach()[:, :2].softmax(1)
    p = student.detach().log_softmax(1)
    kl = (q * (q.log() - p[:, :2])).sum(1) + 1e-9 * (math.log(1e-9) - p[:, 2])
    assert float(loss.detach()) == pytest.approx(float((weight * kl).mean()), rel=1e-5)
    loss.backward()
    assert student.grad is not None
    assert teacher.grad is None
    target = torch.cat([q, torch.full((2, 1), 1e-9)], 1)
    by_hand = weight[:, None] / 2 * ((1 + 1e-9) * student.detach().softmax(1) - target)
    torch.testing.assert_close(student.grad, by_hand)
    far = distillation(torch.tensor([[-200.0, 0.0]]), torch.tensor([[5.0, 0.0]]))
    assert float(far) == pytest.approx(200.0)  # the log of a softmax would be infinite
    features = torch.randn(3, 4, requires_grad=True)
    assert not feature_distance(features, torch.randn(3, 4)).requires_grad
    assert float(distillation(student[:0], teacher[:0]).detach()) == 0


def test_boxes_without_an_area_or_a_number_are_no_labels() -> None:
    result = Boxes(
        torch.tensor([[0.0, 0, 5, 5], [1, 1, 1, 9], [0, 0, float("nan"), 4], [2, 2, 2.005, 9]]),
        torch.arange(4),
        torch.tensor([0.9, 0.9, 0.9, 0.9]),
    )
    assert usable(result.boxes).tolist() == [True, False, False, False]
    assert sure_boxes(result, 0.7).labels.tolist() == [0]
    empty = toydet.no_boxes()
    assert empty.boxes.shape == (0, 4)
    assert len(sure_boxes(empty, 0.7).labels) == 0
    flipped = mirrored(Boxes(torch.tensor([[1.0, 2, 4, 6]]), torch.zeros(1), torch.ones(1)), 10)
    assert flipped.boxes.tolist() == [[6, 2, 9, 6]]
    near = SURE.expand(3, 4) + torch.tensor([[0.0], [0], [50]])
    labels = spared(torch.tensor([0, 1, 0]), near, SURE)
    assert labels.tolist() == [-1, 1, 0]


def test_boxes_are_sure_doubtful_or_nothing() -> None:
    result = Boxes(torch.rand(4, 4) + torch.tensor([0.0, 0, 5, 5]), torch.arange(4),
                  torch.tensor([0.9, 0.7, 0.3, 0.05]))  # fmt: skip
    sure, doubtful = sorted_out([result], 0.7, BoxTeaching())
    assert sure[0].labels.tolist() == [0]
    assert doubtful is not None
    assert doubtful[0].labels.tolist() == [1, 2]
    assert sorted_out([result], 0.7, BoxTeaching(doubt=None))[1] is None


def made(name: str, kit: Any = toydet, **settings: Any) -> Any:
    kind = plugins.load("methods", name)
    inputs = merged(kind.defaults_for("detection"), settings)
    method = kind(kit.source(), kit.info(), kind.Config.from_settings(inputs))
    method.train()
    return method


@pytest.mark.parametrize("kit", [toydet, toymm], ids=["torchvision", "mmdet"])
def test_a_step_is_the_supervised_losses_and_a_tenth_of_the_distillation(kit: Any) -> None:
    x, _ = kit.images(0.3, seed=1)
    batch = kit.batch(x, [0, 1, 2, 3])
    # limits that leave something to distil on so easy images
    limits = {"confidence": 0.5, "background": 1.0, "iou": 0.9}
    teaching = {"doubt": None, "empty": "background"}
    method = made("lpld", kit, threshold=0.5, boxes=teaching, **limits)
    losses = method.losses(batch, Clock(0, 3, 1))
    with torch.no_grad():
        taught = method.teacher.regions(batch.weak)
        sure = [sure_boxes(result, 0.5) for result in taught.detections]
        seen = method.student.regions(batch.strong, taught.proposals)
    plain = detection_loss.loss(method.student, batch.strong, sure)
    for name, term in plain.items():
        torch.testing.assert_close(losses[name], term, rtol=1e-4, atol=1e-5)
    total, start = 0.0, 0
    for proposals, boxes in zip(taught.proposals, sure, strict=True):
        rows = slice(start, start + len(proposals))
        start += len(proposals)
        remaining = mine(taught.logits[rows], taught.refined[rows], boxes.boxes, **limits)
        one, other = seen.logits[rows][remaining], taught.logits[rows][remaining]
        weight = feature_distance(seen.features[rows][remaining], taught.features[rows][remaining])
        total += float(distillation(one, other, weight)) / 4
    assert total > 0
    assert float(losses["distil"].detach()) == pytest.approx(0.1 * total, rel=1e-3)


def test_nothing_sure_teaches_nothing_and_is_said() -> None:
    x, _ = toydet.images(0.3, seed=1)
    method = made("lpld", threshold=1.0)
    assert method.losses(toydet.batch(x, [0, 1]), Clock(0, 1, 1)) == {}  # no step is taken
    method.after_step(Clock(0, 1, 1))
    assert "never sure enough" in method.status()


@pytest.mark.parametrize("name", ["lpld", "mean_teacher"])
def test_the_teacher_moves_at_the_end_of_an_epoch_by_a_quarter(name: str) -> None:
    method = made(name)
    before = method.teacher.roi_heads.box_head.fc6.weight.clone()
    with torch.no_grad():
        method.student.roi_heads.box_head.fc6.weight.add_(1.0)
    method.after_step(Clock(0, 2, 1))
    torch.testing.assert_close(method.teacher.roi_heads.box_head.fc6.weight, before)
    method.after_step(Clock(1, 2, 1))
    torch.testing.assert_close(method.teacher.roi_heads.box_head.fc6.weight, before + 0.25)
    assert method.adapted is method.teacher


def test_a_detector_without_regions_is_refused_by_name() -> None:
    kind = plugins.load("methods", "lpld")
    source = toydet.source()
    source.__class__ = type("OneStage", (type(source),), {"two_stage": False})
    with pytest.raises(BadInput, match="use mean_teacher, or import a Faster R-CNN"):
        kind(source, toydet.info(), kind.Config())


def boxes_of(*labels: int) -> Boxes:
    many = len(labels)
    return Boxes(torch.rand(many, 4), torch.tensor(labels, dtype=torch.long), torch.ones(many))


def test_the_guard_tells_of_lost_classes_and_of_floods() -> None:
    guard = BoxGuard(toydet.info(), 2)
    assert guard.status() == ""
    guard.watch(Taught(torch.zeros(0), [boxes_of(0, 1), boxes_of(0)]))
    guard.end_epoch()
    assert guard.status() == "1.50 pseudo-boxes an image"
    guard.watch(Taught(torch.zeros(0), [boxes_of(0), boxes_of(0, 0)]))
    guard.end_epoch()
    assert guard.status() == "1.50 pseudo-boxes an image, alarming: no box of blue any more"
    guard.watch(Taught(torch.zeros(0), [boxes_of(*[0, 1] * 5)]))
    guard.end_epoch()
    assert guard.status() == "10.00 pseudo-boxes an image, alarming: 1.50 in the first epoch"
    again = BoxGuard(toydet.info(), 2)
    again.load_state_dict(guard.state_dict())
    assert again.status() == guard.status()


PROFILE = {"classes": {"red": 2, "blue": 2}, "mean_confidence": 0.5}


def score(name: str, weak: list[Boxes], strong: list[Boxes] | None = None) -> float:
    validator = plugins.load("validators", name)()
    validator.refer(PROFILE)
    output = DetOutput(weak, torch.zeros(1, 3))
    other = DetOutput(weak if strong is None else strong, torch.zeros(1, 3))
    validator.update(SeenViews(torch.arange(len(weak)), output, output, other))
    return float(validator.compute())


def placed(*entries: tuple[float, int, float]) -> Boxes:
    left = torch.tensor([x for x, _, _ in entries])
    boxes = torch.stack([left, left * 0, left + 10, left * 0 + 10], 1)
    return Boxes(boxes, torch.tensor([c for _, c, _ in entries]),
                 torch.tensor([s for _, _, s in entries]))  # fmt: skip


def test_agreement_pairs_boxes_of_one_class_where_they_lie() -> None:
    both = placed((0, 0, 0.8), (50, 1, 0.6))
    assert score("agreement", [both]) == pytest.approx(1.0)
    # the second class is not seen again: it counts 0; the first by its smaller score
    other = placed((1, 0, 0.4), (50, 0, 0.6))
    red = 0.4 / ((0.8 + 0.4 + 0.6) / 2)
    assert score("agreement", [both], [other]) == pytest.approx(red / 2)
    assert score("agreement", [placed((0, 0, 0.9))]) == pytest.approx(0.5)  # blue is never seen
    assert score("agreement", [toydet.no_boxes()]) == 0.0


def test_entropy_is_of_scores_and_no_box_is_no_certainty() -> None:
    p = 0.8
    known = p * math.log(p) + (1 - p) * math.log(1 - p)
    assert score("entropy", [placed((0, 0, p))]) == pytest.approx(known)
    assert score("entropy", [toydet.no_boxes()]) == pytest.approx(-math.log(2))


def test_drift_counts_boxes_against_the_sources() -> None:
    same = [placed((0, 0, 0.5), (20, 0, 0.5), (0, 1, 0.5), (20, 1, 0.5))]
    assert score("boxes", same) == pytest.approx(0.0)
    lost = [placed((0, 0, 0.5), (20, 0, 0.5))]
    assert score("boxes", lost) == pytest.approx(-0.5 * math.log(3))
    assert score("boxes", [placed(*[(0, c, 0.9) for c in (0, 0, 1, 1)])]) == pytest.approx(-0.4)
