"""Metrics of masks, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sfda.errors import BadInput
from sfda.problems.segmentation.metrics import SegmentationMetric

CLASSES = ("background", "organ", "lesion")


def mask(text):
    """Rows of digits; `x` does not count."""
    rows = [[255 if c == "x" else int(c) for c in row] for row in text.split()]
    return np.array(rows, np.uint8)


def test_overlaps_and_accuracies_by_hand():
    metric = SegmentationMetric(CLASSES)
    metric.update(mask("0011 0011"), mask("0001 0x11"))
    result = metric.compute()
    # seven pixels count; one of background was called organ
    assert metric.confusion.tolist() == [[3, 1, 0], [0, 3, 0], [0, 0, 0]]
    assert result["mean_iou"] == pytest.approx((3 / 4 + 3 / 4) / 2)
    assert result["mean_iou_absent_zero"] == pytest.approx((3 / 4 + 3 / 4 + 0) / 3)
    assert result["pixel_accuracy"] == pytest.approx(6 / 7)
    assert result["macro_pixel_accuracy"] == pytest.approx((3 / 4 + 1) / 2)
    # organ 2*3/(4+3); lesion in neither mask counts 1; the background has no part
    assert result["mean_dice"] == pytest.approx((6 / 7 + 1) / 2)
    assert not {"hd95_mm", "hd95_undefined"} & set(result)


def test_iou_is_of_the_whole_set_and_dice_of_each_image():
    metric = SegmentationMetric(("road", "car"))
    metric.update(mask("01"), mask("01"))
    metric.update(mask("00 00"), mask("01 11"))
    result = metric.compute()
    assert result["mean_iou"] == pytest.approx((2 / 5 + 1 / 4) / 2)
    road, car = (1 + 2 * 1 / (4 + 1)) / 2, (1 + 0) / 2
    assert result["mean_dice"] == pytest.approx((road + car) / 2)
    rows = metric.per_class()
    assert rows["car"]["dice"] == pytest.approx(car)
    assert rows["car"]["iou"] == pytest.approx(1 / 4)
    assert rows["car"]["pixels"] == 4
    assert rows["car"]["images"] == 2


def test_dice_of_a_volume_adds_up_its_slices():
    metric = SegmentationMetric(CLASSES)
    for answer, truth in (("11", "10"), ("00", "01")):
        metric.update(mask(answer), mask(truth), group="a")
    metric.update(mask("11"), mask("11"), group="b")
    organ = (2 * 1 / (2 + 2) + 1) / 2
    assert metric.compute()["mean_dice"] == pytest.approx((organ + 1) / 2)


def test_an_answer_of_an_absent_class_is_an_error_of_its_own_iou():
    metric = SegmentationMetric(("a", "b", "c"))
    metric.update(mask("02"), mask("00"))
    assert metric.compute()["mean_iou"] == pytest.approx((1 / 2 + 0) / 2)
    assert "iou" not in metric.per_class()["b"]
    assert metric.per_class()["c"]["iou"] == 0


def test_distances_are_in_mm_of_images():
    metric = SegmentationMetric(CLASSES)
    answer, truth = np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.uint8)
    answer[1, 1], truth[4, 5] = 1, 1
    truth[8, 8] = 2  # the answer has none: no distance, and that is counted
    metric.update(answer, truth, spacing=(2.0, 0.5))
    result = metric.compute()
    assert result["hd95_mm"] == pytest.approx((6**2 + 2**2) ** 0.5)
    assert result["assd_mm"] == pytest.approx((6**2 + 2**2) ** 0.5)
    assert result["hd95_undefined"] == 1
    assert metric.per_class()["organ"]["hd95_mm"] == pytest.approx(result["hd95_mm"])
    assert "hd95_mm" not in metric.per_class()["lesion"]
    truth[8, 8] = 0
    metric.update(answer, truth, spacing=(2.0, 0.5))  # neither has it: no distance either
    assert metric.compute()["hd95_undefined"] == 2


def test_distances_of_volumes_go_through_the_slices():
    metric = SegmentationMetric(CLASSES)
    for number in range(4):
        answer, truth = np.zeros((5, 5), np.uint8), np.zeros((5, 5), np.uint8)
        answer[2, 2] = number == 0
        truth[2, 2] = number == 3
        metric.update(answer, truth, group="v", spacing=(3.0, 1.0, 1.0))
    assert metric.compute()["hd95_mm"] == pytest.approx(9.0)


def test_pixels_that_do_not_count_make_no_surface():
    metric = SegmentationMetric(CLASSES)
    answer = mask("1000 0000 0001")
    truth = mask("1000 0000 000x")
    metric.update(answer, truth, spacing=(1.0, 1.0))
    assert metric.compute()["hd95_mm"] == 0


def test_slices_that_do_not_follow_each_other_are_refused():
    metric = SegmentationMetric(CLASSES)
    for group in ("a", "b"):
        metric.update(mask("01"), mask("01"), group=group)
    with pytest.raises(BadInput, match="slices of volume a do not follow"):
        metric.update(mask("01"), mask("01"), group="a")


def test_slices_of_several_sizes_have_no_distance():
    metric = SegmentationMetric(CLASSES)
    metric.update(mask("01"), mask("01"), group="a", spacing=(1.0, 1.0, 1.0))
    with pytest.raises(BadInput, match="slices of volume a differ in size"):
        metric.update(mask("011"), mask("011"), group="a", spacing=(1.0, 1.0, 1.0))


def test_an_image_without_a_pixel_that_counts_does_not_raise_dice():
    metric = SegmentationMetric(("road", "car"))
    metric.update(mask("01 11"), mask("00 00"))
    before = metric.compute()
    metric.update(mask("01"), mask("xx"))
    assert before["mean_dice"] == pytest.approx((2 * 1 / (1 + 4) + 0) / 2)
    assert metric.compute() == before
    assert metric.count == 2


def test_what_is_undefined_is_left_out():
    metric = SegmentationMetric(("background",))
    metric.update(mask("00"), mask("00"), spacing=(1.0, 1.0))
    assert metric.compute() == dict.fromkeys(
        ("mean_iou", "mean_iou_absent_zero", "pixel_accuracy", "macro_pixel_accuracy"), 1.0
    )


def test_nothing_has_no_metric():
    metric = SegmentationMetric(CLASSES)
    with pytest.raises(ValueError, match="no images"):
        metric.compute()
    metric.update(mask("01"), mask("xx"))
    with pytest.raises(ValueError, match="none with a pixel that counts"):
        metric.compute()
    assert metric.per_class()["organ"] == {"pixels": 0, "images": 0}
