"""Model + target -> a request for labels; for experiments, rounds with a simulated annotator."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from flows.form import MethodName, QueryName, Seed, short
from sfda.adaptation.plan import kind_of, make_plan
from sfda.annotation.request import Request
from sfda.annotation.simulated import answer_from_labels
from sfda.annotation.take import take_answers
from sfda.annotation.waiting import note
from sfda.building_blocks.device import DeviceName, resolve
from sfda.config import Config
from sfda.errors import BadInput
from sfda.loading import opened as manifests
from sfda.refs import ManifestRef, ModelRef, Views
from sfda.report.pictures import label_curve
from sfda.state_folder import data_folder
from tasks import tracking
from tasks.adapt import adapt_to_target
from tasks.evaluate import evaluate_model, reference
from tasks.import_model import import_source
from tasks.prefect_runtime.cache import code_digest
from tasks.pseudo_label import pseudo_label
from tasks.query_labels import make_query_plan, query_labels, read_budget, request_text
from tasks.select import select
from tasks.tracking.models import refer


def _title() -> str:
    given = flow_run.parameters
    return f"query {short(given['target'])} by {given['by']}"


@flow(name="query-labels", flow_run_name=_title)
def query(
    model: str,
    target: str,
    by: QueryName,
    budget: str,
    out: str,
    before: str | None = None,
    settings: dict[str, Any] | None = None,
    split: str = "adapt",
    copy_images: bool = False,
    seed: Seed = 0,
    device: DeviceName = "auto",
) -> Request:
    """Write a request for `budget` labels (a number, or a share such as 1%) to the folder `out`.

    The flow ends there: nothing waits for a person. An artifact says what is wanted.
    """
    found = refer(model)
    target = manifests.as_manifest(target, lambda: found.problem)
    return ask_people(
        found, target, by, budget, Path(out), split, settings or {}, seed, resolve(device),
        before=before, copy_images=copy_images,
    )  # fmt: skip


def ask_people(
    model: ModelRef,
    target: str,
    by: str,
    budget: str,
    folder: Path,
    split: str,
    settings: dict[str, Any],
    seed: int,
    device: DeviceName,
    *,
    before: str | None = None,
    copy_images: bool = False,
    waits: str | None = None,
) -> Request:
    """Write a request, keep that it waits, and say on the run's page what is wanted.

    `waits` is the flow run that goes on from the answers. Raises BadInput.
    """
    manifest = manifests.refer(target)
    opened = manifests.open_ref(manifest)
    if split not in opened.splits:
        raise BadInput(f"{target} has no split '{split}'; there are {', '.join(opened.splits)}")
    number = read_budget(budget, opened.splits[split].count)
    plan = make_query_plan(model.problem, by, number, split, settings, seed, copy_images)
    request: Request = query_labels(model, manifest, plan, str(folder), before, device)
    note(folder, request, target, by, waits)
    create_markdown_artifact(request_text(request, str(folder)), key="labels-wanted")
    return request


class RoundsResult(Config):
    """What `rounds` tells at its end: one row for each query, method, budget and seed."""

    flow_run_id: str
    mlflow_run_id: str
    rows: list[dict[str, Any]]
    table: str


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
    select_by: str | None = "last",
    split: str = "adapt",
    test_split: str = "test",
    device: DeviceName = "auto",
) -> RoundsResult:
    """Ask, answer from held-back labels, adapt; budget after budget, each the total so far.

    `lftl` goes on from the last round's network, all others start from the source anew. Labels of
    `split` reach methods for the rows that were asked for alone; scores are of `test_split`.
    """
    manifest, model, device = manifests.refer(target), refer(source), resolve(device)
    size = manifests.open_ref(manifest).splits[split].count
    totals = [read_budget(b, size) for b in budgets]
    if totals != sorted(set(totals)):
        raise BadInput(f"budgets {', '.join(budgets)} must grow: each is the total so far")
    test = manifests.test_split(manifest, test_split)
    assert test is not None
    chains = [(q, m, s) for q in queries for m in methods for s in seeds or [0]]
    given = {"settings": settings or {}, "query_settings": query_settings or {}}
    params = {"queries": queries, "methods": methods, "budgets": budgets, "seeds": seeds or [0]}
    key = tracking.run_key(
        "rounds", model, manifest, test, params, given, select_by, code_digest()
    )  # fmt: skip
    title = f"rounds on {short(target)}"
    tags = {"prefect.flow_run_id": str(flow_run.id)}
    with tracking.run(title, key=key, tags=tags, params=params) as run_id:
        start = import_source(model.uri)
        floor = evaluate_model(start, manifest, test.name, device).metrics
        kept = tracking.read_json(run_id, "rounds.json")  # of a start that was killed
        rows: list[dict[str, Any]] = kept["rows"] if kept else []
        done = {(row["query"], row["method"], row["seed"]) for row in rows}
        for by, method, seed in chains:
            if (by, method, seed) in done:
                continue
            with tempfile.TemporaryDirectory() as scratch:
                rows += _chain(
                    start, manifest, Path(scratch), by, method, seed, totals, given, select_by,
                    split, test.name, run_id, device,
                )  # fmt: skip
            points = [
                (f"{by}/{method}/{name}", value, row["labels"])
                for row in rows
                if (row["query"], row["method"], row["seed"]) == (by, method, seed)
                for name, value in row["metrics"].items()
            ]
            tracking.log_points(run_id, points)
            tracking.log_json(run_id, "rounds.json", {"source": floor, "rows": rows})
        text = rounds_table(rows, floor)
        with tempfile.TemporaryDirectory() as scratch:
            picture = Path(scratch, "labels.png")
            picture.write_bytes(label_curve(rows, floor, title=title))
            tracking.log_file(run_id, picture)
        create_markdown_artifact(text, key="rounds")
    return RoundsResult(flow_run_id=str(flow_run.id), mlflow_run_id=run_id, rows=rows, table=text)


def _chain(
    source: ModelRef, manifest: ManifestRef, scratch: Path, by: str, method: str, seed: int,
    totals: list[int], given: dict[str, Any], select_by: str | None, split: str, test: str,
    run_id: str, device: DeviceName,
) -> list[dict[str, Any]]:  # fmt: skip
    """One query and one method over all budgets."""
    rows, model, before, spent = [], source, None, 0
    target = manifest
    own = given["settings"].get(method, {})
    views = Views.from_settings(own["views"], "views") if "views" in own else None
    own = {name: value for name, value in own.items() if name != "views"}
    for number, total in enumerate(totals):
        folder = scratch / f"request-{number}"
        plan = make_query_plan(
            source.problem, by, total - spent, split, given["query_settings"].get(by, {}), seed
        )
        request = query_labels(model, target, plan, str(folder), before, device)
        answers = answer_from_labels(request, manifest, folder)
        out = scratch / f"target.v{number + 2}.yaml"
        taken = take_answers(
            folder, answers, Path(target.path), out=out, data_root=data_folder(),
            empty=source.problem == "detection",
        )  # fmt: skip
        target, before, spent = manifests.refer(taken.manifest), str(folder), taken.total
        start = model if method == "lftl" else source
        settings = {**own}
        if method == "lftl":
            settings.setdefault("budget", totals[-1])
        work = make_plan(start, target, split, method, settings, views, select_by, None, seed)
        seen = pseudo_label(start, target, work.seen, split, device)
        name = f"{by}, {method}, {spent} labels, seed {seed}"
        found = adapt_to_target(start, seen, target, work, "best", run_id, name, device)
        chosen = select(found, work.select_by, run_id)
        model = reference(chosen, start)
        metrics = evaluate_model(model, manifest, test, device).metrics
        rows.append(
            {
                "query": by, "method": method, "seed": seed, "labels": spent,
                "budget": total, "metrics": metrics, "told": kind_of(method).told,
                "seconds": found.seconds,
            }
        )  # fmt: skip
    return rows


def rounds_table(rows: list[dict[str, Any]], floor: dict[str, float]) -> str:
    """Means and deviations over the seeds, in percent, a column a budget."""
    from statistics import fmean, stdev

    from sfda.problems.classification.metrics import main_metric

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
            found = [
                100 * row["metrics"][metric]
                for row in rows
                if (row["method"], row["query"], row["labels"]) == (method, by, budget)
            ]
            spread = stdev(found) if len(found) > 1 else 0.0
            cells.append(f"{fmean(found):.2f} ± {spread:.2f}" if found else "")
        lines.append(f"| `{method}` | `{by}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)
