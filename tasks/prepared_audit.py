"""The audit that a verdict of "hold" leaves ready: its questions, written without being asked."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from sfda.annotation.audit.make import AuditJob
from sfda.annotation.audit.questions import AUDIT_FILE
from sfda.building_blocks.device import DeviceName
from sfda.refs import Version
from sfda.state_folder import home
from tasks.audit import ask_audit
from tasks.decide import Contest, Decision
from tasks.prefect_runtime.retry import SERVERS
from tasks.tracking.models import model_ref


@task(name="audit request", **SERVERS)
def prepare_audit(
    decision: Decision, contest: Contest, version: Version, seed: int, device: DeviceName = "auto"
) -> str:
    """The folder of the questions about a version that is held, below the home. What lies there
    already stays: answers may have been taken.
    """
    folder = home() / "audits" / f"{version.name}-{version.version}"
    if not (folder / AUDIT_FILE).is_file():
        job = AuditJob(
            before=model_ref(decision.champion),
            candidate=contest.candidate.model_copy(update={"uri": version.uri}),
            target=contest.pool.target,
            pool=contest.pool.says,
            policy=contest.policy,
            expected=contest.expected,
            seed=seed,
        )
        ask_audit(Path(folder), job, device=device)
    return str(folder)
