"""A growing target -> its next version, and an adaptation if enough of it changed or it drifted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.adapt import AdaptResult, adapt
from flows.addresses import registered_name, short_address
from flows.form import Duration, Epochs, MethodName, Seed, ValidatorName
from sfda.adaptation.target_versions import (
    RefreshPolicy,
    TargetCheck,
    TargetRecord,
    added_images,
    check_target,
    drift_of,
    next_version,
    remember,
    rewritten,
    target_folder,
)
from sfda.building_blocks.device import DeviceName, resolve
from sfda.config import Config
from sfda.decision.drift import Drift
from sfda.loading import opened as manifests
from sfda.manifests.growing import Change
from sfda.refs import ManifestRef, ModelRef
from tasks import tracking
from tasks.prefect_runtime.attempts import refuse_endless
from tasks.prefect_runtime.events import announce_version
from tasks.pseudo_label import pseudo_label
from tasks.tracking.models import model_ref

log = logging.getLogger("sfda")
Outcome = Literal["unchanged", "waiting", "announced", "adapted", "busy"]


class RefreshResult(Config):
    """What one look at a growing target led to."""

    outcome: Outcome
    says: str  # why, for a person
    target: str
    version: int = 0  # of the target's manifest; 0: there is none yet
    manifest: str | None = None
    change: Change = Change()  # since the last adaptation
    drift: Drift | None = None
    adapted: AdaptResult | None = None


def _title() -> str:
    return f"refresh {short_address(str(flow_run.parameters['target']))}"


@flow(name="refresh-target", flow_run_name=_title)
def refresh_target(
    target: str,
    source: str,
    method: MethodName | None = None,
    settings: dict[str, Any] | None = None,
    policy: RefreshPolicy | None = None,
    target_name: str | None = None,
    labels: str | None = None,
    name: str | None = None,
    select_by: ValidatorName | None = None,
    epochs: Epochs | None = None,
    seed: Seed = 0,
    split: str = "adapt",
    promote: bool = False,
    budget: Duration | None = None,
    announce: bool = False,
    device: DeviceName = "auto",
) -> State[Any]:
    """Look at `target` (a folder, zip, npz, .txt list or manifest) and adapt if it is worth it.

    A changed target gets its next version below home, with a digest for each file and all answers
    that `sfda answer` took about its images; new answers are reason enough to adapt. `labels` (CSV:
    file, class) makes labelled images the test split. With `announce` the event
    `sfda.manifest.updated` is all that follows, for a deployment that waits for it; otherwise the
    adaptation runs here. The final state is named after what happened: Unchanged, Waiting (too
    little has changed), Announced, Adapted, or Busy (another look is not finished).
    """
    refuse_endless(flow_run)
    policy, name = policy or RefreshPolicy(), name or registered_name(source)
    called = target_name or Path(target).absolute().stem
    with target_folder(called) as folder:
        if folder is None:
            return _end(_result("busy", "another look at this target is not finished", target))
        check = check_target(folder, target, policy, split, labels)
        record = check.record
        if not record.marks:
            return _end(
                _result("waiting", _with_unsettled("the target holds no images", check), target)
            )
        changed = _has_new_version(check)
        if not changed and not _due(check, policy, record):
            return _end(_not_yet(check, policy, target, record))
        model = model_ref(source)
        if changed:
            record = next_version(check, target, model.problem, model.classes, labels)
            log.info("%s: version %d, %s", called, record.version, check.since_version.text())
        champion = tracking.by_alias(name, "champion")
        present = model_ref(champion.uri) if champion else model
        drift = _drift(check, record, target, present, split, resolve(device), policy)
        drifted = drift is not None and policy.drift is not None and drift.exceeds(policy.drift)
        if not drifted and not _due(check, policy, record):
            return _end(_not_yet(check, policy, target, record, drift))
        manifest = _manifest_of(record)
        announce_version(
            called,
            manifest,
            record.version,
            check.since_version,
            source=source,
            name=name,
            adapts="elsewhere" if announce else "here",
        )
        if announce:
            _remember_adapted(check, record)
            text = f"version {record.version} announced ({check.since_adapted.text()})"
            return _end(_result("announced", text, target, record, check, drift))
        adapted = adapt(
            present.uri if policy.start_from == "champion" else source,
            manifest.path,
            method=method,
            settings=settings,
            select_by=select_by,
            epochs=epochs,
            seed=seed,
            name=name,
            split=split,
            promote=promote,
            device=device,
            budget=budget,
        )
        # at once: what follows looks at all images, and a start after a kill would adapt again
        record = _remember_adapted(check, record)
        _remember_profile(check, record, name, model, split, resolve(device))
        text = _adapted_text(check, drift if drifted else None, adapted)
        return _end(_result("adapted", text, target, record, check, drift, adapted))


def _manifest_of(record: TargetRecord) -> ManifestRef:
    """The manifest of a target's newest version, which there is once one was written."""
    assert record.manifest is not None
    return record.manifest


