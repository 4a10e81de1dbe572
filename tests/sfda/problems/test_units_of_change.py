"""Where two models differ, by hand: the units of each problem, and what an answer to one says."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import small
import torch

from sfda.building_blocks.boxes import Boxes
from sfda.errors import NotFinite
from sfda.formats.keypoints import CropReader
from sfda.manifests.rows import Split
from sfda.measures.change import CANNOT_TELL, NO, NONE_OF_THESE, YES, ImageUnits, Unit
from sfda.problems.classification.network import ClassOutput
from sfda.problems.detection.change import boxes_changed
from sfda.problems.detection.metrics import BoxesOf
from sfda.problems.multilabel.network import MultilabelOutput
from sfda.problems.pose.inference import Joints
from sfda.problems.registry import PROBLEMS
from sfda.problems.segmentation.change import class_counts
from sfda.types import UNKNOWN, Seen

SPEC = small.SPEC.model_copy(update={"classes": ("a", "b", "c")})


def units(problem: str, one: object, other: object, **how: float) -> ImageUnits:
    return PROBLEMS[problem].changed(one, other, SPEC, **how)


def all_of(image: ImageUnits) -> list[Unit]:
    return [image.unit(number) for number in range(image.changed)]


def others_of(image: ImageUnits) -> list[Unit]:
    assert image.unchanged is not None
    return [image.unchanged(number) for number in range(image.answers - image.changed)]


def swapped(unit: Unit) -> Unit:
    return unit._replace(first=unit.second, second=unit.first)


def boxes(*entries: tuple[int, tuple[float, float, float, float], float]) -> BoxesOf:
    corners = np.array([corners for _, corners, _ in entries], np.float32).reshape(-1, 4)
    labels = np.array([label for label, _, _ in entries], np.int64)
    return BoxesOf(corners, labels, np.array([score for _, _, score in entries], np.float32))


# classification


def test_an_image_of_another_class_is_a_unit():
    image = units("classification", 0, 2)
    assert (image.answers, image.changed, image.by_class) == (1, 1, {"a": (1, 1)})
    assert all_of(image) == [Unit((), "", "a", "c")]
    same = units("classification", 1, 1)
    assert (same.changed, same.by_class) == (0, {"b": (1, 0)})
    assert others_of(same) == [Unit((), "", "b", "b")]


def test_known_and_unknown_are_two_answers():
    assert all_of(units("classification", UNKNOWN, 1)) == [Unit((), "", "unknown", "b")]
    assert units("classification", UNKNOWN, UNKNOWN).changed == 0


def test_a_classifier_answers_unknown_above_its_threshold():
    logits = torch.tensor([[5.0, 0.0, 0.0], [0.1, 0.0, 0.0]])
    output = Seen(torch.tensor([7, 8]), ClassOutput(torch.zeros(2, 1), logits))
    problem = PROBLEMS["classification"]
    assert list(problem.answers(output, SPEC)) == [(7, 0), (8, 0)]
    rejecting = SPEC.model_copy(update={"reject": 0.9})
    assert list(problem.answers(output, rejecting)) == [(7, 0), (8, UNKNOWN)]
    with pytest.raises(NotFinite):
        list(problem.answers(Seen(output.rows, output.output._replace(logits=logits / 0)), SPEC))


@pytest.mark.parametrize("problem", ["classification", "segmentation"])
@pytest.mark.parametrize(
    ("answer", "x"),
    [("b", (1.0,)), ("a", (-1.0,)), ("c", (0.0,)), (CANNOT_TELL, (0.0,)), (NONE_OF_THESE, (0.0,)),
     ("", None)],
)  # fmt: skip
def test_a_class_speaks_for_the_model_that_answers_it(problem, answer, x):
    unit = Unit((), "", "a", "b")
    assert PROBLEMS[problem].x_of(unit, answer) == x
    assert PROBLEMS[problem].x_of(swapped(unit), answer) == (x and (-x[0],))
    assert PROBLEMS[problem].x_of(Unit((), "", "b", "b"), answer) == (x and (0.0,))


def test_none_of_these_speaks_for_a_classifier_that_rejects():
    x_of = PROBLEMS["classification"].x_of
    assert x_of(Unit((), "", "a", "unknown"), NONE_OF_THESE) == (1.0,)
    assert x_of(Unit((), "", "unknown", "a"), NONE_OF_THESE) == (-1.0,)
    assert x_of(Unit((), "", "unknown", "a"), "a") == (1.0,)
    assert x_of(Unit((), "", "unknown", "a"), CANNOT_TELL) == (0.0,)


# multi-label


def test_each_class_with_another_yes_or_no_is_a_unit():
    one, other = np.array([True, False, True]), np.array([False, False, False])
    image = units("multilabel", one, other)
    assert (image.answers, image.changed) == (3, 2)
    assert image.by_class == {"a": (1, 1), "b": (1, 0), "c": (1, 1)}
    assert all_of(image) == [Unit((), "a", YES, NO), Unit((), "c", YES, NO)]
    assert others_of(image) == [Unit((), "b", NO, NO)]
    assert all_of(units("multilabel", other, one)) == list(map(swapped, all_of(image)))


def test_yes_begins_at_a_half():
    output = MultilabelOutput(torch.zeros(1, 1), torch.tensor([[0.0, -0.1, 3.0]]))
    ((row, flags),) = PROBLEMS["multilabel"].answers(Seen(torch.tensor([4]), output), SPEC)
    assert (row, flags.tolist()) == (4, [True, False, True])


@pytest.mark.parametrize(
    ("answer", "x"),
    [(YES, (1.0,)), (NO, (-1.0,)), (CANNOT_TELL, (0.0,)), (NONE_OF_THESE, (0.0,)), ("a", None)],
)
def test_yes_and_no_speak_for_one_model_each(answer, x):
    unit = Unit((), "a", NO, YES)
    assert PROBLEMS["multilabel"].x_of(unit, answer) == x
    assert PROBLEMS["multilabel"].x_of(swapped(unit), answer) == (x and (-x[0],))


# segmentation


def test_pixels_come_row_by_row():
    one = np.array([[0, 0, 1], [1, 2, 2]], np.uint8)
    other = np.array([[0, 1, 1], [2, 2, 0]], np.uint8)
    image = units("segmentation", one, other)
    assert (image.answers, image.changed) == (6, 3)
    assert image.by_class == {"a": (2, 1), "b": (2, 1), "c": (2, 1)}
    assert all_of(image) == [
        Unit((1.0, 0.0), "", "a", "b"),
        Unit((0.0, 1.0), "", "b", "c"),
        Unit((2.0, 1.0), "", "c", "a"),
    ]
    assert [unit.spot for unit in others_of(image)] == [(0.0, 0.0), (2.0, 0.0), (1.0, 1.0)]
    assert all(unit.first == unit.second for unit in others_of(image))
    assert all_of(units("segmentation", other, one)) == list(map(swapped, all_of(image)))


def test_no_list_of_pixels_is_held():
    """A pixel's two classes take two bytes; its position in a list would take eight more."""
    one, other = np.zeros((2, 2000, 2000), np.uint8)
    other[:] = 1
    tracemalloc.start()
    image = units("segmentation", one, other)
    held, _ = tracemalloc.get_traced_memory()
    last = image.unit(image.changed - 1)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert last.spot == (1999.0, 1999.0)
    assert held < 2 * one.size, "the map of what differs, and not more"
    assert most < 6 * one.size


