"""Average precision against values by hand and pycocotools' own summary; pictures of boxes."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sfda.problems.detection.change import boxes_changed
from sfda.problems.detection.metrics import (
    BoxesOf,
    DetectionMetric,
    coco_predictions,
    coco_truth,
    matched,
    overlaps,
    voc_ap,
)
from sfda.problems.detection.panel import BoxSample, box_panel
from sfda.problems.report_metrics import main_metric, score_of


def boxes(*entries: tuple[float, int, float]) -> BoxesOf:
    """Boxes of 10 by 10 pixels at x, of a class, with a score."""
    corners = np.array([[x, 0, x + 10, 10] for x, _, _ in entries], float).reshape(-1, 4)
    labels = np.array([c for _, c, _ in entries], int)
    return BoxesOf(corners, labels, np.array([s for _, _, s in entries], float))


def truth(*entries: tuple[float, int]) -> BoxesOf:
    return boxes(*((x, c, 1.0) for x, c in entries))._replace(scores=None)


def test_a_curve_by_hand() -> None:
    metric = DetectionMetric(("a", "b"))
    # of class a two boxes: found at 0.9, a miss at 0.8, found at 0.7
    metric.update(boxes((0, 0, 0.9), (50, 0, 0.8), (100, 0, 0.7)), truth((0, 0), (100, 0)))
    result = metric.compute()
    # precision 1 up to recall 0.5, then 2/3
    assert result["coco_ap50"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    assert result["voc_ap50_area"] == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert result["voc07_ap50"] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11 / 2)  # b counts 0
    assert result["coco_ap"] == pytest.approx(result["coco_ap50"])  # the boxes fit exactly
    assert metric.per_class()["b"] == {"boxes": 0.0}
    assert main_metric(result) == "coco_ap50"
    assert score_of(result)[:2] == ("boxes", "ap50")


def test_a_class_that_is_not_counted_is_neither_right_nor_wrong() -> None:
    metric = DetectionMetric(("a", "b"), counted=[0])
    metric.update(boxes((0, 0, 0.9), (50, 1, 0.99)), truth((0, 0)))
    assert metric.compute()["voc07_ap50"] == 1.0
    assert set(metric.per_class()) == {"a"}


def test_boxes_to_be_ignored_count_for_nothing() -> None:
    known = truth((0, 0), (50, 0))._replace(crowd=np.array([False, True]))
    metric = DetectionMetric(("a",))
    metric.update(boxes((50, 0, 0.99), (0, 0, 0.9)), known)
    assert metric.compute()["coco_ap50"] == pytest.approx(1.0)
    assert metric.compute()["voc_ap50_area"] == pytest.approx(1.0)
    assert metric.per_class()["a"]["boxes"] == 1.0


def test_an_answer_twice_is_wrong_once_and_an_iou_of_a_half_is_too_little_for_voc() -> None:
    answers, known = [boxes((0, 0, 0.9), (0.5, 0, 0.8))], [truth((0, 0))]
    assert voc_ap(answers, known, 0, interpolation="area") == 1.0
    twice = [boxes((0, 0, 0.8), (0.5, 0, 0.9))]
    assert voc_ap(twice, known, 0, interpolation="area") == 1.0  # the surer one is taken
    third = np.array([[0, 0, 10, 5]], float)
    half = [BoxesOf(third, np.array([0]), np.array([0.9]))]
    assert voc_ap(half, known, 0, interpolation="area") == 0.0
    assert voc_ap([boxes()], known, 0, interpolation="area") == 0.0
    assert voc_ap(answers, [truth()], 0, interpolation="11points") == 0.0


def test_no_answers_no_truth_no_images() -> None:
    metric = DetectionMetric(("a", "b"))
    with pytest.raises(ValueError, match="no images"):
        metric.compute()
    metric.update(boxes(), truth((0, 0)))
    assert set(metric.compute().values()) == {0.0}
    empty = DetectionMetric(("a",))
    empty.update(boxes((0, 0, 0.9)), truth())
    assert set(empty.compute().values()) == {0.0}
    assert empty.confusion() == [[0, 0], [1, 0]]


def test_the_same_as_pycocotools_tells() -> None:
    rng = np.random.default_rng(0)
    metric = DetectionMetric(("a", "b", "c"))
    for _ in range(12):
        known = [(float(x), int(rng.integers(0, 3))) for x in rng.choice(30, 4, False) * 12]
        output = [
            (x + rng.normal(0, 1.5), c if rng.random() < 0.8 else 0, rng.random()) for x, c in known
        ]
        output += [(float(rng.integers(0, 300)), int(rng.integers(0, 3)), rng.random() * 0.6)]
        metric.update(boxes(*output), truth(*known))
    with contextlib.redirect_stdout(io.StringIO()):
        document = COCO()
        document.dataset = coco_truth(metric.truth, range(3))
        document.createIndex()
        results = document.loadRes(coco_predictions(metric.predictions))
        evaluation = COCOeval(document, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    result = metric.compute()
    for name, value in zip(("coco_ap", "coco_ap50", "coco_ap75"), evaluation.stats, strict=False):
        assert result[name] == pytest.approx(value, abs=1e-9)
        assert 0.1 < value < 0.95


def test_confusion_matches_the_largest_overlaps_first() -> None:
    metric = DetectionMetric(("a", "b"))
    metric.update(boxes((0, 1, 0.9), (1, 0, 0.8), (50, 0, 0.4)), truth((0, 0), (80, 1)))
    # the exact box is class b's; the other answer is left over; the unsure one is not looked at
    assert metric.confusion() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert matched(overlaps(np.zeros((0, 4)), np.zeros((2, 4))), 0.5) == []


def test_pictures_show_what_changed() -> None:
    one, other = boxes((0, 0, 0.9), (20, 1, 0.9)), boxes((0, 0, 0.9), (20, 0, 0.9), (5, 1, 0.1))
    assert boxes_changed(one, one) == 0.0
    assert boxes_changed(one, other) == pytest.approx(0.5)
    assert boxes_changed(boxes(), boxes()) == 0.0
    image = np.full((30, 60, 3), 180, np.uint8)
    sample = BoxSample("some/where/image.png", image, one, other, truth((0, 0)))
    drawn = box_panel([sample, sample], ("a", "b"), title="title")
    picture = np.asarray(Image.open(io.BytesIO(drawn)).convert("RGB"))
    red = np.array([230, 25, 75])
    assert (np.abs(picture.astype(int) - red).sum(-1) < 30).sum() > 50
    nothing = box_panel([BoxSample("x", image, boxes(), boxes())], ("a",), title="t")
    assert Image.open(io.BytesIO(nothing)).size[0] > 100
