"""Reliability: how often answers of which a model is about as sure are right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sfda.formats.keypoints import Person
from sfda.problems.classification.metrics import ClassificationMetric, reliability_of
from sfda.problems.detection.evaluation import box_reliability
from sfda.problems.detection.metrics import BoxesOf
from sfda.problems.multilabel.metrics import MultilabelMetric
from sfda.problems.pose.metrics import PoseMetric
from sfda.problems.segmentation.evaluation import MaskPair, segmentation_report
from sfda.refs import Skeleton
from sfda.types import UNKNOWN, UNSURE


def test_classes_are_binned_by_the_likeliest_ones_probability():
    metric = ClassificationMetric(("a", "b"))
    logits = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.99, 0.01], [0.6, 0.4]]).log()
    metric.update(logits, torch.tensor([0, 1, 0, UNKNOWN]))
    low, high = metric.reliability()
    assert low == pytest.approx((2, 0.6, 0.5)), "an unknown sample has no right class"
    assert high == pytest.approx((1, 0.99, 1.0))


def test_several_labels_are_binned_by_the_likelier_of_yes_and_no():
    metric = MultilabelMetric(("a", "b"))
    assert metric.reliability() == ()
    probs = torch.tensor([[0.2, 0.8], [0.8, 0.01]])
    metric.update(probs.logit(), torch.tensor([[0, 0], [UNSURE, 0]]))
    low, high = metric.reliability()
    assert low == pytest.approx((2, 0.8, 0.5)), "no at 0.2 is as sure as yes at 0.8"
    assert high == pytest.approx((1, 0.99, 1.0))


def boxes(*corners, labels, scores=None, crowd=None):
    return BoxesOf(
        np.array(corners, float).reshape(-1, 4),
        np.array(labels),
        None if scores is None else np.array(scores),
        None if crowd is None else np.array(crowd),
    )


def test_of_boxes_the_surest_takes_what_is_there_and_a_crowd_does_not_count():
    here, there, away = (0, 0, 10, 10), (1, 0, 11, 10), (50, 50, 60, 60)
    predicted = boxes(here, there, here, away, labels=[0, 0, 1, 0], scores=[0.9, 0.95, 0.5, 0.3])
    truth = boxes(here, away, labels=[0, 0], crowd=[0, 1])
    low, *high = box_reliability([predicted], [truth])
    assert low == pytest.approx((1, 0.5, 0.0)), "of another class"
    # the surer one, though it lies less well, has the box; the other is invented
    assert high == [pytest.approx((1, 0.9, 0.0)), pytest.approx((1, 0.95, 1.0))]
    assert box_reliability([predicted], [boxes(labels=[])])[0].right == 0


def test_pixels_are_counted_by_the_probability_of_their_class():
    truth = np.array([[0, 1], [255, 1]], np.uint8)
    mask = np.array([[0, 0], [0, 1]], np.uint8)
    sure = np.array([[255, 51], [255, 51]], np.uint8)
    report = segmentation_report([MaskPair(mask, truth, confidence=sure)], ("a", "b"), split="test")
    low, high = report.reliability
    assert low == (2, pytest.approx(0.2), 0.5)
    assert high == (1, 1.0, 1.0)  # the pixel that does not count is in none
    assert segmentation_report([MaskPair(mask, truth)], ("a", "b"), split="test").reliability == ()


def test_joints_are_counted_by_their_peaks():
    metric = PoseMetric(("head", "hip", "foot"), Skeleton())
    person = Person(
        joints=np.zeros((3, 2)), visible=np.array([2, 2, 0]), box=(0.0, 0.0, 10.0, 10.0), area=100.0
    )
    far = np.array([[0.5, 0.0], [5.0, 0.0], [0.0, 0.0]])
    metric.update(far, np.array([1.2, 0.3, 0.9]), person)
    low, high = reliability_of(metric.bins())
    assert low == (1, pytest.approx(0.3), 0.0)
    assert high == (1, 1.0, 1.0)
