"""The verdict: whether a candidate B takes the place of the champion A (decide.md, section 6).

The evidence comes in levels: 0 the change, 1 scores without labels, 2 answers of a person to an
audit, 3 a labelled test split. The highest that there is decides; a lower one is never worded as a
higher one.
"""

from __future__ import annotations

from typing import Literal

from sfda.config import Config
from sfda.decision.audit import AuditPlan, AuditState
from sfda.decision.audit_text import state_text
from sfda.decision.change import ChangeReport
from sfda.decision.paired import PairedInterval
from sfda.policy import DecisionPolicy
from sfda.rehearsal.likeness import Likeness

Kind = Literal["promote", "keep", "hold", "reject"]
ScoreFamily = Literal["ensemble", "dispersity", "perturbation"]
FAMILIES_NEEDED = 2  # of the three families of scores
_PAST: dict[Kind, str] = {
    "promote": "better",
    "keep": "kept",
    "hold": "held",
    "reject": "rejected",
}


class Preference(Config):
    """What one family of scores without labels says of B against A."""

    family: ScoreFamily
    score: str
    gain: float  # B's score less A's
    low: float  # lower limit of the gain, by bootstrap over images

    @property
    def prefers(self) -> bool:
        """Whether it prefers B, at least not A."""
        return self.gain > 0 and self.low >= 0

    def text(self) -> str:
        """The score and its gain."""
        return f"{self.score} {self.gain:+.4f} (at least {self.low:+.4f})"


class Referee(Config):
    """How often an independent frozen model agrees with B, and with A, where these differ."""

    name: str
    with_candidate: int
    with_champion: int
    against: bool  # by a sign test


class Audited(Config):
    """An audit and where it stands."""

    plan: AuditPlan
    state: AuditState


class Evidence(Config):
    """All that is known of a candidate against the champion."""

    change: ChangeReport
    vetoes: tuple[str, ...] = ()
    labelled: PairedInterval | None = None
    # the same against the source, where that is not the champion: B must not fall below it
    labelled_source: PairedInterval | None = None
    audit: Audited | None = None
    preferences: tuple[Preference, ...] = ()
    referee: Referee | None = None
    rehearsed: Likeness | None = None  # with the source, among its rehearsals; decides nothing
    pool: str = ""  # what the decision was made on, where adaptation has seen of that
    # of each class, of all answers: before, and by the candidate; those that moved most
    class_shares: dict[str, tuple[float, float]] = {}


class Verdict(Config):
    """What becomes of a candidate, and why, in one sentence."""

    kind: Kind
    level: Literal[0, 1, 2, 3]  # of the evidence that decided
    reason: str

    @property
    def text(self) -> str:
        """The sentence; "better" becomes "promoted" where it was."""
        return f"{_PAST[self.kind]}: {self.reason}"

    @property
    def promoted_text(self) -> str:
        """The sentence once the candidate is champion."""
        return f"promoted: {self.reason}" if self.kind == "promote" else self.text


def decide(evidence: Evidence, policy: DecisionPolicy) -> Verdict:
    """The verdict: vetoes first, then no practical difference, then labels, an audit, scores."""
    verdict = _decide(evidence, policy)
    if not evidence.pool:
        return verdict
    reason = f"{verdict.reason} (judged on {evidence.pool})"
    return verdict.model_copy(update={"reason": reason})


def _decide(evidence: Evidence, policy: DecisionPolicy) -> Verdict:
    change = evidence.change.text()
    if evidence.vetoes:
        return Verdict(kind="reject", level=0, reason="; ".join(evidence.vetoes))
    share = evidence.change.share
    if share == 0 or share < policy.margin / 2:
        return Verdict(kind="keep", level=0, reason=f"no practical difference: {change}")
    if evidence.labelled is not None and not evidence.labelled.too_few:
        return _by_labels(evidence, evidence.labelled, policy)
    if evidence.audit is not None:
        return _by_audit(evidence.audit, change)
    return _without_answers(evidence, policy, change)


def _by_labels(evidence: Evidence, gain: PairedInterval, policy: DecisionPolicy) -> Verdict:
    """Level 3: the paired interval against the champion, and not below the source."""
    text, source = gain.text(), evidence.labelled_source
    if gain.high < 0:
        return Verdict(kind="reject", level=3, reason=f"worse than the champion: {text}")
    if source is not None and source.after < source.before:
        return Verdict(kind="keep", level=3, reason=f"below the source model: {source.text()}")
    if gain.low > policy.margin:
        return Verdict(kind="promote", level=3, reason=text)
    return Verdict(kind="keep", level=3, reason=f"not shown to be better: {text}")


def _by_audit(audited: Audited, change: str) -> Verdict:
    """Level 2: what the answers decide."""
    state = audited.state
    reason = f"{change}; {state_text(audited.plan, state)}"
    if state.decided == "better":
        return Verdict(kind="promote", level=2, reason=reason)
    if state.decided == "harm":
        return Verdict(kind="reject", level=2, reason=reason)
    if state.finished:
        return Verdict(kind="keep", level=2, reason=f"the answers do not decide: {reason}")
    return Verdict(kind="hold", level=2, reason=f"{reason}; {state.needs}")


def _without_answers(evidence: Evidence, policy: DecisionPolicy, change: str) -> Verdict:
    """Level 1: promoted only unattended, by a policy that allows it; else a person is asked."""
    if not policy.unattended:
        few = evidence.labelled  # else they had decided
        why = few.text() if few else "no label says which way"
        return Verdict(kind="hold", level=0, reason=f"{change}; {why}")
    share = evidence.change.share
    if share > policy.max_change:
        reason = f"{change}, more than the {policy.max_change:.0%} that may change unattended"
        return Verdict(kind="hold", level=1, reason=reason.replace("%", " %"))
    if (referee := evidence.referee) is not None and referee.against:
        reason = (
            f"{change}; {referee.name} agrees with the champion on {referee.with_champion} of "
            f"them, with the candidate on {referee.with_candidate}"
        )
        return Verdict(kind="hold", level=1, reason=reason)
    for_it = [one for one in evidence.preferences if one.prefers]
    families = {one.family for one in for_it}
    if len(families) < FAMILIES_NEEDED:
        opinions = ", ".join(one.text() for one in evidence.preferences) or "no score serves here"
        reason = f"{change}; {len(families)} of 3 families of scores prefer it ({opinions})"
        return Verdict(kind="hold", level=1, reason=reason)
    scores = ", ".join(one.text() for one in for_it)
    reason = f"unattended: {change}; nothing speaks against it ({scores})"
    return Verdict(kind="promote", level=1, reason=reason)


def extended(history: list[str], version: str) -> list[str]:
    """A history of champions that ends with this version."""
    return history if history[-1:] == [version] else [*history, version]
