"""The folder of an audit: blind, whole, in a fixed order, and readable by tools."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from auditing import CLASSES, MODELS, audit_of
from PIL import Image

from sfda.annotation.audit.page import PAGE_FILE, PagePicture, audit_page
from sfda.annotation.audit.pictures import jpeg_bytes
from sfda.annotation.audit.questions import (
    AUDIT_FILE,
    Frame,
    first_choices,
    interleaved,
    question_text,
    read_audit,
)
from sfda.decision.change import PoolUnit
from sfda.errors import BadInput
from sfda.measures.change import Unit

PROBLEMS = ("classification", "segmentation", "detection", "pose", "multilabel")
SEEN_BY_PEOPLE = (
    PAGE_FILE,
    "request.csv",
    "label_studio.json",
    "label_studio.xml",
    "cvat_coco.json",
)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_a_person_gets_is_the_same_whichever_model_is_a(tmp_path: Path, problem: str) -> None:
    one = audit_of(tmp_path / "one", problem)
    other = audit_of(tmp_path / "other", problem, swap=True)
    assert [q.first for q in one.questions] == [q.second for q in other.questions]
    assert [q.first for q in one.questions] != [q.second for q in one.questions]
    for name in SEEN_BY_PEOPLE:
        content = (tmp_path / "one" / name).read_bytes()
        assert content == (tmp_path / "other" / name).read_bytes(), name
        for secret in (*(m.uri for m in MODELS), *(m.sha256 for m in MODELS), "secret"):
            assert secret.encode() not in content, name
    pictures = [
        {p.name: p.read_bytes() for p in (tmp_path / folder / "pictures").iterdir()}
        for folder in ("one", "other")
    ]
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) == 6


@pytest.mark.parametrize("problem", ["pose", "detection"])
def test_no_place_and_no_yes_of_a_model_stands_in_what_a_person_gets(
    tmp_path: Path, problem: str
) -> None:
    request = audit_of(tmp_path / "a", problem)
    for name in SEEN_BY_PEOPLE:
        text = (tmp_path / "a" / name).read_text()
        for question in request.questions:
            if problem == "pose":
                assert question.first not in text
                assert question.first.partition(",")[0] not in re.sub(
                    r"[0-9a-f]{16}|base64\S+", "", text
                )
    entries = page_data(tmp_path / "a")["questions"]
    assert all("first" not in entry and "second" not in entry for entry in entries)


def page_data(folder: Path) -> dict:
    text = (folder / PAGE_FILE).read_text()
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(data)


def test_both_models_classes_come_first_and_shuffled(tmp_path: Path) -> None:
    request = audit_of(tmp_path / "a", count=40)
    first_is_a = 0
    for question in request.questions:
        assert set(question.choices) == {question.first, question.second}
        first_is_a += question.choices[0] == question.first
    assert 8 < first_is_a < 32


def test_an_unchanged_unit_looks_as_a_changed_one(tmp_path: Path) -> None:
    request = audit_of(tmp_path / "a", count=20, unchanged=4)
    assert [q.changed for q in request.questions].count(False) == 4
    for question, entry in zip(
        request.questions, page_data(tmp_path / "a")["questions"], strict=True
    ):
        assert len(set(entry["first"])) == 2
        assert question.first in entry["first"]


def test_decoys_are_classes_that_are_confused() -> None:
    pairs = [("cat", "dog"), ("cow", "hen")]
    same = Unit((), "", "cat", "cat")
    assert set(first_choices(0, "q", same, ("cat", "dog", "cow", "hen"), pairs)) == {"cat", "dog"}
    unknown = Unit((), "", "hen", "unknown")
    assert set(first_choices(0, "q", unknown, ("cat", "dog", "cow", "hen"), pairs)) == {
        "cow",
        "hen",
    }
    assert first_choices(0, "q", same, ("cat",), []) == ("cat",)


def test_unchanged_units_come_at_their_rate_wherever_one_stops() -> None:
    order = list(interleaved(80, 16, 0.2, seed=3))
    assert (order.count(True), order.count(False)) == (80, 16)
    for end in range(6, 96, 6):
        assert order[:end].count(False) == end / 6
    positions = {n % 6 for n, changed in enumerate(order) if not changed}
    assert len(positions) > 3, "somewhere in each run, not at one place"
    assert list(interleaved(3, 0, 0.2, seed=0)) == [True] * 3


def test_order_and_names_follow_from_the_seed(tmp_path: Path) -> None:
    ids = [
        [q.id for q in audit_of(tmp_path / name, unchanged=2, seed=seed).questions]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert ids[0] == ids[1]
    assert not set(ids[0]) & set(ids[2]), "answers of one audit are foreign to another"
    assert len(set(ids[0])) == len(ids[0])


def test_two_boxes_on_each_other_are_two_questions(tmp_path: Path) -> None:
    box = Unit((1.0, 2.0, 9.0, 9.0), "cat", "no", "yes")
    units = [PoolUnit(0, box), PoolUnit(0, box._replace(first="yes", second="no"))]
    request = audit_of(tmp_path / "a", "detection", count=2, units=units)
    assert len({q.id for q in request.questions}) == 2


def test_a_class_name_does_no_harm_to_the_page(tmp_path: Path) -> None:
    audit_of(tmp_path / "a")
    text = (tmp_path / "a" / PAGE_FILE).read_text()
    assert text.count("</script>") == 2
    assert "alert(1)<" not in text
    assert CLASSES[3] in page_data(tmp_path / "a")["options"]


def test_the_page_forbids_all_network_and_every_other_script(tmp_path: Path) -> None:
    audit_of(tmp_path / "a")
    text = (tmp_path / "a" / PAGE_FILE).read_text()
    (policy,) = re.findall(r'http-equiv="content-security-policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; img-src data:; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.findall(r'(?:src|href)="(?!data:)', text)


def test_the_folder_is_whole_or_not_there(tmp_path: Path, monkeypatch) -> None:
    from sfda.annotation.audit import request as module

    def broken(*_: object) -> bytes:
        raise BadInput("a picture is broken")

    monkeypatch.setattr(module, "png_bytes", broken)
    with pytest.raises(BadInput, match="broken"):
        audit_of(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    request = audit_of(tmp_path / "a", "detection")
    assert read_audit(tmp_path / "a") == request
    (tmp_path / "a" / AUDIT_FILE).write_text("{")
    with pytest.raises(BadInput, match="is no audit"):
        read_audit(tmp_path / "a")
    with pytest.raises(BadInput, match="holds no audit"):
        read_audit(tmp_path)


def test_nothing_to_ask_and_too_much_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing to ask"):
        audit_of(tmp_path / "a", count=0)
    with pytest.raises(BadInput, match="2001 questions are too many"):
        audit_of(tmp_path / "a", count=2001, total=4000)


def test_the_cross_leaves_its_pixel_visible_and_is_where_it_is(tmp_path: Path) -> None:
    request = audit_of(tmp_path / "a", "segmentation")
    question = request.questions[2]
    picture = np.asarray(Image.open(tmp_path / "a" / question.picture))
    noise = np.random.default_rng(0)
    image = [noise.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(3)][2]
    x, y = (int(v) for v in question.frame.in_picture(2, 40))
    assert (x, y) == (20, 324)
    assert (picture[y - 3 : y + 3, x - 3 : x + 3] == image[40, 2]).all()
    assert (picture[y, x + 20] == 255).all(), "an arm of the cross"


@pytest.mark.parametrize("size", [(900, 1200), (64, 64), (40, 300)])
def test_frames_lead_from_picture_to_image_and_back(size: tuple[int, int]) -> None:
    frame = Frame(-3, 7, size[1], size[0], 512, round(512 * size[0] / size[1]))
    x, y = frame.in_image(*frame.in_picture(10.25, 20.5))
    assert (round(x, 6), round(y, 6)) == (10.25, 20.5)
    assert frame.holds(10, 20)
    assert not frame.holds(-5, 20)
    assert not frame.holds(float("nan"), 20)


def test_a_joint_is_asked_without_a_mark(tmp_path: Path) -> None:
    """A mark would say where a model sees it."""
    request = audit_of(tmp_path / "a", "pose", count=1, side=100)
    (question,) = request.questions
    picture = np.asarray(Image.open(tmp_path / "a" / question.picture))
    assert question.frame[:4] == (-2, -1, 60, 60)
    assert question.person
    noise = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)
    assert (
        picture[200, 200]
        == noise[200 * 60 // picture.shape[0] - 1, 200 * 60 // picture.shape[1] - 2]
    ).all()


def test_pictures_are_bounded() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (512, 512, 3), np.uint8))
    assert len(jpeg_bytes(noise, 64_000)) < 110_000


def test_questions_read_as_questions(tmp_path: Path) -> None:
    texts = {}
    for problem in PROBLEMS:
        classes = ("left_wrist", "b", "c") if problem == "pose" else CLASSES
        request = audit_of(tmp_path / problem, problem, count=1, classes=classes)
        texts[problem] = question_text(request, request.questions[0])
    assert texts == {
        "classification": "Which class is this image?",
        "segmentation": "Which class is at the cross?",
        "detection": "Is this a cat, well framed, and not a second box on an object that has one?",
        "pose": "Where is the left wrist of the person in the middle? "
        "Left and right are their own.",
        "multilabel": "Is there a cat in this image?",
    }


def test_a_manifest_called_as_a_mark_of_the_page_moves_nothing(tmp_path: Path) -> None:
    request = audit_of(tmp_path / "one", "classification")
    pictures = {q.id: PagePicture(b"", (1, 1), None, (1, 1)) for q in request.questions}
    named = request.model_copy(update={"manifest": "@DATA@ @POLICY@"})
    page = audit_page(named, pictures).decode()
    title, rest = page.partition("<title>")[2].split("</title>", 1)
    assert title == f"{len(request.questions)} questions about @DATA@ @POLICY@"
    data = rest.partition('id="data">')[2].partition("</script>")[0]
    assert json.loads(data)["audit"] == request.id


def with_plan(**plan: object) -> Callable[[Any], None]:
    return lambda document: document["plan"].update(plan)


def of_first(**fields: object) -> Callable[[Any], None]:
    return lambda document: document["questions"][0].update(fields)


HOSTILE_AUDITS: list[tuple[Callable[[Any], None], str]] = [
    (of_first(frame=[0, 0, 0, 4, 4, 4]), "questions.0.frame.* greater than or equal to 1"),
    (of_first(frame=[0, 0, 4, 4, 10**8, 4]), "questions.0.frame.* less than or equal to 10000000"),
    (of_first(spot=[1e400, 0]), "questions.0.spot.0"),
    (of_first(id="../../x"), "questions.0.id"),
    (with_plan(known=10**6), "1000000 of 6 changed units are known"),
    (with_plan(units=10**400), "plan.units"),
    (with_plan(units=10**9, budget=10**8), "plan.budget .* less than or equal to 10000"),
    (with_plan(units=5), "6 questions are about 5 changed units"),
    (with_plan(known_sums=[]), "`known_sums` are 0, too few"),
    (with_plan(known_sums=[float("nan"), 0]), "plan.known_sums.0 .*finite"),
    (with_plan(known_sums=[2, 0]), "more than 0 answers can add up to"),
    (with_plan(detection=True), "`plan.detection` is True"),
    (with_plan(alpha=float("nan")), "plan.alpha"),
    (lambda document: document["change"].update(share=float("nan")), "change.share"),
    (lambda document: document.update(question="place"), "nobody is asked for a place"),
    (
        lambda document: document["questions"].append(document["questions"][0]),
        "several questions have one id: [0-9a-f]{16}",
    ),
]


@pytest.mark.parametrize(("change", "fault"), HOSTILE_AUDITS)
def test_numbers_that_no_audit_has_are_one_message(
    tmp_path: Path, change: Callable[[Any], None], fault: str
) -> None:
    audit_of(tmp_path / "a")
    file = tmp_path / "a" / AUDIT_FILE
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document).replace("Infinity", "1e400"))
    with pytest.raises(BadInput, match=f"is no audit: .*{fault}.*; make it anew with `sfda audit`"):
        read_audit(tmp_path / "a")
