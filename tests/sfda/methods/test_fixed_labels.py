"""Boxes found once: which are labels, that they stay, and where mirrored images have them."""

from __future__ import annotations

import golden_files
import pytest
import torch

from sfda import plugins
from sfda.adaptation.loop import adapt
from sfda.building_blocks.boxes import Boxes
from sfda.errors import BadInput
from sfda.methods._base import Method
from sfda.networks.detector import Detector, DetOutput
from sfda.testing.toys import detection as toy
from sfda.testing.trial import Trial, stored
from sfda.types import Clock, EpochEnd, Seen, TargetBatch

FIXED = plugins.load("methods", "fixed_labels")


def made(**settings: object) -> Method:
    return Trial(FIXED, toy).method(**settings)


class Sees(Detector):
    """Finds the same boxes whatever it is shown."""

    num_classes = 2

    def __init__(self, boxes: Boxes) -> None:
        super().__init__()
        self.backbone, self.boxes = torch.nn.Conv2d(3, 1, 1), boxes

    def forward(self, images: torch.Tensor) -> DetOutput:
        return DetOutput([self.boxes] * len(images), torch.zeros(0, 3))


def test_scores_are_labels_as_in_the_release():
    golden = golden_files.load("guided/fixed_labels_threshold")
    scores = golden["scores"].float()
    count = len(scores)
    corners = torch.arange(count).float()[:, None] + torch.tensor([0.0, 0.0, 5.0, 5.0])
    network = Sees(Boxes(corners, torch.zeros(count, dtype=torch.long), scores))
    settings = {"threshold": float(golden["threshold"]), "boxes": {"doubt": None}}
    method = FIXED(network, toy.info(size=3), FIXED.Config.from_settings(settings))
    method.start_epoch(
        lambda net: iter([Seen(torch.arange(3), net(torch.zeros(3)))]), Clock(0, 1, 2)
    )
    for row in range(3):
        labels = method._of(row)
        torch.testing.assert_close(labels.boxes, corners[golden["kept"]])


def run(method: Method, x: torch.Tensor, resume=None) -> list[EpochEnd]:
    batches, scan = toy.Batches(x), toy.scan(x)
    events = adapt(method, batches, scan, toy.FAST, seed=3, resume=resume)
    return [
        EpochEnd(event.clock, event.adapted, stored(event.state))
        for event in events
        if isinstance(event, EpochEnd)
    ]


def test_without_labels_nothing_moves_and_a_person_is_told():
    x, _ = toy.images(0.4, seed=1)
    method = made(threshold=1.0)
    before = {name: part.clone() for name, part in method.student.state_dict().items()}
    run(method, x)
    assert all(torch.equal(part, before[n]) for n, part in method.student.state_dict().items())
    assert "no box is scored 1; lower `threshold`" in method.status()


def test_the_table_is_made_once_unless_it_is_to_be_renewed():
    x, _ = toy.images(0.4, seed=1)
    once, often = made(), made(renew=1)
    first = run(once, x)[0].state
    table = once.corners.clone()
    assert len(table)
    torch.testing.assert_close(first.method["corners"], table)
    run(often, x)
    assert not (len(often.corners) == len(table) and torch.equal(often.corners, table))


def test_a_run_goes_on_with_the_identical_table():
    x, _ = toy.images(0.4, seed=1)
    whole = run(made(), x)
    resumed = made()
    rest = run(resumed, x, resume=whole[0].state)
    assert len(rest) == len(whole) - 1
    for name in ("rows", "corners", "classes", "scores"):
        torch.testing.assert_close(getattr(resumed, name), whole[0].state.method[name])
    for name, part in whole[-1].state.method.items():
        torch.testing.assert_close(rest[-1].state.method[name], part)


def test_mirrored_images_have_mirrored_boxes():
    x, _ = toy.images(0.0, seed=1)
    method = made()
    method.start_epoch(toy.scan(x), Clock(0, 3, 3))
    rows = torch.arange(8)
    labels = [method._of(int(row)) for row in rows]
    plain, same = method._mirrored(x[rows], labels)
    assert plain is x[rows] or torch.equal(plain, x[rows])
    method.flips = True
    torch.manual_seed(0)
    turned, moved = method._mirrored(x[rows], labels)
    mirrored = [not torch.equal(a, b) for a, b in zip(turned, x[rows], strict=True)]
    assert 0 < sum(mirrored) < len(rows)
    for image, one, was, old, turn in zip(turned, moved, x[rows], labels, mirrored, strict=True):
        torch.testing.assert_close(image, was.flip(-1) if turn else was)
        expected = old.boxes.clone()
        if turn:
            expected[:, [0, 2]] = x.shape[-1] - old.boxes[:, [2, 0]]
        torch.testing.assert_close(one.boxes, expected)
    assert [b.scores.tolist() for b in same] == [b.scores.tolist() for b in labels]


def test_a_class_without_labels_is_told_of():
    method = made()
    scores = torch.tensor([0.9, 0.2])
    one = Boxes(torch.tensor([[0.0, 0, 9, 9], [9, 9, 20, 20]]), torch.tensor([0, 1]), scores)
    look = [Seen(torch.arange(12), DetOutput([one] * 12, torch.zeros(0, 3)))]
    method.start_epoch(lambda net: iter(look), Clock(0, 3, 3))
    assert method.status() == "1.00 fixed labels an image, alarming: none of blue"


def test_tiles_are_refused_and_the_strong_view_is_needed():
    x, _ = toy.images(0.4, seed=1)
    info = toy.info()
    tiled = type(info)(info.size, info.row_ids, classes=info.classes, whole=False)
    with pytest.raises(BadInput, match="tiles"):
        FIXED(toy.source(), tiled, FIXED.Config())
    with pytest.raises(ValueError, match="strong view"):
        made().losses(TargetBatch(torch.arange(2), x[:2]), Clock(0, 3, 3))
