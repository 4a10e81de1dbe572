"""Source model + its own labelled data -> a version of it with the card that travels."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from flows.addresses import registered_name, short_address
from flows.train_source import TrainResult, register_reported
from sfda.building_blocks.device import DeviceName
from sfda.loading import opened as manifests
from tasks import tracking
from tasks.tracking.models import model_ref
from tasks.train_source import add_card


def _title() -> str:
    model, data = flow_run.parameters["model"], flow_run.parameters["data"]
    return f"card of {short_address(model)} on {short_address(data)}"


@flow(name="card", flow_run_name=_title)
def make_card(
    model: str, data: str, split: str = "val", name: str | None = None, device: DeviceName = "auto"
) -> TrainResult:
    """At the source site: register a version of `model` with the card of its own data."""
    source, manifest = model_ref(model), manifests.manifest_ref(data)
    name = name or registered_name(model)
    tracking.check_name(name)
    key = tracking.run_key("card", source, manifest, split, name)
    tags = {"prefect.flow_run_id": str(flow_run.id)}
    with tracking.run(_title(), key=key, tags=tags, params={"model": source.uri}) as run_id:
        tracking.log_manifest(run_id, short_address(data), manifest, "source")
        carded, report = add_card(source, manifest, split, device)
        version = register_reported(carded, name, run_id, report, short_address(data))
    return TrainResult(
        flow_run_id=str(flow_run.id), mlflow_run_id=run_id, version=version, report=report
    )
