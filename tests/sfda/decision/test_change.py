"""How much changes on a pool, and that every unit of it is found again."""

from __future__ import annotations

import copy
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import small_det
import small_pose
import small_seg
import torch
from torch import nn

from sfda.decision.change import ChangeReport, PoolChange, drawn_numbers, scan_change
from sfda.errors import BadInput
from sfda.inference.over_split import infer_split
from sfda.loading.opened import Opened, manifest_ref, open_labelled
from sfda.manifests.rows import Split
from sfda.problems.classification.network import ClassOutput
from sfda.problems.detection import network as detection
from sfda.problems.pose import network as pose
from sfda.problems.registry import PROBLEMS
from sfda.refs import ModelSpec
from sfda.state_folder import temporary_state
from sfda.testing.toys import detection as toy_detection
from sfda.types import Seen

CPU = torch.device("cpu")
NOTHING = nn.Identity()  # a network that nobody asks


@pytest.fixture
def state() -> Iterator[None]:
    """A state folder that is gone afterwards."""
    with temporary_state():
        yield


def disturbed(network: nn.Module, *, by: float, seed: int = 0) -> nn.Module:
    """A copy whose weights are a little different."""
    other = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in other.parameters():
            value += by * value.abs().mean() * torch.randn(value.shape, generator=generator)
    return other


def pool(size: int, groups: tuple[str, ...] | None = None, *, problem: str = "classification"):
    """Rows whose images nobody reads."""
    names = tuple(f"{row}.png" for row in range(size))
    split = Split("m", problem, "test", names, names, small.CLASSES, None, groups=groups)  # type: ignore[arg-type]
    return Opened(split, np.zeros((size, 1, 1, 1), np.uint8), "")


def classes(*labels: int, at_once: int = 2):
    """Outputs of a classifier that answers these, two images a batch."""

    def infer(network: nn.Module) -> Iterator[Seen]:
        for start in range(0, len(labels), at_once):
            own = torch.tensor(labels[start : start + at_once])
            logits = 5.0 * nn.functional.one_hot(own, 3)
            yield Seen(torch.arange(start, start + len(own)), ClassOutput(logits, logits))

    return infer


def by_labels(one: list[int], other: list[int], **how: Any) -> PoolChange:
    groups = how.pop("groups", None)
    return scan_change(
        NOTHING, NOTHING, pool(len(one), groups), small.SPEC, small.SPEC, CPU,
        infer_a=classes(*one), infer_b=classes(*other, at_once=3), **how,
    )  # fmt: skip


def real(problem: str, folder: Path) -> tuple[Opened, ModelSpec, nn.Module]:
    """A small labelled split, and a network for it."""
    if problem == "classification":
        sizes = {"test": 300}  # more than are shown at once
        path = small.write(folder, "t", small.arrays(sizes, seed=2, dull=True), sizes)
        spec, network = small.SPEC, small.source()
    elif problem == "segmentation":
        path = small_seg.write(folder, "t", {"test": 12}, seed=2, dull=True)
        spec, network = small_seg.SPEC, small_seg.source()
    elif problem == "detection":
        path = small_det.write(folder, "t", {"test": 6}, seed=2)
        spec, network = (
            detection.make_spec("sfda:tinyrcnn", small_det.CLASSES),
            toy_detection.source(),
        )
    else:
        path = small_pose.write(folder, "t", {"test": 6})
        spec = pose.make_spec("sfda:tiny", tuple(small_pose.figures.JOINTS))
        torch.manual_seed(0)
        network = pose.build_from_spec(spec).eval()
    return open_labelled(manifest_ref(path), "test", spec), spec, network


def answers_of(network: nn.Module, opened: Opened, spec: ModelSpec) -> dict[int, Any]:
    """The answer for each row."""
    owner = PROBLEMS[spec.problem]
    outputs = infer_split(network, opened, spec, CPU)
    return {row: answer for output in outputs for row, answer in owner.answers(output, spec)}


# counts


def test_answers_and_changes_are_counted_by_class_and_group():
    change = by_labels(
        [0, 0, 1, 1, 2], [0, 1, 1, 2, 0], groups=("scan 1", "scan 1", "scan 1", "scan 2", "scan 2")
    )
    report = change.report
    assert (report.answers, report.changed, report.share) == (5, 3, 0.6)
    assert (report.images, report.images_changed) == (5, 3)
    assert report.by_class == {"bar": (2, 1), "post": (2, 1), "cross": (1, 1)}
    assert report.by_group == {"scan 2": (2, 2), "scan 1": (3, 1)}
    assert list(report.by_group) == ["scan 2", "scan 1"], "the most changed first"
    assert change.answers.tolist() == [1] * 5
    assert change.changed.tolist() == [0, 1, 0, 1, 1]
    assert change.changed.dtype == np.int64
    assert ChangeReport.model_validate_json(report.model_dump_json()) == report


