"""Ask people where a candidate and its champion differ, wait for answers, and decide by them."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from prefect.input import RunInput
from prefect.runtime import deployment, flow_run
from pydantic import Field

from flows.addresses import short_address
from sfda.adaptation import target as adaptation_target
from sfda.annotation.audit.answers import ANSWERS_FILE
from sfda.annotation.audit.questions import AUDIT_FILE, read_audit
from sfda.annotation.waiting import forget, note_waiting
from sfda.building_blocks.device import DeviceName
from sfda.config import Config
from sfda.errors import BadInput, shell_command
from sfda.loading.opened import manifest_ref
from sfda.policy import DecisionPolicy
from sfda.settings import Duration, Seed, SkippedShare, seconds_of
from sfda.state_folder import home
from tasks.audit import (
    AuditStanding,
    ask_audit,
    audit_job,
    conclude,
    notify_of_audit,
    standing,
    take_part,
)
from tasks.prefect_runtime.attempts import refuse_endless
from tasks.prefect_runtime.notify import check_block
from tasks.prefect_runtime.suspension import wait_for_answer
from tasks.prefect_runtime.tame_artifacts import create_markdown_artifact
from tasks.readable import list_skipped, readable_splits
from tasks.tracking.models import model_ref

USUAL_DECISION = DecisionPolicy()
WEEKS = "28d"


class AuditAnswers(RunInput):
    """What a person gives back; Prefect's page makes a form of it."""

    answers: str = Field(
        description="path of the file that the page saved, of the CSV, or of Label Studio's or "
        "CVAT's export; or of the audit's folder where `sfda audit` has taken them"
    )


class AuditOutcome(Config):
    """What an audit decided, in one sentence, and where it lies."""

    kind: str
    verdict: str
    folder: str
    next: tuple[str, ...]


def _title() -> str:
    parameters = flow_run.parameters
    address = short_address(parameters["candidate"])
    return f"audit {address} on {short_address(parameters['target'])}"


@flow(name="audit", flow_run_name=_title, persist_result=True, result_serializer="json")
def audit(
    candidate: str,
    target: str,
    against: str | None = None,
    split: str = "adapt",
    decision: DecisionPolicy = USUAL_DECISION,
    patience: Duration = WEEKS,
    promote: bool = False,
    notify: str | None = None,
    seed: Seed = 0,
    device: DeviceName = "auto",
    skip_unreadable: SkippedShare | None = None,
) -> AuditOutcome:
    """Write an audit's questions, suspend, and go on with each part of the answers to a verdict.

    Suspended, the run holds no process and no slot. It goes on where its page gets the path of
    answers, or where `sfda audit` has taken as many as decide; faulty answers are told of and asked
    for again. Only runs of a deployment can be started again, so only they suspend.

    Args:
        candidate: models:/NAME@candidate, models:/NAME/3, or the folder of a bundle
        target: a manifest, or a folder of images without labels
        against: the model before; by default the champion of the candidate's name, else its source
        split: what was adapted to; asked about is what was held out of it
        decision: how many answers decide, and how sure one must be
        patience: the time after which it fails
        promote: make the candidate champion where the answers show it better
        notify: a Prefect block that tells people of the questions and of the verdict
        skip_unreadable: share of images that may be broken and left out; none: 10, or 1 %
    """
    refuse_endless(flow_run)
    check_block(notify)
    if not deployment.id:
        raise BadInput(
            "only a deployed run can wait for people; here call `sfda audit`, or start this one "
            "from `sfda serve`"
        )
    folder = home() / "audits" / str(flow_run.id)
    if not (folder / AUDIT_FILE).is_file():
        model, stated = model_ref(candidate), target
        whole = manifest_ref(adaptation_target.as_manifest(target, lambda: model.problem))
        part = [split, "test"]
        manifest, skipped = readable_splits(model, whole, part, skip_unreadable, stated)
        list_skipped(skipped)
        job = audit_job(candidate, against, manifest, split, decision, seed)
        ask_audit(folder, job, device=device)
        notify_of_audit(notify, standing(folder))
    _note_waiting(folder)
    now = conclude(wait_for_verdict(folder, seconds_of(patience) or 0.0), promote=promote)
    forget(folder)
    notify_of_audit(notify, now)
    create_markdown_artifact(_text(folder, now), key="audit")
    return AuditOutcome(
        kind=now.kind, verdict=now.sentence, folder=str(folder), next=now.next_commands
    )


def _note_waiting(folder: Path) -> None:
    """Whoever takes answers finds this run, also where a start ended before that was noted."""
    request = read_audit(folder)
    target = request.target.manifest.path
    note_waiting(folder, len(request.questions), target, "audit", str(flow_run.id))


def wait_for_verdict(folder: Path, patience: float) -> AuditStanding:
    """Where the audit stands once nothing more is needed; suspends until then, part by part.

    The flow's body runs anew after each suspension, and gets at once what was answered before.
    """
    refusal, turn, now = "", 0, standing(folder)
    while now.kind == "hold":
        turn += 1
        text = _text(folder, now)
        create_markdown_artifact(f"{text}\n\n{refusal}".strip(), key="audit")
        asked = f"{refusal}\n\n{text}" if refusal else text
        form = AuditAnswers.with_initial_data(description=asked)
        labels = wait_for_answer(form, f"answers-{turn}", patience)
        try:
            path = Path(labels.answers)
            if path.resolve() != folder.resolve():
                take_part(folder, path)
            refusal = ""
        except BadInput as error:
            refusal = f"Not taken: {error}"
        now = standing(folder)
    return now


def _text(folder: Path, now: AuditStanding) -> str:
    """Where an audit stands, and what is wanted of whom, as markdown."""
    request = now.request
    lines = [
        f"### {len(request.questions)} questions about {request.manifest}",
        f"{request.candidate.uri} against {request.before.uri}: {request.change.text()}.",
        now.sentence,
    ]
    if now.kind == "hold":
        lines.append(
            f"`{folder / 'audit.html'}` asks them, in a browser; answers come back by their path, "
            f"or by `{shell_command('sfda', 'audit', folder, 'ANSWERS')}`. Those that were taken "
            f"lie in `{ANSWERS_FILE}`."
        )
        return "\n\n".join(lines)
    return "\n\n".join([*lines, *(f"`{command}`" for command in now.next_commands)])
