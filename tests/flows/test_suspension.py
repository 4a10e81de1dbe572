"""A suspended run waits, also after it was taken for dead: on a real Prefect server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import small
import torch
from conftest import World, flow_artifacts, sfda
from prefect import Flow, flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State, StateType
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow_sync
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput, read_flow_run_input
from prefect.settings import PREFECT_API_URL
from prefect.states import AwaitingRetry, Crashed, Pending

from sfda.annotation.audit.page import ANSWERS_FORMAT
from sfda.annotation.audit.questions import read_audit
from sfda.weights.bundle import write_bundle
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


def start(client: SyncPrefectClient, what: Flow[..., Any], run: UUID) -> State[Any]:
    """What a run comes to that a worker starts, for the first time or again."""
    client.set_flow_run_state(run, Pending(), force=True)
    with suppress(Pause):
        run_flow_sync(what, client.read_flow_run(run), return_type="state")
    state = client.read_flow_run(run).state
    assert state is not None
    return state


def planned_run(client: SyncPrefectClient) -> UUID:
    deployed = client.create_deployment(client.create_flow(asks), "asks")
    return client.create_flow_run_from_deployment(deployed).id


def test_a_suspended_run_that_is_called_crashed_asks_again(prefect_api):
    with get_client(sync_client=True) as client:
        run = planned_run(client)

        def begin() -> tuple[StateType, str | None]:
            now = start(client, asks, run)
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
            assert start(client, asks, run).type == expected
    assert [schema["properties"]["text"]["type"] for schema in schemas] == ["string"] * 2


@pytest.fixture
def other(world: World, tmp_path: Path) -> Path:
    """The bundle of a model that answers differently from the world's."""
    network = small.source()
    torch.manual_seed(1)
    for weight in network.parameters():
        weight.data += 0.8 * weight.data.std() * torch.randn_like(weight)
    write_bundle(tmp_path / "other", network, small.SPEC)
    return tmp_path / "other"


@pytest.fixture
def audited(
    world: World, other: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[SyncPrefectClient, UUID, Path]]:
    """A client, a run of the form `audit` that is to be started, and the folder of its audit."""
    from flows.deployments import deployments

    (form,) = (one for one in deployments(()) if one.name == "audit")
    lenient = {"surest_agreement": 0, "effective_classes": 0, "one_class": 1}
    parameters = {
        "candidate": str(other), "against": str(world.bundle), "target": str(world.target),
        "decision": {"vetoes": lenient},
    }  # fmt: skip
    home = world.home("suspended-audit")
    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
    with home.entered(), get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(form.apply(), parameters=parameters).id
        yield client, run, home.path / "audits" / str(run)


def test_an_audit_suspends_and_goes_on_from_parts_of_answers(audited, tmp_path):
    from flows.audit import audit

    client, run, folder = audited
    assert start(client, audit, run).name == "Suspended"
    request = read_audit(folder)
    answers = tmp_path / "answers.json"
    document = {"format": ANSWERS_FORMAT, "audit": request.id, "answers": {"ffff": "bar"}}
    answers.write_text(json.dumps(document))
    client.resume_flow_run(run, {"answers": str(answers)})
    assert start(client, audit, run).name == "Suspended"
    assert "answers to another audit" in str(flow_artifacts(str(run)))
    document["answers"] = {q.id: q.second for q in request.questions}
    answers.write_text(json.dumps(document))
    ended = sfda("audit", folder, answers, "--json").json
    assert (ended["kind"], ended["resumed"]) != ("hold", None)
    state = start(client, audit, run)
    assert state.type == StateType.COMPLETED, state.message
    assert ended["verdict"] in str(flow_artifacts(str(run)))
    assert sfda("status", "--json").json["labels_wanted"] == []
