"""Ask people for labels, wait without holding a worker, and adapt with what they answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment, flow_run
from pydantic import Field

from flows.adapt import adapt
from flows.form import (
    AdaptResult,
    Duration,
    Epochs,
    MethodName,
    QueryName,
    Seed,
    ValidatorName,
    name_of,
    seconds_of,
    short,
)
from flows.query_labels import ask_people
from sfda.annotation import carry_over as known_answers
from sfda.annotation.request import FILE, read_request
from sfda.annotation.take import take_answers
from sfda.annotation.waiting import forget
from sfda.building_blocks.device import DeviceName, resolve
from sfda.errors import BadInput
from sfda.loading import opened as manifests
from sfda.state_folder import data_folder
from tasks.prefect_runtime.attempts import refuse_endless
from tasks.prefect_runtime.home import home
from tasks.tracking.models import refer

WEEK = "7d"
MANIFESTS = (".yaml", ".yml")


class Labels(RunInput):
    """What a person gives back; Prefect's page makes a form of it."""

    answers: str = Field(
        description="path of Label Studio's or CVAT's export or the CSV, or of the manifest that "
        "`sfda answer` wrote"
    )
    empty: bool = Field(False, description="of boxes: images without a box hold no object")


def _title() -> str:
    given = flow_run.parameters
    return f"ask about {short(given['target'])} by {given['by']}"


@flow(name="ask-and-adapt", flow_run_name=_title, persist_result=True)
def ask_and_adapt(
    model: str,
    target: str,
    by: QueryName,
    budget: str,
    method: MethodName = "lftl",
    settings: dict[str, Any] | None = None,
    query_settings: dict[str, Any] | None = None,
    name: str | None = None,
    select_by: ValidatorName | None = None,
    epochs: Epochs | None = None,
    seed: Seed = 0,
    split: str = "adapt",
    promote: bool = False,
    time_budget: Duration | None = None,
    patience: Duration = WEEK,
    device: DeviceName = "auto",
) -> AdaptResult:
    """Ask for `budget` labels (50, 1%), suspend, and adapt `model` once they are there.

    Suspended, the run holds no process and no slot. It goes on where its page gets the path of the
    answers, or where `sfda answer` has taken them; faulty answers are told of and asked for again.
    After `patience` it fails. Only runs of a deployment can be started again, so only they suspend.
    """
    refuse_endless(flow_run)
    if not deployment.id:
        raise BadInput(
            "only a deployed run can wait for people; here call `sfda query`, `sfda answer` and "
            "`sfda adapt`, or start this one from `sfda serve`"
        )
    target = manifests.as_manifest(target, lambda: refer(model).problem)
    folder = home() / "requests" / str(flow_run.id)
    if not (folder / FILE).is_file():
        ask_people(
            refer(model), target, by, budget, folder, split, query_settings or {}, seed,
            resolve(device), waits=str(flow_run.id),
        )  # fmt: skip
    answered = _answered(folder, target, seconds_of(patience) or 0.0)
    return adapt(
        model, answered, method=method, settings=settings, select_by=select_by, epochs=epochs,
        seed=seed, name=name or name_of(model), split=split, promote=promote, device=device,
        budget=time_budget,
    )  # fmt: skip


def _answered(folder: Path, target: str, patience: float) -> str:
    """The manifest with the answers; suspends until there is one, as often as it takes.

    The flow's body runs anew after each suspension, and gets at once what was given before.
    """
    kept, said, turn = folder / "answered.yaml", "", 0
    while not kept.is_file():
        turn += 1
        request = read_request(folder)
        text = f"{len(request.wanted)} labels are wanted: {folder}"
        given = suspend_flow_run(
            wait_for_input=Labels.with_initial_data(
                description=f"{said}\n\n{text}" if said else text
            ),
            timeout=int(patience),
            key=f"labels-{turn}",
        )
        try:
            path = Path(given.answers)
            if path.suffix.lower() in MANIFESTS:
                manifests.refer(str(path))  # says what is wrong with it
                forget(folder)
                return str(path)
            take_answers(
                folder, path, Path(target), out=kept, data_root=data_folder(), empty=given.empty
            )
            known_answers.note(kept)
        except BadInput as error:
            said = f"Not taken: {error}"
            create_markdown_artifact(f"### Answers\n\n{said}\n\n{text}", key="labels-wanted")
    forget(folder)
    return str(kept)
