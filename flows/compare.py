"""Methods x seeds -> one table. Here alone may target labels point at an epoch: the oracle."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from flows.form import ComparedName, Epochs, Seed, ValidatorName, short
from sfda.adaptation.plan import AdaptPlan, make_plan
from sfda.adaptation.supervised import BOUND
from sfda.building_blocks.device import DeviceName, resolve
from sfda.config import Config
from sfda.loading import opened as manifests
from sfda.refs import Adaptation, LabelledSplit, ManifestRef, ModelRef, PredictionsRef, Views
from tasks import tracking
from tasks.adapt import adapt_to_target
from tasks.compare import Epochs as EpochMetrics
from tasks.compare import (
    WeightsGone,
    counts_text,
    evaluate_epochs,
    evaluate_source,
    make_rows,
    metrics_of,
    source_rows,
    summaries,
    table,
)
from tasks.import_model import import_source
from tasks.pseudo_label import pseudo_label, show_profile
from tasks.select import select
from tasks.tracking.models import refer
from tasks.train_source import TrainPlan, make_train_plan, spec_of, train


class CompareResult(Config):
    """What `compare` tells at its end."""

    flow_run_id: str
    mlflow_run_id: str
    rows: list[dict[str, Any]]
    table: str


class Job(Config):
    """What all runs of a comparison share."""

    source: ModelRef
    target: ManifestRef
    predictions: PredictionsRef
    title: str
    test: LabelledSplit
    parent: str
    device: DeviceName
    workers: int


def _title() -> str:
    given = flow_run.parameters
    return f"compare on {short(given['target'])}: {', '.join(given['methods'])}"


@flow(name="compare", flow_run_name=_title)
def compare(
    source: str,
    target: str,
    methods: list[ComparedName],
    seeds: list[Seed] | None = None,
    settings: dict[str, dict[str, Any]] | None = None,
    views: Views | None = None,
    select_by: ValidatorName | None = None,
    epochs: Epochs | None = None,
    split: str = "adapt",
    test_split: str = "test",
    device: DeviceName = "auto",
    workers: int = 0,
) -> CompareResult:
    """Run every method with every seed and score every epoch with the target's labels.

    `settings` holds each method's own. The method "supervised" is the bound: the source network
    trained on the labels of `split`, its last epoch reported. "source" is always there.
    """
    methods = [method for method in methods if method != "source"]
    manifest, model, device = manifests.refer(target), refer(source), resolve(device)
    test = manifests.test_split(manifest, test_split)
    assert test is not None
    plans = {
        (m, s): _plan(
            model, manifest, (split, test.name), m, (settings or {}).get(m, {}), views, select_by,
            epochs, s,
        )
        for m in methods
        for s in seeds or [0]
    }  # fmt: skip
    key = tracking.run_key("compare", model, manifest, test, list(plans.values()))
    tags = {"prefect.flow_run_id": str(flow_run.id)}
    params = {"methods": ", ".join(methods), "seeds": seeds or [0], "source": model.uri}
    with tracking.run(_title(), key=key, tags=tags, params=params) as run_id:
        start = import_source(model.uri)
        seen = manifests.seen_digest(manifest, split)
        predictions = pseudo_label(start, manifest, seen, split, device)
        show_profile(short(target), predictions, manifests.shift_of(manifest, start))
        job = Job(
            source=start, target=manifest, title=short(target), test=test,
            predictions=predictions, parent=run_id, device=device, workers=workers,
        )  # fmt: skip
        floor = evaluate_source(start, manifest, test, device)
        found = source_rows(floor)
        for method in methods:
            runs = [(s, *_run(job, plan)) for (m, s), plan in plans.items() if m == method]
            by = next(_chosen_by(plan) for (m, _), plan in plans.items() if m == method)
            found += make_rows(method, by, runs, floor.report.metrics)
        rows = summaries(found)
        tables = [table(rows, metric) for metric in metrics_of(floor.report.metrics)]
        text = "\n\n".join([counts_text(floor.report), *tables])
        tracking.log_json(run_id, "comparison.json", {"rows": rows})
        create_markdown_artifact(text, key="comparison")
    return CompareResult(flow_run_id=str(flow_run.id), mlflow_run_id=run_id, rows=rows, table=text)


def _plan(
    model: ModelRef,
    target: ManifestRef,
    splits: tuple[str, str],
    method: str,
    settings: dict[str, Any],
    views: Views | None,
    select_by: str | None,
    epochs: int | None,
    seed: int,
) -> AdaptPlan | TrainPlan:
    """One run's choices, checked before any run starts."""
    if method == BOUND:
        return make_train_plan(
            target, splits, spec_of(model), settings, start=model, checkpoint="last",
            epochs=epochs, seed=seed,
        )  # fmt: skip
    return make_plan(model, target, splits[0], method, settings, views, select_by, epochs, seed)


def _chosen_by(plan: AdaptPlan | TrainPlan) -> str:
    return "last" if isinstance(plan, TrainPlan) else plan.select_by


def _run(job: Job, plan: AdaptPlan | TrainPlan) -> tuple[Adaptation, EpochMetrics]:
    """One method, or the bound, with one seed, in an MLflow run of its own."""
    method = BOUND if isinstance(plan, TrainPlan) else plan.method
    title = f"{job.title} with {method}, seed {plan.seed}"
    key = tracking.run_key(job.parent, plan)
    tags = {"mlflow.parentRunId": job.parent}
    params = {"method": method, **plan.model_dump(mode="json")}
    with tracking.run(title, key=key, tags=tags, params=params) as run_id:
        if isinstance(plan, TrainPlan):
            return _bound(job, plan, run_id, title)
        return _method(job, plan, run_id, title)


def _method(job: Job, plan: AdaptPlan, run_id: str, title: str) -> tuple[Adaptation, EpochMetrics]:
    """Adapted, chosen without labels, and only then scored with them."""
    stage = adapt_to_target
    while True:
        found = stage(
            job.source, job.predictions, job.target, plan, "all", run_id, title, job.device,
            job.workers,
        )  # fmt: skip
        chosen = select(found, plan.select_by, run_id)
        try:
            scored = evaluate_epochs(
                job.source, found, chosen.epoch, job.target, job.test, job.device
            )
        except WeightsGone:
            stage = adapt_to_target.with_options(refresh_cache=True)
            continue
        _log_oracle(run_id, scored)
        return found, scored


def _bound(job: Job, plan: TrainPlan, run_id: str, title: str) -> tuple[Adaptation, EpochMetrics]:
    """The supervised bound. It learns from the target's labels, and its name says so."""
    found = train(job.target, plan, run_id, title, job.device, job.workers)
    last = len(found.candidates) - 1
    return found, EpochMetrics(metrics=tuple(c.scores for c in found.candidates), chosen=last)


def _log_oracle(run_id: str, scored: EpochMetrics) -> None:
    points = [
        (f"target/{name}", value, epoch)
        for epoch, metrics in enumerate(scored.metrics)
        for name, value in metrics.items()
    ]
    points += [
        (f"selected/{name}", value, 0) for name, value in scored.metrics[scored.chosen].items()
    ]
    tracking.log_points(run_id, points)
