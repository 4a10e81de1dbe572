"""When an answer is "unknown", and what is measured where samples are."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sfda.adaptation.scoring import score_unlabelled
from sfda.building_blocks.rejection import TwoClusters, predicted_labels, uncertainty
from sfda.problems.classification.evaluation import classification_report
from sfda.problems.classification.metrics import (
    ClassificationMetric,
    open_set_metrics,
)
from sfda.problems.classification.network import ClassOutput
from sfda.problems.report_metrics import main_metric
from sfda.refs import ModelSpec
from sfda.types import SeenViews

GOLDEN = Path(__file__).parents[2] / "golden"


def output(probs: list[list[float]]) -> ClassOutput:
    logits = torch.tensor(probs).clamp_min(1e-30).log()
    return ClassOutput(logits, logits)


def test_uncertainty_is_entropy_by_its_largest_value():
    probs = torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]])
    expected = torch.tensor([1.0, 0.0, math.log(2) / math.log(4)])
    torch.testing.assert_close(uncertainty(probs), expected, atol=1e-4, rtol=0)


def test_only_what_is_above_the_threshold_is_unknown():
    probs = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])
    assert predicted_labels(probs, None).tolist() == [0, 0, 1]
    assert predicted_labels(probs, 0.7).tolist() == [-1, 0, -1]
    assert predicted_labels(probs, 0.75).tolist() == [-1, 0, 1]


def test_two_clusters_give_the_threshold_between_them():
    clusters = TwoClusters()
    low, high = [[0.99, 0.01]] * 3, [[0.55, 0.45]] * 2
    clusters.update(output(low))
    clusters.update(output(high))
    ends = uncertainty(torch.tensor([low[0], high[0]]))
    assert clusters.compute() == pytest.approx(float(ends.mean()), abs=1e-5)


def test_a_judgement_knows_the_threshold():
    seen = [SeenViews(torch.arange(2), output([[0.99, 0.01], [0.5, 0.5]]))]
    assert score_unlabelled(seen, {}).reject is None
    assert score_unlabelled(seen, {}, 0.55).reject == 0.55
    assert 0.2 < score_unlabelled(seen, {}, "auto").reject < 0.8


def test_open_metrics_by_hand():
    metric = ClassificationMetric(("a", "b", "c"), reject=0.9)
    even, sure = [1 / 3] * 3, [0.98, 0.01, 0.01]
    metric.update(output([sure, even, sure, even, sure]).logits, torch.tensor([0, 0, 1, -1, -1]))
    result = metric.compute()
    assert result["os_star"] == pytest.approx((1 / 2 + 0) / 2), "c does not occur"
    assert result["unk"] == pytest.approx(1 / 2)
    assert result["os"] == pytest.approx((1 / 2 + 0 + 1 / 2) / 3)
    assert result["hos"] == result["h_score"] == pytest.approx(2 * 0.25 * 0.5 / 0.75)
    assert result["overall_accuracy"] == pytest.approx(2 / 5)
    assert result["macro_accuracy"] == pytest.approx(result["os"])
    assert result["rejected_share"] == pytest.approx(2 / 5)
    assert main_metric(result) == "h_score"
    assert metric.classes == ("a", "b", "c", "unknown")
    assert metric.confusion.tolist() == [[1, 0, 0, 1], [1, 0, 0, 0], [0] * 4, [1, 0, 0, 1]]
    assert metric.per_class()["unknown"] == {"accuracy": 0.5, "count": 2.0}
    assert metric.per_class()["c"] == {"count": 0.0}
    log_loss = -(math.log(0.98) + math.log(1 / 3) + math.log(0.01)) / 3
    assert result["log_loss"] == pytest.approx(log_loss, abs=1e-4), "known samples alone"


def test_answering_a_class_that_the_target_lacks_is_an_error():
    counts = torch.tensor([[3, 1, 0], [0, 0, 0], [0, 2, 2]])  # source-private: the second
    result = open_set_metrics(counts)
    assert (result["os_star"], result["unk"]) == (0.75, 0.5)


def test_no_unknown_right_gives_zero_and_not_nan():
    result = open_set_metrics(torch.tensor([[0, 1, 0], [1, 0, 0], [1, 0, 0]]))
    assert result["h_score"] == 0.0


def test_a_closed_target_and_a_model_that_rejects():
    metric = ClassificationMetric(("a", "b"), reject=0.9)
    metric.update(output([[0.5, 0.5], [0.99, 0.01]]).logits, torch.tensor([0, 0]))
    result = metric.compute()
    assert result["macro_accuracy"] == 0.5
    assert result["rejected_share"] == 0.5
    assert "h_score" not in result
    assert main_metric(result) == "macro_accuracy"


def test_unknown_samples_alone_have_no_calibration():
    metric = ClassificationMetric(("a", "b"))
    metric.update(output([[0.9, 0.1]]).logits, torch.tensor([-1]))
    assert metric.compute() == {"overall_accuracy": 0.0, "macro_accuracy": 0.0}


def test_glc_h_score():
    with np.load(GOLDEN / "glc_hscore.npz", allow_pickle=False) as g:
        prob, gt = torch.from_numpy(g["prob"]), torch.from_numpy(g["gt"]).long()
        shared, entropy = int(g["shared"]), torch.from_numpy(g["norm_entropy"])
        torch.testing.assert_close(uncertainty(prob), entropy, rtol=1e-5, atol=1e-6)
        labels = torch.where(gt < shared, gt, -1)
        names = [key for key in g.files if key.startswith("open_") and "perclass" not in key]
        assert names
        for name in names:
            metric = ClassificationMetric([str(i) for i in range(prob.shape[1])],
                                          reject=float(name.removeprefix("open_")))  # fmt: skip
            metric.update(prob.log(), labels)
            result = open_set_metrics(metric.counts, eps=1e-5)
            got = [result["h_score"], result["os_star"], result["unk"]]
            np.testing.assert_allclose(got, g[name], atol=1e-6, err_msg=name)
        closed = ClassificationMetric([str(i) for i in range(prob.shape[1])])
        closed.update(prob[:140].log(), labels[:140])
        np.testing.assert_allclose(
            closed.compute()["overall_accuracy"], g["closed_hku"][1], atol=1e-5
        )


def test_a_report_of_an_open_target_names_unknown():
    pairs = [(output([[0.5, 0.5], [0.99, 0.01]]), torch.tensor([-1, 0]))]
    result = classification_report(pairs, ("cat", "dog"), split="test", reject=0.9)
    assert result.metrics["h_score"] == 1.0
    assert list(result.per_class) == ["cat", "dog", "unknown"]
    assert len(result.confusion) == 3


def test_a_class_called_unknown_and_rejection_exclude_each_other():
    inputs = {
        "problem": "classification", "arch": "sfda:tiny", "classes": ("a", "unknown"),
        "input": {"size": (16, 16), "channels": "gray", "mean": (0.5,), "std": (0.5,)}, "views": {},
    }  # fmt: skip
    assert ModelSpec.model_validate(inputs).reject is None
    with pytest.raises(ValueError, match="called 'unknown'"):
        ModelSpec.model_validate({**inputs, "reject": 0.5})
