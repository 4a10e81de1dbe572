"""Answers to an audit: of any tool, in parts, checked as a whole, and what they say."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from asking import zipped
from auditing import audit_of

from sfda.annotation.audit.answers import other_persons, take_answers, taken_answers
from sfda.annotation.audit.as_labels import write_labels
from sfda.annotation.audit.documents import POINT
from sfda.annotation.audit.evidence import audit_result
from sfda.annotation.audit.page import ANSWERS_FORMAT
from sfda.annotation.audit.questions import AuditRequest
from sfda.errors import BadInput
from sfda.measures.change import CANNOT_TELL, NONE_OF_THESE

Answers = dict[str, str]


def page(folder: Path, request: AuditRequest, answers: Answers, name: str = "page.json") -> Path:
    """What the page saves."""
    path = folder / name
    document = {"format": ANSWERS_FORMAT, "version": 1, "audit": request.id, "answers": answers}
    document["person"] = "Ada"
    path.write_text(json.dumps(document))
    return path


def filled(folder: Path, request: AuditRequest, answers: Answers) -> Path:
    """The CSV with answers; points in pixels of the picture."""
    rows = list(csv.DictReader((folder / "request.csv").open()))
    for row in rows:
        text = answers.get(row["unit"], "")
        if "x" in row and text not in ("", CANNOT_TELL):
            x, y = map(float, text.split(","))
            row["x"], row["y"] = map(str, request.by_id[row["unit"]].frame.in_picture(x, y))
        else:
            row["answer"] = text
    path = folder / "filled.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def studio(folder: Path, request: AuditRequest, answers: Answers) -> Path:
    """Label Studio's export."""
    tasks = json.loads((folder / "label_studio.json").read_text())
    for n, task in enumerate(tasks):
        frame, text = (
            request.by_id[task["data"]["row"]].frame,
            answers.get(task["data"]["row"], ""),
        )
        result = []
        if "," in text:
            x, y = frame.in_picture(*map(float, text.split(",")))
            value = {"x": 100 * x / frame.shown_width, "y": 100 * y / frame.shown_height,
                     "keypointlabels": [POINT]}  # fmt: skip
            size = {"original_width": frame.shown_width, "original_height": frame.shown_height}
            result = [{"type": "keypointlabels", "value": value, **size}]
        elif text:
            result = [{"type": "choices", "value": {"choices": [text]}}]
        task |= {"id": n + 1, "annotations": [{"result": result}] if result else []}
    path = folder / "studio.json"
    path.write_text(json.dumps(tasks))
    return path


def studio_min(folder: Path, request: AuditRequest, answers: Answers) -> Path:
    """Label Studio's JSON-MIN, of classes."""
    tasks = json.loads((folder / "label_studio.json").read_text())
    rows = [
        {**task["data"], "id": n, "annotation_id": n, "class": answers[task["data"]["row"]]}
        for n, task in enumerate(tasks)
        if task["data"]["row"] in answers
    ]
    path = folder / "min.json"
    path.write_text(json.dumps(rows))
    return path


def cvat_coco(folder: Path, request: AuditRequest, answers: Answers) -> Path:
    """CVAT's COCO export: it forgets our ids, and keeps the names of pictures."""
    document = json.loads((folder / "cvat_coco.json").read_text())
    numbers = {category["name"]: category["id"] for category in document["categories"]}
    for image in document["images"]:
        unit = image.pop("row")
        frame, text = request.by_id[unit].frame, answers.get(unit, "")
        entry = {"id": image["id"], "image_id": image["id"]}
        if "," in text:
            x, y = frame.in_picture(*map(float, text.split(",")))
            entry |= {"category_id": numbers[POINT], "keypoints": [x, y, 2]}
        elif text:
            box = [0, 0, image["width"], image["height"]]
            entry |= {"category_id": numbers[text], "bbox": box, "segmentation": []}
        else:
            continue
        document["annotations"].append(entry)
    return zipped(folder, "annotations/instances_default.json", json.dumps(document))


