"""A run that waits for people: it suspends, and asks again where it was taken for dead."""

from __future__ import annotations

from http import HTTPStatus
from typing import TypeVar, cast

from httpx import HTTPStatusError
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.exceptions import Pause
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput, keyset_from_base_key, read_flow_run_input
from prefect.runtime import flow_run

from tasks.prefect_runtime.automations import AWAITS_PEOPLE
from tasks.prefect_runtime.resume import SUSPENDED

Form = TypeVar("Form", bound=RunInput)
AGAIN = "-again"  # of the key of a question that is put once more


def wait_for_answer(form: type[Form], key: str, patience: float) -> Form:
    """What people answered to the question `key`; suspends the run until then, or `patience` s.

    The last heartbeat of a run may be heard after the server was told that it is suspended, and
    then nothing comes that ends the wait for the next one. So the run says last of all that it
    waits. One that was called crashed all the same, and started again, puts its question anew:
    Prefect takes each key once, and would go on without an answer. The form is saved before the run
    suspends: one that was killed in between could not be resumed.
    """
    while _was_put_in_vain(key):
        key += AGAIN
    _save(form, key)
    try:
        return suspend_flow_run(wait_for_input=_saved(form), timeout=int(patience), key=key)
    except Pause:
        resource = {"prefect.resource.id": f"prefect.flow-run.{flow_run.id}"}
        emit_event(event=AWAITS_PEOPLE, resource=resource)
        raise


def _save(form: type[RunInput], key: str) -> None:
    """Save what a question asks for, unless an earlier start has."""
    try:
        form.save(keyset_from_base_key(f"{SUSPENDED}{key}"))
    except HTTPStatusError as error:
        if error.response.status_code != HTTPStatus.CONFLICT:
            raise


def _saved(form: type[Form]) -> type[Form]:
    """The same form, which Prefect does not save once more."""
    return cast(type[Form], type(form.__name__, (form,), {"save": classmethod(lambda *_: None)}))


def _was_put_in_vain(key: str) -> bool:
    """Whether this run was suspended by this key and is not resumed with an answer."""
    with get_client(sync_client=True) as client:
        policy = client.read_flow_run(flow_run.id).empirical_policy
    return key in (policy.pause_keys or ()) and not read_flow_run_input(
        f"{SUSPENDED}{key}-response"
    )