def test_fifty_groups_are_reported_the_most_changed_first():
    groups = tuple(f"{row // 2}" for row in range(200))
    other = [0] * 200
    for row in range(120, 200):
        other[row] = 1
    report = by_labels([0] * 200, other, groups=groups).report
    assert len(report.by_group) == 50
    assert list(report.by_group.values()) == [(2, 2)] * 40 + [(2, 0)] * 10


def test_swapped_models_change_as_much():
    one, other = [0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 0, 2]
    there, back = by_labels(one, other), by_labels(other, one)
    assert there.changed.tolist() == back.changed.tolist()
    assert there.report.share == back.report.share
    assert there.draw(3, seed=1) == back.draw(3, seed=1)


def test_a_model_that_rejects_changes_known_to_unknown():
    """Both see the same logits; the second one is unsure of all."""
    rejecting = small.SPEC.model_copy(update={"reject": 0.0})
    infer = classes(0, 1, 2)
    report = scan_change(
        NOTHING, NOTHING, pool(3), small.SPEC, rejecting, CPU, infer_a=infer, infer_b=infer
    ).report
    assert (report.changed, report.answers) == (3, 3)


# units


@pytest.mark.parametrize(
    ("problem", "by"),
    [("classification", 0.5), ("segmentation", 0.2), ("detection", 0.2), ("pose", 0.3)],
)
def test_every_unit_is_found_again(problem, by, tmp_path, state):
    opened, spec, network = real(problem, tmp_path)
    other = disturbed(network, by=by)
    change = scan_change(network, other, opened, spec, spec, CPU)
    one, two = (answers_of(net, opened, spec) for net in (network, other))
    owner, expected = PROBLEMS[problem], []
    for row in range(len(opened.split)):
        image = owner.changed(one[row], two[row], spec, owner.reach_of(opened.split, row))
        expected += [(row, image.unit(n)) for n in range(image.changed)]
    assert change.report.changed == len(expected) > 1
    numbers = change.draw(40, seed=3)
    assert change.units_at(numbers) == [expected[number] for number in numbers]
    assert change.unit_at(len(expected) - 1) == expected[-1]


def test_unchanged_units_are_found_too(tmp_path, state):
    opened, spec, network = real("segmentation", tmp_path)
    other = disturbed(network, by=0.2)
    change = scan_change(network, other, opened, spec, spec, CPU)
    one, two = (
        [mask for _, mask, _ in infer_split(net, opened, spec, CPU)] for net in (network, other)
    )
    same = np.argwhere(np.stack(one) == np.stack(two))
    assert change.unchanged == len(same)
    numbers = change.draw_unchanged(30, seed=0)
    for number, (row, unit) in zip(numbers, change.unchanged_at(numbers), strict=True):
        image, y, x = same[number].tolist()
        assert (row, unit.spot) == (image, (float(x), float(y)))
        assert unit.first == unit.second == spec.classes[one[image][y, x]]


def test_swapping_the_models_swaps_the_answers(tmp_path, state):
    opened, spec, network = real("segmentation", tmp_path)
    other = disturbed(network, by=0.2)
    there = scan_change(network, other, opened, spec, spec, CPU)
    back = scan_change(other, network, opened, spec, spec, CPU)
    numbers = there.draw(20, seed=0)
    assert numbers == back.draw(20, seed=0)
    for one, two in zip(there.units_at(numbers), back.units_at(numbers), strict=True):
        assert one.row == two.row
        assert (one.unit.spot, one.unit.first) == (two.unit.spot, two.unit.second)
        assert one.unit.second == two.unit.first != one.unit.first


def test_a_model_that_has_changed_since_is_refused(tmp_path, state):
    opened, spec, network = real("classification", tmp_path)
    other = disturbed(network, by=0.5)
    change = scan_change(network, other, opened, spec, spec, CPU)
    number = change.draw(1, seed=0)[0]
    other.load_state_dict(network.state_dict())
    with pytest.raises(BadInput, match="answer otherwise"):
        change.unit_at(number)
    with pytest.raises(IndexError, match="no unit"):
        change.unit_at(change.report.changed)


def test_of_boxes_and_joints_nothing_is_asked_that_is_the_same(tmp_path, state):
    opened, spec, network = real("pose", tmp_path)
    change = scan_change(network, network, opened, spec, spec, CPU)
    assert (change.report.changed, change.unchanged) == (0, 0)
    assert change.draw(10, seed=0) == change.draw_unchanged(10, seed=0) == []


