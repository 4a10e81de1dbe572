"""A growing target -> its next version, and an adaptation if enough of it changed or it drifted."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.adapt import run_adapt
from flows.addresses import registered_name, short_address
from flows.form import USUAL, takes_flat
from flows.outcome import AdaptResult
from sfda.adaptation.target_versions import (
    RefreshPolicy,
    TargetCheck,
    added_images,
    check_target,
    drift_of,
    next_version,
    remember,
    target_folder,
)
from sfda.authoring.listing import passed_over
from sfda.building_blocks.device import resolve
from sfda.config import Config
from sfda.decision import refresh
from sfda.decision.drift import Drift
from sfda.loading import opened as manifests
from sfda.loading.unreadable import NothingReadable
from sfda.manifests.growing import Change, TargetRecord
from sfda.refs import ManifestRef, ModelRef
from sfda.settings import AdaptSettings
from tasks import tracking
from tasks.prefect_runtime.attempts import refuse_endless
from tasks.prefect_runtime.events import announce_version
from tasks.prefect_runtime.tame_artifacts import create_markdown_artifact
from tasks.pseudo_label import pseudo_label
from tasks.readable import readable_splits
from tasks.tracking.models import model_ref

log = logging.getLogger("sfda")
ANY_SHARE = 0.999_999  # of new images that cannot be read: they are few, and the others count
USUAL_POLICY = RefreshPolicy()


class RefreshResult(Config):
    """What one look at a growing target led to."""

    outcome: refresh.Outcome
    says: str  # why, for a person
    target: str
    version: int = 0  # of the target's manifest; 0: there is none yet
    manifest: str | None = None
    change: Change = Change()  # since the last adaptation
    drift: Drift | None = None
    adapted: AdaptResult | None = None
    skipped: tuple[str, ...] = ()  # images that cannot be read and were left out, each with why
    passed_over: str = ""  # files that are not read as images, by their suffixes


def _title() -> str:
    return f"refresh {short_address(str(flow_run.parameters['target']))}"


@takes_flat()
@flow(name="refresh-target", flow_run_name=_title)
def refresh_target(
    target: str,
    source: str,
    policy: RefreshPolicy | None = None,
    target_name: str | None = None,
    labels: str | None = None,
    announce: bool = False,
    adaptation: AdaptSettings = USUAL,
) -> State[Any]:
    """Refresh at `target` and adapt if it is worth it.

    A changed target gets its next version below home, with a digest for each file and all answers
    that `sfda answer` took about its images; new answers are reason enough to adapt. The final
    state is named after what happened: Unchanged, Waiting (too little has changed), Announced,
    Adapted, or Busy (another look is not finished).

    Args:
        target: a folder, zip, npz, .txt list or manifest
        source: the model: models:/NAME@source, models:/NAME/3, or the folder of a bundle
        policy: when a changed target is worth an adaptation
        target_name: what its versions lie under below home; none: the folder's name
        labels: a CSV (file, class): images that it labels are the test split
        announce: only send the event sfda.manifest.updated, for a deployment that waits for it
        adaptation: how it is adapted, and what becomes of it
    """
    refuse_endless(flow_run)
    with target_folder(target_name or Path(target).absolute().stem) as folder:
        if folder is None:
            return _end(RefreshResult(**refresh.BUSY._asdict(), target=target))
        policy = policy or USUAL_POLICY
        check = check_target(folder, target, policy, adaptation.split, labels)
        look = Refresh(target, folder.name, source, policy, adaptation, check)
        if decision := refresh.at_first_sight(check, policy):
            return _end(look.result(decision, check.record))
        model = model_ref(source)
        record = _newest(look, model, labels)
        present = look.champion() or model
        drift = _drift(look, record, present)
        if decision := refresh.at_second_sight(check, policy, record, drift):
            return _end(look.result(decision, record, drift))
        _announce(look, record, here=not announce)
        if announce:
            _remember_adapted(check, record)
            return _end(look.result(refresh.announced(record, check), record, drift))
        adapted = _adapt(look, record, present)
        # at once: what follows looks at all images, and a start after a kill would adapt again
        record = _remember_adapted(check, record)
        _remember_profile(look, record, model)
        uri, verdict = adapted.version.uri, adapted.verdict
        decision = refresh.adapted_to(check, policy, drift, uri, verdict)
        return _end(look.result(decision, record, drift, adapted))


@dataclass(frozen=True)
class Refresh:
    """One look at a target: what it is of, what it is for, and what it came to."""

    target: str
    called: str
    source: str
    policy: RefreshPolicy
    adaptation: AdaptSettings
    check: TargetCheck

    @property
    def name(self) -> str:
        """The registered name of what is adapted."""
        return self.adaptation.name or registered_name(self.source)

    def champion(self) -> ModelRef | None:
        """The model that is champion now."""
        champion = tracking.by_alias(self.name, "champion")
        return model_ref(champion.uri) if champion else None

    def result(
        self,
        decision: refresh.RefreshDecision,
        record: TargetRecord,
        drift: Drift | None = None,
        adapted: AdaptResult | None = None,
    ) -> RefreshResult:
        """What the look led to."""
        return RefreshResult(
            outcome=decision.outcome,
            says=decision.says,
            target=self.target,
            version=record.version,
            manifest=record.manifest.path if record.manifest else None,
            change=self.check.since_adapted,
            drift=drift,
            adapted=adapted,
            skipped=adapted.skipped if adapted else (),
            passed_over=passed_over(Path(self.target)).text(),
        )


def _newest(look: Refresh, model: ModelRef, labels: str | None) -> TargetRecord:
    """What is remembered of the target, after its next version was made where there is one."""
    check = look.check
    if not refresh.has_new_version(check):
        return check.record
    record = next_version(check, look.target, model.problem, model.classes, labels)
    log.info("%s: version %d, %s", look.called, record.version, check.since_version.text())
    return record


def _manifest_of(record: TargetRecord) -> ManifestRef:
    """The manifest of a target's newest version, which there is once one was written."""
    assert record.manifest is not None
    return record.manifest


