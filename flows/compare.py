"""Methods x seeds -> one table. Here alone may target labels point at an epoch: the oracle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.addresses import short_address
from flows.form import USUAL_RUN, ComparedName, takes_flat
from sfda.adaptation.plan import AdaptPlan, make_plan
from sfda.adaptation.supervised import BOUND
from sfda.adaptation.training_plan import TrainPlan, make_train_plan
from sfda.building_blocks.device import resolve
from sfda.config import Config
from sfda.loading import opened as manifests
from sfda.problems.report_metrics import metrics_of
from sfda.refs import (
    Adaptation,
    LabelledSplit,
    ManifestRef,
    Metrics,
    ModelRef,
    PredictionsRef,
    Report,
)
from sfda.report.comparison import (
    ComparisonRow,
    EpochMetrics,
    bound_note,
    counts_text,
    method_rows,
    metric_table,
    row_summaries,
    source_rows,
)
from sfda.report.reproduce import compare_command
from sfda.settings import AdaptSettings, DeviceName, RunSettings, Seed
from tasks import tracking
from tasks.adapt import adapt_to_target
from tasks.compare import WeightsGone, evaluate_epochs, evaluate_source
from tasks.import_model import import_source
from tasks.prefect_runtime.tame_artifacts import create_markdown_artifact
from tasks.pseudo_label import pseudo_label, show_profile
from tasks.readable import readable_target
from tasks.report import ComparisonFacts, report_comparison
from tasks.select import select
from tasks.tracking.models import locate, model_ref
from tasks.train_source import spec_of, train


class CompareResult(Config):
    """What `compare` tells at its end."""

    flow_run_id: str
    mlflow_run_id: str
    rows: list[dict[str, Any]]
    table: str
    report: str | None = None  # path of the page; None: it could not be written


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


@takes_flat()
@flow(name="compare", flow_run_name=_title)
def compare(
    source: str,
    target: str,
    methods: list[ComparedName],
    seeds: list[Seed] | None = None,
    settings: dict[str, dict[str, Any]] | None = None,
    adaptation: RunSettings = USUAL_RUN,
) -> CompareResult:
    """Run every method with every seed and score every epoch with the target's labels.

    The method "supervised" is the bound: the source network trained on the labels of `split`, its
    last epoch reported. "source" is always there.

    Args:
        source: the model: models:/NAME@source, models:/NAME/3, or the folder of a bundle
        target: a manifest with a labelled test split
        methods: ways to adapt
        seeds: of all random numbers, a run each; none: 0
        settings: of each method, by its name
        adaptation: what all runs share
    """
    methods = [method for method in methods if method != "source"]
    manifest, model = manifests.manifest_ref(target), model_ref(source)
    manifest, _ = readable_target(model, manifest, adaptation, target)
    test = manifests.evaluation_split(manifest, adaptation.test_split or "test")
    assert test is not None
    plans = {
        (m, s): _plan(model, manifest, test.name, m, (settings or {}).get(m, {}), adaptation, s)
        for m in methods
        for s in seeds or [0]
    }
    key = tracking.run_key("compare", model, manifest, test, list(plans.values()))
    tags = {"prefect.flow_run_id": str(flow_run.id)}
    params = {"methods": ", ".join(methods), "seeds": seeds or [0], "source": model.uri}
    with tracking.run(_title(), key=key, tags=tags, params=params) as run_id:
        start = import_source(model.uri)
        shared = _shared(start, manifest, short_address(target), test, run_id, adaptation)
        command = compare_command(
            model.uri, target, methods, seeds or [0], settings or {}, adaptation
        )
        facts, text = _work_through_methods(shared, methods, plans, command)
        page = report_comparison(facts, text)
    return CompareResult(
        flow_run_id=facts.flow_run_id,
        mlflow_run_id=run_id,
        rows=facts.rows,
        table=text,
        report=page,
    )


def _shared(
    source: ModelRef,
    target: ManifestRef,
    title: str,
    test: LabelledSplit,
    run_id: str,
    adaptation: RunSettings,
) -> Comparison:
    """What all runs share: one look at the target with the source model among it."""
    part, device = manifests.split_ref(target, adaptation.split), resolve(adaptation.device)
    predictions = pseudo_label(source, part, device)
    show_profile(title, predictions, manifests.shift_of(target, source))
    return Comparison(
        source=source,
        target=target,
        title=title,
        test=test,
        predictions=predictions,
        parent=run_id,
        device=device,
        workers=adaptation.workers,
    )


def _work_through_methods(
    comparison: Comparison,
    methods: list[str],
    plans: Mapping[tuple[str, int], AdaptPlan | TrainPlan],
    command: str,
) -> tuple[ComparisonFacts, str]:
    """The rows of the source and of all methods, with all that their page shows, and the tables."""
    floor = evaluate_source(
        comparison.source, comparison.target, comparison.test, comparison.device
    )
    own, epochs = _method_rows(comparison, methods, plans, floor.report)
    rows = row_summaries(source_rows(floor) + own)
    tables = [metric_table(rows, metric) for metric in metrics_of(floor.report.metrics)]
    text = "\n\n".join(filter(None, [counts_text(floor.report), *tables, bound_note(rows)]))
    tracking.log_json(comparison.parent, "comparison.json", {"rows": rows})
    create_markdown_artifact(text, key="comparison")
    facts = ComparisonFacts(
        target=comparison.title,
        source=comparison.source,
        manifest=comparison.target,
        floor=floor.report,
        rows=rows,
        epochs=epochs,
        command=command,
        run_id=comparison.parent,
        flow_run_id=str(flow_run.id),
    )
    return facts, text


def _method_rows(
    comparison: Comparison,
    methods: list[str],
    plans: Mapping[tuple[str, int], AdaptPlan | TrainPlan],
    floor: Report,
) -> tuple[list[ComparisonRow], dict[str, tuple[EpochMetrics, ...]]]:
    """Every plan worked through, method by method; one row a method and metric, and the metrics of
    all epochs of each run.
    """
    rows: list[ComparisonRow] = []
    epochs = {}
    for method in methods:
        own = {seed: plan for (name, seed), plan in plans.items() if name == method}
        runs = [(seed, *_run(comparison, plan, floor.metrics)) for seed, plan in own.items()]
        rows += method_rows(method, _chosen_by(next(iter(own.values()))), runs, floor.metrics)
        epochs[method] = tuple(metrics for _, _, metrics in runs)
    return rows, epochs


def _plan(
    model: ModelRef,
    target: ManifestRef,
    test: str,
    method: str,
    settings: dict[str, Any],
    adaptation: RunSettings,
    seed: int,
) -> AdaptPlan | TrainPlan:
    """One run's choices, checked before any run starts."""
    if method == BOUND:
        return make_train_plan(
            target,
            (adaptation.split, test),
            spec_of(model),
            settings,
            start=model,
            checkpoint="last",
            epochs=adaptation.epochs,
            seed=seed,
        )
    own = AdaptSettings(**dict(adaptation), method=method, settings=settings, seed=seed)
    return make_plan(model, target, own, bundle=locate(model.uri))


