"""The verdict, rule by rule (docs/methods/decide.md, section 6)."""

from __future__ import annotations

import pytest

from sfda.decision.audit import AuditPlan, audit_state
from sfda.decision.change import ChangeReport
from sfda.decision.gate import Audited, Evidence, Preference, Referee, Verdict, decide
from sfda.decision.paired import NOTHING_KNOWN, PairedInterval
from sfda.policy import DecisionPolicy

USUAL = DecisionPolicy()
UNATTENDED = DecisionPolicy(unattended=True)


def change(changed: int, answers: int = 1000) -> ChangeReport:
    return ChangeReport(
        answers=answers,
        changed=changed,
        share=changed / answers,
        images=answers,
        images_changed=changed,
        units="images",
        metric="accuracy",
        by_class={},
    )


def gain(low: float, high: float, before: float = 0.7) -> PairedInterval:
    return PairedInterval(
        metric="macro_accuracy", before=before, after=before + (low + high) / 2, low=low,
        high=high, level=0.9, resamples=1000, units="images", count=300, split="test",
    )  # fmt: skip


def audited(better: int, worse: int, units: int = 112) -> Audited:
    plan = AuditPlan(units=units, answers=1000, metric="accuracy")
    most = max(better, worse)
    turns = [(1.0, n < better) for n in range(most)], [(-1.0, n < worse) for n in range(most)]
    xs = [x for pair in zip(*turns, strict=True) for x, there in pair if there]  # by turns
    return Audited(plan=plan, state=audit_state(plan, xs))


def preferring(*families: str, low: float = 0.0) -> tuple[Preference, ...]:
    return tuple(
        Preference(family=family, score=family, gain=0.1, low=low)  # type: ignore[arg-type]
        for family in families
    )


def kind(evidence: Evidence, policy: DecisionPolicy = USUAL) -> tuple[str, int]:
    verdict = decide(evidence, policy)
    return verdict.kind, verdict.level


def test_a_veto_rejects_whatever_labels_say() -> None:
    evidence = Evidence(change=change(100), vetoes=("1.0 effective classes",), labelled=gain(1, 2))
    verdict = decide(evidence, USUAL)
    assert verdict.text == "rejected: 1.0 effective classes"


def test_too_little_change_keeps_the_champion() -> None:
    assert kind(Evidence(change=change(0), labelled=gain(0.1, 0.2))) == ("keep", 0)
    margin = DecisionPolicy(margin=0.1)
    assert kind(Evidence(change=change(49), labelled=gain(0.1, 0.2)), margin) == ("keep", 0)
    assert kind(Evidence(change=change(50), labelled=gain(0.11, 0.2)), margin) == ("promote", 3)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.01, 0.2, "promote"),
        (0.0, 0.2, "keep"),
        (-0.1, 0.2, "keep"),
        (-0.2, -0.01, "reject"),
    ],
)
def test_labels_decide_where_there_are_some(low: float, high: float, expected: str) -> None:
    evidence = Evidence(change=change(300), labelled=gain(low, high), audit=audited(0, 20))
    assert kind(evidence) == (expected, 3)


def test_better_than_the_champion_and_worse_than_the_source_is_kept() -> None:
    evidence = Evidence(
        change=change(300), labelled=gain(0.1, 0.2), labelled_source=gain(-0.1, 0.05)
    )
    assert kind(evidence) == ("keep", 3)
    better = evidence.model_copy(update={"labelled_source": gain(0.0, 0.05)})
    assert kind(better) == ("promote", 3)


def test_labels_of_too_few_images_decide_nothing_and_a_person_is_asked() -> None:
    few = gain(*NOTHING_KNOWN).model_copy(update={"count": 4})
    evidence = Evidence(change=change(3, 4), labelled=few, labelled_source=gain(-0.1, -0.05))
    verdict = decide(evidence, USUAL)
    assert verdict.kind == "hold"
    assert verdict.text.endswith("; " + few.text())
    assert "4 images of test are too few to tell a gain" in verdict.text
    answered = evidence.model_copy(update={"audit": audited(17, 0)})
    assert kind(answered) == ("promote", 2)


def test_a_verdict_on_images_that_adaptation_has_seen_says_so() -> None:
    seen = "all 9 images of the split 'test', 4 of which adaptation has seen"
    for more in ({"labelled": gain(0.1, 0.2)}, {"vetoes": ("x",)}, {}):
        evidence = Evidence(change=change(300), pool=seen, **more)
        assert decide(evidence, USUAL).text.endswith(f"(judged on {seen})")


def test_answers_decide_where_there_are_no_labels() -> None:
    for audit, expected in (
        (audited(17, 0), "promote"),
        (audited(0, 17), "reject"),
        (audited(2, 2), "hold"),
    ):
        assert kind(Evidence(change=change(112), audit=audit), UNATTENDED) == (expected, 2)


def test_a_budget_that_is_used_up_keeps_the_champion_with_the_interval() -> None:
    verdict = decide(Evidence(change=change(112), audit=audited(20, 20)), USUAL)
    assert (verdict.kind, verdict.level) == ("keep", 2)
    assert "40 of 112 asked: 20 better, 20 worse" in verdict.text
    assert "gain" in verdict.text


def test_swapping_the_models_swaps_the_verdicts() -> None:
    there = decide(Evidence(change=change(112), audit=audited(15, 1)), USUAL)
    back = decide(Evidence(change=change(112), audit=audited(1, 15)), USUAL)
    assert (there.kind, back.kind) == ("promote", "reject")


def test_without_answers_it_is_held_and_says_so() -> None:
    verdict = decide(Evidence(change=change(112), preferences=preferring("dispersity")), USUAL)
    assert verdict.kind == "hold"
    assert verdict.text == (
        "held: changes 112 of 1,000 answers, so accuracy on these images moves by at most 11.2 "
        "points; no label says which way"
    )


def test_unattended_needs_a_small_change_two_families_and_no_referee_against_it() -> None:
    two = preferring("dispersity", "perturbation")
    good = Evidence(change=change(100), preferences=two)
    assert kind(good, UNATTENDED) == ("promote", 1)
    assert kind(good) == ("hold", 0)
    larger = good.model_copy(update={"change": change(101)})
    assert kind(larger, UNATTENDED) == ("hold", 1)
    one = good.model_copy(update={"preferences": preferring("dispersity", "dispersity")})
    assert kind(one, UNATTENDED) == ("hold", 1)
    unsure = preferring("dispersity") + preferring("perturbation", low=-0.01)
    assert kind(good.model_copy(update={"preferences": unsure}), UNATTENDED) == ("hold", 1)
    referee = Referee(name="clip", with_candidate=10, with_champion=40, against=True)
    assert kind(good.model_copy(update={"referee": referee}), UNATTENDED) == ("hold", 1)
    mild = referee.model_copy(update={"against": False})
    assert kind(good.model_copy(update={"referee": mild}), UNATTENDED) == ("promote", 1)


def test_the_sentence_says_promoted_once_it_was() -> None:
    verdict = Verdict(kind="promote", level=3, reason="gain +1.0 to +2.0 points")
    assert verdict.text.startswith("better: ")
    assert verdict.promoted_text == "promoted: gain +1.0 to +2.0 points"
    kept = Verdict(kind="keep", level=3, reason="x")
    assert kept.promoted_text == kept.text == "kept: x"
