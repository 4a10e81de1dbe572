"""A suspended run goes on with its answers, whatever a busy server says first."""

from __future__ import annotations

import json
from types import SimpleNamespace
from uuid import UUID

import pytest
from prefect.client.schemas.objects import FlowRunInput
from prefect.client.schemas.responses import (
    OrchestrationResult,
    SetStateStatus,
    StateAbortDetails,
    StateAcceptDetails,
    StateRejectDetails,
)
from prefect.states import (
    Cancelled,
    Completed,
    Crashed,
    Failed,
    Running,
    Scheduled,
    State,
    Suspended,
)

from sfda.annotation.waiting import waiting
from sfda.errors import BadInput
from tasks.prefect_runtime.resume import go_on, resume

RUN = UUID(int=7)
ACCEPTED = OrchestrationResult(
    state=Scheduled(name="Resuming"), status=SetStateStatus.ACCEPT, details=StateAcceptDetails()
)
NOT_PAUSED = OrchestrationResult(
    state=None,
    status=SetStateStatus.ABORT,
    details=StateAbortDetails(reason="Cannot resume a flow run that is not paused."),
)
NO_SCHEMA = OrchestrationResult(
    state=Suspended(),
    status=SetStateStatus.REJECT,
    details=StateRejectDetails(reason="Run input schema not found."),
)
TIMED_OUT = OrchestrationResult(
    state=Failed(), status=SetStateStatus.REJECT, details=StateRejectDetails(reason="too late")
)


class Server:
    """States that are read one after the other, and what is answered to each resumption."""

    def __init__(
        self, states: list[State], answers: list, asked: str = "labels", **responses: str
    ) -> None:
        self.states, self.answers, self.responses = states, answers, responses
        self.asked = asked
        self.heard: list[object] = []

    def read_flow_run(self, run: UUID) -> SimpleNamespace:
        return SimpleNamespace(state=self.states.pop(0) if len(self.states) > 1 else self.states[0])

    def resume_flow_run(self, run: UUID, run_input: dict[str, str]) -> OrchestrationResult:
        self.heard.append(run_input)
        return self.answers.pop(0)

    def filter_flow_run_input(self, run, prefix, limit, excluded) -> list[FlowRunInput]:
        made = [("schema", json.dumps({"type": "object"}))]
        made += [(n, json.dumps({"answers": path})) for n, path in self.responses.items()]
        inputs = [(f"suspended-{self.asked}-1-{name}", value) for name, value in made]
        return [
            FlowRunInput(flow_run_id=run, key=key, value=value)
            for key, value in inputs
            if key.startswith(prefix)
        ]


@pytest.mark.parametrize(
    ("server", "asked"),
    [
        (Server([Suspended()], [ACCEPTED]), 1),
        (Server([Running()], [], response="/a.yaml"), 0),  # heard before, and answered slowly
        (Server([Completed()], [], response="/a.yaml"), 0),
        (Server([Completed()], [], asked="answers", response="/a.yaml"), 0),  # of an audit
        (Server([Suspended(), Running()], [NOT_PAUSED], response="/a.yaml"), 1),  # repeated
        (Server([Running(), Running(), Suspended()], [ACCEPTED], response="/wrong.csv"), 1),
        (Server([Crashed(), Scheduled(name="AwaitingRetry"), Suspended()], [ACCEPTED]), 1),
        (Server([Suspended()], [NO_SCHEMA, ACCEPTED]), 2),  # it is asked for after it suspends
    ],
)
def test_a_run_goes_on(server, asked):
    resume(server, RUN, "/a.yaml", pause=0)
    assert server.heard == [{"answers": "/a.yaml"}] * asked


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (Server([Cancelled()], []), "cancelled and does not wait"),
        (Server([Completed()], [], response="/wrong.csv"), "completed and does not wait"),
        (Server([Suspended()], [TIMED_OUT]), "failed and cannot be resumed"),
        (Server([Running()], []), "it is running; resume it on its page"),
        (Server([Suspended()], [NO_SCHEMA] * 9), "schema not found.; resume it on its page"),
    ],
)
def test_a_run_that_cannot_go_on_is_told_of(server, message):
    with pytest.raises(BadInput, match=message):
        resume(server, RUN, "/a.yaml", patience=-1, pause=0)


def test_a_request_waits_until_its_run_has_gone_on(home, tmp_path, monkeypatch):
    from sfda.annotation.waiting import note_request

    request = SimpleNamespace(requested=[1, 2])
    (tmp_path / "request").mkdir()
    note_request(tmp_path / "request", request, "t.yaml", "margin", str(RUN))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for _ in range(2):
        with pytest.raises(BadInput, match="set PREFECT_API_URL"):
            go_on(tmp_path / "request", tmp_path / "next.yaml")
        assert len(waiting()) == 1
    note_request(tmp_path / "request", request, "t.yaml", "margin", None)
    assert go_on(tmp_path / "request", tmp_path / "next.yaml") is None
    assert waiting() == []
