"""The state of an audit: what people's answers say of a candidate so far, and what they still need.

Plain data, no files. A unit is a place where the champion A and the candidate B differ, and x says
who is right there: above 0 is B (docs/methods/decide.md, sections 2 and 3).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from pydantic import Field, FiniteFloat, NonNegativeFloat, PlainSerializer, model_validator

from sfda.config import Config
from sfda.decision.betting import ROUNDING, PerAnswer, can_declare, declared, evidence, limits
from sfda.policy import MOST_BUDGET

Finding = Literal["better", "harm"]
FINDINGS: tuple[Finding, ...] = ("better", "harm")
MOST_UNITS = 10**15  # pixels of ten million images
One = TypeVar("One")
X = float | tuple[float, float]  # of detection a pair: were the F1 of A 0, and were it 1


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else "inf"  # JSON has no infinity; pydantic reads it back


EValue = Annotated[float, PlainSerializer(_json_number)]


class AuditPlan(Config):
    """What is fixed before anything is answered.

    `margin` is the gain that "better" must exceed, `harm_margin` the loss that "harm" must; both
    are of `metric`, and mean nothing without one. Of answers that were given before, to units that
    count here too, `known` says how many, and `known_sums` what their x add up to.
    """

    units: int = Field(ge=0, le=MOST_UNITS)  # N = D: changed units of the pool
    answers: int = Field(ge=1, le=MOST_UNITS)  # of a model in all of the pool: d = units / answers
    alpha: float = Field(0.05, gt=0, lt=0.5)
    margin: float = Field(0.0, ge=0, lt=1)
    harm_margin: float = Field(0.0, ge=0, lt=1)
    budget: int = Field(40, ge=1, le=MOST_BUDGET)  # K: answers that decide
    metric: str | None = None  # that the gain is of; None: only its sign is asked
    detection: bool = False  # x are pairs, and the evidence is demanded at both ends
    # answers at most; None: twice the budget
    most: int | None = Field(None, ge=1, le=MOST_UNITS)
    known: int = Field(0, ge=0, le=MOST_UNITS)
    known_sums: tuple[FiniteFloat, ...] = Field((0.0, 0.0), max_length=2)

    @model_validator(mode="after")
    def _consistent(self) -> AuditPlan:
        if self.known > self.units:
            raise ValueError(f"{self.known} of {self.units} changed units are known")
        if len(self.known_sums) < 1 + self.detection:
            raise ValueError(f"`known_sums` are {len(self.known_sums)}, too few")
        if any(abs(known) > self.known + ROUNDING for known in self.known_sums):
            raise ValueError(f"`known_sums` are more than {self.known} answers can add up to")
        return self

    @property
    def pool(self) -> int:
        """Units that can still be drawn: N_R."""
        return self.units - self.known

    @property
    def threshold(self) -> float:
        """What evidence must reach."""
        return 1 / self.alpha

    @property
    def questions(self) -> int:
        """Answers at most."""
        return min(self.most or 2 * self.budget, self.pool)

    @property
    def hopeless(self) -> bool:
        """Whether "better" cannot be shown by any answers: less changes than the margin."""
        return max(self.null_sums("better")) >= self.pool

    def null_sums(self, outcome: Finding) -> list[float]:
        """N_R m0_R at each end: what the x of the pool (of harm: -x) may add up to at most, if the
        outcome is not so.
        """
        sign, margin = (1, self.margin) if outcome == "better" else (-1, self.harm_margin)
        allowed = margin * self.answers if self.metric else 0.0  # N m0, as m0 = margin / d
        ends = 2 if self.detection else 1
        return [allowed - sign * known for known in self.known_sums[:ends]]


class AuditState(Config):
    """What the answers say. `evidence` and `harm` are E, or M where a budget is declared, now; the
    `largest` are theirs so far. `interval` is of the gain in the claim's metric, or else of the
    mean of x, and holds in 1 - 2 alpha of all audits.
    """

    answered: int
    better: int
    worse: int
    neither: int
    cannot_tell: int
    waiting: int = 0  # answers that count once the one before them is there
    evidence: EValue
    largest: EValue
    harm: EValue
    largest_harm: EValue
    threshold: float
    decided: Finding | None
    decided_after: int | None  # answers, at the first crossing
    by_budget: bool  # M decided and E has not: the limit is 0 "(declared budget)"
    interval: tuple[float, float]
    finished: bool  # the budget is used up, or the pool answered in full
    needs: str  # what is still needed, in words


class Prefix(NamedTuple, Generic[One]):
    """The answers that count, in order, up to the first `gap`; and how many lie `waiting` after."""

    answers: tuple[One, ...]
    gap: int | None
    waiting: int


def longest_prefix(answers: Mapping[int, One]) -> Prefix[One]:
    """The longest run of answers to units 0, 1, 2 ...: the order was fixed before anything was
    answered, so that nobody's choice of what to answer first can move the verdict.

    >>> longest_prefix({0: "a", 1: "b", 3: "d"})
    Prefix(answers=('a', 'b'), gap=2, waiting=1)
    """
    end = next(n for n in range(len(answers) + 1) if n not in answers)
    waiting = len(answers) - end
    return Prefix(tuple(answers[n] for n in range(end)), end if waiting else None, waiting)


def remaining(plan: AuditPlan, xs: Sequence[X]) -> AuditPlan:
    """The plan of an audit of which the answers `xs` are there already, given for another
    candidate: it starts anew on the other units, with N_R m0_R = N m0 - sum of x.

    ValueError for more answers than units.
    """
    if len(xs) > plan.pool:
        raise ValueError(f"{len(xs)} answers to {plan.pool} units")
    sums = np.sum(_table(plan, xs), axis=1).tolist()
    known = [before + now for before, now in zip(plan.known_sums, sums, strict=False)]
    return plan.model_copy(update={"known": plan.known + len(xs), "known_sums": tuple(known)})


def audit_state(
    plan: AuditPlan,
    xs: Sequence[X],
    cannot_tell: int = 0,
    *,
    waiting: int = 0,
    gap: int | None = None,
) -> AuditState:
    """What `xs` say, the longest prefix of answers in the order that the seed gave.

    `cannot_tell` of them are answers without one, which count as 0. ValueError for more answers
    than units, or for x out of range.
    """
    table = _table(plan, xs)
    signs = Counter(np.sign(table.sum(0)).astype(int).tolist())
    paths = {outcome: _path(plan, table, outcome) for outcome in FINDINGS}
    decided, after = _first(paths, plan.threshold)
    by_budget = decided is not None and max(_e_path(plan, table, decided)) < plan.threshold
    deciding = signs[1] + signs[-1]
    finished = deciding >= plan.budget or len(xs) >= plan.questions
    return AuditState(
        answered=len(xs),
        better=signs[1],
        worse=signs[-1],
        neither=signs[0] - cannot_tell,
        cannot_tell=cannot_tell,
        waiting=waiting,
        evidence=paths["better"][-1],
        largest=max(paths["better"]),
        harm=paths["harm"][-1],
        largest_harm=max(paths["harm"]),
        threshold=plan.threshold,
        decided=decided,
        decided_after=after,
        by_budget=by_budget,
        interval=_interval(plan, table),
        finished=finished,
        needs=_needs(plan, len(xs), deciding, decided, gap, waiting),
    )


def _table(plan: AuditPlan, xs: Sequence[X]) -> PerAnswer:
    """x by end and answer: [1, n], of detection [2, n]."""
    table = np.array(xs, np.float64).reshape(len(xs), 2 if plan.detection else 1)
    return np.ascontiguousarray(table.T)


def _e_path(plan: AuditPlan, table: PerAnswer, outcome: Finding) -> list[float]:
    """E before the first answer and after each: the smaller one of both ends."""
    signed = table if outcome == "better" else -table
    sums = np.array(plan.null_sums(outcome))
    start = np.where(-plan.pool > sums + ROUNDING, np.inf, 1.0)[:, None]  # certain by what is known
    path = evidence(signed, plan.pool, sums / max(1, plan.pool))
    joined: list[float] = np.hstack([start, path]).min(0).tolist()
    return joined


def _path(plan: AuditPlan, table: PerAnswer, outcome: Finding) -> list[float]:
    """The same of M where a budget is declared: the final sign test is mixed in."""
    plain = _e_path(plan, table, outcome)
    null = plan.null_sums(outcome)[0]
    if plan.detection or not can_declare(plan.pool, plan.budget, plan.alpha, null):
        return plain
    signed = table[0] if outcome == "better" else -table[0]
    return [plain[0], *declared(signed, plan.pool, plan.budget, plan.alpha).tolist()]


def _first(
    paths: Mapping[Finding, Sequence[float]], threshold: float
) -> tuple[Finding | None, int | None]:
    """The outcome whose evidence is the first to reach the threshold, and after how many answers;
    both tests run at once.
    """
    reached = [
        (after, outcome)
        for outcome, path in paths.items()
        for after, value in enumerate(path)
        if value >= threshold
    ]
    after, outcome = min(reached, default=(None, None))
    return outcome, after


def _interval(plan: AuditPlan, table: PerAnswer) -> tuple[float, float]:
    """Of the gain, or without a metric of the mean of x; of detection that of both ends."""
    whole = plan.answers if plan.metric else max(1, plan.units)
    lows, highs = [], []
    for x, known in zip(table, plan.known_sums, strict=False):
        low, high = limits(x, plan.pool, plan.alpha) if plan.pool else (0.0, 0.0)
        lows.append((known + plan.pool * low) / whole)
        highs.append((known + plan.pool * high) / whole)
    return min(lows), max(highs)


def _needs(
    plan: AuditPlan,
    answered: int,
    deciding: int,
    decided: Finding | None,
    gap: int | None,
    waiting: int,
) -> str:
    if decided:
        return "nothing: it is decided"
    if answered >= plan.pool:
        return "nothing: all that changed is answered"
    if deciding >= plan.budget or answered >= plan.questions:
        return f"nothing: the budget of {plan.budget} answers that decide is used up"
    if gap is not None:
        return f"an answer to question {gap + 1}: {waiting} later ones wait for it"
    most = plan.questions - answered
    decide = min(most, plan.budget - deciding)
    return f"at most {decide} more answers that decide, out of at most {most} questions"


class Level(Config):
    """Accuracy of A and B on the pool, from answers about changed and unchanged units."""

    before: float
    after: float
    error: NonNegativeFloat  # one standard error of either, the larger one


def level(
    plan: AuditPlan, first: int, second: int, asked: int, *, same: int, same_asked: int
) -> Level | None:
    """acc(A) = d q_A + (1 - d) r, and the same of B; None without answers of both parts.

    Of `asked` changed units A was right on `first` and B on `second`, and of `same_asked` unchanged
    ones both on `same`. It is an estimate, and never feeds the test.
    """
    if not asked or not same_asked:
        return None
    d = plan.units / plan.answers
    parts = [(d * right / asked, d**2 * _variance(right, asked)) for right in (first, second)]
    rest, spread = (1 - d) * same / same_asked, (1 - d) ** 2 * _variance(same, same_asked)
    error = math.sqrt(max(variance for _, variance in parts) + spread)
    return Level(before=parts[0][0] + rest, after=parts[1][0] + rest, error=error)


def _variance(right: int, asked: int) -> float:
    """Of a share, not 0 where all answers are alike."""
    share = (right + 1) / (asked + 2)
    return share * (1 - share) / asked