# the draw


def test_units_are_drawn_once_each_in_an_order_that_the_seed_fixes():
    numbers = drawn_numbers(1000, 300, 7)
    assert len(set(numbers)) == 300
    assert set(numbers) <= set(range(1000))
    assert drawn_numbers(1000, 20, 7) == numbers[:20]
    assert drawn_numbers(1000, 300, 8) != numbers
    assert sorted(drawn_numbers(50, 80, 7)) == list(range(50))


def test_every_unit_is_drawn_as_often_as_any_other():
    counts = np.zeros((2, 5), int)
    for seed in range(4000):
        for position, number in enumerate(drawn_numbers(5, 2, seed)):
            counts[position, number] += 1
    assert (np.abs(counts - 800) < 5 * np.sqrt(4000 * 0.2 * 0.8)).all()


def test_a_hundred_million_pixels_are_no_list():
    tracemalloc.start()
    numbers = drawn_numbers(10**8, 1000, 0)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(numbers)) == 1000
    assert most < 10**6


def test_memory_is_that_of_an_image():
    shape, count = (1000, 1000), 12

    def masks(value: int) -> Any:
        def infer(network: nn.Module) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
            for row in range(count):
                mask = np.full(shape, value, np.uint8)
                yield row, mask, mask

        return infer

    tracemalloc.start()
    change = scan_change(
        NOTHING, NOTHING, pool(count, problem="segmentation"), small_seg.SPEC, small_seg.SPEC, CPU,
        infer_a=masks(0), infer_b=masks(1),
    )  # fmt: skip
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert change.report.changed == count * 10**6
    assert most < 16 * 10**6, "not even two images' pixels as 8-byte numbers"
    assert held < 10**6


# refusals


def test_models_with_other_answers_are_refused():
    renamed = small.SPEC.model_copy(update={"classes": ("post", "bar", "cross")})
    with pytest.raises(BadInput, match="other classes, or in another order"):
        scan_change(NOTHING, NOTHING, pool(1), small.SPEC, renamed, CPU)
    with pytest.raises(BadInput, match="one model is for classification, the other for segm"):
        scan_change(NOTHING, NOTHING, pool(1), small.SPEC, small_seg.SPEC, CPU)


def test_a_model_that_wants_other_images_needs_its_own():
    wider = small.SPEC.input.model_copy(update={"size": (24, 24), "resize": (24, 24)})
    spec = small.SPEC.model_copy(update={"input": wider})
    infer = classes(0, 1)
    with pytest.raises(BadInput, match="open them for each"):
        scan_change(NOTHING, NOTHING, pool(2), small.SPEC, spec, CPU, infer, infer)
    change = scan_change(
        NOTHING, NOTHING, pool(2), small.SPEC, spec, CPU, infer, infer, opened_b=pool(2)
    )
    assert change.report.answers == 2
    with pytest.raises(BadInput, match="two different sets"):
        scan_change(
            NOTHING, NOTHING, pool(2), small.SPEC, spec, CPU, infer, infer, opened_b=pool(3)
        )


def test_outputs_of_some_images_are_refused():
    infer = classes(0, 1)
    with pytest.raises(BadInput, match="2 of 3 images"):
        scan_change(NOTHING, NOTHING, pool(3), small.SPEC, small.SPEC, CPU, infer, infer)


# words


def report(**parts: Any) -> ChangeReport:
    whole = {"answers": 1000, "changed": 112, "images": 1000, "images_changed": 112,
             "units": "images", "metric": "accuracy", "by_class": {}} | parts  # fmt: skip
    return ChangeReport(share=whole["changed"] / max(1, whole["answers"]), **whole)


def test_a_bound_is_said_of_accuracy():
    assert report().text() == (
        "changes 112 of 1,000 answers, so accuracy on these images moves by at most 11.2 points"
    )
    pixels = report(answers=10**6, changed=1, units="pixels", metric="pixel accuracy")
    assert "at most 0.1 points" in pixels.text(), "a bound is rounded up"
    assert "changes 1 of 1,000,000 pixels" in pixels.text()
    assert report(changed=0).text() == (
        "changes none of 1,000 answers, so accuracy on these images stays as it is"
    )


def test_no_bound_is_said_of_boxes_and_joints():
    assert report(units="boxes", metric=None).text() == (
        "11.2 % of the boxes change (112 of 1,000)"
    )
    assert report(answers=0, changed=0, units="boxes", metric=None).text() == (
        "there are no boxes to compare"
    )
