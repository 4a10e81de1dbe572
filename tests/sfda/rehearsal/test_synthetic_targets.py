"""Synthetic targets, and rehearsals on them in this process: what the method sees, what is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import five_problems
import numpy as np
import pytest
import small
import torch

from sfda.errors import BadInput
from sfda.loading.opened import Opened, manifest_ref, open_labelled
from sfda.problems.detection.network import make_spec as detection_spec
from sfda.problems.registry import read_bundle
from sfda.rehearsal.plan import method_digest, plan_rehearsals
from sfda.rehearsal.rehearse import Rehearser, digest_without_card
from sfda.rehearsal.shifts import (
    TARGET_ROWS,
    SyntheticShift,
    kinds_for,
    synthetic_shifts,
    synthetic_target,
)

ROWS = 90


@pytest.fixture
def opened(home: Path, tmp_path: Path) -> Opened:
    """Labelled rows of the source that it has not been trained on."""
    path = small.write(tmp_path, "own", small.arrays({"val": ROWS}, seed=5), {"val": ROWS})
    return open_labelled(manifest_ref(path), "val", small.SPEC)


def labels_of(opened: Opened) -> np.ndarray:
    return np.array([one[0] for one in opened.split.labels.row_classes()])


def test_every_third_shift_is_of_a_harmful_kind_and_fewer_begin_like_more():
    shifts = synthetic_shifts(small.SPEC, 24, 7)
    mild, harmful = kinds_for(small.SPEC)
    assert [shift.kind in harmful for shift in shifts] == [False, False, True] * 8
    assert len({shift.kind for shift in shifts[:8]}) == 8
    assert {shift.kind for shift in shifts} == {*mild, *harmful}
    assert len({(shift.kind, shift.severity) for shift in shifts}) == 24
    assert len({shift.seed for shift in shifts}) == 24
    assert synthetic_shifts(small.SPEC, 8, 7) == shifts[:8]
    assert "colour" not in mild  # the images are grey


def test_where_answers_are_of_parts_no_shift_moves_them_or_draws_classes():
    spec = detection_spec("sfda:tinyrcnn", ("a", "b"))
    mild, harmful = kinds_for(spec)
    assert not {"scale", "turn"} & set(mild)
    assert harmful == ("strange", "negative")
    assert len({shift.kind for shift in synthetic_shifts(spec, 24, 0)}) >= 8


def test_a_target_has_no_labels_but_where_the_gain_is_measured(opened, tmp_path):
    target = synthetic_target(opened, small.SPEC, SyntheticShift("noise", 2, 1), tmp_path)
    assert target.learnt.split.labels is None
    assert target.judged.split.labels is None
    assert target.learnt.split.annotations is None
    names = set(target.learnt.split.names), set(target.judged.split.names)
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == ROWS <= TARGET_ROWS
    assert np.bincount(labels_of(target.labelled)).tolist() == [15, 15, 15]  # drawn by class
    assert len(set(target.learnt.split.row_ids)) == len(target.learnt.split)
    again = synthetic_target(opened, small.SPEC, SyntheticShift("noise", 2, 1), tmp_path)
    other = synthetic_target(opened, small.SPEC, SyntheticShift("noise", 2, 2), tmp_path)
    assert np.array_equal(target.learnt.images, again.learnt.images)
    assert not np.array_equal(target.learnt.images, other.learnt.images)


def test_shares_of_classes_and_strange_rows_are_as_strong_as_the_severity_says(opened, tmp_path):
    def target(kind: str, severity: int):
        return synthetic_target(opened, small.SPEC, SyntheticShift(kind, severity, 3), tmp_path)

    few = np.bincount(labels_of(target("few_classes", 3).labelled), minlength=3)
    assert sorted(few)[:2] == [0, 0]  # a third of three classes
    uneven = np.bincount(labels_of(target("imbalance", 3).labelled), minlength=3)
    assert uneven.max() > 0.5 * uneven.sum()
    strange = target("strange", 3)
    assert len(strange.labelled.split) < 0.6 * len(strange.judged.split)
    assert len(strange.labelled.split) == len(strange.labelled.images)


def rehearser(opened: Opened, folder: Path, count: int = 3, **more: object) -> Rehearser:
    plan = plan_rehearsals("classification", count=count, method="bn")
    ref = small.bundle(folder / "source")
    return Rehearser(small.source(), small.SPEC, ref, opened, plan, torch.device("cpu"), **more)


def test_rehearsals_are_numbers_that_do_not_depend_on_who_asks(opened, tmp_path):
    done = rehearser(opened, tmp_path).run()
    assert [pair.kind for pair in done.pairs] == [
        shift.kind for shift in synthetic_shifts(small.SPEC, 3, 0)
    ]
    assert all(pair.rows == pair.judged == 45 for pair in done.pairs)
    assert all({"agreement", "nuclear_norm"} <= set(pair.before) for pair in done.pairs)
    assert len({pair.gain for pair in done.pairs}) > 1
    assert (done.method, done.planned, done.stopped, done.unfinished) == ("bn", 3, 0, 0)
    assert done.model_sha256 == digest_without_card(small.source(), small.SPEC)
    again = rehearser(opened, tmp_path).run()
    assert again.pairs == done.pairs
    few = replace(opened, split=opened.split.take(np.arange(39)), images=opened.images[:39])
    with pytest.raises(BadInput, match="rehearsals need 40"):
        rehearser(few, tmp_path).run()


def test_labels_have_a_part_in_the_gain_alone(opened, tmp_path):
    """Classes that change their names leave all as it is but for the gain: rows are drawn by
    class, and which class is which, nobody but the measure of the gain knows.
    """
    turned = opened.split.labels.index
    other = replace(opened.split.labels, index=(turned + 1) % 3)
    wrong = replace(opened, split=replace(opened.split, labels=other))
    one, two = (rehearser(own, tmp_path, 2).run().pairs for own in (opened, wrong))
    kinds = [pair.kind for pair in one]
    assert kinds == ["noise", "blur"]
    assert one[1].gain != two[1].gain
    assert [pair.model_dump(exclude={"gain"}) for pair in one] == [
        pair.model_dump(exclude={"gain"}) for pair in two
    ]


def test_a_budget_says_what_it_left_out(opened, tmp_path):
    ticks = iter([0.0, 1.0, 11.0, 12.0])
    done = rehearser(opened, tmp_path, budget=10.0, now=lambda: next(ticks)).run()
    assert (len(done.pairs), done.unfinished, done.seconds) == (1, 2, 12.0)
    assert "the budget left out 2" in done.text


def test_what_cannot_be_rehearsed_is_refused():
    with pytest.raises(BadInput, match="1 to 1000"):
        plan_rehearsals("classification", count=0)
    with pytest.raises(BadInput, match="name the method"):
        plan_rehearsals("classification", method="auto")
    with pytest.raises(BadInput, match="adapts nothing"):
        plan_rehearsals("classification", method="source")
    with pytest.raises(BadInput, match="not for"):
        plan_rehearsals("detection", method="shot")


def test_epochs_alone_leave_the_settings_the_same():
    one, two, other = (
        plan_rehearsals("classification", method="shot", epochs=epochs, settings=settings)
        for epochs, settings in ((1, {}), (9, {}), (1, {"schedule": {"lr": 0.5}}))
    )
    digests = [method_digest(plan.method, plan.config) for plan in (one, two, other)]
    assert digests[0] == digests[1] != digests[2]
    assert plan_rehearsals("classification", method="shot").config["schedule"]["epochs"] == 15


@pytest.mark.parametrize(
    ("problem", "method"),
    [("segmentation", "bn"), ("detection", "mean_teacher"), ("pose", "bn"), ("multilabel", "bn")],
)
def test_every_problem_can_be_rehearsed(home, tmp_path, monkeypatch, problem, method):
    monkeypatch.setattr(five_problems, "SIZES", {"adapt": 44, "test": 12})
    two = five_problems.two_models(problem, tmp_path)
    network, spec = read_bundle(Path(two.source.uri))
    own = open_labelled(two.manifest, "adapt", spec)
    plan = plan_rehearsals(problem, count=3, method=method, epochs=1)
    done = Rehearser(network, spec, two.source, own, plan, torch.device("cpu")).run()
    assert [pair.kind for pair in done.pairs] == ["noise", "blur", "strange"]
    assert all("agreement" in pair.after for pair in done.pairs)
