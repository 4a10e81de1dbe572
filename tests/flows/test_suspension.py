"""A suspended run waits, also after it was taken for dead: on a real Prefect server."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow_sync
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput, read_flow_run_input
from prefect.states import AwaitingRetry, Crashed, Pending

from tasks.prefect_runtime import suspension
from tasks.prefect_runtime.automations import AWAITS_PEOPLE, automations
from tasks.prefect_runtime.suspension import wait_for_answer
from tests.flows.conftest import eventually


class Answer(RunInput):
    """What a person gives back."""

    text: str


@flow(name="asks", persist_result=True)
def asks() -> str:
    """Two questions, one after the other."""
    first, second = (wait_for_answer(Answer, f"labels-{n}", 60).text for n in (1, 2))
    return f"{first}, {second}"


def times_told(client: SyncPrefectClient) -> int:
    """How often the server heard that a run waits."""
    told = EventFilter(event=EventNameFilter(name=[AWAITS_PEOPLE]))
    return len(client.read_events(told, limit=50).events)


def planned_run(client: SyncPrefectClient) -> UUID:
    deployed = client.create_deployment(client.create_flow(asks), "asks")
    return client.create_flow_run_from_deployment(deployed).id


def test_a_suspended_run_that_is_called_crashed_asks_again(prefect_api):
    with get_client(sync_client=True) as client:
        run = planned_run(client)

        def begin() -> tuple[StateType, str | None]:
            client.set_flow_run_state(run, Pending(), force=True)
            with suppress(Pause):
                run_flow_sync(asks, client.read_flow_run(run), return_type="state")
            now = client.read_flow_run(run).state
            return now.type, now.state_details.pause_key

        assert begin() == (StateType.PAUSED, "labels-1")
        for key in ("labels-1-again", "labels-1-again-again"):
            client.set_flow_run_state(run, Crashed())
            client.set_flow_run_state(run, AwaitingRetry(), force=True)  # as `sfda-go-on` does
            assert begin() == (StateType.PAUSED, key)
        assert client.resume_flow_run(run, {"text": "a"}).status.value == "ACCEPT"
        assert begin() == (StateType.PAUSED, "labels-2")
        assert client.resume_flow_run(run, {"text": "b"}).status.value == "ACCEPT"
        assert begin()[0] == StateType.COMPLETED
        assert client.read_flow_run(run).state.result(raise_on_failure=False) == "a, b"
        assert eventually(lambda: times_told(client) == 4)
    assert all(AWAITS_PEOPLE in dead.trigger.expect for dead in automations()[:2])


def test_a_run_that_is_killed_around_its_suspension_can_be_resumed(prefect_api, monkeypatch):
    kills, schemas = ["before"], []

    def suspend(**more: Any) -> Any:
        schemas.append(read_flow_run_input(f"suspended-{more['key']}-schema"))
        if kills:
            raise RuntimeError(kills.pop())
        return suspend_flow_run(**more)

    monkeypatch.setattr(suspension, "suspend_flow_run", suspend)
    with get_client(sync_client=True) as client:
        run = planned_run(client)
        for expected in (StateType.FAILED, StateType.PAUSED):
            client.set_flow_run_state(run, Pending(), force=True)
            with suppress(Pause):
                run_flow_sync(asks, client.read_flow_run(run), return_type="state")
            assert client.read_flow_run(run).state.type == expected
    assert [schema["properties"]["text"]["type"] for schema in schemas] == ["string"] * 2