def cvat_xml(folder: Path, request: AuditRequest, answers: Answers) -> Path:
    """CVAT's own export."""
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations><version>1.1</version>"]
    for n, question in enumerate(request.questions):
        frame, text = question.frame, answers.get(question.id, "")
        size = f'width="{frame.shown_width}" height="{frame.shown_height}"'
        lines.append(f'<image id="{n}" name="{question.id}.png" {size}>')
        if "," in text:
            x, y = frame.in_picture(*map(float, text.split(",")))
            lines.append(f'<points label="{POINT}" points="{x},{y}"></points>')
        elif text:
            lines.append(f'<tag label="{text}" source="manual"></tag>')
        lines.append("</image>")
    return zipped(folder, "annotations.xml", "\n".join([*lines, "</annotations>"]))


Export = Callable[[Path, AuditRequest, Answers], Path]
EVERYWHERE: tuple[Export, ...] = (page, filled, studio, cvat_coco, cvat_xml)
CASES = {
    "classification": ("cat", NONE_OF_THESE, CANNOT_TELL, "dog"),
    "segmentation": ("cat", NONE_OF_THESE, CANNOT_TELL, "dog"),
    "detection": ("yes", "no", CANNOT_TELL, "yes"),
    "multilabel": ("yes", "no", CANNOT_TELL, "yes"),
    "pose": ("21.25,30.50", "40.00,12.00", CANNOT_TELL, "30.00,30.00"),
}


@pytest.mark.parametrize("problem", CASES)
@pytest.mark.parametrize("export", EVERYWHERE, ids=lambda one: one.__name__)
def test_answers_come_back_from_every_tool(tmp_path: Path, problem: str, export: Export) -> None:
    folder = tmp_path / "a"
    request = audit_of(folder, problem)
    expected = dict(zip((q.id for q in request.questions), CASES[problem], strict=False))
    taken = take_answers(folder, request, export(folder, request, expected))
    assert (taken.fresh, taken.total) == (4, 4)
    assert taken_answers(folder, request).answers == expected
    if problem != "classification":
        with pytest.raises(BadInput, match="are no labels of whole images"):
            write_labels(request, expected)


def test_json_min_comes_back(tmp_path: Path) -> None:
    request = audit_of(tmp_path / "a")
    expected = {request.questions[0].id: "cat", request.questions[1].id: CANNOT_TELL}
    take_answers(tmp_path / "a", request, studio_min(tmp_path / "a", request, expected))
    assert taken_answers(tmp_path / "a", request).answers == expected


def test_what_a_killed_call_was_writing_is_gone_after_the_next(tmp_path: Path) -> None:
    request = audit_of(tmp_path / "a")
    before = set((tmp_path / "a").iterdir())
    answers = page(tmp_path, request, {request.questions[0].id: "cat"})
    for again in (False, True):  # also where all was written, and only that was not yet gone
        (tmp_path / "a" / ".answers.json.part-k1ll3d").mkdir()
        assert take_answers(tmp_path / "a", request, answers).again == again
        new = {path.name for path in set((tmp_path / "a").iterdir()) - before}
        assert new == {"answers.json", ".answers.lock"}


def test_words_may_be_written_otherwise_and_classes_may_not(tmp_path: Path) -> None:
    request = audit_of(tmp_path / "a")
    one, two, three, *_ = (q.id for q in request.questions)
    path = page(tmp_path, request, {one: "None of  these", two: "CANNOT TELL"})
    take_answers(tmp_path / "a", request, path)
    assert taken_answers(tmp_path / "a", request).answers == {one: NONE_OF_THESE, two: CANNOT_TELL}
    with pytest.raises(BadInput, match="Cat"):
        take_answers(tmp_path / "a", request, page(tmp_path, request, {three: "Cat"}))


def test_every_fault_is_named_at_once_and_nothing_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    request = audit_of(folder)
    one, two, three, four, *_ = (q.id for q in request.questions)
    take_answers(folder, request, page(tmp_path, request, {one: "cat"}, "first.json"))
    before = (folder / "answers.json").read_bytes()
    table = tmp_path / "bad.csv"
    table.write_text(
        "unit,picture,question,answer\n"
        f"{one},,,dog\n{two},,,hen\n{three},,,cat\n{three},,,dog\nffff,,,cat\n{four},,,cow\n"
    )
    with pytest.raises(BadInput) as error:
        take_answers(folder, request, table)
    message = str(error.value)
    for part in (
        "answered otherwise before: question 1 (images/000.png): cat, then dog",
        "no answer to such a question (there are cat, dog, cow",
        "question 2 (images/001.png): hen",
        "answered twice: question 3 (images/002.png): cat, then dog",
        "questions that this audit does not ask: ffff",
        "nothing was taken",
    ):
        assert part in message
    assert (folder / "answers.json").read_bytes() == before


