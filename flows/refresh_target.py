"""A growing target -> its next version, and an adaptation if enough of it changed or it drifted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.adapt import adapt
from flows.form import (
    AdaptResult,
    Duration,
    Epochs,
    MethodName,
    Seed,
    ValidatorName,
    name_of,
    short,
)
from sfda.adaptation.target_versions import (
    Kept,
    Look,
    Policy,
    added_images,
    drift_of,
    look_at,
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
from tasks.pseudo_label import pseudo_label
from tasks.tracking.models import refer

log = logging.getLogger("sfda")
EVENT = "sfda.manifest.updated"
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
    return f"refresh {short(str(flow_run.parameters['target']))}"


@flow(name="refresh-target", flow_run_name=_title)
def refresh_target(
    target: str,
    source: str,
    method: MethodName | None = None,
    settings: dict[str, Any] | None = None,
    policy: Policy | None = None,
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
    policy = policy or Policy()
    called = target_name or Path(target).absolute().stem
    with target_folder(called) as folder:
        if folder is None:
            return _end(_result("busy", "another look at this target is not finished", target))
        found = look_at(folder, target, policy, split, labels)
        kept = found.kept
        if not kept.marks:
            return _end(_result("waiting", _fresh("the target holds no images", found), target))
        new = found.since_version.count > 0 or found.relabelled or found.noted
        new = new or not kept.version or rewritten(kept)
        if not new and not _due(found, policy, kept):
            return _end(_unless_waiting(found, policy, target))
        model = refer(source)
        if new:
            kept = next_version(found, target, model.problem, model.classes, labels)
            log.info("%s: version %d, %s", called, kept.version, found.since_version.text())
        champion = tracking.by_alias(name or name_of(source), "champion")
        reigning = refer(champion.uri) if champion else model
        drift = _drift(found, kept, target, reigning, split, resolve(device), policy)
        drifted = drift is not None and policy.drift is not None and drift.exceeds(policy.drift)
        if not drifted and not _due(found, policy, kept):
            return _end(_unless_waiting(found, policy, target, kept, drift))
        assert kept.manifest is not None
        where = {"source": source, "name": name or name_of(source)}
        _announce(called, kept, found.since_version, where, "elsewhere" if announce else "here")
        if announce:
            said = f"version {kept.version} announced ({found.since_adapted.text()})"
            remember(
                found.folder, kept, adapted=kept.version, adapted_marks=kept.marks,
                adapted_answers=kept.answers,
            )  # fmt: skip
            return _end(_result("announced", said, target, kept, found, drift))
        start = reigning.uri if policy.start_from == "champion" else source
        done = adapt(
            start, kept.manifest.path, method=method, settings=settings, select_by=select_by,
            epochs=epochs, seed=seed, name=name or name_of(source), split=split, promote=promote,
            device=device, budget=budget,
        )  # fmt: skip
        # at once: what follows looks at all images, and a start after a kill would adapt again
        kept = remember(
            found.folder, kept, adapted=kept.version, adapted_marks=kept.marks,
            adapted_answers=kept.answers,
        )  # fmt: skip
        _remember_profile(found, kept, name or name_of(source), model, split, resolve(device))
        why = f"new images look different ({_index(drift)})" if drifted else "enough has changed"
        if found.answered:
            why = "people have answered"
        if not found.kept.adapted:
            why = "the first look"
        what = f" ({found.since_adapted.text()})" if found.since_adapted.count else ""
        said = f"{why}{what}: {done.version.uri}"
        said += ", promoted" if done.promoted else ", not promoted"
        return _end(_result("adapted", said, target, kept, found, drift, done))


def _due(found: Look, policy: Policy, kept: Kept) -> bool:
    """Whether the changes alone are enough."""
    if not kept.adapted or found.answered:
        return True
    return policy.wants(found.since_adapted, len(kept.adapted_marks))


def _unless_waiting(
    found: Look, policy: Policy, target: str, kept: Kept | None = None, drift: Drift | None = None
) -> RefreshResult:
    kept, change = kept or found.kept, found.since_adapted
    if change.count == 0:
        return _result("unchanged", _fresh("nothing has changed", found), target, kept, found)
    least = max(policy.min_files, round(policy.min_share * len(kept.adapted_marks)))
    said = f"{change.text()} of {len(kept.adapted_marks)}; {least} changes start an adaptation"
    if drift is not None:
        said += f"; new images look alike ({_index(drift)})"
    return _result("waiting", _fresh(said, found), target, kept, found, drift)


def _index(drift: Drift | None) -> str:
    return f"stability index {drift.index:.3f}, noise {drift.noise:.3f}" if drift else ""


def _fresh(said: str, found: Look) -> str:
    return f"{said}; {found.fresh} files may still be written to" if found.fresh else said


def _drift(
    found: Look, kept: Kept, target: str, model: ModelRef, split: str, device: DeviceName,
    policy: Policy,
) -> Drift | None:  # fmt: skip
    """How the images that came since the last adaptation look to the champion."""
    if policy.drift is None or kept.profile is None or kept.model != model.sha256:
        return None
    new = added_images(found, kept, target, model.problem)
    if new is None:
        return None
    seen = pseudo_label(model, new, manifests.seen_digest(new, split), split, device)
    return drift_of(found, seen.profile, seen.count)


def _remember_profile(
    found: Look, kept: Kept, name: str, source: ModelRef, split: str, device: DeviceName
) -> None:
    """Keep that this version was adapted to, and how it looks to the model that reigns now."""
    champion = tracking.by_alias(name, "champion")
    model = refer(champion.uri) if champion else source
    assert kept.manifest is not None
    ref: ManifestRef = kept.manifest
    seen = pseudo_label(model, ref, manifests.seen_digest(ref, split), split, device)
    remember(
        found.folder, kept, model=model.sha256, profile=seen.profile, images=seen.count
    )  # fmt: skip


def _announce(called: str, kept: Kept, change: Change, where: dict[str, str], adapts: str) -> None:
    """Tell Prefect's server, so that automations can act on it.

    The label `sfda.adapts` is "here" where this flow goes on to adapt, else "elsewhere".
    """
    assert kept.manifest is not None
    emit_event(
        event=EVENT,
        resource={
            "prefect.resource.id": f"sfda.manifest.{called}", "prefect.resource.name": called,
            "sfda.adapts": adapts,
        },
        payload={
            "uri": kept.manifest.path, "sha256": kept.manifest.sha256, "version": kept.version,
            "change": change.text(), **where,
        },
    )  # fmt: skip


def _result(
    outcome: Outcome, says: str, target: str, kept: Kept | None = None, found: Look | None = None,
    drift: Drift | None = None, adapted: AdaptResult | None = None,
) -> RefreshResult:  # fmt: skip
    return RefreshResult(
        outcome=outcome,
        says=says,
        target=target,
        version=kept.version if kept else 0,
        manifest=kept.manifest.path if kept and kept.manifest else None,
        change=found.since_adapted if found else Change(),
        drift=drift,
        adapted=adapted,
    )


def _end(result: RefreshResult) -> State[Any]:
    """The final state, whose name tells "nothing to do" from work done."""
    create_markdown_artifact(f"### {result.target}\n\n{result.says}", key="refresh")
    return Completed(name=result.outcome.capitalize(), message=result.says, data=result)
