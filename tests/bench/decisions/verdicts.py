"""What is decided of a run that is done: with simulated answers, without any, and with labels.

The truth is used for the answers of simulated persons, for the test with labels, and to tell
afterwards what would have been right; scores, vetoes and the ranking never see it.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfda import plugins
from sfda.adaptation.plan import kind_of
from sfda.adaptation.scoring import make_validators, score_unlabelled
from sfda.building_blocks.rejection import UNKNOWN_NAME
from sfda.decision.audit import AuditPlan, audit_state
from sfda.decision.change import ChangeReport, drawn_numbers
from sfda.decision.evidence import SOURCE_NAME, Look, look_at_pool, preferences
from sfda.decision.gate import Audited, Evidence, decide
from sfda.decision.judge import figures_over, judge
from sfda.decision.paired import paired_interval
from sfda.decision.vetoes import Expected, has_collapsed
from sfda.errors import NotFinite
from sfda.loading.scan import scan_views
from sfda.measures.change import NONE_OF_THESE, Unit
from sfda.policy import DecisionPolicy
from sfda.problems.registry import PROBLEMS
from sfda.state_folder import temporary_state
from tests.bench.decisions.cases import Case
from tests.bench.decisions.images import NONE
from tests.bench.decisions.ranked import choices_of_run
from tests.bench.decisions.runs import CPU

POLICY = DecisionPolicy()
UNATTENDED = DecisionPolicy(unattended=True)
LIMITS = (0.1, 0.15, 0.2, 0.3, 1.0)  # of changed answers
AUDITS = 10  # of each candidate, each with other questions
ERRING = 0.05
SCORES = ("agreement", "infomax", "nuclear_norm", "entropy", "mano", "aetta")


def judge_run(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """All that is said of a run's candidates, and of them in order."""
    torch.set_num_threads(1)
    logging.getLogger("sfda").setLevel(logging.ERROR)
    result: dict[str, Any] = {"run": row["run"], "failed": row.get("failed")}
    if not row["epochs"]:
        return result
    with temporary_state():
        case = Case(row, folder)
        looks, scores = _looks(case)
        vetoes = {name: _evidence(case, name).vetoes for name in looks}
        with (case.folder / "looks.pickle").open("wb") as file:
            pickle.dump((looks, vetoes), file)
        chosen, last = case.chosen(), case.names[-1]
        candidates = {
            name: _candidate(case, name, looks, vetoes) for name in dict.fromkeys((chosen, last))
        }
        result |= {
            "pool": row["pool"],
            "accuracy": {name: case.accuracy(name) for name in case.names},
            "scores": scores,
            "vetoes": vetoes,
            "source": _source(case),
            "unknown": {name: float((case.answers(name).pool == NONE).mean()) for name in looks},
            "off prior": {name: case.off_prior(name) for name in looks},
            "run_vetoes": {str(one["epoch"]): one["vetoes"] for one in case.epochs},
            "chosen": candidates[chosen],
            "last": candidates[last],
        }
        return result | {"choice": choices_of_run(result, folder)}


def _looks(case: Case) -> tuple[dict[str, Look], dict[str, dict[str, float]]]:
    """What each model says of the pool, and its scores one by one."""
    looks, scores = {}, {}
    kinds = {name: plugins.load("validators", name) for name in SCORES}
    for name in case.names:
        network, spec, opened = case.side(name)
        try:
            looks[name] = look_at_pool(network, spec, opened, CPU)
        except NotFinite:
            continue
        profile: Any = {"classes": dict.fromkeys(spec.classes, 0)}
        validators = make_validators(kinds, network, spec.problem, profile)
        views = scan_views(opened.images, spec.input, spec.views, seed=0, device=CPU)
        scores[name] = score_unlabelled(views(network), validators).scores
    return looks, scores


def _source(case: Case) -> dict[str, Any]:
    """How many classes the source answers, and whether that is a collapse."""
    figures = figures_over(case.side(SOURCE_NAME), CPU)
    expected = Expected(effective=case.row["expected"])
    return {
        "effective answers": figures.effective_answers,
        "classes": len(case.spec.classes),
        "collapsed": has_collapsed(figures, POLICY.vetoes, expected),
    }


def _evidence(case: Case, name: str) -> Evidence:
    """Change and vetoes against the source."""
    expected = Expected(effective=case.row["expected"])
    sides = case.side(SOURCE_NAME), case.side(name)
    return judge(*sides, CPU, limits=POLICY.vetoes, expected=expected)


def _clean(case: Case, vetoes: Mapping[str, Any]) -> list[str]:
    """The source, and the epochs that met no veto in the run or on the pool."""
    met = {str(one["epoch"]) for one in case.epochs if one["vetoes"]}
    return [name for name in vetoes if name == SOURCE_NAME or not (name in met or vetoes[name])]


