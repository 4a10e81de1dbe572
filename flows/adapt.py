"""Source model + target manifest -> selected, evaluated, registered model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.addresses import registered_name, short_address
from flows.form import SETTINGS_GROUP, USUAL, takes_flat
from sfda.adaptation import target as adaptation_target
from sfda.adaptation.plan import AdaptPlan, make_plan
from sfda.building_blocks.device import resolve
from sfda.config import Config
from sfda.loading import opened as manifests
from sfda.refs import (
    Adaptation,
    Candidate,
    LabelledSplit,
    ManifestRef,
    ModelRef,
    SideBySide,
    Version,
    candidate_model,
)
from sfda.report.report_text import report_tag
from sfda.settings import AdaptSettings, DeviceName, seconds_of
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
    adaptation = parameters.get(SETTINGS_GROUP) or USUAL
    method = f" with {adaptation.method}" if adaptation.method else ""
    return f"adapt {short_address(parameters['target'])}{method}"


@takes_flat()
@flow(name="adapt", flow_run_name=_title)
def adapt(source: str, target: str, adaptation: AdaptSettings = USUAL) -> AdaptResult:
    """Adapt `source` to `target`, keep the epoch `select_by` prefers, report on it, register it.

    Labels of the target, where it has any, are read by the evaluation alone, on `test_split`: by
    default "test", where the manifest has one with labels.

    Args:
        source: the model: models:/NAME@source, models:/NAME/3, or the folder of a bundle
        target: a manifest, or a folder of images without labels
        adaptation: how it is adapted, and what becomes of it
    """
    refuse_endless(flow_run)
    job = _job(source, target, adaptation)
    plan, manifest, device = job.plan, job.manifest, job.device
    with tracking.run(job.title, **_record(job)) as run_id:
        tracking.log_manifest(run_id, job.address, manifest, "target-unlabelled")
        start = import_source(job.model.uri)
        part = plan.on(manifest)
        predictions = pseudo_label(start, part, device)
        show_profile(job.address, predictions, manifests.shift_of(manifest, start))
        adapted = adapt_to_target(
            start, predictions, part, plan, "best", run_id, job.title, device, *job.limits
        )
        log_attestation(adapted.confinement, run_id)
        chosen = select(adapted, plan.select_by, run_id, start)
        network = candidate_model(chosen, start)
        sides = evaluate(start, network, part, job.test, job.title, device)
        log_report(sides, run_id, job.title)
        tags = _version_tags(job, sides, adapted)
        version = register_model(network, job.name, run_id, tags, "candidate", source=start)
        promoted = promote_if_better(
            version, sides, start, manifest, adaptation.promote, run_id, device
        )
    return _result(run_id, plan, adapted, chosen, sides, version, promoted)


@dataclass(frozen=True)
class AdaptJob:
    """All that one run of `adapt` is about, every choice made and checked."""

    model: ModelRef
    manifest: ManifestRef
    address: str  # of the target, in short
    plan: AdaptPlan
    name: str  # to register under
    device: DeviceName
    test: LabelledSplit | None
    limits: tuple[int, float | None]  # processes that load images; seconds for the epochs

    @property
    def title(self) -> str:
        """What runs, bars and pictures are called."""
        return f"adapt {self.address} with {self.plan.method}"


def _job(source: str, target: str, adaptation: AdaptSettings) -> AdaptJob:
    """Choices made and checked before anything is loaded. Raises BadInput."""
    model = model_ref(source)
    target = adaptation_target.as_manifest(target, lambda: model.problem)
    manifest = manifests.manifest_ref(target)
    return AdaptJob(
        model=model,
        manifest=manifest,
        address=short_address(target),
        plan=make_plan(model, manifest, adaptation, bundle=locate(model.uri)),
        name=adaptation.name or registered_name(source),
        device=resolve(adaptation.device),
        test=manifests.evaluation_split(manifest, adaptation.test_split),
        limits=(adaptation.workers, seconds_of(adaptation.budget)),
    )


def _record(job: AdaptJob) -> dict[str, Any]:
    """Key, tags and parameters of the MLflow run; the same work after a kill has the same key."""
    tracking.check_name(job.name)
    plan, model = job.plan, job.model
    params = {
        "method": plan.method,
        **plan.config,
        "select_by": plan.select_by,
        "seed": plan.seed,
        "source": model.uri,
        "target": job.address,
        "split": plan.split,
        "test_split": job.test.name if job.test else "none",
    }
    tags = {"prefect.flow_run_id": str(flow_run.id), "source.sha256": model.sha256}
    return {
        "key": tracking.run_key(plan, model, job.name, job.test),
        "tags": tags,
        "params": params,
    }


def _version_tags(job: AdaptJob, sides: SideBySide, adaptation: Adaptation) -> dict[str, str]:
    """What is kept with the version: where it comes from, and how good it is."""
    tags = {
        "method": job.plan.method,
        "source": job.model.uri,
        "source.sha256": job.model.sha256,
        "manifest": job.address,
        "manifest.sha256": job.manifest.sha256,
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
