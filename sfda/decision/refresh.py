"""Whether a target that grows is worth an adaptation, and why, in words for a person."""

from __future__ import annotations

from typing import Literal, NamedTuple

from sfda.adaptation.target_versions import RefreshPolicy, TargetCheck, rewritten
from sfda.decision.drift import Drift
from sfda.manifests.growing import TargetRecord

Outcome = Literal["unchanged", "waiting", "announced", "adapted", "busy"]


class RefreshDecision(NamedTuple):
    """What a look at a target leads to, and why."""

    outcome: Outcome
    says: str


BUSY = RefreshDecision("busy", "another look at this target is not finished")


def has_new_version(check: TargetCheck) -> bool:
    """Whether what was seen is not what the newest version says."""
    new = check.since_version.count > 0 or check.relabelled or check.new_annotations
    return new or not check.record.version or rewritten(check.record)


def is_due(check: TargetCheck, policy: RefreshPolicy, record: TargetRecord) -> bool:
    """Whether the changes alone are enough."""
    if not record.adapted or check.annotated:
        return True
    return policy.wants(check.since_adapted, len(record.adapted_marks))


def at_first_sight(check: TargetCheck, policy: RefreshPolicy) -> RefreshDecision | None:
    """The decision where no model need be asked; None where one must be."""
    if not check.record.marks:
        return RefreshDecision("waiting", _with_unsettled("the target holds no images", check))
    if has_new_version(check) or is_due(check, policy, check.record):
        return None
    return _not_yet(check, policy, check.record, None)


def is_drifted(drift: Drift | None, policy: RefreshPolicy) -> bool:
    """Whether new images look different enough for an adaptation, however few they are."""
    return drift is not None and policy.drift is not None and drift.exceeds(policy.drift)


def at_second_sight(
    check: TargetCheck, policy: RefreshPolicy, record: TargetRecord, drift: Drift | None
) -> RefreshDecision | None:
    """The decision where nothing is to follow; None where an adaptation is."""
    if is_drifted(drift, policy) or is_due(check, policy, record):
        return None
    return _not_yet(check, policy, record, drift)


def announced(record: TargetRecord, check: TargetCheck) -> RefreshDecision:
    """The decision where others adapt."""
    text = f"version {record.version} announced ({check.since_adapted.text()})"
    return RefreshDecision("announced", text)


def adapted_to(
    check: TargetCheck, policy: RefreshPolicy, drift: Drift | None, uri: str, verdict: str
) -> RefreshDecision:
    """The decision where it was adapted here: why, and what came of it."""
    why = "enough has changed"
    if drift is not None and is_drifted(drift, policy):
        why = f"new images look different ({_index(drift)})"
    if check.annotated:
        why = "people have answered"
    if not check.record.adapted:
        why = "the first look"
    what = f" ({check.since_adapted.text()})" if check.since_adapted.count else ""
    return RefreshDecision("adapted", f"{why}{what}: {uri}, {verdict}")


def _not_yet(
    check: TargetCheck, policy: RefreshPolicy, record: TargetRecord, drift: Drift | None
) -> RefreshDecision:
    """Nothing has changed, or too little: why no adaptation starts."""
    change = check.since_adapted
    if change.count == 0:
        return RefreshDecision("unchanged", _with_unsettled("nothing has changed", check))
    size = len(record.adapted_marks)
    text = f"{change.text()} of {size}; {policy.least(size)} changes start an adaptation"
    if drift is not None:
        text += f"; new images look alike ({_index(drift)})"
    return RefreshDecision("waiting", _with_unsettled(text, check))


def _index(drift: Drift) -> str:
    return f"stability index {drift.index:.3f}, noise {drift.noise:.3f}"


def _with_unsettled(text: str, check: TargetCheck) -> str:
    return f"{text}; {check.unsettled} files may still be written to" if check.unsettled else text
