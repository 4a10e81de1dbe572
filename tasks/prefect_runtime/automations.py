"""Automations that every installation needs: dead runs end, go on, and are told of."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from sfda.errors import BadInput

SILENCE = 90  # seconds without a heartbeat after which a run counts as dead
START = 180  # seconds from a worker's taking a run to its first heartbeat
ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "Suspended", "Paused")  # no process beats
TAKEN = ("Pending", "Submitting")
AWAITS_PEOPLE = "sfda.flow-run.waits"  # a run says so when it has suspended and will beat no more
RUNS = {"prefect.resource.id": ["prefect.flow-run.*"]}
OURS = {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.sfda"}


def automations(notify: str | None = None, start: int = START) -> list[Automation]:
    """Those that we keep; `notify` is a block that takes messages, `slack-webhook/ops`.

    `sfda-crash-zombies` marks a run as crashed whose process no longer beats, `sfda-crash-stuck`
    one that was taken and has not begun after `start` seconds (its worker died meanwhile, and it
    would keep its slot); `sfda-go-on` starts a crashed run again, and it goes on where it stopped;
    `sfda-tell` sends a message of a run that failed for good. Raises BadInput for a block that is
    not there.
    """
    needed = [
        _dead(
            "sfda-crash-zombies",
            "its process no longer beats",
            SILENCE,
            after={"prefect.flow-run.heartbeat"},
            or_else=ENDS,
        ),
        _dead(
            "sfda-crash-stuck",
            "its process did not begin",
            start,
            after=_events(TAKEN),
            or_else=("Running", *ENDS),
        ),
        Automation(
            name="sfda-go-on",
            description="a crashed run goes on where it stopped",
            trigger=EventTrigger(
                expect=_events(("Crashed",)),
                match=RUNS,
                match_related=OURS,
                for_each={"prefect.resource.id"},
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=[
                ChangeFlowRunState(state=StateType.SCHEDULED, name="AwaitingRetry", force=True)
            ],
        ),
    ]
    if notify:
        needed.append(
            Automation(
                name="sfda-tell",
                description="a run that failed is told of",
                trigger=EventTrigger(
                    expect=_events(("Failed",)),
                    match=RUNS,
                    match_related=OURS,
                    for_each={"prefect.resource.id"},
                    posture=Posture.Reactive,
                    threshold=1,
                ),
                actions=[
                    SendNotification(
                        block_document_id=_block(notify),
                        subject="sfda: {{ flow_run.name }} failed",
                        body="{{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
                    )
                ],
            )
        )
    return needed


def _dead(
    name: str, message: str, seconds: float, *, after: set[str], or_else: tuple[str, ...]
) -> Automation:
    """Mark a run as crashed that after such an event shows no heartbeat, nor one of these states.

    It holds for every run of the server: a run within one of ours carries none of our tags. A late
    heartbeat of a run that has ended begins such a wait, too; without `force` the server then looks
    at the run and refuses to call it crashed. It would not refuse for a suspended one, which
    therefore says of itself that it waits.
    """
    return Automation(
        name=name,
        description=f"a run is dead: {message}",
        trigger=EventTrigger(
            after=after,
            expect={"prefect.flow-run.heartbeat", AWAITS_PEOPLE, *_events(or_else)},
            match=RUNS,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=seconds),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=message)],
    )


def _events(names: tuple[str, ...]) -> set[str]:
    return {f"prefect.flow-run.{name}" for name in names}


def _block(address: str) -> UUID:
    kind, slash, name = address.partition("/")
    if not slash:
        raise BadInput(f"--notify {address}: write KIND/NAME of a block, such as slack-webhook/ops")
    try:
        with get_client(sync_client=True) as client:
            return client.read_block_document_by_name(name, kind).id
    except ObjectNotFound:
        raise BadInput(
            f"--notify {address}: Prefect has no such block; make it on its page, under Blocks"
        ) from None


def install(notify: str | None = None, start: int = START) -> list[str]:
    """Create them, or bring those of the same name up to date; their names."""
    needed = automations(notify, start)
    with get_client(sync_client=True) as client:
        for automation in needed:
            for old in client.read_automations_by_name(automation.name):
                client.delete_automation(old.id)
    for automation in needed:
        automation.create()
    return [automation.name for automation in needed]
