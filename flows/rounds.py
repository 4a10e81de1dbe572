"""Queries x methods over growing budgets -> one table; a simulated annotator gives the labels."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.addresses import short_address
from flows.form import QueryName
from sfda.adaptation.plan import kind_of, make_plan
from sfda.annotation.query_plan import make_query_plan, read_budget
from sfda.annotation.simulated import annotate_from_labels
from sfda.annotation.take import take_annotations
from sfda.building_blocks.device import resolve
from sfda.config import Config
from sfda.errors import BadInput
from sfda.loading import opened as manifests
from sfda.problems.registry import PROBLEMS
from sfda.problems.report_metrics import main_metric
from sfda.refs import ManifestRef, Metrics, ModelRef, Views, candidate_model
from sfda.report.pictures import label_curve
from sfda.settings import (
    AdaptSettings,
    DeviceName,
    MethodName,
    Seed,
    SkippedShare,
    ValidatorName,
)
from sfda.state_folder import data_folder
from tasks import tracking
from tasks.adapt import adapt_to_target
from tasks.evaluate import evaluate_model
from tasks.import_model import import_source
from tasks.prefect_runtime.cache import code_digest
from tasks.prefect_runtime.tame_artifacts import create_markdown_artifact
from tasks.pseudo_label import pseudo_label
from tasks.query_labels import query_labels
from tasks.readable import list_skipped, readable_splits
from tasks.select import select
from tasks.tracking.models import locate, model_ref


class RoundsResult(Config):
    """What `rounds` tells at its end: one row for each query, method, budget and seed."""

    flow_run_id: str
    mlflow_run_id: str
    rows: list[dict[str, Any]]
    table: str


class Experiment(Config):
    """What all rounds of an experiment share."""

    source: ModelRef
    target: ManifestRef
    totals: tuple[int, ...]  # labels after each round
    settings: dict[str, dict[str, Any]]  # by method
    query_settings: dict[str, dict[str, Any]]
    select_by: str | None
    split: str
    test: str
    run_id: str
    device: DeviceName


@flow(name="rounds")
def rounds(
    source: str,
    target: str,
    queries: list[QueryName],
    methods: list[MethodName],
    budgets: list[str],
    seeds: list[Seed] | None = None,
    settings: dict[str, dict[str, Any]] | None = None,
    query_settings: dict[str, dict[str, Any]] | None = None,
    select_by: ValidatorName | None = "last",
    split: str = "adapt",
    test_split: str = "test",
    device: DeviceName = "auto",
    skip_unreadable: SkippedShare | None = None,
) -> RoundsResult:
    """Ask, answer from held-back labels, adapt; budget after budget, each the total so far.

    `lftl` goes on from the last round's network, all others start from the source anew. Labels of
    `split` reach methods for the rows that were asked for alone; scores are of `test_split`.
    """
    model, device = model_ref(source), resolve(device)
    whole, used = manifests.manifest_ref(target), (split, test_split)
    manifest, skipped = readable_splits(model, whole, used, skip_unreadable, target)
    totals = _totals(budgets, manifests.open_ref(manifest).splits[split].count)
    test = manifests.evaluation_split(manifest, test_split)
    assert test is not None
    own = {"settings": settings or {}, "query_settings": query_settings or {}}
    params = {"queries": queries, "methods": methods, "budgets": budgets, "seeds": seeds or [0]}
    key = tracking.run_key("rounds", model, manifest, test, params, own, select_by, code_digest())
    title = f"rounds on {short_address(target)}"
    tags = {"prefect.flow_run_id": str(flow_run.id)}
    with tracking.run(title, key=key, tags=tags, params=params) as run_id:
        start = import_source(model.uri)
        experiment = Experiment(
            source=start,
            target=manifest,
            totals=totals,
            **own,
            select_by=select_by,
            split=split,
            test=test.name,
            run_id=run_id,
            device=device,
        )
        chains = [(q, m, s) for q in queries for m in methods for s in seeds or [0]]
        rows, text = _work_through(experiment, chains, title)
        list_skipped(skipped, run_id)
    return RoundsResult(flow_run_id=str(flow_run.id), mlflow_run_id=run_id, rows=rows, table=text)


def _work_through(
    experiment: Experiment, chains: list[tuple[str, str, int]], title: str
) -> tuple[list[dict[str, Any]], str]:
    """The rows of all chains, those of a start that was killed among them, and their table."""
    run_id, test, device = experiment.run_id, experiment.test, experiment.device
    floor = evaluate_model(experiment.source, experiment.target, test, device).metrics
    before = tracking.read_json(run_id, "rounds.json")  # of a start that was killed
    rows: list[dict[str, Any]] = before["rows"] if before else []
    done = {(row["query"], row["method"], row["seed"]) for row in rows}
    for by, method, seed in chains:
        if (by, method, seed) not in done:
            new = _chain(experiment, by, method, seed)
            rows += new
            _log_chain(run_id, rows, floor, new)
    text = rounds_table(rows, floor)
    _log_picture(run_id, rows, floor, title)
    create_markdown_artifact(text, key="rounds")
    return rows, text


def _totals(budgets: list[str], size: int) -> tuple[int, ...]:
    """Numbers of labels after each round. Raises BadInput where they do not grow."""
    totals = [read_budget(budget, size) for budget in budgets]
    if totals != sorted(set(totals)):
        raise BadInput(f"budgets {', '.join(budgets)} must grow: each is the total so far")
    return tuple(totals)


def _log_chain(
    run_id: str, rows: list[dict[str, Any]], floor: Metrics, new: list[dict[str, Any]]
) -> None:
    """The curves of a chain that is done, and all rows so far."""
    points = [
        (f"{row['query']}/{row['method']}/{name}", value, row["labels"])
        for row in new
        for name, value in row["metrics"].items()
    ]
    tracking.log_points(run_id, points)
    tracking.log_json(run_id, "rounds.json", {"source": floor, "rows": rows})


def _log_picture(run_id: str, rows: list[dict[str, Any]], floor: Metrics, title: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        picture = Path(scratch, "labels.png")
        picture.write_bytes(label_curve(rows, floor, title=title))
        tracking.log_file(run_id, picture)


def _chain(experiment: Experiment, by: str, method: str, seed: int) -> list[dict[str, Any]]:
    """One query and one method over all budgets."""
    rows: list[dict[str, Any]] = []
    model, target, labels, before = experiment.source, experiment.target, 0, None
    with tempfile.TemporaryDirectory() as scratch:
        for number, total in enumerate(experiment.totals):
            folder = Path(scratch, f"request-{number}")
            out = Path(scratch, f"target.v{number + 2}.yaml")
            budget = total - labels
            target, labels = _ask(experiment, model, target, by, budget, seed, before, folder, out)
            before = str(folder)
            start = model if method == "lftl" else experiment.source
            title = f"{by}, {method}, {labels} labels, seed {seed}"
            model, seconds = _adapt(experiment, start, target, method, seed, title)
            metrics = evaluate_model(
                model, experiment.target, experiment.test, experiment.device
            ).metrics
            rows.append(
                {
                    "query": by,
                    "method": method,
                    "seed": seed,
                    "labels": labels,
                    "budget": total,
                    "metrics": metrics,
                    "told": kind_of(method).labelled_rows,
                    "seconds": seconds,
                }
            )
    return rows


def _ask(
    experiment: Experiment,
    model: ModelRef,
    target: ManifestRef,
    by: str,
    budget: int,
    seed: int,
    before: str | None,
    folder: Path,
    out: Path,
) -> tuple[ManifestRef, int]:
    """Ask for `budget` more labels and take them from those held back.

    The target's next version, and how many labels it has in all.
    """
    source, settings = experiment.source, experiment.query_settings.get(by, {})
    split, test = experiment.split, experiment.test
    plan = make_query_plan(source.problem, by, budget, split, settings, seed, test_split=test)
    request = query_labels(model, target, plan, str(folder), before, experiment.device)
    annotations = annotate_from_labels(request, experiment.target, folder)
    taken = take_annotations(
        folder,
        annotations,
        Path(target.path),
        out=out,
        data_root=data_folder(),
        empty=PROBLEMS[source.problem].labelling.empty,
    )
    ref = manifests.manifest_ref(taken.manifest)
    return ref.model_copy(update={"without": experiment.target.without}), taken.total


def _adapt(
    experiment: Experiment,
    start: ModelRef,
    target: ManifestRef,
    method: str,
    seed: int,
    title: str,
) -> tuple[ModelRef, float]:
    """The chosen candidate, and how many seconds the adaptation took."""
    split, run_id, device = experiment.split, experiment.run_id, experiment.device
    own = dict(experiment.settings.get(method, {}))
    views = Views.from_settings(own.pop("views"), "views") if "views" in own else None
    if method == "lftl":
        own.setdefault("budget", experiment.totals[-1])
    select_by, bundle = experiment.select_by, locate(start.uri)
    asked = AdaptSettings(
        method=method,
        settings=own,
        views=views,
        select_by=select_by,
        split=split,
        test_split=experiment.test,
        seed=seed,
    )
    plan = make_plan(start, target, asked, bundle=bundle)
    part = plan.on(target)
    seen = pseudo_label(start, part, device)
    adaptation = adapt_to_target(start, seen, part, plan, "best", run_id, title, device)
    chosen = select(adaptation, plan.select_by, run_id, start)
    return candidate_model(chosen, start), adaptation.seconds


def rounds_table(rows: list[dict[str, Any]], floor: Metrics) -> str:
    """Means and deviations over the seeds, in percent, a column a budget."""
    metric = "overall_accuracy" if "overall_accuracy" in floor else main_metric(floor)
    budgets = sorted({row["labels"] for row in rows})
    lines = [
        f"{metric.replace('_', ' ')} %, source {100 * floor[metric]:.2f}",
        "",
        "| adaptation | query | " + " | ".join(f"{b} labels" for b in budgets) + " |",
        "|---|---|" + "---:|" * len(budgets),
    ]
    pairs = list(dict.fromkeys((row["method"], row["query"]) for row in rows))
    for method, by in pairs:
        cells = []
        for budget in budgets:
            values = [
                100 * row["metrics"][metric]
                for row in rows
                if (row["method"], row["query"], row["labels"]) == (method, by, budget)
            ]
            spread = stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{fmean(values):.2f} ± {spread:.2f}" if values else "")
        lines.append(f"| `{method}` | `{by}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)
