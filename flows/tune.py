"""A search over methods and settings under a budget of time; the best model is judged as any is."""

from __future__ import annotations

import logging
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.addresses import short_address
from flows.form import USUAL_RUN, takes_flat
from flows.tune_job import Search, TuneJob, make_job
from sfda.adaptation.plan import kind_of
from sfda.config import Config
from sfda.decision.ranking import Ranking
from sfda.loading import opened as manifests
from sfda.refs import ModelRef, Version
from sfda.rehearsal.plan import adapted_with
from sfda.report.reproduce import files_beside, tune_command
from sfda.settings import (
    Duration,
    MethodName,
    RunSettings,
    Seed,
    seconds_of,
)
from tasks import tracking
from tasks.decide import Contest, Decision, settle
from tasks.import_model import import_source
from tasks.next_commands import next_commands, predict_command
from tasks.prefect_runtime.tame_artifacts import create_markdown_artifact
from tasks.pseudo_label import pseudo_label, show_profile
from tasks.register import register_model
from tasks.report import SearchFacts, report_search
from tasks.tune import drop_trials, rank_trials, try_all

log = logging.getLogger("sfda")


class TuneResult(Config):
    """What `tune` tells at its end."""

    flow_run_id: str
    mlflow_run_id: str
    ranking: Ranking
    left_out: tuple[str, ...]  # trials for which there was no time
    version: Version | None  # None: the source ranks first
    verdict: str  # what became of it, in one sentence
    promoted: bool = False
    table: str
    next: tuple[str, ...] = ()
    report: str | None = None  # path of the page; None: it could not be written


def _title() -> str:
    return f"tune on {short_address(flow_run.parameters['target'])}"


@takes_flat()
@flow(name="tune", flow_run_name=_title)
def tune(
    source: str,
    target: str,
    methods: list[MethodName] | None = None,
    grid: dict[str, dict[str, list[Any]]] | None = None,
    budget: Duration = "1h",
    seed: Seed = 0,
    name: str | None = None,
    promote: bool = False,
    adaptation: RunSettings = USUAL_RUN,
) -> State[Any]:
    """Try methods and settings, rank all epochs without labels, judge the best as `adapt` does.

    The source takes part: where nothing ranks above it, nothing is registered.

    Args:
        source: the model: models:/NAME@source, models:/NAME/3, or the folder of a bundle
        target: a manifest, or a folder of images without labels
        methods: ways to adapt; none: the problem's usual ones
        grid: by method, by setting (`schedule.lr`): values to try; none: three learning rates
        budget: the time that the epochs of all trials may take together
        seed: of all random numbers
        name: the name that the result is registered under; none: the source's
        promote: make it champion if the verdict says so
        adaptation: what all trials share
    """
    job = make_job(source, target, methods, grid, seed, name, adaptation)
    seconds = seconds_of(budget) or 0.0
    key = tracking.run_key("tune", job.model, job.manifest, job.plans, job.name, budget)
    tags = {"prefect.flow_run_id": str(flow_run.id), "source.sha256": job.model.sha256}
    params = {"source": job.model.uri, "target": job.address, "budget": budget, "seed": seed}
    with tracking.run(_title(), key=key, tags=tags, params=params) as run_id:
        start = import_source(job.model.uri)
        search = _search(job, start, run_id, seconds)
        tracking.log_json(run_id, "ranking.json", search.ranking.model_dump(mode="json"))
        create_markdown_artifact(search.text, key="trials")
        version, decision = _judge(job, start, search, run_id, promote)
        result, state = _result(job, run_id, search, version, decision)
        command = {"methods": methods, "grid": grid, "budget": budget, "promote": promote}
        page = _report(job, search, result, state, decision, command)
        drop_trials(search.tried, search.ranking.best)
    result = result.model_copy(update={"report": page})
    return Completed(name=state, message=result.verdict, data=result)


