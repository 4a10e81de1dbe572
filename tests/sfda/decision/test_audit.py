"""An audit's state: what answers in their fixed order say, at any moment."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from sfda.decision.audit import (
    AuditPlan,
    AuditState,
    audit_state,
    level,
    longest_prefix,
    remaining,
)
from sfda.decision.audit_text import state_text
from sfda.decision.betting import declared, evidence, limits
from sfda.measures.kappa import cohens_kappa

ACCURACY = AuditPlan(units=112, answers=1000, metric="overall_accuracy")


def shuffled(better: int, worse: int, neither: int, seed: int = 0) -> list[float]:
    x = np.repeat([1.0, -1.0, 0.0], [better, worse, neither])
    answers: list[float] = np.random.default_rng(seed).permutation(x).tolist()
    return answers


def test_an_audit_says_what_its_answers_do() -> None:
    xs = shuffled(19, 3, 4, seed=1)
    state = audit_state(ACCURACY, xs, 1)
    assert (state.answered, state.better, state.worse) == (26, 19, 3)
    assert (state.neither, state.cannot_tell) == (3, 1)
    assert state.evidence == evidence(xs, 112)[-1]
    assert state.harm == evidence(np.negative(xs), 112)[-1]
    low, high = limits(xs, 112, 0.05)
    assert state.interval == pytest.approx((0.112 * low, 0.112 * high))
    assert state.decided == "better"
    assert state.decided_after == 1 + int(np.argmax(evidence(xs, 112) >= 20))
    assert not state.finished
    assert not state.by_budget
    assert state_text(ACCURACY, state) == (
        "26 of 112 asked: 19 better, 3 worse, 3 neither, 1 cannot tell; E = 1037 >= 20; "
        "gain +2.3 to +9.7 points (90 % interval)"
    )


def swapped(state: AuditState) -> dict[str, Any]:
    facts = state.model_dump()
    for one, other in (("better", "worse"), ("evidence", "harm"), ("largest", "largest_harm")):
        facts[one], facts[other] = facts[other], facts[one]
    facts["interval"] = (-state.interval[1], -state.interval[0])
    facts["decided"] = {"better": "harm", "harm": "better", None: None}[state.decided]
    return facts


@pytest.mark.parametrize("counts", [(17, 5, 4), (40, 10, 3), (9, 8, 0), (4, 30, 6)])
@pytest.mark.parametrize("units", [112, 600])  # the larger ones have a declared budget
def test_swapping_both_models_swaps_the_verdicts(counts: tuple[int, int, int], units: int) -> None:
    margin = 0.002 if units == 112 else 0.0
    plan = AuditPlan(
        units=units, answers=6000, metric="a", margin=margin, harm_margin=margin, budget=40
    )
    xs = shuffled(*counts)
    there, back = audit_state(plan, xs), audit_state(plan, [-x for x in xs])
    assert back.model_dump() == swapped(there)
    assert there.decided == {17: None, 40: "better", 9: None, 4: "harm"}[counts[0]]


def test_the_first_crossing_counts_whatever_comes_after() -> None:
    xs = [1.0] * 10 + [-1.0] * 60
    state = audit_state(AuditPlan(units=200, answers=1000, metric="a"), xs)
    assert (state.decided, state.decided_after) == ("better", 7)
    assert state.harm >= 20 > state.evidence
    text = state_text(ACCURACY, state)
    assert "E = 220 >= 20 on the way (after 7 answers)" in text


def test_a_margin_is_of_the_metric() -> None:
    """One point of 1,000 answers are 10 more right ones among those that changed."""
    plan = AuditPlan(units=40, answers=1000, margin=0.01, metric="a")
    assert audit_state(plan, shuffled(25, 15, 0)).decided is None  # +10 is not more than that
    assert audit_state(plan, shuffled(26, 14, 0)).decided == "better"
    harm = AuditPlan(units=40, answers=1000, harm_margin=0.01, metric="a")
    assert audit_state(harm, shuffled(15, 25, 0)).decided is None
    assert audit_state(harm, shuffled(14, 26, 0)).decided == "harm"
    assert not plan.hopeless
    assert AuditPlan(units=10, answers=1000, margin=0.01, metric="a").hopeless
    signs = AuditPlan(units=40, answers=1000, margin=0.01)  # a margin of nothing
    assert audit_state(signs, shuffled(21, 19, 0)).decided == "better"


@pytest.mark.parametrize("seed", range(5))
def test_a_pool_answered_in_full_is_certain(seed: int) -> None:
    plan = AuditPlan(units=40, answers=400, margin=0.003, metric="a")  # m0 = 0.03, mean 0.05
    state = audit_state(plan, shuffled(21, 19, 0, seed))
    assert state.decided in ("better", "harm")  # harm only if a wrong answer came early
    assert math.isinf(state.evidence)
    assert state.interval == pytest.approx((0.005, 0.005), abs=1e-15)
    assert state.finished
    text = state_text(plan, state)
    assert "E = infinite >= 20; gain +0.5 to +0.5 points" in text or state.decided == "harm"


def test_a_declared_budget_decides_before_evidence_does() -> None:
    plan = AuditPlan(units=1200, answers=10_000, metric="a")
    xs = [1.0, 1.0, -1.0] * 13 + [1.0] * 2
    for count in range(len(xs) + 1):
        state = audit_state(plan, xs[:count])
        if state.decided:
            break
    assert state.evidence == declared(xs[:count], 1200, 40, 0.05)[-1] >= 20
    assert evidence(xs[:count], 1200).max() < 20
    assert state.by_budget
    assert state.interval[0] < 0
    assert "gain > 0 (declared budget) to +" in state_text(plan, state)
    mirrored = audit_state(plan, [-x for x in xs[:count]])
    assert "to < 0 (declared budget) points" in state_text(plan, mirrored)
    small = AuditPlan(units=399, answers=10_000, metric="a")
    assert audit_state(small, xs[:count]).evidence == evidence(xs[:count], 399)[-1]


def test_detection_demands_the_evidence_at_both_ends() -> None:
    """Boxes that B alone has and a person refuses count only where the F1 of A is not 0."""
    plan = AuditPlan(units=600, answers=3000, detection=True)
    yes, no = (1.0, 0.5), (0.0, -0.5)  # of a box that B alone has
    xs = [yes, no] * 12
    state = audit_state(plan, xs)
    ends = [evidence([x[n] for x in xs], 600) for n in (0, 1)]
    assert ends[0][-1] > 20
    assert state.evidence == min(end[-1] for end in ends) < 2
    assert state.decided is None
    assert (state.better, state.worse, state.neither) == (12, 12, 0)
    both = [limits([x[n] for x in xs], 600, 0.05) for n in (0, 1)]
    assert state.interval == pytest.approx((both[1][0], both[0][1]))
    assert audit_state(plan, [yes] * 24).decided == "better"
    assert audit_state(plan, [(-a, -b) for a, b in [yes] * 24]).decided == "harm"
    assert "better less worse" in state_text(plan, state)


def test_only_the_longest_answered_prefix_counts() -> None:
    answers = dict(enumerate(shuffled(17, 5, 4)))
    whole = longest_prefix(answers)
    assert whole == (tuple(answers.values()), None, 0)
    assert longest_prefix(dict(reversed(answers.items()))) == whole
    del answers[3]
    prefix = longest_prefix(answers)
    assert (len(prefix.answers), prefix.gap, prefix.waiting) == (3, 3, 22)
    state = audit_state(ACCURACY, prefix.answers, waiting=prefix.waiting, gap=prefix.gap)
    assert state.needs == "an answer to question 4: 22 later ones wait for it"
    assert longest_prefix({}) == ((), None, 0)


def test_what_is_still_needed() -> None:
    start = audit_state(ACCURACY, [])
    assert (start.evidence, start.harm, start.decided) == (1.0, 1.0, None)
    assert start.interval == pytest.approx((-0.112, 0.112))
    assert start.needs == "at most 40 more answers that decide, out of at most 80 questions"
    some = audit_state(ACCURACY, [1.0, -1.0, 0.0])
    assert some.needs == "at most 38 more answers that decide, out of at most 77 questions"
    deciding = audit_state(ACCURACY, [1.0, -1.0, 0.0] * 20)
    assert deciding.finished
    assert "budget of 40 answers that decide is used up" in deciding.needs
    ties = audit_state(ACCURACY, [0.0] * 80)
    assert ties.finished
    assert not audit_state(ACCURACY, [0.0] * 79).finished
    few = AuditPlan(units=5, answers=1000, metric="a")
    assert audit_state(few, [1.0, -1.0, 0, 0]).needs.endswith("out of at most 1 questions")
    assert audit_state(few, [1.0, -1.0, 0, 0, 0]).needs == "nothing: all that changed is answered"
    assert audit_state(ACCURACY, [1.0] * 9).needs == "nothing: it is decided"
    nothing = audit_state(AuditPlan(units=0, answers=1000, metric="a"), [])
    assert (nothing.finished, nothing.decided, nothing.interval) == (True, None, (0.0, 0.0))


def test_answers_are_used_again_for_another_candidate() -> None:
    plan = AuditPlan(units=60, answers=1000, margin=0.005, metric="a")  # N m0 = 5
    part = remaining(plan, [1.0] * 12 + [-1.0] * 4 + [0.0] * 4)
    assert (part.pool, part.null_sums("better")) == (40, [-3.0])
    assert part.null_sums("harm") == [8.0]
    assert audit_state(part, [1.0]).evidence == evidence([1.0], 40, -3 / 40)[-1]
    assert audit_state(part, [1.0]).harm == evidence([-1.0], 40, 8 / 40)[-1]
    full = audit_state(part, [0.0] * 40)
    assert full.interval == pytest.approx((0.008, 0.008))
    assert full.decided == "better"
    again = remaining(part, [1.0, 1.0])
    assert (again.known, again.known_sums) == (22, (10.0,))
    assert "1 of 60 asked (20 more were answered before)" in state_text(
        part, audit_state(part, [1.0])
    )
    certain = remaining(AuditPlan(units=20, answers=1000, metric="a"), [1.0] * 15)
    assert audit_state(certain, []).decided == "better"
    assert audit_state(certain, []).decided_after == 0
    known = remaining(AuditPlan(units=4, answers=1000, metric="a"), [1.0, -1.0, -1.0, 0.0])
    assert audit_state(known, []).decided == "harm"
    assert audit_state(known, []).interval == (-0.001, -0.001)
    pairs = remaining(AuditPlan(units=9, answers=90, detection=True), [(1.0, 0.5), (0.0, -0.5)])
    assert pairs.known_sums == (1.0, 0.0)
    with pytest.raises(ValueError, match="5 answers to 4 units"):
        remaining(AuditPlan(units=4, answers=9), [1.0] * 5)


def test_a_state_survives_json() -> None:
    certain = audit_state(AuditPlan(units=4, answers=9, metric="a"), [1.0] * 4)
    assert math.isinf(certain.evidence)
    text = json.dumps(certain.model_dump(), allow_nan=False)
    assert AuditState.model_validate(json.loads(text)) == certain
    assert AuditState.model_validate_json(certain.model_dump_json()) == certain


def test_the_level_comes_from_both_parts() -> None:
    plan = AuditPlan(units=100, answers=1000)
    known = level(plan, 5, 15, 20, same=8, same_asked=10)
    assert known
    assert known.before == pytest.approx(0.1 * 0.25 + 0.9 * 0.8)
    assert known.after == pytest.approx(0.1 * 0.75 + 0.9 * 0.8)
    assert known.error == pytest.approx(0.9 * (0.75 * 0.25 / 10) ** 0.5, rel=0.01)
    all_right = level(plan, 20, 20, 20, same=10, same_asked=10)
    assert all_right
    assert all_right.before == 1.0
    assert all_right.error > 0.05
    assert level(plan, 5, 15, 20, same=0, same_asked=0) is None
    assert level(plan, 0, 0, 0, same=8, same_asked=10) is None


def test_agreement_of_two_persons() -> None:
    by_hand = [("a", "a")] * 20 + [("a", "b")] * 5 + [("b", "a")] * 10 + [("b", "b")] * 15
    assert cohens_kappa(by_hand) == pytest.approx(0.4)  # seen 0.7, by chance 0.5
    assert cohens_kappa([("a", "a"), ("b", "b")]) == 1.0
    assert cohens_kappa([("a", "a")] * 3) is None
    assert cohens_kappa([]) is None
