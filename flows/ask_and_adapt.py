"""Ask people for labels, wait without holding a worker, and adapt with what they answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.input import RunInput
from prefect.runtime import deployment, flow_run
from pydantic import Field

from flows.adapt import run_adapt
from flows.addresses import registered_name, short_address
from flows.form import USUAL, QueryName, takes_flat
from flows.outcome import AdaptResult
from flows.query_labels import ask_people
from sfda.adaptation import target as adaptation_target
from sfda.annotation import carry_over
from sfda.annotation.take import take_annotations
from sfda.annotation.waiting import forget, note_request
from sfda.building_blocks.device import resolve
from sfda.errors import BadInput
from sfda.formats.request import REQUEST_FILE, read_request
from sfda.loading import opened as manifests
from sfda.settings import AdaptSettings, Duration, seconds_of
from sfda.state_folder import data_folder, home
from tasks.prefect_runtime.attempts import refuse_endless
from tasks.prefect_runtime.suspension import wait_for_answer
from tasks.prefect_runtime.tame_artifacts import create_markdown_artifact
from tasks.tracking.models import model_ref

WEEK = "7d"
FEW_LABELS = "lftl"  # the usual method here
MANIFESTS = (".yaml", ".yml")


class Labels(RunInput):
    """What a person gives back; Prefect's page makes a form of it."""

    answers: str = Field(
        description="path of Label Studio's or CVAT's export or the CSV, or of the manifest that "
        "`sfda answer` wrote"
    )
    empty: bool = Field(False, description="of boxes: images without a box hold no object")


def _title() -> str:
    parameters = flow_run.parameters
    return f"ask about {short_address(parameters['target'])} by {parameters['by']}"


@takes_flat(time_budget="budget")
@flow(name="ask-and-adapt", flow_run_name=_title, persist_result=True, result_serializer="json")
def ask_and_adapt(
    model: str,
    target: str,
    by: QueryName,
    budget: str,
    query_settings: dict[str, Any] | None = None,
    patience: Duration = WEEK,
    adaptation: AdaptSettings = USUAL,
) -> AdaptResult:
    """Ask for `budget` labels (50, 1%), suspend, and adapt `model` once they are there.

    Suspended, the run holds no process and no slot. It goes on where its page gets the path of the
    answers, or where `sfda answer` has taken them; faulty answers are told of and asked for again.
    Only runs of a deployment can be started again, so only they suspend.

    Args:
        model: models:/NAME@champion, models:/NAME/3, or the folder of a bundle
        target: a manifest, or a folder of images without labels
        by: what chooses the images that a person should label
        budget: how many of them, as a number or a share: 50, 1%
        query_settings: settings of the query, put over its defaults
        patience: the time after which it fails
        adaptation: how it is adapted with the answers; without a method it is lftl
    """
    refuse_endless(flow_run)
    if not deployment.id:
        raise BadInput(
            "only a deployed run can wait for people; here call `sfda query`, `sfda answer` and "
            "`sfda adapt`, or start this one from `sfda serve`"
        )
    stated, target = target, adaptation_target.as_manifest(target, lambda: model_ref(model).problem)
    folder = home() / "requests" / str(flow_run.id)
    if not (folder / REQUEST_FILE).is_file():
        ref, own, where = model_ref(model), query_settings or {}, resolve(adaptation.device)
        split, seed = adaptation.split, adaptation.seed
        more: dict[str, Any] = {"waits": str(flow_run.id), "stated": stated}
        more["skip_unreadable"] = adaptation.skip_unreadable
        ask_people(ref, target, by, budget, folder, split, own, seed, where, **more)
    # also where a start ended after the one and before the other
    note_request(folder, read_request(folder), target, by, str(flow_run.id))
    annotated = _annotated(folder, target, seconds_of(patience) or 0.0)
    name, method = adaptation.name or registered_name(model), adaptation.method or FEW_LABELS
    asked = adaptation.model_copy(update={"name": name, "method": method})
    return run_adapt(model, annotated, asked)


def _annotated(folder: Path, target: str, patience: float) -> str:
    """The manifest with the answers; suspends until there is one, as often as it takes.

    The flow's body runs anew after each suspension, and gets at once what was answered before.
    """
    out, refusal, turn = folder / "answered.yaml", "", 0
    while not out.is_file():
        turn += 1
        request = read_request(folder)
        text = f"{len(request.requested)} labels are wanted: {folder}"
        form = Labels.with_initial_data(description=f"{refusal}\n\n{text}" if refusal else text)
        labels = wait_for_answer(form, f"labels-{turn}", patience)
        try:
            path = Path(labels.answers)
            if path.suffix.lower() in MANIFESTS:
                manifests.manifest_ref(str(path))  # says what is wrong with it
                forget(folder)
                return str(path)
            take_annotations(
                folder, path, Path(target), out=out, data_root=data_folder(), empty=labels.empty
            )
            carry_over.note_annotations(out)
        except BadInput as error:
            refusal = f"Not taken: {error}"
            create_markdown_artifact(f"### Answers\n\n{refusal}\n\n{text}", key="labels-wanted")
    forget(folder)
    return str(out)
