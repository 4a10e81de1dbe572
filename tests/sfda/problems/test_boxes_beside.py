"""A person who is asked about a box sees the surer boxes of the same model that lie on it."""

from __future__ import annotations

import numpy as np

from sfda.measures.change import Unit
from sfda.problems.detection.change import image_units
from sfda.problems.detection.metrics import BoxesOf
from sfda.problems.detection.network import make_spec

SPEC = make_spec("sfda:tinyrcnn", ("red", "blue"))


def boxes(*rows: tuple[float, float, float, float, int, float]) -> BoxesOf:
    table = np.array(rows, np.float64).reshape(-1, 6)
    return BoxesOf(table[:, :4], table[:, 4].astype(np.int64), scores=table[:, 5])


def units(one: BoxesOf, other: BoxesOf) -> list[Unit]:
    image = image_units(one, other, SPEC, 0.0)
    return [image.unit(n) for n in range(image.changed)]


def test_surer_boxes_of_the_class_on_it_are_beside_it() -> None:
    doubled = boxes(
        (0, 0, 20, 20, 0, 0.9),  # its partner is the other model's
        (4, 0, 24, 20, 0, 0.7),
        (4, 0, 24, 20, 1, 0.95),  # of another class
        (60, 60, 80, 80, 0, 0.99),  # elsewhere
    )
    single = boxes((0, 0, 20, 20, 0, 0.8))
    expected = {(4.0, 0.0, 20.0, 20.0): ((0.0, 0.0, 20.0, 20.0),), (60.0, 60.0, 20.0, 20.0): ()}
    for pair in ((doubled, single), (single, doubled)):
        beside = {unit.spot: unit.beside for unit in units(*pair) if unit.subject == "red"}
        assert beside == expected


def test_of_two_on_one_object_the_surer_has_none_beside_it() -> None:
    twice = boxes((0, 0, 20, 20, 0, 0.9), (2, 0, 22, 20, 0, 0.7))
    assert [unit.beside for unit in units(twice, boxes())] == [(), ((0.0, 0.0, 20.0, 20.0),)]
