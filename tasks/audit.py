"""Audits: which models are asked about on which images, and answers that become a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sfda.adaptation.plan import expected_classes
from sfda.annotation.audit.answers import (
    PartTaken,
    other_persons,
    take_answers,
    taken_answers,
)
from sfda.annotation.audit.evidence import AuditResult, audit_result
from sfda.annotation.audit.make import AuditJob, make_audit
from sfda.annotation.audit.questions import AUDIT_FILE, AuditRequest, read_audit
from sfda.annotation.audit.reuse import earlier_facts
from sfda.annotation.make_request import refuse_full
from sfda.annotation.waiting import note_waiting
from sfda.building_blocks.device import DeviceName, choose, to_device
from sfda.decision.audit_text import state_text
from sfda.decision.change import Side
from sfda.errors import BadInput, shell_command
from sfda.loading.opened import open_part, open_ref, shift_of
from sfda.loading.pool import pool_of
from sfda.policy import DecisionPolicy
from sfda.refs import ManifestRef, ModelRef, Version
from sfda.state_folder import home
from tasks import tracking
from tasks.champion import make_champion, promotions_of
from tasks.next_commands import predict_command
from tasks.prefect_runtime.notify import notify_verdict
from tasks.tracking.models import model_ref, open_model


def model_before(candidate: str) -> str:
    """The address of what a candidate is held against: the champion of its name, or, where that
    is itself, the source that it was made from. Raises BadInput where neither is known.
    """
    uri = tracking.canonical(candidate)
    if not uri.startswith("models:/"):
        raise BadInput(
            f"{candidate} has no registered name; say what it is held against: --against"
        )
    name, _, number = uri.removeprefix("models:/").partition("/")
    champion = tracking.by_alias(name, "champion")
    if champion and champion.version != number:
        return champion.uri
    source = tracking.version_tags(tracking.find_version(name, number)).get("source")
    if not source:
        raise BadInput(f"{uri} is the champion, and nobody noted its source; say --against")
    return source


def audit_job(
    candidate: str,
    before: str | None,
    manifest: ManifestRef,
    split: str,
    policy: DecisionPolicy,
    seed: int,
) -> AuditJob:
    """What is asked about, every choice made: on what was held out where `split` was adapted to.

    Raises BadInput.
    """
    new = model_ref(candidate)
    old = model_ref(before or model_before(candidate))
    if new.sha256 == old.sha256:
        raise BadInput(f"{old.uri} and {new.uri} are the same model: there is nothing to ask")
    splits = open_ref(manifest).splits
    if split not in splits:
        raise BadInput(f"{manifest.path} has no split '{split}'; there are {', '.join(splits)}")
    pool = pool_of(manifest, split)
    return AuditJob(
        before=old,
        candidate=new,
        target=pool.part,
        pool=pool.says,
        policy=policy,
        expected=expected_classes(old, shift_of(manifest, old), None),
        seed=seed,
    )


def ask_audit(
    folder: Path, job: AuditJob, earlier: Sequence[Path] = (), device: DeviceName = "auto"
) -> AuditRequest:
    """Write the request to `folder`, whole or not at all, unless just that is there. `earlier` are
    folders of audits whose answers are used again. Raises BadInput.
    """
    refuse_full(folder, AUDIT_FILE)
    facts = earlier_facts(earlier, job.target)
    before, candidate = (_judged(model, job, device) for model in (job.before, job.candidate))
    request = make_audit(folder, job, before, candidate, facts, choose(device))
    if job.most is None and not folder.absolute().is_relative_to(home()):
        # below the home it is seen, and a week's questions are noted by the monitor
        note_waiting(folder, len(request.questions), request.manifest, "audit", None)
    return request


def _judged(model: ModelRef, job: AuditJob, device: DeviceName) -> Side:
    """A model on the device, and the pool without labels as it wants it."""
    network, spec = open_model(model)
    return Side(to_device(network, choose(device)), spec, open_part(job.target, spec))


class AuditStanding(NamedTuple):
    """An audit's request, and where it stands."""

    folder: Path
    request: AuditRequest
    result: AuditResult
    promoted: bool = False  # the candidate is champion now

    @property
    def kind(self) -> str:
        """What becomes of the candidate: promote, keep, hold or reject."""
        return self.result.verdict.kind

    @property
    def weekly(self) -> bool:
        """Whether these are a week's questions about a champion: all weeks together decide."""
        return self.request.plan.most is not None

    @property
    def sentence(self) -> str:
        """The verdict; of a week, what its answers say."""
        verdict = self.result.verdict
        if self.weekly:
            return f"this week: {state_text(self.request.plan, self.result.state)}"
        return verdict.promoted_text if self.promoted else verdict.text

    @property
    def next_commands(self) -> tuple[str, ...]:
        """What to type after the verdict."""
        if self.kind == "hold":
            page = shell_command("open", f"{self.folder}/audit.html")
            return (page, shell_command("sfda", "audit", self.folder, "ANSWERS"))
        name, number = _version_in(self.request.candidate.uri)
        if self.weekly:
            return (shell_command("sfda", "monitor", name),)
        if self.kind == "promote" and number and not self.promoted:
            return (shell_command("sfda", "promote", name, number),)
        stays = self.request.before if self.kind != "promote" else self.request.candidate
        model = f"models:/{name}@champion" if self.promoted else stays.uri
        return (predict_command(model, self.request.target.manifest.path),)


