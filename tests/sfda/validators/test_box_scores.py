"""Scores of a detector by what it does under dropout, and by what it suppresses, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfda.building_blocks.boxes import Boxes
from sfda.networks.detector import Detector, DetOutput, Regions
from sfda.testing.toys import detection as toy
from sfda.types import SeenViews
from sfda.validators.bos import Bos, BosConfig
from sfda.validators.pcr import Candidates, Pcr, suppressed_by


class Moves(Detector):
    """One box for an image that is not black; five pixels to the right where its map is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Identity()
        self.num_classes = 1

    def forward(self, images: Tensor) -> DetOutput:
        maps = self.backbone(images)
        boxes = [
            box_of(5.0 * bool((own == 0).all()) if bool(image.any()) else None)
            for image, own in zip(images, maps, strict=True)
        ]
        return DetOutput(boxes, torch.zeros(1, 2))


def box_of(left: float | None) -> Boxes:
    count = 0 if left is None else 1
    corners = torch.tensor([[left or 0.0, 0.0, (left or 0.0) + 10, 10.0]])[:count]
    return Boxes(corners, torch.zeros(count, dtype=torch.long), torch.ones(count))


def test_the_overlap_of_a_box_with_itself_under_dropout() -> None:
    bos, network = Bos(BosConfig(rate=0.999)), Moves()
    bos.take_network(network)
    images = torch.ones(2, 1, 1, 1)
    images[1] = 0  # neither look has a box in it
    with torch.no_grad():
        bos.update(SeenViews(torch.arange(2), network(images), images=images))
    assert bos.compute() == pytest.approx(50 / 150)
    assert not network.backbone._forward_hooks, "the network stays as it was"


def test_boxes_that_come_or_go_are_not_stable() -> None:
    bos = Bos()
    bos.images = 1
    bos._add(box_of(0.0), box_of(None))
    bos._add(box_of(0.0), box_of(0.0))
    assert bos.compute() == pytest.approx(0.5)
    other = box_of(0.0)
    bos._add(box_of(0.0), Boxes(other.boxes, other.labels + 1, other.scores))
    assert bos.compute() == pytest.approx(1 / 3), "of another class"


class Given(Detector):
    """A detector with regions that are given."""

    def __init__(self, boxes: list[list[float]], scores: list[float]) -> None:
        super().__init__()
        self.num_classes = 1
        probs = torch.tensor(scores).double()
        logits = torch.stack([probs, 1 - probs], 1).log()
        corners = torch.tensor(boxes)
        self.given = Regions([corners], torch.zeros(len(boxes), 1), logits, corners, [])

    def regions(self, images: Tensor, proposals: Any = None, features: Any = None) -> Regions:
        return self.given


def pcr_of(boxes: list[list[float]], scores: list[float]) -> float:
    pcr = Pcr()
    pcr.take_network(Given(boxes, scores))
    pcr.update(SeenViews(torch.arange(1), None, images=torch.zeros(1, 3, 8, 8)))
    return pcr.compute()


def test_reliability_less_consistency_of_what_is_not_sure() -> None:
    boxes = [[0.0, 0.0, 10.0, y] for y in (10.0, 8.0)]
    boxes += [[20.0, 0.0, 30.0, y] for y in (10.0, 9.0)]
    high, low = (0.2 + 0.8 / (1 + math.exp(-x)) for x in (3, -3))  # of 0.8 and 0.2
    reliable = high / (high + low)
    closeness = 1 - 0.5 / (math.sqrt(200) / 2)
    consistent = (0.9 + closeness) / 2 / 2  # of the box of 0.3; that of 0.9 weighs nothing
    assert pcr_of(boxes, [0.9, 0.8, 0.3, 0.2]) == pytest.approx(reliable - consistent, abs=1e-4)


def test_without_anything_suppressed_nothing_is_said() -> None:
    assert pcr_of([[0.0, 0, 10, 10], [20, 0, 30, 10]], [0.9, 0.8]) == 0.0


def test_the_surest_box_suppresses_what_overlaps_it_in_its_class() -> None:
    corners = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8], [0, 0, 10, 10]])
    labels = torch.tensor([0, 0, 0, 1])
    candidates = Candidates(corners, labels, torch.tensor([0.5, 0.9, 0.4, 0.3]))
    assert suppressed_by(candidates, 0.5).tolist() == [1, -1, 1, -1]


def test_detectors_of_one_stage_have_no_candidates() -> None:
    one_stage = Given([[0.0, 0, 1, 1]], [0.5])
    one_stage.two_stage = False  # type: ignore[misc]
    assert Pcr.serves(toy.network())
    assert not Pcr.serves(one_stage)
    assert Bos.serves(toy.network())
    assert not Bos.serves(one_stage), "no part is called backbone"
