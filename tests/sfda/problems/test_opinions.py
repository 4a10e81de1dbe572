"""The consensus of several models, and who backs whom, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sfda.measures.opinions import ClassOpinions, PoolSize, mean_share
from sfda.problems.detection.change import BoxOpinions, consensus_of
from sfda.problems.detection.metrics import BoxesOf
from sfda.problems.multilabel.change import opinions as yes_opinions
from sfda.problems.multilabel.network import MultilabelOutput
from sfda.problems.pose.change import JointOpinions
from sfda.problems.segmentation.change import opinions as pixel_opinions
from sfda.problems.segmentation.network import SegOutput


def classes(*rows: list[float]) -> ClassOpinions:
    return ClassOpinions(np.array(rows, np.float16)[:, None])


def test_the_consensus_of_classes_is_the_likeliest_of_the_weighted_mean() -> None:
    one = classes([0.6, 0.4], [0.6, 0.4])
    others = [classes([0.45, 0.55], [0.0, 1.0]), classes([0.45, 0.55], [0.7, 0.3])]
    assert one.common(others, [1 / 3] * 3).tolist() == [[0], [1]]
    assert one.common(others, [0.8, 0.1, 0.1]).tolist() == [[0], [0]]
    counts = one.matched(np.array([[0], [1]]))
    assert (counts.seen.tolist(), counts.same.tolist()) == ([[1], [1]], [[1], [0]])
    assert mean_share(counts.seen.sum(0), counts.same.sum(0)) == 0.5


def test_pixels_are_a_function_of_the_row_and_few() -> None:
    logits = torch.randn(3, 5, 40, 30, generator=torch.Generator().manual_seed(0))
    output = SegOutput(logits, logits)
    size = PoolSize(10_000, 5)
    kept = pixel_opinions(output, [4, 5, 6], size)
    assert kept.probs.shape == (3, 2**22 // 50_000, 5)
    assert pixel_opinions(output, [4, 5, 6], PoolSize(3, 5)).probs.shape == (3, 256, 5)
    again = pixel_opinions(SegOutput(logits[1:2], logits[1:2]), [5], size)
    assert (again.probs[0] == kept.probs[1]).all()
    row, column = (
        int(share[0] * length)
        for share, length in zip(
            np.random.Generator(np.random.Philox(key=4)).random((2, 83)), (40, 30), strict=True
        )
    )
    expected = logits[0, :, row, column].softmax(0).numpy()
    assert kept.probs[0, 0] == pytest.approx(expected, abs=1e-3)
    joined = ClassOpinions.joined([kept, again])
    assert joined.probs.shape[0] == 4
    assert kept.same_as(kept)
    assert not kept.same_as(again)


def test_a_class_is_there_if_the_mean_says_so() -> None:
    def yes(*rows: list[float]):  # type: ignore[no-untyped-def]
        logits = torch.tensor(rows).logit()
        return yes_opinions(MultilabelOutput(logits, logits), [0], PoolSize(1, 2))

    one, other, third = yes([0.9, 0.2]), yes([0.2, 0.1]), yes([0.6, 0.4])
    common = one.common([other, third], [1 / 3] * 3)
    assert common.tolist() == [[True, False]]
    counts = other.matched(common)
    assert (counts.seen.tolist(), counts.same.tolist()) == ([[0.5, 0]], [[0, 0]])
    assert mean_share(*(part.sum(0) for part in one.matched(common))) == 0.5, "of two classes one"
    assert [part.tolist() for part in one.backed(other, third)] == [[1], [0]]
    even = yes([0.5, 0.5])
    assert even.information() == pytest.approx(0, abs=1e-6)


def test_the_consensus_of_joints_is_their_median() -> None:
    def at(*places: float) -> JointOpinions:
        return JointOpinions(np.array([[[x, 0.5] for x in places]], np.float32))

    one, other, far = at(0.10, 0.2), at(0.12, 0.2), at(0.90, 0.2)
    common = one.common([other, far], [1 / 3] * 3)
    assert common[0, :, 0] == pytest.approx([0.12, 0.2])
    assert one.matched(common).same.tolist() == [[1, 1]]
    assert far.matched(common).same.tolist() == [[0, 1]]
    assert [part.tolist() for part in one.backed(far, other)] == [[1], [0]]
    assert [part.tolist() for part in one.backed(other, far)] == [[0], [0]], "not far apart"


def boxes(*corners: tuple[float, ...], label: int = 0, score: float = 0.8) -> BoxesOf:
    count = len(corners)
    return BoxesOf(
        np.array(corners, np.float32).reshape(-1, 4), np.full(count, label), np.full(count, score)
    )


A, B = (0.0, 0.0, 10.0, 10.0), (40.0, 0.0, 50.0, 10.0)


def test_a_box_that_most_members_have_is_agreed_on() -> None:
    near = (0.0, 0.0, 10.0, 8.0)
    agreed = consensus_of([boxes(A, B), boxes(near), boxes(A, label=1), boxes(A)])
    assert agreed.labels.tolist() == [0]
    assert agreed.boxes[0] == pytest.approx([0, 0, 10, 28 / 3])
    assert not len(consensus_of([boxes(A), boxes()]).labels), "half are not most"
    assert not len(consensus_of([boxes(A, A), boxes(), boxes()]).labels), "each member counts once"


def test_boxes_agree_by_class() -> None:
    one = BoxOpinions((boxes(A, B), boxes()), 2)
    common = one.common([one, BoxOpinions((boxes(A), boxes()), 2)], [1 / 3] * 3)
    counts = one.matched(common)
    assert (counts.seen.tolist(), counts.same.tolist()) == ([[2, 0], [0, 0]], [[2, 0], [0, 0]])
    fewer = BoxOpinions((boxes(A), boxes()), 2).matched(common)
    assert (fewer.seen[0].tolist(), fewer.same[0].tolist()) == ([1.5, 0], [1, 0])


def test_a_third_detector_backs_a_box_or_its_absence() -> None:
    both, one, none = (BoxOpinions((part,), 1) for part in (boxes(A, B), boxes(A), boxes()))
    assert [part.tolist() for part in both.backed(one, both)] == [[1], [0]]
    assert [part.tolist() for part in both.backed(one, none)] == [[0], [1]]
    assert [part.tolist() for part in one.backed(both, none)] == [[1], [0]]
