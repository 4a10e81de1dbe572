"""Reliability: how often answers of which a model is about as sure are right."""

from __future__ import annotations

import pytest
import torch

from sfda.problems.classification.metrics import ClassificationMetric
from sfda.problems.multilabel.metrics import MultilabelMetric
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