def _chosen_by(plan: AdaptPlan | TrainPlan) -> str:
    return "last" if isinstance(plan, TrainPlan) else plan.select_by


def _run(
    comparison: Comparison, plan: AdaptPlan | TrainPlan, floor: Metrics
) -> tuple[Adaptation, EpochMetrics]:
    """One method, or the bound, with one seed, in an MLflow run of its own."""
    method = BOUND if isinstance(plan, TrainPlan) else plan.method
    title = f"{comparison.title} with {method}, seed {plan.seed}"
    key = tracking.run_key(comparison.parent, plan)
    tags = {"mlflow.parentRunId": comparison.parent}
    params = {"method": method, **plan.model_dump(mode="json")}
    with tracking.run(title, key=key, tags=tags, params=params) as run_id:
        if isinstance(plan, TrainPlan):
            return _bound(comparison, plan, run_id, title)
        return _method(comparison, plan, run_id, title, floor)


def _method(
    comparison: Comparison, plan: AdaptPlan, run_id: str, title: str, floor: Metrics
) -> tuple[Adaptation, EpochMetrics]:
    """Adapted, chosen without labels, and only then scored with them."""
    stage = adapt_to_target
    source, target, device = comparison.source, comparison.target, comparison.device
    predictions = comparison.predictions
    while True:
        adaptation = stage(
            source,
            predictions,
            plan.on(target),
            plan,
            "all",
            run_id,
            title,
            device,
            comparison.workers,
        )
        chosen = select(adaptation, plan.select_by, run_id, source)
        try:
            scored = evaluate_epochs(
                source, adaptation, chosen.epoch, target, comparison.test, device
            )
        except WeightsGone:
            stage = adapt_to_target.with_options(refresh_cache=True)
            continue
        _log_oracle(run_id, scored, floor)
        return adaptation, scored


def _bound(
    comparison: Comparison, plan: TrainPlan, run_id: str, title: str
) -> tuple[Adaptation, EpochMetrics]:
    """The supervised bound. It learns from the target's labels, and its name says so."""
    training = train(comparison.target, plan, run_id, title, comparison.device, comparison.workers)
    metrics = tuple(candidate.scores for candidate in training.candidates)
    return training, EpochMetrics(metrics=metrics, chosen=len(metrics) - 1)


def _log_oracle(run_id: str, scored: EpochMetrics, source: Metrics) -> None:
    points = [
        (f"target/{name}", value, epoch)
        for epoch, metrics in enumerate(scored.metrics, start=1)  # as scores count them
        for name, value in metrics.items()
    ]
    points += [(f"selected/{name}", value, 0) for name, value in scored.selected(source).items()]
    tracking.log_points(run_id, points)
