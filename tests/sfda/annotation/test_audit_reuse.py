"""Answers of an earlier audit count for another candidate, wherever it changes the same."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from auditing import audit_of
from test_audit_answers import page

from sfda.annotation.audit.answers import take_answers
from sfda.annotation.audit.evidence import audit_result
from sfda.annotation.audit.reuse import as_known, earlier_facts, known_units, plan_after
from sfda.decision.audit import AuditPlan
from sfda.errors import BadInput
from sfda.measures.change import ImageUnits, Unit
from sfda.problems.segmentation.change import image_units
from sfda.problems.segmentation.network import make_spec

SPEC = make_spec("sfda:tinyunet", ("ground", "disc", "bar"))


def change_of(images: list[ImageUnits]) -> Any:
    """What is asked of a change in a pool."""
    return SimpleNamespace(
        changed=np.array([image.changed for image in images]),
        look=lambda rows: ((row, images[row]) for row in rows),
    )


@pytest.mark.parametrize("side", [20, 120])  # looked through, and bisected
def test_pixels_that_were_answered_are_found_by_their_place(side: int) -> None:
    rng = np.random.default_rng(0)
    masks = [rng.integers(0, 3, (2, side, side + 3), np.uint8) for _ in range(3)]
    images = [image_units(one, other, SPEC, 0.0) for one, other in masks]
    chosen = [(row, images[row].unit(n)) for row in (0, 2) for n in (0, 7, images[row].changed - 1)]
    names = ("a", "b", "c")
    facts = {(names[row], unit.spot, unit.subject): "disc" for row, unit in chosen}
    same = np.argwhere(masks[1][0] == masks[1][1])[5]
    facts["b", (float(same[1]), float(same[0])), ""] = "bar"  # nothing changes there now
    facts["gone", (1.0, 1.0), ""] = "bar"
    known = known_units(facts, names, change_of(images))
    assert [(one.row, one.unit) for one in known] == chosen
    start = images[0].changed + images[1].changed
    last = images[2].changed - 1
    assert [one.number for one in known][3:] == [start, start + 7, start + last]
    assert {one.answer for one in known} == {"disc"}


def test_a_joint_is_known_wherever_another_model_sees_it() -> None:
    unit = Unit((), "hip", "1.00,1.00", "9.00,9.00", 4.0)
    image = ImageUnits(1, 1, {}, lambda _: unit)
    (known,) = known_units({("a", (), "hip"): "9.50,9.00"}, ("a",), change_of([image]))
    assert known.unit == unit
    plan = plan_after(AuditPlan(units=1, answers=1), "pose", [known])
    assert (plan.known, plan.known_sums[0], plan.pool) == (1, 1.0, 0)


def test_what_is_known_counts_as_if_it_were_asked(tmp_path: Path) -> None:
    """The whole pool answered, partly before and partly now: the same interval as all now."""
    whole = audit_of(tmp_path / "whole", count=10)
    answers = {q.id: q.second if n < 7 else q.first for n, q in enumerate(whole.questions)}
    full = audit_result(whole, answers).state
    images = [ImageUnits(1, 1, {}, lambda _, q=q: q.unit) for q in whole.questions]
    names = tuple(q.row for q in whole.questions)
    facts = {(q.row, q.spot, q.subject): answers[q.id] for q in whole.questions[:4]}
    known = known_units(facts, names, change_of(images))
    rest = whole.model_copy(
        update={
            "plan": plan_after(whole.plan, "classification", known),
            "known": as_known(known, names),
            "questions": whole.questions[4:],
        }
    )
    state = audit_result(rest, answers).state
    assert state.interval == pytest.approx(full.interval)
    assert (state.decided, state.evidence) == (full.decided, full.evidence)


def test_facts_come_from_audits_of_the_same_images_that_agree(tmp_path: Path) -> None:
    audits = {seed: audit_of(tmp_path / str(seed), seed=seed) for seed in (1, 2)}
    for seed, answer in ((1, "cat"), (2, "dog")):
        ids = [q.id for q in audits[seed].questions if q.row == audits[1].questions[0].row]
        path = page(tmp_path, audits[seed], dict.fromkeys(ids, answer))
        take_answers(tmp_path / str(seed), audits[seed], path)
    target = audits[1].target
    assert set(earlier_facts([tmp_path / "1"], target).values()) == {"cat"}
    with pytest.raises(BadInput, match="answer otherwise about row"):
        earlier_facts([tmp_path / "1", tmp_path / "2"], target)
    other = target.model_copy(update={"seen": "2" * 64})
    with pytest.raises(BadInput, match="asks about other images"):
        earlier_facts([tmp_path / "1"], other)