def test_places_outside_and_what_is_no_place_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    request = audit_of(folder, "pose")
    ids = [q.id for q in request.questions]
    wrong = ("9999,3", "-9,-9", "nan,3", "here", "1,2,3", "inf,inf")
    with pytest.raises(BadInput) as error:
        take_answers(folder, request, page(tmp_path, request, dict(zip(ids, wrong, strict=True))))
    assert "places outside of their picture: question 1 (images/000.png): 9999,3" in str(
        error.value
    )
    assert all(f"question {n}" in str(error.value) for n in range(1, 7))
    assert not (folder / "answers.json").exists()


def test_a_resized_picture_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    request = audit_of(folder, "pose")
    path = studio(folder, request, {request.questions[0].id: "30.00,30.00"})
    size = request.questions[0].frame.shown_width
    path.write_text(path.read_text().replace(f'"original_width": {size}', '"original_width": 77'))
    with pytest.raises(BadInput, match=r"of another size: question 1 .*: 77 x "):
        take_answers(folder, request, path)


def test_answers_to_another_audit_are_foreign(tmp_path: Path) -> None:
    one, other = audit_of(tmp_path / "a"), audit_of(tmp_path / "b", seed=1)
    answers = {q.id: "cat" for q in other.questions}
    for path in (
        page(tmp_path, other, answers),
        filled(tmp_path / "b", other, answers),
        cvat_xml(tmp_path / "b", other, answers),
    ):
        with pytest.raises(BadInput, match="answers to another audit"):
            take_answers(tmp_path / "a", one, path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("", "neither JSON, XML nor CSV"),
        ('{"a": 1}', "no export that is known"),
        (json.dumps({"format": ANSWERS_FORMAT, "audit": 3}), "no file of answers that the page"),
        (json.dumps({"format": ANSWERS_FORMAT, "audit": "AUDIT", "answers": []}), "no file of"),
        (json.dumps({"format": ANSWERS_FORMAT, "audit": "AUDIT", "answers": {}}), "not one"),
        ("[" * 100_000, "neither JSON"),
    ],
)
def test_what_are_no_answers_is_refused(tmp_path: Path, content: str, message: str) -> None:
    request = audit_of(tmp_path / "a")
    path = tmp_path / "answers.json"
    path.write_text(content.replace("AUDIT", request.id))
    with pytest.raises(BadInput, match=message):
        take_answers(tmp_path / "a", request, path)


