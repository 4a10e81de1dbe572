"""Source model + target manifest -> selected, evaluated, registered model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.addresses import registered_name, short_address
from flows.form import SETTINGS_GROUP, USUAL, takes_flat
from flows.outcome import AdaptResult
from sfda.adaptation import target as adaptation_target
from sfda.adaptation.plan import AdaptPlan, kind_of
from sfda.building_blocks.device import resolve
from sfda.guides.origin import GuideOrigin
from sfda.loading import opened as manifests
from sfda.policy import DecisionPolicy
from sfda.profiling.findings import TargetProfile
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
from sfda.rehearsal.plan import adapted_with
from sfda.report.report_text import report_tag
from sfda.settings import AdaptSettings, DeviceName, seconds_of
from tasks import tracking
from tasks.adapt import adapt_to_target, drop_state, log_attestation
from tasks.decide import Contest, Decision, pool_for
from tasks.evaluate import evaluate, log_report
from tasks.guides import MadeGuide, asked_guide, guide_lines, make_guide
from tasks.import_model import import_source
from tasks.ladder import settle_by_steps
from tasks.next_commands import next_commands
from tasks.prefect_runtime.attempts import refuse_endless
from tasks.prefect_runtime.notify import check_block, notify_verdict
from tasks.prepared_audit import prepare_audit
from tasks.profile import log_profile, plan_by_profile, profile_target
from tasks.pseudo_label import pseudo_label, show_profile
from tasks.readable import readable_target
from tasks.register import register_model
from tasks.report import RunFacts, report_run
from tasks.select import select
from tasks.tracking.models import model_ref


def _title() -> str:
    adaptation = flow_run.parameters.get(SETTINGS_GROUP) or USUAL
    method = f" with {adaptation.method}" if adaptation.method else ""
    return f"adapt {short_address(flow_run.parameters['target'])}{method}"


@takes_flat()
@flow(name="adapt", flow_run_name=_title)
def adapt(source: str, target: str, adaptation: AdaptSettings = USUAL) -> State[Any]:
    """Adapt `source` to `target`, keep the epoch `select_by` prefers, report on it, register it.

    The final state is named after the verdict: Promoted, Better (promotion was not asked for),
    Kept, Held or Rejected.

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
        profile = job.profile or profile_target(start, predictions, part, adaptation, device)
        log_profile(profile, run_id, job.address)
        guide = make_guide(job.origin, start, predictions, plan, manifest, job.policy, device)
        job = replace(job, profile=profile, guide=guide)
        adapted = adapt_to_target(
            start,
            predictions,
            part,
            plan,
            "best",
            run_id,
            job.title,
            device,
            *job.limits,
            guide.ref if guide else None,
        )
        log_attestation(adapted.confinement, run_id)
        chosen = select(adapted, plan.select_by, run_id, start)
        network = candidate_model(chosen, start)
        sides = evaluate(start, network, part, job.test, job.title, device)
        log_report(sides, run_id, job.title)
        tags = _version_tags(job, sides, adapted)
        version = register_model(network, job.name, run_id, tags, "candidate", source=start)
        contest = job.contest(chosen, start, adapted)
        version, decision = settle_by_steps(version, contest, tags, adaptation, run_id, device)
        held = decision.verdict.kind == "hold"
        asked = prepare_audit(decision, contest, version, plan.seed, device) if held else None
        facts = _facts(job, adaptation, run_id, adapted, chosen, sides, version, decision, asked)
        page = report_run(facts)
    return _end(facts, asked, page, job.block)


def run_adapt(source: str, target: str, adaptation: AdaptSettings = USUAL) -> AdaptResult:
    """What `adapt` comes to where another flow calls it: Prefect hands over a state's data."""
    result: object = adapt(source, target, adaptation=adaptation)
    assert isinstance(result, AdaptResult)
    return result


@dataclass(frozen=True)
class AdaptJob:
    """All that one run of `adapt` is about, every choice made and checked."""

    model: ModelRef
    manifest: ManifestRef
    address: str  # of the target, in short
    plan: AdaptPlan
    profile: TargetProfile | None  # where the plan follows it
    name: str  # to register under
    device: DeviceName
    test: LabelledSplit | None
    limits: tuple[int, float | None]  # processes that load images; seconds for the epochs
    policy: DecisionPolicy
    stated: tuple[str, str]  # source and target, as they were stated
    block: str | None  # the block that tells people of the verdict
    again: bool  # registered anew
    skipped: tuple[str, ...]  # images that cannot be read
    origin: GuideOrigin | None = None  # of the guide
    guide: MadeGuide | None = None

    def contest(self, chosen: Candidate, source: ModelRef, adaptation: Adaptation) -> Contest:
        """The candidate, and what it is judged on."""
        epochs = [e for e in adaptation.candidates if e.weights and e.epoch != chosen.epoch]
        return Contest(
            candidate=candidate_model(chosen, source),
            source=source,
            pool=pool_for(self.manifest, self.plan.split, self.test),
            policy=self.policy,
            expected=self.plan.expected,
            others=tuple(candidate_model(one, source) for one in epochs),
            minimised=tuple(sorted(kind_of(self.plan.method).minimises)),
            by=adapted_with(self.plan),
        )

    @property
    def title(self) -> str:
        """What runs, bars and pictures are called."""
        return f"adapt {self.address} with {self.plan.method}"


