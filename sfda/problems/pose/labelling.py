"""Pose: the joints of one person, of whom a picture may show several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from sfda.errors import listed
from sfda.formats.annotations import PictureAnnotations, PlacedJoint
from sfda.formats.keypoints import Person
from sfda.formats.request import Guess, Request, RequestedNames, RequestedRow
from sfda.manifests.class_matching import joint_order
from sfda.manifests.rows import Split
from sfda.problems._labels import Array
from sfda.problems.labelling import Labelling, Results, Unfit, choices, common, refuse_foreign
from sfda.problems.pose.inference import Joints
from sfda.problems.pose.labels import JointSets

PERSON = "person"


class JointLabelling(Labelling[tuple[int, Joints]]):
    """Label Studio's key points, with a rectangle that says who is meant; COCO's key points."""

    header = ("joint", "x", "y", "model_x", "model_y", "confidence")

    def guess(self, output: tuple[int, Joints], index_of: Array) -> Joints:
        """The joints, in the order of the request's."""
        order = np.argsort(index_of)
        joints = output[1]
        return Joints(joints.joints[order], joints.scores[order])

    def in_picture(self, guess: Joints, corner: tuple[int, int]) -> Joints:
        """The joints in pixels of the person's crop."""
        return guess._replace(joints=guess.joints - np.array(corner))

    def refuse_classes(self, asked: tuple[str, ...], model: tuple[str, ...], manifest: str) -> None:
        """Other joints than the model's."""
        joint_order(asked, model, manifest)

    def control(self, request: Request) -> str:
        """A point a joint."""
        inner = choices(request, "Label")
        return (
            f'  <RectangleLabels name="who" toName="image" canRotate="false">\n'
            f'    <Label value="{PERSON}"/>\n  </RectangleLabels>\n'
            f'  <KeyPointLabels name="joint" toName="image">\n{inner}\n  </KeyPointLabels>'
        )

    def results(self, request: Request, sample: RequestedRow, guess: Guess) -> Results:
        """Where the person is, and one point a joint, in percent of the picture."""
        across, down = 100 / sample.width, 100 / sample.height
        entries: Results = []
        if sample.box:
            x, y, width, height = sample.box
            value = {
                "x": x * across,
                "y": y * down,
                "width": width * across,
                "height": height * down,
                "rotation": 0,
                "rectanglelabels": [PERSON],
            }
            entries.append(
                {
                    "id": f"{sample.row}-who",
                    "value": value,
                    **common(sample, "who", "rectanglelabels"),
                }
            )
        for number, (name, x, y, score) in enumerate(_joints(request, sample, guess)):
            value = {"x": x * across, "y": y * down, "width": 1, "keypointlabels": [name]}
            entries.append(
                {
                    "id": f"{sample.row}-{number}",
                    "value": value,
                    "score": score,
                    **common(sample, "joint", "keypointlabels"),
                }
            )
        return entries

    def categories(self, request: Request) -> Results:
        """One category, with the joints and the edges between them, counted from 1."""
        index_of = {name: i for i, name in enumerate(request.classes, start=1)}
        edges = [[index_of[a], index_of[b]] for a, b in request.edges]
        return [{"id": 1, "name": PERSON, "keypoints": list(request.classes), "skeleton": edges}]

    def coco_entries(self, request: Request, sample: RequestedRow, guess: Guess) -> Results:
        """One annotation."""
        joints = _joints(request, sample, guess)
        box = sample.box or (0.0, 0.0, float(sample.width), float(sample.height))
        flat = [value for _, x, y, _ in joints for value in (x, y, 2)]
        return [
            {
                "category_id": 1,
                "keypoints": flat,
                "num_keypoints": len(joints),
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": 0,
                "score": sample.confidence,
            }
        ]

    def lines(
        self, request: Request, sample: RequestedRow, guess: Guess
    ) -> Iterable[Sequence[Any]]:
        """One line a joint; a joint without x and y was not to be seen."""
        for name, x, y, score in _joints(request, sample, guess):
            yield name, "", "", f"{x:.2f}", f"{y:.2f}", f"{score:.4f}"

    def apportion(
        self, request: Request, names: RequestedNames, pictures: list[PictureAnnotations]
    ) -> list[PictureAnnotations]:
        """Each person's joints to the row whose box they fill best: tools forget our ids."""
        by_row = []
        for one in pictures:
            near = names.rows(one.file)
            if len({sample.file for sample in near}) > 1:
                near = []  # no picture in particular
            if one.row or not near or (len(near) == 1 and len(one.persons) < 2):
                by_row.append(one)
            elif one.fault:
                by_row += [one._replace(row=sample.row) for sample in near]
            elif one.persons:
                by_row += _divided(one, near)
        return by_row

    def check(
        self, request: Request, sample: RequestedRow, picture: PictureAnnotations
    ) -> Person | None:
        """The joints, in pixels of the image, in the request's order."""
        if not picture.persons:
            drawn = any(box.label != PERSON for box in picture.boxes)
            if drawn or picture.regions or picture.mask is not None:
                raise Unfit("boxes or masks where joints are wanted", sample.key)
            return None
        if len(picture.persons) > 1:
            raise Unfit("several persons", sample.key)
        (dots,) = picture.persons
        refuse_foreign(request, sample, (dot.label for dot in dots))
        names = sorted(dot.label for dot in dots)
        if twice := [name for name, group in groupby(names) if len(list(group)) > 1]:
            raise Unfit("joints placed twice", f"{sample.key} ({', '.join(twice)})")
        joints = np.zeros((len(request.classes), 2), np.float32)
        visible = np.zeros(len(request.classes), np.float32)
        for dot in dots:
            inside = 0 <= dot.x <= sample.width and 0 <= dot.y <= sample.height
            if not inside:  # a number that is none is inside of nothing either
                raise Unfit("joints outside of their picture", f"{sample.key} ({dot.label})")
            position = request.classes.index(dot.label)
            joints[position] = dot.x + sample.corner[0], dot.y + sample.corner[1]
            visible[position] = 1
        return Person(joints, visible, (0.0, 0.0, 0.0, 0.0), 0.0)

    def filed(self, annotation: Person) -> Results:
        """One annotation."""
        table = np.column_stack([annotation.joints, 2 * annotation.visible])
        return [{"category_id": 0, "keypoints": table.ravel().tolist()}]

    def document_categories(self, classes: tuple[str, ...]) -> Results:
        """One category with the joints."""
        return [{"id": 0, "name": PERSON, "keypoints": list(classes)}]

    def from_truth(self, split: Split, row: int, request: Request, sample: RequestedRow) -> Results:
        """The joints that lie in the picture, which a crop may cut."""
        assert isinstance(split.labels, JointSets)
        person = split.labels[row]
        positions = person.joints - np.array(sample.corner)
        inside = ((positions >= 0) & (positions <= (sample.width, sample.height))).all(1)
        return self.filed(person._replace(joints=positions, visible=person.visible * inside))