def test_pixels_are_counted_part_by_part(monkeypatch):
    monkeypatch.setattr("sfda.problems.segmentation.change.COUNTED_AT_ONCE", 10)
    mask = np.random.default_rng(0).integers(0, 4, (9, 7)).astype(np.uint8)
    assert class_counts(mask).tolist() == np.bincount(mask.ravel(), minlength=256).tolist()
    chosen = mask > 1
    assert class_counts(mask, chosen).sum() == chosen.sum()


# detection

A_BOX, FAR, SHIFTED = (0, 0, 10, 10), (50, 5, 70, 25), (0, 0, 10, 8)


def test_a_box_without_partner_is_a_unit():
    one = boxes((0, A_BOX, 0.9), (1, FAR, 0.6), (2, FAR, 0.4))
    other = boxes((0, SHIFTED, 0.5), (0, FAR, 0.9))
    image = units("detection", one, other)
    assert (image.answers, image.changed) == (4, 2)
    assert image.by_class == {"a": (3, 1), "b": (1, 1)}
    assert all_of(image) == [
        Unit((50.0, 5.0, 20.0, 20.0), "a", NO, YES),
        Unit((50.0, 5.0, 20.0, 20.0), "b", YES, NO),
    ]
    assert image.unchanged is None
    assert boxes_changed(one, other) == image.changed / image.answers == 0.5


def test_a_box_has_one_partner_at_most():
    one, other = boxes((0, A_BOX, 0.9)), boxes((0, A_BOX, 0.9), (0, SHIFTED, 0.8))
    (unit,) = all_of(units("detection", one, other))
    beside = ((0.0, 0.0, 10.0, 10.0),)
    assert unit == Unit((0.0, 0.0, 10.0, 8.0), "a", NO, YES, beside=beside)
    nothing = units("detection", boxes(), boxes())
    assert (nothing.answers, nothing.changed, nothing.by_class) == (0, 0, {})