def _candidate(
    case: Case, name: str, looks: Mapping[str, Look], vetoes: Mapping[str, Any]
) -> dict[str, Any]:
    """A candidate and its verdicts; the source is none."""
    if name == SOURCE_NAME:
        return {"epoch": SOURCE_NAME}
    if name not in looks:
        return {"epoch": name, "not finite": True}
    evidence = _evidence(case, name)
    first, second = case.answers(SOURCE_NAME), case.answers(name)
    assert int((first.pool != second.pool).sum()) == evidence.change.changed
    pool, whole = (
        after - before
        for before, after in zip(case.accuracy(SOURCE_NAME), case.accuracy(name), strict=True)
    )
    clean = _clean(case, vetoes)
    return {
        "epoch": name,
        "change": evidence.change.share,
        "changed": evidence.change.changed,
        "vetoes": evidence.vetoes,
        "gain_pool": pool,
        "gain": whole,
        "unattended": _unattended(case, evidence, name, {n: looks[n] for n in {*clean, name}}),
        "labels": _by_labels(case, evidence, name),
        "labels as deployed": _by_labels(case, evidence, name, deployed=True),
        "audits": [_audited(case, evidence, name, seed, 0.0) for seed in range(AUDITS)],
        "erring": [_audited(case, evidence, name, seed, ERRING) for seed in range(AUDITS)],
    }


def _unattended(
    case: Case, evidence: Evidence, name: str, looks: Mapping[str, Look]
) -> dict[str, Any]:
    """The verdict of scores alone, and what it would be if more answers might change."""
    says = preferences(looks, SOURCE_NAME, name, minimised=kind_of(case.run.method).minimises)
    whole = evidence.model_copy(update={"preferences": says})
    verdict = decide(whole, UNATTENDED)
    return {
        "kind": verdict.kind,
        "level": verdict.level,
        "reason": verdict.reason,
        "preferences": [one.model_dump() | {"prefers": one.prefers} for one in says],
        "by limit": {
            str(limit): decide(whole, UNATTENDED.model_copy(update={"max_change": limit})).kind
            for limit in LIMITS
        },
    }


def _by_labels(
    case: Case, evidence: Evidence, name: str, *, deployed: bool = False
) -> dict[str, Any]:
    """The verdict of the labels of the pool. The source gets the candidate's threshold of
    rejection, as in `tasks.decide`, or has its own, as it is `deployed`.
    """
    before, after = (case.side(one, labelled=True) for one in (SOURCE_NAME, name))
    if not deployed:
        spec = before.spec.model_copy(update={"reject": after.spec.reject})
        before = before._replace(spec=spec)
    interval = paired_interval(before, after, CPU, alpha=POLICY.alpha)
    verdict = decide(evidence.model_copy(update={"labelled": interval}), POLICY)
    return {"kind": verdict.kind, "level": verdict.level, "reason": verdict.reason}


def _audited(case: Case, evidence: Evidence, name: str, seed: int, erring: float) -> dict[str, Any]:
    """The verdict of a person who knows the labels, or who errs in a share of the answers: towards
    what the other model says.
    """
    plan = plan_of(evidence.change)
    first, second = case.answers(SOURCE_NAME).pool, case.answers(name).pool
    differs = np.flatnonzero(first != second)
    numbers = drawn_numbers(evidence.change.changed, plan.questions, (seed, 0))
    rng = np.random.default_rng([seed, 7])
    classes, problem = case.spec.classes, PROBLEMS[case.spec.problem]
    xs: list[float] = []
    for row in differs[numbers]:
        names = tuple(_named(one[row], classes, UNKNOWN_NAME) for one in (first, second))
        answer = _named(case.labels[row], classes, NONE_OF_THESE)
        if rng.random() < erring:
            answer = _misled(answer, names, rng)
        x = problem.x_of(Unit((), "", names[0], names[1]), answer)
        assert x is not None
        xs.append(x[0])
        if sum(one != 0 for one in xs) >= plan.budget:
            break
    state = audit_state(plan, xs)
    verdict = decide(evidence.model_copy(update={"audit": Audited(plan=plan, state=state)}), POLICY)
    asked = state.answered if state.decided_after is None else state.decided_after
    return {"kind": verdict.kind, "level": verdict.level, "asked": asked}


def plan_of(change: ChangeReport) -> AuditPlan:
    """As `sfda audit` makes it."""
    return AuditPlan(
        units=change.changed,
        answers=change.answers,
        alpha=POLICY.alpha,
        margin=POLICY.margin,
        budget=POLICY.budget,
        metric=change.metric,
    )


def _named(label: int, classes: tuple[str, ...], none: str) -> str:
    return none if label == NONE else classes[label]


def _misled(answer: str, names: Sequence[str], rng: np.random.Generator) -> str:
    """What the other model says, or one of them where neither is right."""
    said = NONE_OF_THESE if answer == UNKNOWN_NAME else answer
    others = [NONE_OF_THESE if one == UNKNOWN_NAME else one for one in names]
    wrong = [one for one in others if one != said]
    return str(rng.choice(wrong))