def _announce(look: Refresh, record: TargetRecord, *, here: bool) -> None:
    """Send the event that a version has come."""
    announce_version(
        look.called,
        _manifest_of(record),
        record.version,
        look.check.since_version,
        source=look.source,
        name=look.name,
        adapts="here" if here else "elsewhere",
    )


def _adapt(look: Refresh, record: TargetRecord, present: ModelRef) -> AdaptResult:
    """Adapt to the newest version, from the source or from the champion."""
    start = present.uri if look.policy.start_from == "champion" else look.source
    asked = look.adaptation.model_copy(update={"name": look.name})
    return run_adapt(start, _manifest_of(record).path, asked)


def _drift(look: Refresh, record: TargetRecord, present: ModelRef) -> Drift | None:
    """How the images that came since the last adaptation look to the champion."""
    if look.policy.drift is None or record.profile is None or record.model != present.sha256:
        return None
    new = added_images(look.check, record, look.target, present.problem)
    if new is None:
        return None
    split, device = look.adaptation.split, resolve(look.adaptation.device)
    try:
        readable, _ = readable_splits(present, new, [split], ANY_SHARE, look.target)
    except NothingReadable:  # an adaptation to all images says how many are too many
        return None
    seen = pseudo_label(present, manifests.split_ref(readable, split), device)
    return drift_of(look.check, seen.profile, seen.count)


def _remember_adapted(check: TargetCheck, record: TargetRecord) -> TargetRecord:
    """Keep that this version was adapted to, or announced."""
    return remember(
        check.folder,
        record,
        adapted=record.version,
        adapted_marks=record.marks,
        adapted_answers=record.answers,
    )


def _remember_profile(look: Refresh, record: TargetRecord, source: ModelRef) -> None:
    """Keep how this version looks to the model that is champion now."""
    split, device = look.adaptation.split, resolve(look.adaptation.device)
    model, ref = look.champion() or source, _manifest_of(record)
    share = look.adaptation.skip_unreadable
    readable, _ = readable_splits(model, ref, [split], share, look.target)
    seen = pseudo_label(model, manifests.split_ref(readable, split), device)
    remember(look.check.folder, record, model=model.sha256, profile=seen.profile, images=seen.count)


def _end(result: RefreshResult) -> State[Any]:
    """The final state, whose name tells "nothing to do" from work done."""
    create_markdown_artifact(f"### {result.target}\n\n{result.says}", key="refresh")
    return Completed(name=result.outcome.capitalize(), message=result.says, data=result)