def test_the_order_of_the_models_makes_no_difference():
    rng = np.random.default_rng(0)
    for _ in range(200):  # corners on a coarse grid, so that many overlaps are equal
        sides = []
        for _ in range(2):
            low = rng.integers(0, 3, (6, 2)) * 2.0
            corners = np.concatenate([low, low + 4], 1)
            sides.append(BoxesOf(corners, rng.integers(0, 2, 6), np.ones(6)))
        image, back = units("detection", *sides), units("detection", *sides[::-1])
        assert all_of(back) == list(map(swapped, all_of(image)))
        assert back.by_class == image.by_class
        mixed = units("detection", sides[0].where(rng.permutation(6)), sides[1])
        assert all_of(mixed) == all_of(image), "nor does the order of the boxes"


def test_a_detector_answers_what_is_deployed():
    output = 3, Boxes(torch.zeros(2, 4), torch.tensor([0, 1]), torch.tensor([0.5, 0.49]))
    ((row, answer),) = PROBLEMS["detection"].answers(output, SPEC)
    assert (row, answer.labels.tolist()) == (3, [0])


@pytest.mark.parametrize(
    ("answer", "x"),
    [(YES, (1.0, 0.5)), (NO, (0.0, -0.5)), (CANNOT_TELL, (0.0, 0.0)), (NONE_OF_THESE, (0.0, 0.0)),
     ("a", None)],
)  # fmt: skip
def test_a_box_counts_for_both_ends_of_f1(answer, x):
    unit = Unit((0.0, 0.0, 1.0, 1.0), "a", NO, YES)
    assert PROBLEMS["detection"].x_of(unit, answer) == x
    assert PROBLEMS["detection"].x_of(swapped(unit), answer) == (x and tuple(-value for value in x))


# pose


def people(*boxes_: tuple[float, float, float, float] | None) -> Split:
    class Images:
        def size(self, row: int) -> tuple[int, int]:
            return 30, 70

    reader = CropReader(Images(), boxes_, 1.25)
    names = tuple(f"{row}.png" for row in range(len(boxes_)))
    return Split("m", "pose", "test", names, names, SPEC.classes, reader)


def test_tau_is_a_tenth_of_the_longer_side_of_the_box():
    split = people((3.0, 4.0, 20.0, 80.0), None)
    assert PROBLEMS["pose"].reach_of(split, 0) == pytest.approx(8.0)
    assert PROBLEMS["pose"].reach_of(split, 1) == pytest.approx(7.0), "the image's"
    assert PROBLEMS["classification"].reach_of(split, 0) == 0.0


def test_a_joint_that_moved_by_more_than_a_quarter_of_tau_is_a_unit():
    one = np.array([[10.0, 10.0], [20.0, 20.0], [30.0, 30.0]])
    other = one + np.array([[0.0, 2.0], [3.0, 0.0], [0.0, 0.0]])
    image = units("pose", one, other, reach=8.0)
    assert (image.answers, image.changed) == (3, 1), "two pixels are a quarter, and no more"
    assert image.by_class == {"a": (1, 0), "b": (1, 1), "c": (1, 0)}
    assert all_of(image) == [Unit((), "b", "20.00,20.00", "23.00,20.00", 8.0)]
    assert image.unchanged is None
    assert all_of(units("pose", other, one, reach=8.0)) == list(map(swapped, all_of(image)))


def test_a_pose_answers_its_joints():
    joints = np.arange(6.0).reshape(3, 2)
    ((row, answer),) = PROBLEMS["pose"].answers((5, Joints(joints, np.ones(3))), SPEC)
    assert (row, answer.tolist()) == (5, joints.tolist())


@pytest.mark.parametrize(
    ("answer", "x"),
    [("23,20", (1.0,)), ("20.5,19", (-1.0,)), ("21.5,40", (0.0,)), ("21.95,20", (1.0,)),
     ("21.85,20", (0.0,)), (CANNOT_TELL, (0.0,)), (NONE_OF_THESE, (0.0,)), ("21", None),
     ("nan,1", None), ("", None)],
)  # fmt: skip
def test_a_joint_speaks_for_the_model_that_is_nearer(answer, x):
    unit = Unit((), "b", "20.00,20.00", "23.00,20.00", 8.0)
    assert PROBLEMS["pose"].x_of(unit, answer) == x
    assert PROBLEMS["pose"].x_of(swapped(unit), answer) == (x and (-x[0],))


# what may be claimed


def test_a_bound_is_claimed_of_accuracies_alone():
    claims = {name: PROBLEMS[name].claim for name in PROBLEMS}
    assert {name: (claim.question, claim.units) for name, claim in claims.items()} == {
        "classification": ("class", "images"),
        "multilabel": ("yes or no", "answers"),
        "segmentation": ("class", "pixels"),
        "detection": ("yes or no", "boxes"),
        "pose": ("place", "joints"),
    }
    assert {name for name, claim in claims.items() if claim.metric is None} == {"detection", "pose"}
