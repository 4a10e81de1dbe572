"""An audit's state in words: a clause of the verdict's sentence."""

from __future__ import annotations

import math

from sfda.decision.audit import AuditPlan, AuditState


def state_text(plan: AuditPlan, state: AuditState) -> str:
    """The state in a clause of the verdict's sentence."""
    counts = f"{state.better} better, {state.worse} worse, {state.neither} neither"
    if state.cannot_tell:
        counts += f", {state.cannot_tell} cannot tell"
    earlier = f" ({plan.known} more were answered before)" if plan.known else ""
    return (
        f"{state.answered} of {plan.units:,} asked{earlier}: {counts}; {_evidence_text(state)}; "
        f"{_interval_text(plan, state)} ({1 - 2 * plan.alpha:.0%} interval)".replace("%", " %")
    )


def _evidence_text(state: AuditState) -> str:
    harm = state.decided == "harm"
    now, largest = (state.harm, state.largest_harm) if harm else (state.evidence, state.largest)
    name = "E of harm" if harm else "E"
    if state.decided is None:
        return f"E = {_number(now)}, E of harm = {_number(state.harm)}, both < {state.threshold:g}"
    if now < state.threshold:
        return (
            f"{name} = {_number(largest)} >= {state.threshold:g} on the way "
            f"(after {state.decided_after} answers)"
        )
    return f"{name} = {_number(now)} >= {state.threshold:g}"


def _number(value: float) -> str:
    if math.isinf(value):
        return "infinite"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _interval_text(plan: AuditPlan, state: AuditState) -> str:
    low, high = (100 * limit for limit in state.interval)
    lower, upper = f"{low:+.1f}", f"{high:+.1f}"
    if state.by_budget and state.decided == "better":
        lower = "> 0 (declared budget)"
    if state.by_budget and state.decided == "harm":
        upper = "< 0 (declared budget)"
    name, unit = ("gain", "points") if plan.metric else ("better less worse", "%")
    return f"{name} {lower} to {upper} {unit}"