def _has_new_version(check: TargetCheck) -> bool:
    """Whether what was seen is not what the newest version says."""
    new = check.since_version.count > 0 or check.relabelled or check.new_annotations
    return new or not check.record.version or rewritten(check.record)


def _due(check: TargetCheck, policy: RefreshPolicy, record: TargetRecord) -> bool:
    """Whether the changes alone are enough."""
    if not record.adapted or check.annotated:
        return True
    return policy.wants(check.since_adapted, len(record.adapted_marks))


def _not_yet(
    check: TargetCheck,
    policy: RefreshPolicy,
    target: str,
    record: TargetRecord,
    drift: Drift | None = None,
) -> RefreshResult:
    """Nothing has changed, or too little: why no adaptation starts."""
    change = check.since_adapted
    if change.count == 0:
        return _result(
            "unchanged", _with_unsettled("nothing has changed", check), target, record, check
        )
    least = max(policy.min_files, round(policy.min_share * len(record.adapted_marks)))
    text = f"{change.text()} of {len(record.adapted_marks)}; {least} changes start an adaptation"
    if drift is not None:
        text += f"; new images look alike ({_index(drift)})"
    return _result("waiting", _with_unsettled(text, check), target, record, check, drift)


def _adapted_text(check: TargetCheck, drift: Drift | None, adapted: AdaptResult) -> str:
    """Why it was adapted, and what came of it; `drift` where that was the reason."""
    why = f"new images look different ({_index(drift)})" if drift else "enough has changed"
    if check.annotated:
        why = "people have answered"
    if not check.record.adapted:
        why = "the first look"
    what = f" ({check.since_adapted.text()})" if check.since_adapted.count else ""
    promoted = "promoted" if adapted.promoted else "not promoted"
    return f"{why}{what}: {adapted.version.uri}, {promoted}"


def _index(drift: Drift) -> str:
    return f"stability index {drift.index:.3f}, noise {drift.noise:.3f}"


def _with_unsettled(text: str, check: TargetCheck) -> str:
    return f"{text}; {check.unsettled} files may still be written to" if check.unsettled else text


def _drift(
    check: TargetCheck,
    record: TargetRecord,
    target: str,
    model: ModelRef,
    split: str,
    device: DeviceName,
    policy: RefreshPolicy,
) -> Drift | None:
    """How the images that came since the last adaptation look to the champion."""
    if policy.drift is None or record.profile is None or record.model != model.sha256:
        return None
    new = added_images(check, record, target, model.problem)
    if new is None:
        return None
    seen = pseudo_label(model, new, manifests.seen_digest(new, split), split, device)
    return drift_of(check, seen.profile, seen.count)


def _remember_adapted(check: TargetCheck, record: TargetRecord) -> TargetRecord:
    """Keep that this version was adapted to, or announced."""
    return remember(
        check.folder,
        record,
        adapted=record.version,
        adapted_marks=record.marks,
        adapted_answers=record.answers,
    )


def _remember_profile(
    check: TargetCheck,
    record: TargetRecord,
    name: str,
    source: ModelRef,
    split: str,
    device: DeviceName,
) -> None:
    """Keep how this version looks to the model that is champion now."""
    champion = tracking.by_alias(name, "champion")
    model = model_ref(champion.uri) if champion else source
    ref = _manifest_of(record)
    seen = pseudo_label(model, ref, manifests.seen_digest(ref, split), split, device)
    remember(check.folder, record, model=model.sha256, profile=seen.profile, images=seen.count)


def _result(
    outcome: Outcome,
    says: str,
    target: str,
    record: TargetRecord | None = None,
    check: TargetCheck | None = None,
    drift: Drift | None = None,
    adapted: AdaptResult | None = None,
) -> RefreshResult:
    return RefreshResult(
        outcome=outcome,
        says=says,
        target=target,
        version=record.version if record else 0,
        manifest=record.manifest.path if record and record.manifest else None,
        change=check.since_adapted if check else Change(),
        drift=drift,
        adapted=adapted,
    )


def _end(result: RefreshResult) -> State[Any]:
    """The final state, whose name tells "nothing to do" from work done."""
    create_markdown_artifact(f"### {result.target}\n\n{result.says}", key="refresh")
    return Completed(name=result.outcome.capitalize(), message=result.says, data=result)