def _search(job: TuneJob, source: ModelRef, run_id: str, budget: float) -> Search:
    """All trials that there is time for, and the order of what they made."""
    part = job.plans[0].on(job.manifest)
    predictions = pseudo_label(source, part, job.device)
    show_profile(job.address, predictions, manifests.shift_of(job.manifest, source))
    tried = try_all(
        job.planned,
        source,
        job.manifest,
        predictions,
        run_id,
        f"tune on {job.address}",
        budget,
        job.device,
        job.adaptation.workers,
    )
    policy, expected = job.adaptation.decision, job.plans[0].expected
    ranking = rank_trials(source, tried, job.pool.target, policy, expected, job.device)
    return Search(tried, ranking)


def _judge(
    job: TuneJob, source: ModelRef, search: Search, run_id: str, promote: bool
) -> tuple[Version | None, Decision | None]:
    """The best one registered, and the verdict on it; None where that is the source."""
    best = search.best
    if best is None:
        return None, None
    plan = next(one.plan for one in job.planned if one.trial.name == best.trial)
    tags = {
        "method": plan.method,
        "source": job.model.uri,
        "source.sha256": job.model.sha256,
        "manifest": job.address,
        "manifest.sha256": job.manifest.sha256,
        "trial": best.name,
        "ranking": search.ranking.text,
    }
    version = register_model(best.model, job.name, run_id, tags, "candidate", source=source)
    others = [one for one in search.tried.models if one.trial == best.trial]
    contest = Contest(
        candidate=best.model,
        source=source,
        pool=job.pool,
        policy=job.adaptation.decision,
        expected=plan.expected,
        others=tuple(one.model for one in others if one.name != best.name),
        minimised=tuple(sorted(kind_of(plan.method).minimises)),
        by=adapted_with(plan),
    )
    return version, settle(version, contest, promote, run_id, job.device)


def _result(
    job: TuneJob,
    run_id: str,
    search: Search,
    version: Version | None,
    decision: Decision | None,
) -> tuple[TuneResult, str]:
    """What there is to tell, and the name of the final state, which is the verdict's."""
    if version is None or decision is None:
        state, verdict, commands = "Kept", search.ranking.text, source_commands(*job.stated)
    else:
        state, verdict = decision.state_name, decision.text
        commands = next_commands(decision, version, *job.stated, None)
    result = TuneResult(
        flow_run_id=str(flow_run.id),
        mlflow_run_id=run_id,
        ranking=search.ranking,
        left_out=search.tried.left_out,
        version=version,
        verdict=verdict,
        promoted=bool(decision and decision.promoted),
        table=search.text,
        next=commands,
    )
    return result, state


def _report(
    job: TuneJob,
    search: Search,
    result: TuneResult,
    state: str,
    decision: Decision | None,
    asked: dict[str, Any],
) -> str | None:
    """The address of the page of this search; None where it could not be written."""
    kind = decision.verdict.kind if decision else "keep"
    own = {"seed": job.plans[0].seed, "name": job.name, "promote": asked["promote"]}
    facts = SearchFacts(
        target=job.address,
        source=job.model,
        manifest=job.manifest,
        state=state,
        kind="promote" if result.promoted else kind,
        sentence=result.verdict,
        next=result.next,
        ranking=search.ranking,
        tried=search.tried,
        chosen_by={one.trial.name: one.plan.select_by for one in job.planned},
        version=result.version,
        command=tune_command(
            *job.stated, asked["methods"], asked["grid"], asked["budget"], own, job.adaptation
        ),
        files=files_beside(job.adaptation, asked["grid"]),
        run_id=result.mlflow_run_id,
        flow_run_id=result.flow_run_id,
    )
    return report_search(facts)


def source_commands(source: str, target: str) -> tuple[str, ...]:
    """What to type where the source stays."""
    return (predict_command(source, target),)


def run_tune(source: str, target: str, **inputs: Any) -> TuneResult:
    """What `tune` comes to where it is called: Prefect hands over a state's data."""
    result: object = tune(source, target, **inputs)
    assert isinstance(result, TuneResult)
    return result
