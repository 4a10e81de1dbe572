"""Methods x seeds -> one table. Here alone may target labels point at an epoch: the oracle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from flows.addresses import short_address
from flows.form import ComparedName, Epochs, Seed, ValidatorName
from sfda.adaptation.plan import AdaptPlan, make_plan
from sfda.adaptation.supervised import BOUND
from sfda.adaptation.training_plan import TrainPlan, make_train_plan
from sfda.building_blocks.device import DeviceName, resolve
from sfda.config import Config
from sfda.loading import opened as manifests
from sfda.refs import (
    Adaptation,
    LabelledSplit,
    ManifestRef,
    ModelRef,
    PredictionsRef,
    Report,
    Views,
)
from sfda.report.comparison import (
    ComparisonRow,
    EpochMetrics,
    counts_text,
    method_rows,
    metric_table,
    metrics_of,
    row_summaries,
    source_rows,
)
from tasks import tracking
from tasks.adapt import adapt_to_target
from tasks.compare import WeightsGone, evaluate_epochs, evaluate_source
from tasks.import_model import import_source
from tasks.pseudo_label import pseudo_label, show_profile
from tasks.select import select
from tasks.tracking.models import locate, model_ref
from tasks.train_source import spec_of, train


class CompareResult(Config):
    """What `compare` tells at its end."""

    flow_run_id: str
    mlflow_run_id: str
    rows: list[dict[str, Any]]
    table: str


class Comparison(Config):
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
    parameters = flow_run.parameters
    return f"compare on {short_address(parameters['target'])}: {', '.join(parameters['methods'])}"


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
    manifest, model, device = manifests.manifest_ref(target), model_ref(source), resolve(device)
    test = manifests.evaluation_split(manifest, test_split)
    assert test is not None
    splits, own = (split, test.name), settings or {}
    plans = {
        (m, s): _plan(model, manifest, splits, m, own.get(m, {}), views, select_by, epochs, s)
        for m in methods
        for s in seeds or [0]
    }
    key = tracking.run_key("compare", model, manifest, test, list(plans.values()))
    tags = {"prefect.flow_run_id": str(flow_run.id)}
    params = {"methods": ", ".join(methods), "seeds": seeds or [0], "source": model.uri}
    with tracking.run(_title(), key=key, tags=tags, params=params) as run_id:
        start = import_source(model.uri)
        seen = manifests.seen_digest(manifest, split)
        predictions = pseudo_label(start, manifest, seen, split, device)
        show_profile(short_address(target), predictions, manifests.shift_of(manifest, start))
        comparison = Comparison(
            source=start,
            target=manifest,
            title=short_address(target),
            test=test,
            predictions=predictions,
            parent=run_id,
            device=device,
            workers=workers,
        )
        floor = evaluate_source(start, manifest, test, device)
        rows = row_summaries(
            source_rows(floor) + _method_rows(comparison, methods, plans, floor.report)
        )
        tables = [metric_table(rows, metric) for metric in metrics_of(floor.report.metrics)]
        text = "\n\n".join([counts_text(floor.report), *tables])
        tracking.log_json(run_id, "comparison.json", {"rows": rows})
        create_markdown_artifact(text, key="comparison")
    return CompareResult(flow_run_id=str(flow_run.id), mlflow_run_id=run_id, rows=rows, table=text)


def _method_rows(
    comparison: Comparison,
    methods: list[str],
    plans: Mapping[tuple[str, int], AdaptPlan | TrainPlan],
    floor: Report,
) -> list[ComparisonRow]:
    """Every plan worked through, method by method; one row a method and metric."""
    rows: list[ComparisonRow] = []
    for method in methods:
        own = {seed: plan for (name, seed), plan in plans.items() if name == method}
        runs = [(seed, *_run(comparison, plan)) for seed, plan in own.items()]
        rows += method_rows(method, _chosen_by(next(iter(own.values()))), runs, floor.metrics)
    return rows


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
            target,
            splits,
            spec_of(model),
            settings,
            start=model,
            checkpoint="last",
            epochs=epochs,
            seed=seed,
        )
    split, bundle = splits[0], locate(model.uri)
    return make_plan(
        model, target, split, method, settings, views, select_by, epochs, seed, bundle=bundle
    )


def _chosen_by(plan: AdaptPlan | TrainPlan) -> str:
    return "last" if isinstance(plan, TrainPlan) else plan.select_by


def _run(comparison: Comparison, plan: AdaptPlan | TrainPlan) -> tuple[Adaptation, EpochMetrics]:
    """One method, or the bound, with one seed, in an MLflow run of its own."""
    method = BOUND if isinstance(plan, TrainPlan) else plan.method
    title = f"{comparison.title} with {method}, seed {plan.seed}"
    key = tracking.run_key(comparison.parent, plan)
    tags = {"mlflow.parentRunId": comparison.parent}
    params = {"method": method, **plan.model_dump(mode="json")}
    with tracking.run(title, key=key, tags=tags, params=params) as run_id:
        if isinstance(plan, TrainPlan):
            return _bound(comparison, plan, run_id, title)
        return _method(comparison, plan, run_id, title)


def _method(
    comparison: Comparison, plan: AdaptPlan, run_id: str, title: str
) -> tuple[Adaptation, EpochMetrics]:
    """Adapted, chosen without labels, and only then scored with them."""
    stage = adapt_to_target
    source, target, device = comparison.source, comparison.target, comparison.device
    predictions = comparison.predictions
    while True:
        adaptation = stage(
            source, predictions, target, plan, "all", run_id, title, device, comparison.workers
        )
        chosen = select(adaptation, plan.select_by, run_id)
        try:
            scored = evaluate_epochs(
                source, adaptation, chosen.epoch, target, comparison.test, device
            )
        except WeightsGone:
            stage = adapt_to_target.with_options(refresh_cache=True)
            continue
        _log_oracle(run_id, scored)
        return adaptation, scored


def _bound(
    comparison: Comparison, plan: TrainPlan, run_id: str, title: str
) -> tuple[Adaptation, EpochMetrics]:
    """The supervised bound. It learns from the target's labels, and its name says so."""
    training = train(comparison.target, plan, run_id, title, comparison.device, comparison.workers)
    metrics = tuple(candidate.scores for candidate in training.candidates)
    return training, EpochMetrics(metrics=metrics, chosen=len(metrics) - 1)


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
