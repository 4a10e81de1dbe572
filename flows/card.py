"""Source model + its own labelled data -> a version of it with the card that travels."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from flows.addresses import registered_name, short_address
from flows.train_source import TrainResult, register_reported
from sfda.building_blocks.device import DeviceName
from sfda.loading import opened as manifests
from sfda.rehearsal.plan import RehearsalPlan
from sfda.weights.rehearsals import Rehearsals
from tasks import tracking
from tasks.rehearse import keep_rehearsals, rehearse
from tasks.tracking.models import model_ref
from tasks.train_source import add_card


def _title() -> str:
    model, data = flow_run.parameters["model"], flow_run.parameters["data"]
    return f"card of {short_address(model)} on {short_address(data)}"


class CardResult(TrainResult):
    """A model with its card, and the rehearsals in it."""

    rehearsals: Rehearsals | None = None


@flow(name="card", flow_run_name=_title)
def make_card(
    model: str,
    data: str,
    split: str = "val",
    name: str | None = None,
    device: DeviceName = "auto",
    rehearsal: RehearsalPlan | None = None,
    budget: float | None = None,
) -> CardResult:
    """At the source site: register a version of `model` with the card of its own data.

    With a plan of `rehearsal` it is adapted to synthetic shifts of these data first, in at most
    `budget` seconds but for the last, and the card keeps what can be seen of each and its gain.
    """
    source, manifest = model_ref(model), manifests.manifest_ref(data)
    name = name or registered_name(model)
    tracking.check_name(name)
    key = tracking.run_key("card", source, manifest, split, name, rehearsal)
    tags = {"prefect.flow_run_id": str(flow_run.id)}
    done = None
    with tracking.run(_title(), key=key, tags=tags, params={"model": source.uri}) as run_id:
        tracking.log_manifest(run_id, short_address(data), manifest, "source")
        carded, report = add_card(source, manifest, split, device)
        if rehearsal is not None:
            done = rehearse(carded, manifest, split, rehearsal, device, budget)
            carded = keep_rehearsals(carded, done, manifest, split, report)
        version = register_reported(carded, name, run_id, report, short_address(data))
    return CardResult(
        flow_run_id=str(flow_run.id),
        mlflow_run_id=run_id,
        version=version,
        report=report,
        rehearsals=done,
    )
