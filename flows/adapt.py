"""Source model + target manifest -> selected, evaluated, registered model."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.addresses import registered_name, short_address
from flows.form import Duration, Epochs, MethodName, Seed, ValidatorName, seconds_of
from sfda.adaptation import target as adaptation_target
from sfda.adaptation.plan import AdaptPlan, make_plan
from sfda.building_blocks.device import DeviceName, resolve
from sfda.config import Config, merged
from sfda.loading import opened as manifests
from sfda.refs import (
    Adaptation,
    Candidate,
    LabelledSplit,
    ManifestRef,
    ModelRef,
    SideBySide,
    Version,
    Views,
    candidate_model,
)
from sfda.report.report_text import report_tag
from sfda.settings import Schedule
from tasks import tracking
from tasks.adapt import adapt_to_target, log_attestation
from tasks.evaluate import evaluate, log_report
from tasks.import_model import import_source
from tasks.prefect_runtime.attempts import refuse_endless
from tasks.pseudo_label import pseudo_label, show_profile
from tasks.register import promote_if_better, register_model
from tasks.select import select
from tasks.tracking.models import locate, model_ref


class AdaptResult(Config):
    """What `adapt` tells at its end."""

    flow_run_id: str
    mlflow_run_id: str
    version: Version
    selected_epoch: int
    selected_by: str
    scores: dict[str, float]
    sides: SideBySide
    promoted: bool
    cut: str | None = None  # what the budget of time left out
    images_per_second: float
    peak_memory_mb: float


def _title() -> str:
    parameters = flow_run.parameters
    method = f" with {parameters['method']}" if parameters["method"] else ""
    return f"adapt {short_address(parameters['target'])}{method}"


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
    own = merged({"schedule": schedule.model_dump()} if schedule else {}, settings or {})
    model = model_ref(source)
    target = adaptation_target.as_manifest(target, lambda: model.problem)
    manifest = manifests.manifest_ref(target)
    bundle = locate(model.uri)
    plan = make_plan(
        model, manifest, split, method, own, views, select_by, epochs, seed, bundle=bundle
    )
    name, device, limit = name or registered_name(source), resolve(device), seconds_of(budget)
    title = f"adapt {short_address(target)} with {plan.method}"
    test = manifests.evaluation_split(manifest, test_split)
    with tracking.run(title, **_record(plan, model, target, name, test)) as run_id:
        tracking.log_manifest(run_id, short_address(target), manifest, "target-unlabelled")
        start = import_source(model.uri)
        predictions = pseudo_label(start, manifest, plan.seen, split, device)
        show_profile(short_address(target), predictions, manifests.shift_of(manifest, start))
        adaptation = adapt_to_target(
            start, predictions, manifest, plan, "best", run_id, title, device, workers, limit
        )
        log_attestation(adaptation.confinement, run_id)
        chosen = select(adaptation, plan.select_by, run_id)
        adapted = candidate_model(chosen, start)
        seen = (plan.split, plan.seen)
        sides = evaluate(start, adapted, manifest, test, seen, title, device)
        log_report(sides, run_id, title)
        tags = _version_tags(plan, model, target, manifest, sides, adaptation)
        version = register_model(adapted, name, run_id, tags, "candidate", source=start)
        promoted = promote_if_better(version, sides, start, manifest, promote, run_id, device)
    return _result(run_id, plan, adaptation, chosen, sides, version, promoted)


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
        "target": short_address(target),
        "split": plan.split,
        "test_split": test.name if test else "none",
    }
    tags = {"prefect.flow_run_id": str(flow_run.id), "source.sha256": model.sha256}
    return {"key": tracking.run_key(plan, model, name, test), "tags": tags, "params": params}


def _version_tags(
    plan: AdaptPlan,
    model: ModelRef,
    target: str,
    manifest: ManifestRef,
    sides: SideBySide,
    adaptation: Adaptation,
) -> dict[str, str]:
    """What is kept with the version: where it comes from, and how good it is."""
    tags = {
        "method": plan.method,
        "source": model.uri,
        "source.sha256": model.sha256,
        "manifest": short_address(target),
        "manifest.sha256": manifest.sha256,
        "report": report_tag(sides),
    }
    if adaptation.cut:
        tags["budget"] = adaptation.cut
    if adaptation.confinement:
        tags["source_free"] = adaptation.confinement.says
    return tags


def _result(
    run_id: str,
    plan: AdaptPlan,
    adaptation: Adaptation,
    chosen: Candidate,
    sides: SideBySide,
    version: Version,
    promoted: bool,
) -> AdaptResult:
    return AdaptResult(
        flow_run_id=str(flow_run.id),
        mlflow_run_id=run_id,
        version=version,
        selected_epoch=chosen.epoch,
        selected_by=plan.select_by,
        scores=chosen.scores,
        sides=sides,
        promoted=promoted,
        cut=adaptation.cut,
        images_per_second=adaptation.images_per_second,
        peak_memory_mb=adaptation.peak_memory_mb,
    )