def _joints(
    request: Request, sample: RequestedRow, guess: Guess
) -> list[tuple[str, float, float, float]]:
    """Name, x, y and score of every joint that the model sees, inside of the picture."""
    limit = np.array([sample.width, sample.height]) - 1
    positions = np.clip(guess.joints, 0, limit).tolist()
    scores = guess.scores.tolist()
    return [
        (name, x, y, score)
        for name, (x, y), score in zip(request.classes, positions, scores, strict=True)
    ]


def _divided(one: PictureAnnotations, near: list[RequestedRow]) -> list[PictureAnnotations]:
    """A picture's persons, each as what is said of one of the rows `near`.

    Whoever fills no row's box was not asked about, and is a fault.
    """
    from scipy.optimize import linear_sum_assignment  # takes its time

    boxes = np.array([w.box or (0.0, 0.0, w.width, w.height) for w in near], float)
    overlap = np.array([[_iou(_around(dots), box) for box in boxes] for dots in one.persons])
    persons, rows = linear_sum_assignment(-overlap.reshape(len(one.persons), len(near)))
    pairs = {int(p): near[int(r)] for p, r in zip(persons, rows, strict=True) if overlap[p, r] > 0}
    divided = [
        one._replace(row=sample.row, persons=(one.persons[p],)) for p, sample in pairs.items()
    ]
    stray = [str(p + 1) for p in range(len(one.persons)) if p not in pairs]
    if stray:
        where = f"{one.file}, person {listed(stray)}"
        divided.append(PictureAnnotations(where, None, where, persons=one.persons))
    return divided


def _around(dots: tuple[PlacedJoint, ...]) -> np.ndarray[Any, Any]:
    """The box (x, y, width, height) around joints; of one alone a pixel."""
    positions = np.array([(dot.x, dot.y) for dot in dots], float).reshape(-1, 2)
    low, high = positions.min(0), positions.max(0)
    return np.concatenate([low, np.maximum(high - low, 1.0)])


def _iou(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    low = np.maximum(one[:2], other[:2])
    high = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    shared = float(np.prod(np.clip(high - low, 0, None)))
    return shared / float(np.prod(one[2:]) + np.prod(other[2:]) - shared)


LABELLING = JointLabelling()
