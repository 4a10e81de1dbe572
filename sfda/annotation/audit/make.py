"""An audit of two models on a pool of images: what changes, what is asked, and its folder."""

from __future__ import annotations

from pathlib import Path

import torch

from sfda.annotation.audit.questions import AuditedModel, AuditRequest, counts_twice
from sfda.annotation.audit.request import draw_questions, write_audit
from sfda.annotation.audit.reuse import Facts, as_known, known_units, plan_after
from sfda.config import Config
from sfda.decision.audit import AuditPlan
from sfda.decision.change import ChangeReport, Side, scan_change
from sfda.decision.judge import figures_over
from sfda.decision.vetoes import Expected, vetoes
from sfda.loading.opened import open_ref
from sfda.policy import DecisionPolicy
from sfda.problems.registry import PROBLEMS
from sfda.refs import ModelRef, SplitRef


class AuditJob(Config):
    """What an audit is about: A and B, on which images, by which policy.

    `pool` says what the images are, where they are not held out.
    """

    before: ModelRef
    candidate: ModelRef
    target: SplitRef
    pool: str = ""
    policy: DecisionPolicy
    expected: Expected = Expected()
    seed: int = 0
    most: int | None = None  # questions about what changes, at most; None: by the policy


def make_audit(
    folder: Path,
    job: AuditJob,
    before: Side,
    candidate: Side,
    facts: Facts,
    device: torch.device,
) -> AuditRequest:
    """Look at the pool with both models, and write the folder. `facts` are answers of earlier
    audits. Raises BadInput where the models cannot be compared, or answer the same everywhere.
    """
    change = scan_change(
        before.network,
        candidate.network,
        before.opened,
        before.spec,
        candidate.spec,
        device,
        opened_b=candidate.opened,
    )
    problem = PROBLEMS[job.before.problem]
    plan = plan_of_change(change.report, job.before.problem, job.policy)
    plan = plan.model_copy(update={"most": job.most})
    split = before.opened.split
    known = known_units(facts, split.row_ids, change)
    plan = plan_after(plan, job.before.problem, known)
    asked = draw_questions(change, plan, job.policy, job.seed, {one.number for one in known})
    manifest = open_ref(job.target.manifest)
    request = AuditRequest(
        id="",
        problem=job.before.problem,
        manifest=manifest.name,
        target=job.target,
        pool=job.pool,
        column="index" if manifest.arrays else "file",
        before=AuditedModel(uri=job.before.uri, sha256=job.before.sha256),
        candidate=AuditedModel(uri=job.candidate.uri, sha256=job.candidate.sha256),
        classes=before.spec.classes,
        question=problem.claim.question,
        change=change.report,
        plan=plan,
        vetoes=_vetoes(job, before, candidate, device),
        seed=job.seed,
        policy=job.policy,
        known=as_known(known, split.row_ids),
        questions=(),
    )
    return write_audit(folder, request, asked, split, before.spec.input.window)


def plan_of_change(change: ChangeReport, problem: str, policy: DecisionPolicy) -> AuditPlan:
    """The plan of an audit of all that changes, fixed before anything is answered."""
    return AuditPlan(
        units=change.changed,
        answers=max(1, change.answers),
        alpha=policy.alpha,
        margin=policy.margin if change.metric else 0.0,
        budget=policy.budget,
        metric=change.metric,
        detection=counts_twice(problem),
    )


def _vetoes(job: AuditJob, before: Side, candidate: Side, device: torch.device) -> tuple[str, ...]:
    """What speaks against the candidate, whatever people answer."""
    surest: dict[int, int] = {}
    figures = figures_over(before, device, collect=surest)
    after = figures_over(candidate, device, surest=surest)
    return vetoes(after, figures, job.policy.vetoes, job.expected, before.spec.classes)
