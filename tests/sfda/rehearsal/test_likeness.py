"""Likeness of a candidate to rehearsals, worked by hand on points of two coordinates."""

from __future__ import annotations

import pytest

from sfda.rehearsal.likeness import LIKE_IT, leave_one_out, likeness_among
from sfda.weights.rehearsals import Rehearsals, RehearsedPair


def pair(change: float, step: float, gain: float, **more: float) -> RehearsedPair:
    """A rehearsal by its change, the difference of one score, and its gain."""
    before = {"agreement": 0.5, **dict.fromkeys(more, 0.5)}
    after = {"agreement": 0.5 + step, **{name: 0.5 + own for name, own in more.items()}}
    return RehearsedPair(
        kind="noise", severity=1, seed=0, rows=10, judged=10, change=change,
        before=before, after=after, gain=gain,
    )  # fmt: skip


# few changes and no gain; many changes and a gain
CALM = [pair(0.01 * n, 0.01 * n, -1.0) for n in range(6)]
LIVELY = [pair(0.5 + 0.01 * n, 0.3, 10.0) for n in range(6)]


def rehearsals(pairs: list[RehearsedPair], **changes: object) -> Rehearsals:
    predicted, right = leave_one_out(pairs)
    usual = {
        "problem": "classification", "method": "bn", "settings_sha256": "a" * 64,
        "model_sha256": "b" * 64, "epochs": 1, "planned": 20, "stopped": 0,
        "predicted": predicted, "right": right, "seconds": 1.0, "pairs": pairs,
    }  # fmt: skip
    return Rehearsals.model_validate(usual | changes)


def like(pairs: list[RehearsedPair], change: float, step: float, **more: float):
    before = {"agreement": 0.2, **dict.fromkeys(more, 0.0)}
    after = {"agreement": 0.2 + step, **more}
    return likeness_among(rehearsals(pairs), change, before, after, settings_sha256="a" * 64)


def test_the_nearest_tell_how_many_had_gained():
    seen = like(CALM + LIVELY, 0.52, 0.3)
    assert (seen.like, seen.like_gained, seen.gained, seen.rehearsals) == (5, 5, 6, 12)
    assert seen.text.startswith(
        "of the 5 rehearsals with scores most like these, out of 12 at the source, 5 had gained"
    )
    seen = like(CALM + LIVELY, 0.02, 0.02)
    assert (seen.like, seen.like_gained) == (5, 0)


def test_between_two_heaps_each_coordinate_counts_by_its_own_spread():
    # changes are spread over 0.55, the score over 0.01: one hundredth of the score is much more
    pairs = [pair(0.1 * n, 0.001 * (n % 2), 5.0 if n % 2 else -5.0) for n in range(11)]
    assert like(pairs, 0.5, 0.001).like_gained == 5
    assert like(pairs, 0.5, 0.0).like_gained == 0


def test_outside_the_range_of_all_there_are_none():
    seen = like(CALM + LIVELY, 1.0, 0.3)
    assert seen.outside
    assert (seen.like, seen.like_gained) == (0, 0)
    assert seen.text.startswith("none of 12 rehearsals at the source had scores like these")
    assert not like(CALM + LIVELY, 0.6, 0.3).outside  # half a standard deviation is let pass


def test_few_rehearsals_are_compared_with_nothing():
    seen = like(LIVELY[: LIKE_IT - 1], 0.52, 0.3)
    assert (seen.like, seen.outside) == (0, False)
    assert "4 rehearsals at the source are too few" in seen.text
    assert like([], 0.5, 0.3) is None


def test_a_score_that_some_lack_has_no_part():
    mixed = [pair(0.5, 0.3, 1.0, ensv=0.4), *CALM, *LIVELY]
    assert like(mixed, 0.52, 0.3, ensv=0.9) == like(mixed, 0.52, 0.3)
    every = [pair(p.change, 0.3, p.gain, ensv=0.01 * n) for n, p in enumerate(LIVELY)]
    assert like(every, 0.52, 0.3, ensv=0.9).outside


def test_coordinates_that_never_vary_are_left_out():
    same = [pair(0.5, 0.3, 1.0)] * 6
    assert like(same, 0.5, 0.3).like_gained == 5
    assert like(same, 0.5, 0.31).outside


def test_left_out_one_by_one_each_is_told_by_the_others():
    # of two heaps of six all are told right; one that gained among the calm ones is told wrong
    assert leave_one_out(CALM + LIVELY) == (12, 12)
    assert leave_one_out([*CALM, pair(0.025, 0.025, 3.0), *LIVELY]) == (13, 12)
    assert leave_one_out(LIVELY[:5]) == (0, 0)  # four others are too few
    far = pair(1.0, -0.5, 3.0)
    assert leave_one_out([*CALM, *LIVELY, far]) == (12, 12)  # nothing is told of what lies outside


def test_other_settings_are_told():
    done = rehearsals(CALM + LIVELY)
    scores = {"agreement": 0.5}
    seen = likeness_among(done, 0.1, scores, scores, settings_sha256="c" * 64)
    assert seen is not None
    assert "they had other settings" in seen.text
    assert "12 of 12 are told right" in seen.text


def test_a_card_cannot_boast_of_how_well_its_rehearsals_tell():
    pairs = [*CALM, pair(0.025, 0.025, 3.0), *LIVELY]
    boasting = rehearsals(pairs, predicted=13, right=13)
    seen = likeness_among(boasting, 0.1, {}, {}, settings_sha256="a" * 64)
    assert (seen.predicted, seen.right) == leave_one_out(pairs) == (13, 12)


@pytest.mark.parametrize("gain", [0.0, -0.1])
def test_no_gain_is_not_gained(gain):
    assert like([pair(0.5, 0.3, gain)] * 6, 0.5, 0.3).like_gained == 0
