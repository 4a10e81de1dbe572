"""The paired interval: point values are those of reports, resamples those of repeated images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import small_det
import small_multi
import small_pose
import small_seg
import torch

from sfda.building_blocks.boxes import Boxes
from sfda.decision.change import Side
from sfda.decision.evaluation import make_evaluator
from sfda.decision.paired import gain_limits, paired_interval, resampled_gains
from sfda.loading.opened import Opened, open_split
from sfda.manifests.opening import open_manifest
from sfda.measures.resampled import Resampled, Tables, mean_average_precision, mean_of_present
from sfda.problems.classification.network import ClassOutput
from sfda.problems.detection.evaluation import ranked_by_class
from sfda.problems.detection.metrics import BoxesOf, DetectionMetric
from sfda.problems.multilabel.network import MultilabelOutput
from sfda.problems.pose.inference import Joints
from sfda.problems.registry import PROBLEMS
from sfda.problems.report_metrics import main_metric
from sfda.refs import ModelSpec
from sfda.types import Seen

CPU = torch.device("cpu")


def classes_of(folder: Path, random: np.random.Generator) -> tuple[Path, ModelSpec, Any]:
    path = small.write(folder, "target", small.target_arrays(), small.TARGET)

    def outputs(count: int) -> list[Any]:
        logits = torch.from_numpy(random.normal(size=(count, 3)))
        return [Seen(torch.arange(count), ClassOutput(torch.zeros(count, 1), logits))]

    return path, small.SPEC, outputs


def several_of(folder: Path, random: np.random.Generator) -> tuple[Path, ModelSpec, Any]:
    path = small_multi.write(folder, "target", small_multi.TARGET, seed=2)

    def outputs(count: int) -> list[Any]:
        logits = torch.from_numpy(random.normal(size=(count, len(small_multi.SPEC.classes))))
        return [Seen(torch.arange(count), MultilabelOutput(torch.zeros(count, 1), logits))]

    return path, small_multi.SPEC, outputs


def masks_of(folder: Path, random: np.random.Generator) -> tuple[Path, ModelSpec, Any]:
    path = small_seg.write(folder, "target", small_seg.TARGET, seed=2)

    def outputs(count: int) -> list[Any]:
        shape = (small_seg.SIZE, small_seg.SIZE)
        return [
            (row, random.integers(0, 3, shape).astype(np.uint8), np.zeros(shape, np.uint8))
            for row in range(count)
        ]

    return path, small_seg.SPEC, outputs


def boxes_of(folder: Path, random: np.random.Generator) -> tuple[Path, ModelSpec, Any]:
    path = small_det.write(folder, "target", small_det.TARGET, seed=2)
    spec = PROBLEMS["detection"].make_spec("sfda:tinyrcnn", small_det.CLASSES)
    truth = open_split(open_manifest(path), "test", spec.input).split.labels

    def outputs(count: int) -> list[Any]:
        made = []
        for row in range(count):
            known = truth[row]  # type: ignore[index]
            near = known.boxes + random.normal(scale=2.0, size=known.boxes.shape)
            boxes = torch.from_numpy(np.concatenate([near, near + 8]).astype(np.float32))
            labels = torch.from_numpy(np.concatenate([known.labels, known.labels]))
            scores = torch.from_numpy(random.random(len(labels)).astype(np.float32))
            made.append((row, Boxes(boxes, labels, scores)))
        return made

    return path, spec, outputs


def joints_of(folder: Path, random: np.random.Generator) -> tuple[Path, ModelSpec, Any]:
    path = small_pose.write(folder, "target", small_pose.TARGET)
    manifest = open_manifest(path)
    spec = PROBLEMS["pose"].make_spec(
        "sfda:tiny", manifest.classes, **PROBLEMS["pose"].manifest_options(manifest)
    )
    persons = open_split(manifest, "test", spec.input).split.labels

    def outputs(count: int) -> list[Any]:
        return [
            (
                row,
                Joints(
                    persons[row].joints + random.normal(scale=2.0, size=(len(spec.classes), 2)),  # type: ignore[index]
                    random.random(len(spec.classes)),
                ),
            )
            for row in range(count)
        ]

    return path, spec, outputs


MAKE = {
    "classification": classes_of,
    "multilabel": several_of,
    "segmentation": masks_of,
    "detection": boxes_of,
    "pose": joints_of,
}


@pytest.mark.parametrize("problem", MAKE)
def test_the_point_value_is_that_of_the_report(problem: str, tmp_path: Path) -> None:
    path, spec, outputs = MAKE[problem](tmp_path, np.random.default_rng(3))
    opened = open_split(open_manifest(path), "test", spec.input)
    made = outputs(len(opened.split))
    resampled = PROBLEMS[problem].resampled(opened, spec, made)
    report = make_evaluator(opened, spec, CPU, infer=lambda _: iter(made))(
        torch.nn.Identity(), None
    )
    assert resampled.metric == main_metric(report.metrics)
    value = resampled.of(np.ones(len(opened.split), np.int64))
    assert value == pytest.approx(report.metrics[resampled.metric], rel=1e-12)
    assert 0 < value < 1


def test_weights_count_an_image_as_often_as_they_say() -> None:
    tables = Tables(2)
    for truth, predicted in ((0, 0), (0, 1), (1, 1)):
        tables.add(np.array([truth]), np.array([predicted]))
    table = tables.summed()(np.array([2, 1, 0]))
    assert table.tolist() == [[2.0, 1.0], [0.0, 0.0]]
    assert mean_of_present(table.diagonal(), table.sum(1)) == pytest.approx(2 / 3)


def test_average_precision_of_a_resample_is_that_of_the_repeated_images() -> None:
    random, classes = np.random.default_rng(0), (0, 1)
    predictions, truth = [], []
    for _ in range(12):
        boxes = random.random((4, 4)) * 20
        boxes[:, 2:] += boxes[:, :2] + 5
        labels = random.integers(0, 2, 4)
        crowd = np.array([False, False, False, True])
        truth.append(BoxesOf(boxes, labels, None, crowd))
        guess = np.concatenate([boxes + random.normal(size=(4, 4)), boxes + 9])
        predictions.append(BoxesOf(guess, np.tile(labels, 2), random.random(8)))
    ranked = ranked_by_class(predictions, truth, classes)
    weights = np.array([3, 0, 1, 2, 0, 0, 1, 1, 0, 2, 1, 1])
    metric = DetectionMetric(("a", "b"))
    for row, times in enumerate(weights):
        for _ in range(times):
            metric.update(predictions[row], truth[row])
    value = mean_average_precision(ranked, weights)
    assert 0.2 < value < 0.9
    assert value == pytest.approx(metric.compute()["coco_ap50"], rel=1e-12)
    nothing = ranked_by_class(
        [prediction.where(np.zeros(8, bool)) for prediction in predictions], truth, classes
    )
    assert mean_average_precision(nothing, weights) == 0.0


class Fixed:
    """Classes that a network answers whatever it sees."""

    def __init__(self, answers: np.ndarray[Any, Any]) -> None:
        self.answers = answers

    def resampled(self) -> Resampled:
        right = self.answers.astype(float)
        return Resampled("accuracy", lambda weights: float(weights @ right) / weights.sum(), 2000)


def test_the_interval_is_that_of_the_paired_difference() -> None:
    """Its standard error is sqrt((d - g^2) / N), far below that of two samples."""
    size = 400
    before = np.zeros(size)
    before[:200] = 1
    after = before.copy()
    after[190:230] = 1 - after[190:230]  # 10 lost, 30 won
    gains = resampled_gains(
        Fixed(before).resampled(), Fixed(after).resampled(), np.arange(size), seed=0
    )
    low, high = np.quantile(gains, [0.05, 0.95])
    error = (0.1 - 0.05**2) ** 0.5 / size**0.5
    assert gains.mean() == pytest.approx(0.05, abs=0.002)
    assert (low, high) == pytest.approx((0.05 - 1.645 * error, 0.05 + 1.645 * error), abs=0.004)


def test_groups_are_drawn_whole() -> None:
    before, after = np.zeros(40), np.zeros(40)
    after[:20] = 1  # two groups of equal images: a resample has all of one, or half of both
    groups = np.repeat([0, 1], 20)
    gains = resampled_gains(Fixed(before).resampled(), Fixed(after).resampled(), groups, seed=0)
    assert set(gains.tolist()) == {0.0, 0.5, 1.0}


def test_the_metric_of_unknown_samples_is_that_of_the_report(tmp_path: Path) -> None:
    """Three classes in the labels, two that the model has; rejection, and no rejection."""
    path, _, outputs = classes_of(tmp_path, np.random.default_rng(5))
    spec = small.SPEC.model_copy(update={"classes": small.SPEC.classes[:2]})
    opened = open_split(open_manifest(path), "test", spec.input)
    rows, out = outputs(len(opened.split))[0]
    made = [Seen(rows, ClassOutput(out.features, out.logits[:, :2]))]
    for reject in (None, 0.8):
        own = spec.model_copy(update={"reject": reject})
        resampled = PROBLEMS["classification"].resampled(opened, own, made)
        report = make_evaluator(opened, own, CPU, infer=lambda _: iter(made))(
            torch.nn.Identity(), reject
        )
        value = resampled.of(np.ones(len(opened.split), np.int64))
        assert resampled.metric == main_metric(report.metrics) == "h_score"
        assert value == pytest.approx(report.metrics["h_score"], rel=1e-12)
        assert (value > 0) == (reject is not None)


def test_few_units_decide_nothing_and_some_only_carefully() -> None:
    """Of groups without a gain, few seem to have one; so many that it is 11 % without care."""
    random = np.random.default_rng(0)
    for count, most in ((1, 0.0), (4, 0.0), (5, 0.075), (8, 0.075)):
        wrong = 0
        for _ in range(600):
            each = random.normal(size=count) / 10
            drawn = random.multinomial(count, np.full(count, 1 / count), 300)
            wrong += gain_limits(drawn @ each / count, count, 0.05)[0] > 0
        assert wrong / 600 <= most
        assert wrong or not most
    assert gain_limits(np.full(500, 0.2), 4, 0.05) == (-1.0, 1.0)
    assert gain_limits(np.full(500, 0.2), 5, 0.05) == pytest.approx((0.2, 0.2))
    many = gain_limits(np.linspace(0, 1, 1001), 10_000, 0.05)
    assert many == pytest.approx((0.05, 0.95), abs=1e-3)


def test_a_split_too_small_is_named_so(tmp_path: Path) -> None:
    sizes = {"train": 3, "test": 4}
    path = small.write(tmp_path, "target", small.arrays(sizes, seed=1), sizes)
    opened = open_split(open_manifest(path), "test", small.SPEC.input)
    side = Side(small.source(), small.SPEC, opened)
    result = paired_interval(side, side, CPU, alpha=0.05)
    assert result.text().endswith("4 images of test are too few to tell a gain")


def test_persons_of_one_image_are_drawn_together(tmp_path: Path) -> None:
    path, spec, _ = joints_of(tmp_path, np.random.default_rng(0))
    opened = open_split(open_manifest(path), "test", spec.input)
    assert len(opened.split) > 5
    names = tuple(f"{number // 2}.png@{number % 2 + 1}" for number in range(len(opened.split)))
    pairs = Opened(replace(opened.split, names=names), opened.images, opened.seen)
    side = Side(PROBLEMS["pose"].build_from_spec(spec).eval(), spec, pairs)
    result = paired_interval(side, side, CPU, alpha=0.05)
    assert result.units == "images"
    assert result.count == (len(names) + 1) // 2


def test_a_model_against_itself_gains_nothing(tmp_path: Path) -> None:
    path = small.write(tmp_path, "target", small.target_arrays(), small.TARGET)
    opened: Opened = open_split(open_manifest(path), "test", small.SPEC.input)
    side = Side(small.source(), small.SPEC, opened)
    result = paired_interval(side, side, CPU, alpha=0.05)
    assert (result.low, result.high) == (0.0, 0.0)
    assert result.before == result.after
    assert (result.count, result.units, result.split) == (len(opened.split), "images", "test")
    assert "gain +0.0 to +0.0 points (90 % interval)" in result.text()
