"""Source model + target manifest -> selected, evaluated, registered model."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.form import (
    AdaptResult,
    Duration,
    Epochs,
    MethodName,
    Seed,
    ValidatorName,
    name_of,
    seconds_of,
    short,
)
from sfda.adaptation.plan import AdaptPlan, make_plan
from sfda.building_blocks.device import DeviceName, resolve
from sfda.config import merged
from sfda.loading import opened as manifests
from sfda.refs import LabelledSplit, ModelRef, Views
from sfda.settings import Schedule
from tasks import tracking
from tasks.adapt import adapt_to_target, log_confinement
from tasks.evaluate import evaluate, log_report, reference
from tasks.import_model import import_source
from tasks.prefect_runtime.attempts import refuse_endless
from tasks.pseudo_label import pseudo_label, show_profile
from tasks.register import promote_if_better, register, report_tag
from tasks.select import select
from tasks.tracking.models import refer


def _title() -> str:
    given = flow_run.parameters
    return f"adapt {short(given['target'])}" + (f" with {m}" if (m := given["method"]) else "")


@flow(name="adapt", flow_run_name=_title)
def adapt(
    source: str,
    target: str,
    method: MethodName | None = None,
    settings: dict[str, Any] | None = None,
    schedule: Schedule | None = None,
    views: Views | None = None,
    select_by: ValidatorName | None = None,
    epochs: Epochs | None = None,
    seed: Seed = 0,
    name: str | None = None,
    split: str = "adapt",
    test_split: str | None = None,
    promote: bool = False,
    device: DeviceName = "auto",
    workers: int = 0,
    budget: Duration | None = None,
) -> AdaptResult:
    """Adapt `source` to `target`, keep the epoch `select_by` prefers, report on it, register it.

    The target is a manifest, or a folder of images without labels. `settings` are put over the
    method's defaults part by part; `schedule` replaces its schedule.
    Labels of the target, where it has any, are read by the evaluation alone, on `test_split`: by
    default "test", where the manifest has one with labels. `budget` (`30m`) limits the time of the
    epochs; the best of those that it allows is taken on as any other.
    """
    refuse_endless(flow_run)
    given = merged({"schedule": schedule.model_dump()} if schedule else {}, settings or {})
    model = refer(source)
    target = manifests.as_manifest(target, lambda: model.problem)
    manifest = manifests.refer(target)
    plan = make_plan(model, manifest, split, method, given, views, select_by, epochs, seed)
    name, device = name or name_of(source), resolve(device)
    title = f"adapt {short(target)} with {plan.method}"
    test = manifests.test_split(manifest, test_split)
    with tracking.run(title, **_record(plan, model, target, name, test)) as run_id:
        tracking.log_manifest(run_id, short(target), manifest, "target-unlabelled")
        start = import_source(model.uri)
        predictions = pseudo_label(start, manifest, plan.seen, split, device)
        show_profile(short(target), predictions, manifests.shift_of(manifest, start))
        found = adapt_to_target(
            start, predictions, manifest, plan, "best", run_id, title, device, workers,
            seconds_of(budget),
        )  # fmt: skip
        log_confinement(found.confinement, run_id)
        chosen = select(found, plan.select_by, run_id)
        adapted = reference(chosen, start)
        seen = (plan.split, plan.seen)
        sides = evaluate(start, adapted, manifest, test, seen, title, device)
        log_report(sides, run_id, title)
        tags = {
            "method": plan.method,
            "source": model.uri,
            "source.sha256": model.sha256,
            "manifest": short(target),
            "manifest.sha256": manifest.sha256,
            "report": report_tag(sides),
            **({"budget": found.cut} if found.cut else {}),
            **({"source_free": found.confinement.says} if found.confinement else {}),
        }
        version = register(adapted, name, run_id, tags, "candidate", source=start)
        promoted = promote_if_better(version, sides, start, manifest, promote, run_id, device)
    return AdaptResult(
        flow_run_id=str(flow_run.id),
        mlflow_run_id=run_id,
        version=version,
        selected_epoch=chosen.epoch,
        selected_by=plan.select_by,
        scores=chosen.scores,
        sides=sides,
        promoted=promoted,
        cut=found.cut,
        images_per_second=found.images_per_second,
        peak_memory_mb=found.peak_memory_mb,
    )


def _record(
    plan: AdaptPlan, model: ModelRef, target: str, name: str, test: LabelledSplit | None
) -> dict[str, Any]:
    """Key, tags and parameters of the MLflow run; the same work after a kill has the same key."""
    tracking.check_name(name)
    params = {
        "method": plan.method,
        **plan.config,
        "select_by": plan.select_by,
        "seed": plan.seed,
        "source": model.uri,
        "target": short(target),
        "split": plan.split,
        "test_split": test.name if test else "none",
    }
    tags = {"prefect.flow_run_id": str(flow_run.id), "source.sha256": model.sha256}
    return {"key": tracking.run_key(plan, model, name, test), "tags": tags, "params": params}