def _job(source: str, target: str, adaptation: AdaptSettings) -> AdaptJob:
    """Choices made and checked before anything is loaded. Raises BadInput."""
    check_block(adaptation.notify)
    model, stated = model_ref(source), (source, target)
    target = adaptation_target.as_manifest(target, lambda: model.problem)
    manifest, device = manifests.manifest_ref(target), resolve(adaptation.device)
    name = adaptation.name or registered_name(source)
    tracking.check_name(name)
    manifest, skipped = readable_target(model, manifest, adaptation, stated[1])
    test = manifests.evaluation_split(manifest, adaptation.test_split)
    origin = asked_guide(adaptation.guide, model)
    plan, profile = plan_by_profile(model, manifest, adaptation, device, origin)
    return AdaptJob(
        model=model,
        manifest=manifest,
        address=short_address(target),
        plan=plan,
        profile=profile,
        name=name,
        device=device,
        test=test,
        limits=(adaptation.workers, seconds_of(adaptation.budget)),
        policy=adaptation.decision,
        stated=stated,
        block=adaptation.notify,
        again=adaptation.again,
        skipped=skipped,
        origin=origin,
    )


def _record(job: AdaptJob) -> dict[str, Any]:
    """Key, tags and parameters of the MLflow run; the same work after a kill has the same key."""
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
    again = str(flow_run.id) if job.again else None
    key = tracking.run_key(plan, model, job.name, job.test, again=again)
    return {"key": key, "tags": tags, "params": params}


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
    tags |= {"profile": job.profile.recommendation.text} if job.profile else {}
    tags |= {"budget": adaptation.cut} if adaptation.cut else {}
    return tags | ({"source_free": adaptation.confinement.says} if adaptation.confinement else {})


def _facts(
    job: AdaptJob,
    asked: AdaptSettings,
    run_id: str,
    adaptation: Adaptation,
    chosen: Candidate,
    sides: SideBySide,
    version: Version,
    decision: Decision,
    audit: str | None,
) -> RunFacts:
    """All that is known at the end."""
    return RunFacts(
        title=job.title,
        target=job.address,
        stated=job.stated,
        asked=asked,
        plan=job.plan,
        source=job.model,
        manifest=job.manifest,
        profile=job.profile,
        adaptation=adaptation,
        chosen=chosen,
        sides=sides,
        version=version,
        decision=decision,
        next=next_commands(decision, version, *job.stated, audit),
        run_id=run_id,
        flow_run_id=str(flow_run.id),
        skipped=job.skipped,
        guide=guide_lines(job.guide, job.test, sides, job.device),
    )


def _end(facts: RunFacts, audit: str | None, page: str | None, block: str | None) -> State[Any]:
    """The final state, whose name tells the verdict."""
    drop_state(facts.adaptation)
    decision, version = facts.decision, facts.version
    result = AdaptResult(
        flow_run_id=facts.flow_run_id,
        mlflow_run_id=facts.run_id,
        version=version,
        selected_epoch=facts.chosen.epoch,
        selected_by=facts.plan.select_by,
        scores=facts.chosen.scores,
        sides=facts.sides,
        promoted=decision.promoted,
        verdict=decision.text,
        kind=decision.verdict.kind,
        change=decision.evidence.change if decision.evidence else None,
        rehearsed=decision.evidence.rehearsed if decision.evidence else None,
        champion=decision.champion,
        next=facts.next,
        audit=audit,
        report=page,
        cut=facts.adaptation.cut,
        skipped=facts.skipped,
        profile=facts.profile,
        images_per_second=facts.adaptation.images_per_second,
        peak_memory_mb=facts.adaptation.peak_memory_mb,
    )
    if decision.evidence is not None:
        notify_verdict(block, f"{version.name} {version.version}", result.verdict, result.next)
    return Completed(name=decision.state_name, message=decision.text, data=result)
