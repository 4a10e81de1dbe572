"""Pose: the joints of one person, of whom a picture may show several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from sfda.annotation.picture_names import AskedNames
from sfda.annotation.problems._base import (
    Labelling,
    Results,
    Unfit,
    choices,
    common,
    refuse_foreign,
)
from sfda.annotation.request import Guess, Request, WantedRow
from sfda.errors import listed
from sfda.formats.annotations import Dot, Given
from sfda.formats.keypoints import Person

PERSON = "person"


class PlacedJoints(Labelling):
    """Label Studio's key points, with a rectangle that says who is meant; COCO's key points."""

    header = ("joint", "x", "y", "model_x", "model_y", "confidence")

    def control(self, request: Request) -> str:
        """A point a joint."""
        inner = choices(request, "Label")
        return (
            f'  <RectangleLabels name="who" toName="image" canRotate="false">\n'
            f'    <Label value="{PERSON}"/>\n  </RectangleLabels>\n'
            f'  <KeyPointLabels name="joint" toName="image">\n{inner}\n  </KeyPointLabels>'
        )

    def results(self, request: Request, wanted: WantedRow, guess: Guess) -> Results:
        """Where the person is, and one point a joint, in percent of the picture."""
        across, down = 100 / wanted.width, 100 / wanted.height
        found: Results = []
        if wanted.box:
            x, y, width, height = wanted.box
            value = {
                "x": x * across, "y": y * down, "width": width * across, "height": height * down,
                "rotation": 0, "rectanglelabels": [PERSON],
            }  # fmt: skip
            found.append(
                {"id": f"{wanted.row}-who", "value": value,
                 **common(wanted, "who", "rectanglelabels")}
            )  # fmt: skip
        for number, (name, x, y, score) in enumerate(_joints(request, wanted, guess)):
            value = {"x": x * across, "y": y * down, "width": 1, "keypointlabels": [name]}
            found.append(
                {"id": f"{wanted.row}-{number}", "value": value, "score": score,
                 **common(wanted, "joint", "keypointlabels")}
            )  # fmt: skip
        return found

    def categories(self, request: Request) -> Results:
        """One category, with the joints and the edges between them, counted from 1."""
        place = {name: i for i, name in enumerate(request.classes, start=1)}
        edges = [[place[a], place[b]] for a, b in request.edges]
        return [
            {"id": 1, "name": PERSON, "keypoints": list(request.classes), "skeleton": edges}
        ]  # fmt: skip

    def annotations(self, request: Request, wanted: WantedRow, guess: Guess) -> Results:
        """One annotation."""
        joints = _joints(request, wanted, guess)
        box = wanted.box or (0.0, 0.0, float(wanted.width), float(wanted.height))
        flat = [value for _, x, y, _ in joints for value in (x, y, 2)]
        return [
            {
                "category_id": 1, "keypoints": flat, "num_keypoints": len(joints),
                "bbox": list(box), "area": box[2] * box[3], "iscrowd": 0,
                "score": wanted.confidence,
            }
        ]  # fmt: skip

    def lines(self, request: Request, wanted: WantedRow, guess: Guess) -> Iterable[Sequence[Any]]:
        """One line a joint; a joint without x and y was not to be seen."""
        for name, x, y, score in _joints(request, wanted, guess):
            yield name, "", "", f"{x:.2f}", f"{y:.2f}", f"{score:.4f}"

    def apportion(self, request: Request, names: AskedNames, given: list[Given]) -> list[Given]:
        """Each person's joints to the row whose box they fill best: tools forget our ids."""
        found = []
        for one in given:
            near = names.rows(one.file)
            if len({wanted.file for wanted in near}) > 1:
                near = []  # no picture in particular
            if one.row or not near or (len(near) == 1 and len(one.people) < 2):
                found.append(one)
            elif one.fault:
                found += [one._replace(row=wanted.row) for wanted in near]
            elif one.people:
                found += _divided(one, near)
        return found

    def answer(self, request: Request, wanted: WantedRow, given: Given) -> Person | None:
        """The joints, in pixels of the image, in the request's order."""
        if not given.people:
            return None
        if len(given.people) > 1:
            raise Unfit("several persons", wanted.key)
        (dots,) = given.people
        refuse_foreign(request, wanted, (dot.label for dot in dots))
        names = sorted(dot.label for dot in dots)
        if twice := [name for name, group in groupby(names) if len(list(group)) > 1]:
            raise Unfit("joints placed twice", f"{wanted.key} ({', '.join(twice)})")
        joints = np.zeros((len(request.classes), 2), np.float32)
        visible = np.zeros(len(request.classes), np.float32)
        for dot in dots:
            inside = 0 <= dot.x <= wanted.width and 0 <= dot.y <= wanted.height
            if not inside:  # a number that is none is inside of nothing either
                raise Unfit("joints outside of their picture", f"{wanted.key} ({dot.label})")
            place = request.classes.index(dot.label)
            joints[place] = dot.x + wanted.corner[0], dot.y + wanted.corner[1]
            visible[place] = 1
        return Person(joints, visible, (0.0, 0.0, 0.0, 0.0), 0.0)


def _joints(
    request: Request, wanted: WantedRow, guess: Guess
) -> list[tuple[str, float, float, float]]:
    """Name, x, y and score of every joint that the model sees, inside of the picture."""
    assert guess.pose is not None
    limit = np.array([wanted.width, wanted.height]) - 1
    places = np.clip(guess.pose.joints, 0, limit).tolist()
    scores = guess.pose.scores.tolist()
    return [
        (name, x, y, score)
        for name, (x, y), score in zip(request.classes, places, scores, strict=True)
    ]


def _divided(one: Given, near: list[WantedRow]) -> list[Given]:
    """A picture's persons, each as what is said of one of the rows `near`.

    Whoever fills no row's box was not asked about, and is a fault.
    """
    from scipy.optimize import linear_sum_assignment  # takes its time

    boxes = np.array([w.box or (0.0, 0.0, w.width, w.height) for w in near], float)
    overlap = np.array([[_iou(_around(dots), box) for box in boxes] for dots in one.people])
    persons, rows = linear_sum_assignment(-overlap.reshape(len(one.people), len(near)))
    pairs = {int(p): near[int(r)] for p, r in zip(persons, rows, strict=True) if overlap[p, r] > 0}
    found = [one._replace(row=wanted.row, people=(one.people[p],)) for p, wanted in pairs.items()]
    stray = [str(p + 1) for p in range(len(one.people)) if p not in pairs]
    if stray:
        where = f"{one.file}, person {listed(stray)}"
        found.append(Given(where, None, where, people=one.people))
    return found


def _around(dots: tuple[Dot, ...]) -> np.ndarray[Any, Any]:
    """The box (x, y, width, height) around joints; of one alone a pixel."""
    places = np.array([(dot.x, dot.y) for dot in dots], float).reshape(-1, 2)
    low, high = places.min(0), places.max(0)
    return np.concatenate([low, np.maximum(high - low, 1.0)])


def _iou(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    low = np.maximum(one[:2], other[:2])
    high = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    shared = float(np.prod(np.clip(high - low, 0, None)))
    return shared / float(np.prod(one[2:]) + np.prod(other[2:]) - shared)
