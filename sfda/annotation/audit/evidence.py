"""What the answers to an audit say: the state of its test, the level, and how persons agree."""

from __future__ import annotations

from typing import NamedTuple

from sfda.annotation.audit.answers import Answers
from sfda.annotation.audit.questions import AuditRequest
from sfda.config import Config
from sfda.decision.audit import (
    AuditState,
    Level,
    X,
    audit_state,
    level,
    longest_prefix,
)
from sfda.decision.audit_text import state_text
from sfda.decision.gate import Audited, Evidence, Verdict, decide
from sfda.errors import BadInput
from sfda.measures.change import CANNOT_TELL, Unit
from sfda.measures.kappa import cohens_kappa
from sfda.problems.registry import PROBLEMS


class SecondOpinion(NamedTuple):
    """How a second person's answers agree with the first one's; `kappa` is None where it has no
    value.
    """

    person: str
    shared: int
    kappa: float | None

    @property
    def text(self) -> str:
        """In words; it has no part in the test."""
        value = "has no value" if self.kappa is None else f"= {self.kappa:.2f}"
        return f"{self.person} and the first person on {self.shared} questions: kappa {value}"


class AuditResult(Config):
    """Where an audit stands."""

    state: AuditState
    verdict: Verdict
    level: Level | None = None
    agreement: tuple[SecondOpinion, ...] = ()

    def text(self, request: AuditRequest) -> str:
        """Some lines for a person, without the verdict."""
        lines = [state_text(request.plan, self.state), f"still needed: {self.state.needs}"]
        if self.level:
            lines.append(
                f"{request.plan.metric} on these {request.change.images} images, estimated: "
                f"{self.level.before:.1%} before, {self.level.after:.1%} with the candidate "
                f"(standard error {self.level.error:.1%})".replace("%", " %")
            )
        return "\n".join([*lines, *(one.text for one in self.agreement)])


def x_of_unit(problem: str, unit: Unit, answer: str) -> X:
    """x of an answer to a unit. Raises BadInput where it is none."""
    x = PROBLEMS[problem].x_of(unit, answer)
    if x is None:
        raise BadInput(f"'{answer}' is no answer to a question about {unit.subject or 'a class'}")
    return x[0] if len(x) == 1 else (x[0], x[1])


def audit_result(
    request: AuditRequest, answers: Answers, others: dict[str, Answers] | None = None
) -> AuditResult:
    """What the first person's answers say, in the order of the questions, and how those of
    `others`, who have no part in the test, agree with them.
    """
    asked = [(n, one) for n, one in enumerate(request.questions) if one.changed]
    there = {n: answers[one.id] for n, (_, one) in enumerate(asked) if one.id in answers}
    prefix = longest_prefix(there)
    xs = [
        x_of_unit(request.problem, asked[n][1].unit, answer)
        for n, answer in enumerate(prefix.answers)
    ]
    cannot = prefix.answers.count(CANNOT_TELL)
    gap = None if prefix.gap is None else asked[prefix.gap][0]  # as the page counts
    state = audit_state(request.plan, xs, cannot, waiting=prefix.waiting, gap=gap)
    evidence = Evidence(
        change=request.change,
        vetoes=request.vetoes,
        audit=Audited(plan=request.plan, state=state),
        pool=request.pool,
    )
    return AuditResult(
        state=state,
        verdict=decide(evidence, request.policy),
        level=_level(request, answers, state),
        agreement=tuple(
            _agreement(request, name, answers, own) for name, own in (others or {}).items()
        ),
    )


def _level(request: AuditRequest, answers: Answers, state: AuditState) -> Level | None:
    """Accuracy of both models, where that is what is claimed and the answers can tell."""
    if not request.plan.metric:
        return None
    same_part = [
        (one.unit, answers[one.id])
        for one in request.questions
        if not one.changed and answers.get(one.id, CANNOT_TELL) != CANNOT_TELL
    ]
    same = sum(_is_right(request.problem, unit, answer) for unit, answer in same_part)
    return level(
        request.plan,
        state.worse,
        state.better,
        state.answered - state.cannot_tell,
        same=same,
        same_asked=len(same_part),
    )


def _is_right(problem: str, unit: Unit, answer: str) -> bool:
    """Whether what both models answer is right: it would be, if B answered nothing."""
    return x_of_unit(problem, unit._replace(second=""), answer) == -1


def _agreement(request: AuditRequest, person: str, first: Answers, other: Answers) -> SecondOpinion:
    """Of classes, yes and no as they are; of places, of which model is nearer to them."""
    shared = [one for one in request.questions if one.id in first and one.id in other]
    pairs = [(first[one.id], other[one.id]) for one in shared]
    if request.question == "place":
        pairs = [
            (_word(request, one.unit, first[one.id]), _word(request, one.unit, other[one.id]))
            for one in shared
        ]
    return SecondOpinion(person, len(pairs), cohens_kappa(pairs))


def _word(request: AuditRequest, unit: Unit, answer: str) -> str:
    return answer if answer == CANNOT_TELL else str(x_of_unit(request.problem, unit, answer))
