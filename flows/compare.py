"""Methods x seeds -> one table. Here alone may target labels point at an epoch: the oracle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.addresses import short_address
from flows.form import USUAL_RUN, ComparedName, takes_flat
from sfda.adaptation.plan import AdaptPlan, fits, make_plan
from sfda.adaptation.supervised import BOUND
from sfda.adaptation.training_plan import TrainPlan, make_train_plan
from sfda.building_blocks.device import resolve
from sfda.config import Config
from sfda.guides.origin import GuideOrigin
from sfda.loading import opened as manifests
from sfda.problems.report_metrics import metrics_of
from sfda.refs import (
    LabelledSplit,
    ManifestRef,
    ModelRef,
    Report,
)
from sfda.report.comparison import (
    ComparisonRow,
    EpochMetrics,
    bound_note,
    counts_text,
    guide_rows,
    method_rows,
    metric_table,
    row_summaries,
    source_rows,
)
from sfda.report.reproduce import compare_command
from sfda.settings import AdaptSettings, RunSettings, Seed
from tasks import tracking
from tasks.compare import evaluate_source
from tasks.compared_run import Comparison, compared_run
from tasks.guides import asked_guide, evaluate_guide, guide_table
from tasks.import_model import import_source
from tasks.prefect_runtime.tame_artifacts import create_markdown_artifact
from tasks.pseudo_label import pseudo_label, show_profile
from tasks.readable import readable_target
from tasks.report import ComparisonFacts, report_comparison
from tasks.tracking.models import locate, model_ref
from tasks.train_source import spec_of

BARS = ("gda",)  # rows of every comparison whose problem they serve, beside the source's


class CompareResult(Config):
    """What `compare` tells at its end."""

    flow_run_id: str
    mlflow_run_id: str
    rows: list[dict[str, Any]]
    table: str
    report: str | None = None  # path of the page; None: it could not be written


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
    last epoch reported. "source" is always there, and so is what takes a second and learns nothing
    by gradient, the bar that training must clear: of classification "gda", once, as it is. With a
    guide its own answers are a row, too: "guide alone".

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
    origin = asked_guide(adaptation.guide, model)
    bars = [bar for bar in BARS if fits(bar, model.problem) and bar not in methods]
    manifest, _ = readable_target(model, manifest, adaptation, target)
    test = manifests.evaluation_split(manifest, adaptation.test_split or "test")
    assert test is not None
    plans = {
        (m, s): _plan(
            model, manifest, test.name, m, (settings or {}).get(m, {}), adaptation, s, origin
        )
        for m in methods
        for s in seeds or [0]
    }
    plans |= {(bar, 0): _plan_bar(model, manifest, test.name, bar, adaptation) for bar in bars}
    own = [origin.digest] if origin else []
    key = tracking.run_key("compare", model, manifest, test, list(plans.values()), *own)
    tags = {"prefect.flow_run_id": str(flow_run.id)}
    params = {"methods": ", ".join(methods), "seeds": seeds or [0], "source": model.uri}
    with tracking.run(_title(), key=key, tags=tags, params=params) as run_id:
        start = import_source(model.uri)
        shared = _shared(start, manifest, short_address(target), test, run_id, adaptation, origin)
        command = compare_command(
            model.uri, target, methods, seeds or [0], settings or {}, adaptation
        )
        facts, text = _work_through_methods(shared, methods + bars, plans, command)
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
    origin: GuideOrigin | None,
) -> Comparison:
    """What all runs share: one look at the target with the source model among it."""
    part, device = manifests.split_ref(target, adaptation.split), resolve(adaptation.device)
    predictions = pseudo_label(source, part, device)
    show_profile(title, predictions, manifests.shift_of(target, source))
    guide = alone = None
    if origin is not None:
        guide = guide_table(source, predictions, part, origin, device=device)
        alone = evaluate_guide(source, predictions, part, target, test, origin, guide, device)
    return Comparison(
        source=source,
        target=target,
        title=title,
        test=test,
        predictions=predictions,
        parent=run_id,
        device=device,
        workers=adaptation.workers,
        guide=guide,
        guide_alone=alone,
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
    beside = comparison.guide_alone
    alone = guide_rows(beside.report, beside.change, floor.report.metrics) if beside else []
    rows = row_summaries(source_rows(floor) + alone + own)
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
        runs = [
            (seed, *compared_run(comparison, plan, floor.metrics)) for seed, plan in own.items()
        ]
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
    origin: GuideOrigin | None = None,
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
    return make_plan(model, target, own, bundle=locate(model.uri), guide=origin)


def _plan_bar(
    model: ModelRef, target: ManifestRef, test: str, bar: str, adaptation: RunSettings
) -> AdaptPlan | TrainPlan:
    """A row that nobody has asked for: by its defaults, and its one epoch is the last."""
    plain = adaptation.model_copy(update={"epochs": None, "select_by": "last"})
    return _plan(model, target, test, bar, {}, plain, 0)


def _chosen_by(plan: AdaptPlan | TrainPlan) -> str:
    return "last" if isinstance(plan, TrainPlan) else plan.select_by
