"""A search over methods and settings under a budget of time; the best model is judged as any is."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.addresses import registered_name, short_address
from flows.form import USUAL_RUN, takes_flat
from sfda.adaptation import target as adaptation_target
from sfda.adaptation.plan import AdaptPlan, kind_of, make_plan
from sfda.building_blocks.device import resolve
from sfda.config import Config
from sfda.decision.ranking import Ranking
from sfda.errors import BadInput
from sfda.loading import opened as manifests
from sfda.profiling.trials import trials, usual_methods
from sfda.refs import ManifestRef, ModelRef, Version
from sfda.report.trials_text import trials_text
from sfda.settings import (
    AdaptSettings,
    DeviceName,
    Duration,
    MethodName,
    RunSettings,
    Seed,
    seconds_of,
)
from tasks import tracking
from tasks.decide import Contest, Decision, DecisionPool, next_commands, pool_for, settle
from tasks.import_model import import_source
from tasks.pseudo_label import pseudo_label, show_profile
from tasks.register import register_model
from tasks.tracking.models import locate, model_ref
from tasks.tune import PlannedTrial, SearchedModels, TriedModel, drop_trials, rank_trials, try_all

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
    job = _job(source, target, methods, grid, seed, name, adaptation)
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
        drop_trials(search.tried, search.ranking.best)
    return _end(job, run_id, search, version, decision)


@dataclass(frozen=True)
class TuneJob:
    """All that one search is about, every choice made and checked."""

    model: ModelRef
    manifest: ManifestRef
    address: str  # of the target, in short
    planned: list[PlannedTrial]
    name: str  # to register under
    pool: DecisionPool
    device: DeviceName
    adaptation: RunSettings
    stated: tuple[str, str]  # source and target, as they were stated

    @property
    def plans(self) -> list[AdaptPlan]:
        """Those of the trials."""
        return [one.plan for one in self.planned]


@dataclass(frozen=True)
class Search:
    """What was tried, and its order."""

    tried: SearchedModels
    ranking: Ranking

    @property
    def text(self) -> str:
        """A table of both."""
        return trials_text(self.ranking, self.tried.left_out)

    @property
    def best(self) -> TriedModel | None:
        """None: the source."""
        return next((one for one in self.tried.models if one.name == self.ranking.best), None)


def _job(
    source: str,
    target: str,
    methods: list[str] | None,
    grid: dict[str, dict[str, list[Any]]] | None,
    seed: int,
    name: str | None,
    adaptation: RunSettings,
) -> TuneJob:
    """Choices made and checked before anything is loaded. Raises BadInput."""
    model, stated = model_ref(source), (source, target)
    target = adaptation_target.as_manifest(target, lambda: model.problem)
    manifest = manifests.manifest_ref(target)
    tracking.check_name(called := name or registered_name(source))
    test = manifests.evaluation_split(manifest, adaptation.test_split)
    planned = _planned(model, manifest, methods, grid or {}, adaptation, seed)
    return TuneJob(
        model=model,
        manifest=manifest,
        address=short_address(target),
        planned=planned,
        name=called,
        pool=pool_for(manifest, adaptation.split, test),
        device=resolve(adaptation.device),
        adaptation=adaptation,
        stated=stated,
    )


def _planned(
    model: ModelRef,
    target: ManifestRef,
    methods: list[str] | None,
    grid: dict[str, dict[str, list[Any]]],
    adaptation: RunSettings,
    seed: int,
) -> list[PlannedTrial]:
    """Every trial with its choices; of methods that nobody named those that can be used here."""
    bundle, planned = locate(model.uri), []
    for trial in trials(model.problem, methods or usual_methods(model.problem), grid):
        asked = AdaptSettings(
            **dict(adaptation), method=trial.method, settings=trial.settings, seed=seed
        )
        try:
            planned.append(PlannedTrial(trial, make_plan(model, target, asked, bundle=bundle)))
        except BadInput as error:
            if methods:
                raise
            log.info("%s is left out: %s", trial.name, error)
    if not planned:
        raise BadInput("no method can be tried here; name some with --methods")
    return planned


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
    )
    return version, settle(version, contest, promote, run_id, job.device)


def _end(
    job: TuneJob,
    run_id: str,
    search: Search,
    version: Version | None,
    decision: Decision | None,
) -> State[Any]:
    """The final state, whose name tells the verdict."""
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
    return Completed(name=state, message=verdict, data=result)


def source_commands(source: str, target: str) -> tuple[str, ...]:
    """What to type where the source stays."""
    return (f"sfda predict --model {source} --data {target} --out DIR",)


def run_tune(source: str, target: str, **inputs: Any) -> TuneResult:
    """What `tune` comes to where it is called: Prefect hands over a state's data."""
    result: object = tune(source, target, **inputs)
    assert isinstance(result, TuneResult)
    return result