def standing(folder: Path) -> AuditStanding:
    """Where the audit in a folder stands. Raises BadInput."""
    request = read_audit(folder)
    others = {
        person: taken_answers(folder, request, person).answers for person in other_persons(folder)
    }
    return AuditStanding(
        folder, request, audit_result(request, taken_answers(folder, request).answers, others)
    )


def take_part(folder: Path, answers: Path, person: str = "") -> PartTaken:
    """Take one file of answers. Raises BadInput that names every fault; nothing is taken then."""
    return take_answers(folder, read_audit(folder), answers, person)


def conclude(now: AuditStanding, *, promote: bool) -> AuditStanding:
    """Note the verdict with the candidate's version, if it is one, and make it champion where that
    is the verdict and asked for. Raises BadInput where the champion is another than it was held
    against.
    """
    name, number = _version_in(now.request.candidate.uri)
    if now.weekly:
        if promote:
            command = shell_command("sfda", "monitor", name)
            raise BadInput(f"a week's answers promote nothing: `{command}` tells of all")
        return now
    if now.kind == "hold" or not number:
        if promote and now.kind == "promote":
            raise BadInput(f"{now.request.candidate.uri} is no registered version: register it")
        return now
    version = tracking.find_version(name, number)
    with promotions_of(name):
        if promote and now.kind == "promote":
            _refuse_other_champion(now.request, tracking.by_alias(name, "champion"))
            make_champion(version)
            now = now._replace(promoted=True)
        tracking.tag_version(version, {"verdict": now.sentence, "verdict.kind": now.kind})
    return now


def notify_of_audit(block: str | None, now: AuditStanding) -> None:
    """Tell people, if a block is named, of questions that wait for answers, or of the verdict."""
    request, subject = now.request, now.request.candidate.uri
    if now.kind == "hold":
        subject = f"{len(request.questions)} questions about {request.manifest}"
    notify_verdict(block, subject, now.sentence, now.next_commands)


def _refuse_other_champion(request: AuditRequest, champion: Version | None) -> None:
    if champion is None or champion.uri in (request.before.uri, request.candidate.uri):
        return
    if model_ref(champion.uri).sha256 != request.before.sha256:
        raise BadInput(
            f"the champion is {champion.uri} now, and the answers are about {request.before.uri}; "
            "audit against it anew: --before with this audit's folder uses them again"
        )


def _version_in(uri: str) -> tuple[str, str]:
    """Name and number of a registered version; no number where an address is none."""
    if not uri.startswith("models:/"):
        return uri, ""
    name, _, number = uri.removeprefix("models:/").partition("/")
    return name, number
