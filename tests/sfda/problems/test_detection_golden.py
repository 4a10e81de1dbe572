"""Detection against what LPLD's released code returned; origins in tests/golden/README.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sfda.building_blocks.boxes import Boxes, sure_boxes
from sfda.building_blocks.ema import ema_update_
from sfda.problems.detection.distillation import distillation, feature_distance, mine
from sfda.problems.detection.metrics import FROM_ONE, BoxesOf, DetectionMetric, voc_ap

GOLDEN = Path(__file__).parents[2] / "golden"
WEIGHTS = torch.tensor([10.0, 10.0, 5.0, 5.0])


def load(name: str) -> dict[str, Any]:
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as arrays:
        return {k: arrays[k] for k in arrays.files}


def tensors(name: str) -> dict[str, torch.Tensor]:
    return {
        k: torch.from_numpy(np.asarray(v)) for k, v in load(name).items() if v.dtype.kind != "U"
    }


def refined(case: dict[str, torch.Tensor]) -> torch.Tensor:
    """Each proposal as its likeliest class moves it, by torchvision's coder; the adapters do it."""
    from torchvision.models.detection._utils import BoxCoder

    best, k = case["teacher_logits"].argmax(1), int(case["K"])
    deltas = case["teacher_deltas"].view(len(best), k, 4)
    chosen = deltas[torch.arange(len(best)), best.clamp(max=k - 1)]
    moved = BoxCoder((10.0, 10.0, 5.0, 5.0)).decode_single(chosen, case["proposals"])
    return torch.where((best == k)[:, None], case["proposals"], moved)


@pytest.mark.parametrize("name", ["lpld_case_k8", "lpld_case_k1", "lpld_case_no_hpl"])
def test_regions_are_mined_and_distilled_as_released(name: str) -> None:
    case = tensors(name)
    boxes = refined(case)
    torch.testing.assert_close(boxes, case["refined_boxes"], rtol=1e-5, atol=1e-4)
    rows = mine(case["teacher_logits"], boxes, case["hpl_boxes"])
    assert rows.tolist() == case["keep_mask"].tolist()
    student = case["student_logits"].clone().requires_grad_()
    weight = feature_distance(case["student_feat"], case["teacher_feat"])
    torch.testing.assert_close(1 - weight, case["cosine_similarity"].float(), rtol=1e-5, atol=1e-5)
    loss = 0.1 * distillation(student[rows], case["teacher_logits"][rows], weight[rows])
    assert float(loss.detach()) == pytest.approx(float(case["lpld_loss"]), rel=1e-5)
    loss.backward()
    assert student.grad is not None
    if not bool(case["loss_present"]):
        assert not student.grad.any()
        return
    torch.testing.assert_close(weight[rows], case["weight_kept"].float(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(student.grad, case["grad_student_logits"], rtol=1e-4, atol=1e-7)
    plain = 0.1 * distillation(case["student_logits"][rows], case["teacher_logits"][rows])
    assert float(plain) == pytest.approx(float(case["lpld_loss_unweighted"]), rel=1e-5)


def test_the_divergence_for_any_number_of_classes() -> None:
    case = tensors("kl_divergence")
    for i in range(int(case["n_cases"])):
        student = case[f"c{i}_student_logits"].clone().requires_grad_()
        inputs = case[f"c{i}_teacher_fg_logits"]
        teacher = torch.cat(
            [inputs, torch.zeros(len(inputs), 1)], 1
        )  # its background is not looked at
        loss = 0.1 * distillation(student, teacher, case[f"c{i}_weight"])
        assert float(loss.detach()) == pytest.approx(float(case[f"c{i}_loss_weighted"]), rel=1e-5)
        plain = 0.1 * distillation(student.detach(), teacher)
        assert float(plain) == pytest.approx(float(case[f"c{i}_loss_unweighted"]), rel=1e-5)
        loss.backward()
        torch.testing.assert_close(
            student.grad, case[f"c{i}_grad_student_logits"], rtol=1e-4, atol=1e-8
        )


@pytest.mark.parametrize("threshold", ["05", "07", "08", "09"])
def test_sure_boxes_are_strictly_above_the_threshold(threshold: str) -> None:
    case = tensors("pseudo_label_threshold")
    result = Boxes(case["boxes"], case["classes"], case["scores"])
    remaining = sure_boxes(result, int(threshold) / 10)
    torch.testing.assert_close(remaining.boxes, case[f"thr{threshold}_boxes"])
    assert remaining.labels.tolist() == case[f"thr{threshold}_classes"].tolist()
    torch.testing.assert_close(remaining.scores, case[f"thr{threshold}_scores"])


def net() -> nn.Module:
    shapes = tensors("ema_update")
    convolution = shapes["student/0.weight"]
    return nn.Sequential(
        nn.Conv2d(convolution.shape[1], convolution.shape[0], convolution.shape[2]),
        nn.BatchNorm2d(convolution.shape[0]),
        nn.Flatten(),
        nn.Linear(shapes["student/3.weight"].shape[1], shapes["student/3.weight"].shape[0]),
    )


@pytest.mark.parametrize(("decay", "times"), [("0.75", 1), ("0.9", 1), ("0.996", 1), ("0.75", 3)])
def test_the_teacher_moves_as_released(decay: str, times: int) -> None:
    case = tensors("ema_update")
    student, teacher = net(), net()
    for model, side in ((student, "student"), (teacher, "teacher")):
        model.load_state_dict({k.split("/")[1]: v for k, v in case.items() if k.startswith(side)})
    for _ in range(times):
        ema_update_(teacher, student, decay=float(decay), buffers="average")
    where = f"after3_keep{decay}/" if times == 3 else f"loaded_keep{decay}/"
    for name, value in teacher.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue  # a counter that nothing uses: theirs an average cut down, ours the student's
        torch.testing.assert_close(value, case[where + name].float(), rtol=1e-5, atol=1e-7)


def images(rows: np.ndarray, count: int) -> list[np.ndarray]:
    return [rows[rows[:, 0].astype(int) == i] for i in range(count)]


def test_voc_average_precision_as_released() -> None:
    case = load("voc_ap50")
    count = int(case["n_images"])
    truth = [
        BoxesOf(r[:, 2:6] - FROM_ONE, r[:, 1].astype(int), None, r[:, 6].astype(bool))
        for r in images(case["gt"], count)
    ]
    answers = [
        BoxesOf(r[:, 3:7], r[:, 1].astype(int), r[:, 2]) for r in images(case["detections"], count)
    ]
    for label, (points, area) in enumerate(
        zip(case["ap50_11point_per_class"], case["ap50_area_per_class"], strict=True)
    ):
        result = voc_ap(answers, truth, label, interpolation="11points")
        assert 100 * result == pytest.approx(points, abs=1e-6)
        result = voc_ap(answers, truth, label, interpolation="area")
        assert 100 * result == pytest.approx(np.nan_to_num(area), abs=1e-6)
    metric = DetectionMetric([str(name) for name in case["class_names"]])
    for answer, known in zip(answers, truth, strict=True):
        metric.update(answer, known)
    assert 100 * metric.compute()["voc07_ap50"] == pytest.approx(case["evaluator_AP50"], abs=1e-6)
    for threshold, key in ((0.75, "full_evaluator_AP75"), (0.5, "full_evaluator_AP50")):
        means = [
            voc_ap(answers, truth, c, interpolation="11points", iou=threshold) for c in range(4)
        ]
        assert 100 * np.mean(means) == pytest.approx(case[key], abs=1e-6)
