"""People are asked about rows that methods learn from, never about those that are held out."""

from __future__ import annotations

from pathlib import Path

import pytest
import small
from asking import filled, request_for

from sfda import plugins
from sfda.annotation.query_plan import make_query_plan
from sfda.annotation.take import take_annotations
from sfda.errors import BadInput
from sfda.loading.opened import manifest_ref, open_ref
from sfda.loading.parts import read_rows
from sfda.loading.pool import learning_part, pool_of
from sfda.manifests.rows import read_split
from sfda.refs import ManifestRef, SplitRef
from tasks.query_labels import query_labels

SIZES = {"adapt": 48}


@pytest.fixture
def target(home: Path, tmp_path: Path) -> Path:
    inputs = small.arrays(SIZES, seed=2, dull=True)
    return small.write(tmp_path, "target", inputs, SIZES)


def rows_of(part: SplitRef) -> set[int]:
    return set(range(48) if part.rows is None else read_rows(part.rows, 48).tolist())


def asked(ref: ManifestRef, out: Path, by: str, budget: int, **more: str) -> set[int]:
    """The rows that a query asks about."""
    plan = make_query_plan("classification", by, budget, "adapt", {}, 0, **more)
    model = small.bundle(out.with_name(f"{out.name}-model"))
    request = query_labels.fn(model, ref, plan, str(out), None, "cpu")
    ids = read_split(open_ref(ref), "adapt").row_ids
    return {ids.index(one.row) for one in request.requested}


@pytest.mark.parametrize("by", plugins.names("queries"))
def test_no_row_is_asked_about_that_is_held_out(target, tmp_path, by):
    ref = manifest_ref(target)
    learnt = rows_of(learning_part(ref, "adapt"))
    assert asked(ref, tmp_path / "out", by, 24) == learnt
    assert not learnt & rows_of(pool_of(ref, "adapt").part)


def test_every_row_may_be_asked_about_where_another_split_is_for_tests(home, tmp_path):
    sizes = {"adapt": 48, "own": 30}
    path = small.write(tmp_path, "target", small.arrays(sizes, seed=2), sizes)
    rows = asked(manifest_ref(path), tmp_path / "out", "margin", 48, test_split="own")
    assert rows == set(range(48))


def test_answers_about_the_pool_leave_it_for_ever(target, tmp_path):
    ref = manifest_ref(target)
    before = rows_of(pool_of(ref, "adapt").part)
    row = min(before)
    request_for(target, [row], tmp_path / "audit")
    answers = filled(tmp_path / "audit")
    later = take_annotations(tmp_path / "audit", answers, target).manifest
    assert rows_of(pool_of(manifest_ref(later), "adapt").part) == before - {row}
    learnt = rows_of(learning_part(manifest_ref(later), "adapt"))
    assert learnt == set(range(48)) - before | {row}
    # nor is it back where the answer is not known
    assert rows_of(pool_of(ref, "adapt").part) == before - {row}


def test_a_target_of_which_all_but_the_pool_is_answered_has_nothing_left_to_ask(target, tmp_path):
    ref = manifest_ref(target)
    rows = sorted(rows_of(learning_part(ref, "adapt")))
    request_for(target, rows, tmp_path / "first")
    later = take_annotations(tmp_path / "first", filled(tmp_path / "first"), target).manifest
    assert rows_of(learning_part(manifest_ref(later), "adapt")) == set(rows)
    with pytest.raises(BadInput, match="that is not held out for decisions has an answer already"):
        asked(manifest_ref(later), tmp_path / "again", "margin", 3)
    assert rows_of(pool_of(ref, "adapt").part) == set(range(48)) - set(rows)
