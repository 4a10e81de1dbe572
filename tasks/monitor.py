"""A champion after its promotion: a few questions a week, and back to the one before on harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from sfda.adaptation.plan import expected_classes
from sfda.annotation.audit.make import AuditJob
from sfda.annotation.audit.questions import AuditRequest
from sfda.building_blocks.device import DeviceName
from sfda.decision.monitor import Monitor, MonitorState, Week, monitor_state
from sfda.errors import BadInput, shell_command
from sfda.loading.opened import shift_of
from sfda.loading.pool import pool_of
from sfda.manifests.digests import key_of
from sfda.manifests.write import put
from sfda.policy import DecisionPolicy
from sfda.refs import ManifestRef, ModelRef, SplitRef, Version
from sfda.state_folder import disk_errors, home
from tasks import tracking
from tasks.audit import AuditStanding, ask_audit, standing
from tasks.champion import promotions_of, rollback
from tasks.next_commands import predict_command
from tasks.tracking.models import model_ref


class MonitorStanding(NamedTuple):
    """What is watched, and what the answers say."""

    monitor: Monitor
    state: MonitorState
    target: str  # address of the manifest that was asked about last
    waiting: tuple[str, ...]  # folders of questions that nobody has answered any of
    rolled_back_to: str | None = None  # the number of the version that is champion again

    @property
    def sentence(self) -> str:
        """What became of the champion."""
        if self.rolled_back_to:
            return f"rolled back to version {self.rolled_back_to}: {self.state.text}"
        return f"champion {self.monitor.champion} stays: {self.state.text}"

    @property
    def next_commands(self) -> tuple[str, ...]:
        """What to type now."""
        name = self.monitor.name
        if self.rolled_back_to:
            return (predict_command(f"models:/{name}@champion", self.target),)
        if self.waiting:
            answer = (shell_command("sfda", "audit", folder, "ANSWERS") for folder in self.waiting)
            return (*answer, shell_command("sfda", "monitor", name))
        return (shell_command("sfda", "monitor", name, "--target", self.target),)


def ask_week(
    name: str,
    target: ManifestRef,
    split: str,
    policy: DecisionPolicy,
    out: Path | None,
    device: DeviceName = "auto",
) -> tuple[Path, AuditRequest]:
    """Write this week's questions about a champion against the one before it; the folder.

    By default it lies below the home. Another champion than that of the weeks before begins anew;
    where nobody has answered any of the last questions about the same images they are this week's.
    Raises BadInput where a name has had one champion alone, or the policy asks nothing.
    """
    if not policy.weekly:
        raise BadInput("the policy asks no questions a week (weekly: 0)")
    champion, before = _pair(name)
    with promotions_of(name):
        monitor = _read(name)
        if monitor is None or monitor.champion_sha256 != champion.sha256:
            monitor = Monitor(
                name=name,
                champion=champion.uri,
                champion_sha256=champion.sha256,
                before=before.uri,
                before_sha256=before.sha256,
                alpha=policy.alpha,
            )
        number = len(monitor.weeks) + 1
        held_out = pool_of(target, split)
        if asked := _unanswered(monitor, held_out.part, out):
            return asked
        folder = out or home() / "audits" / f"{name}-{Path(champion.uri).name}-week{number}"
        job = AuditJob(
            before=before,
            candidate=champion,
            target=held_out.part,
            pool=held_out.says,
            policy=policy.model_copy(update={"unchanged_share": 0.0}),
            expected=expected_classes(before, shift_of(target, before), None),
            seed=int(key_of(champion=champion.sha256, week=number)[:8], 16),
            most=policy.weekly,
        )
        request = ask_audit(folder, job, device=device)
        week = Week(folder=str(folder.absolute()), audit=request.id)
        _write(monitor.model_copy(update={"weeks": (*monitor.weeks, week)}))
    return folder, request


def _unanswered(
    monitor: Monitor, part: SplitRef, out: Path | None
) -> tuple[Path, AuditRequest] | None:
    """The last questions, if they are about these images and nobody has answered any: a call that
    was killed after it had asked is not one more week."""
    if not monitor.weeks or (out and str(out.absolute()) != monitor.weeks[-1].folder):
        return None
    now = _standing(monitor.weeks[-1])
    same = now.request.target == part and not now.result.state.answered
    return (now.folder, now.request) if same else None


def conclude_weeks(name: str) -> MonitorStanding:
    """Where the watch over a champion stands; on harm the champion before it is champion again.

    Raises BadInput where nothing is watched.
    """
    with promotions_of(name):
        monitor = _read(name)
        if monitor is None:
            command = shell_command("sfda", "monitor", name, "--target", "MANIFEST")
            raise BadInput(f"nobody watches '{name}' yet: {command}")
        weeks = [_standing(week) for week in monitor.weeks]
        state = monitor_state(monitor.alpha, [week.result.state for week in weeks])
        target = weeks[-1].request.target.manifest.path
        waiting = tuple(str(week.folder) for week in weeks if not week.result.state.answered)
        now = MonitorStanding(monitor, state, target, waiting)
        champion = tracking.by_alias(name, "champion")
        if not state.fires or champion is None:
            return now
        watched = tracking.find_version(name, Path(monitor.champion).name)
        if champion.uri == monitor.champion:
            champion, _ = rollback(name)
        elif champion.uri != monitor.before or _is_rejected(watched):
            return now  # else a start was killed between the one and the other
        now = now._replace(rolled_back_to=champion.version)
        tracking.tag_version(watched, {"verdict": now.sentence, "verdict.kind": "reject"})
    return now


def _is_rejected(version: Version) -> bool:
    return tracking.version_tags(version).get("verdict.kind") == "reject"


def _standing(week: Week) -> AuditStanding:
    now = standing(Path(week.folder))
    if now.request.id != week.audit:
        raise BadInput(f"{week.folder} holds another audit than that of the week; put it back")
    return now


def _pair(name: str) -> tuple[ModelRef, ModelRef]:
    """The champion and the one before it."""
    history = tracking.champions(name)
    if len(history) < 2:
        raise BadInput(f"'{name}' has had no champion before this one; there is nothing to watch")
    return (model_ref(f"models:/{name}/{history[-1]}"), model_ref(f"models:/{name}/{history[-2]}"))


def _file(name: str) -> Path:
    return home() / "monitors" / f"{key_of(name=name)[:24]}.json"


def _read(name: str) -> Monitor | None:
    file = _file(name)
    if not file.is_file():
        return None
    return Monitor.model_validate(json.loads(file.read_text()))


def _write(monitor: Monitor) -> None:
    file = _file(monitor.name)
    with disk_errors(str(file)):
        file.parent.mkdir(exist_ok=True)
        put({file: monitor.model_dump_json(indent=1).encode()})