def test_an_answer_that_is_no_text_is_named(tmp_path: Path) -> None:
    request = audit_of(tmp_path / "a")
    path = page(tmp_path, request, {request.questions[0].id: ["cat"]})  # type: ignore[dict-item]
    with pytest.raises(BadInput, match=r"unusable: question 1 .*its answer is no text"):
        take_answers(tmp_path / "a", request, path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    request = audit_of(tmp_path / "a")
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(BadInput, match="more than 67108864"):
        take_answers(tmp_path / "a", request, path)


def test_parts_add_up_and_one_again_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    request = audit_of(folder)
    ids = [q.id for q in request.questions]
    late = page(tmp_path, request, {ids[2]: "cow"}, "late.json")
    early = page(tmp_path, request, {ids[0]: "cat", ids[1]: "cow"}, "early.json")
    assert take_answers(folder, request, late).fresh == 1
    state = audit_result(request, taken_answers(folder, request).answers).state
    assert (state.answered, state.waiting) == (0, 1)
    assert "question 1: 1 later ones wait" in state.needs
    take_answers(folder, request, early)
    written = (folder / "answers.json").read_bytes()
    again = take_answers(folder, request, early)
    assert (again.again, again.fresh, again.total) == (True, 0, 3)
    assert (folder / "answers.json").read_bytes() == written
    taken = taken_answers(folder, request)
    assert [(part.name, part.by) for part in taken.parts] == [
        ("late.json", "Ada"),
        ("early.json", "Ada"),
    ]
    assert list(taken.answers) == ids[:3]
    both = page(tmp_path, request, {ids[0]: "cat", ids[3]: "cat"}, "both.json")
    assert take_answers(folder, request, both).fresh == 1


def test_the_order_of_parts_does_not_matter_and_swapping_models_swaps_the_verdict(
    tmp_path: Path,
) -> None:
    one, other = audit_of(tmp_path / "a"), audit_of(tmp_path / "b", swap=True)
    answers = {q.id: q.second for q in one.questions}
    states = [audit_result(request, answers).state for request in (one, other)]
    assert (states[0].better, states[0].worse) == (6, 0)
    assert (states[1].better, states[1].worse) == (0, 6)
    assert states[0].evidence == states[1].harm
    assert states[0].interval[0] == pytest.approx(-states[1].interval[1])
    assert audit_result(one, dict(reversed(answers.items()))).state == states[0]


def test_a_pool_answered_in_full_ends_with_certainty(tmp_path: Path) -> None:
    request = audit_of(tmp_path / "a", count=40, total=400)
    answers = {q.id: q.first if n % 3 else q.second for n, q in enumerate(request.questions)}
    result = audit_result(request, answers)
    assert result.state.harm == math.inf
    assert result.verdict.kind == "reject"
    assert result.state.interval == pytest.approx((-12 / 400, -12 / 400))


def test_a_second_person_is_apart_and_reported_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    request = audit_of(folder, unchanged=1)
    ids = [q.id for q in request.questions]
    take_answers(folder, request, page(tmp_path, request, dict.fromkeys(ids[:4], "cat")))
    alone = audit_result(request, taken_answers(folder, request).answers)
    answers = {ids[0]: "cat", ids[1]: "cat", ids[2]: "dog", ids[5]: "cow"}
    take_answers(folder, request, page(tmp_path, request, answers, "anna.json"), "anna")
    assert other_persons(folder) == ["anna"]
    others = {"anna": taken_answers(folder, request, "anna").answers}
    result = audit_result(request, taken_answers(folder, request).answers, others)
    assert result.state == alone.state
    (agreement,) = result.agreement
    assert (agreement.shared, agreement.kappa) == (3, 0.0)
    assert "anna and the first person on 3 questions: kappa = 0.00" in result.text(request)
    for name in ("../x", "", " ", "a/b", "x" * 99):
        if name:
            with pytest.raises(BadInput, match="write a name"):
                take_answers(folder, request, page(tmp_path, request, answers), name)


def test_cannot_tell_counts_as_nothing_and_is_told(tmp_path: Path) -> None:
    request = audit_of(tmp_path / "a")
    answers = {q.id: CANNOT_TELL for q in request.questions[:3]}
    answers |= {request.questions[3].id: NONE_OF_THESE}
    result = audit_result(request, answers)
    assert (result.state.answered, result.state.cannot_tell, result.state.neither) == (4, 3, 1)
    assert "3 cannot tell" in result.text(request)


def test_the_level_comes_from_unchanged_units(tmp_path: Path) -> None:
    request = audit_of(tmp_path / "a", count=10, unchanged=2)
    right = {q.id: q.second for q in request.questions}
    result = audit_result(request, right)
    assert result.level is not None
    assert (result.level.before, result.level.after) == pytest.approx((0.75, 1.0))
    wrong = {q.id: q.second if q.changed else NONE_OF_THESE for q in request.questions}
    level = audit_result(request, wrong).level
    assert level is not None
    assert (level.before, level.after) == pytest.approx((0.0, 0.25))
    changed_alone = {q.id: q.second for q in request.questions if q.changed}
    assert audit_result(request, changed_alone).level is None


def test_a_veto_rejects_whatever_is_answered(tmp_path: Path) -> None:
    request = audit_of(tmp_path / "a", vetoes=("answers one class for 60 of 60 images",))
    result = audit_result(request, {q.id: q.second for q in request.questions})
    assert (result.verdict.kind, result.verdict.level) == ("reject", 0)


def test_foreign_or_damaged_files_of_taken_answers_are_told(tmp_path: Path) -> None:
    request = audit_of(tmp_path / "a")
    (tmp_path / "a" / "answers.json").write_text("{")
    with pytest.raises(BadInput, match="is not what was written"):
        taken_answers(tmp_path / "a", request)
    (tmp_path / "a" / "answers.json").write_text('{"audit": "other"}')
    with pytest.raises(BadInput, match="another audit"):
        taken_answers(tmp_path / "a", request)
