"""Source manifest -> source model with its card, registered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows.form import Epochs, Seed, name_of, short
from sfda.building_blocks.device import DeviceName, resolve
from sfda.config import Config
from sfda.loading import opened as manifests
from sfda.refs import InputSpec, ModelRef, Report, Version, Views
from tasks import tracking
from tasks.register import crown_if_first, register
from tasks.tracking.models import refer
from tasks.train_source import add_card, make_train_plan, spec_for, train, trained_model


class TrainResult(Config):
    """What training a source model, or adding a card to one, tells at its end."""

    flow_run_id: str
    mlflow_run_id: str
    version: Version
    report: Report


def _title() -> str:
    given = flow_run.parameters
    return f"train {given['name']} on {short(given['data'])}"


@flow(name="train_source", flow_run_name=_title)
def train_source(
    data: str,
    arch: str,
    name: str,
    init: str | None = None,
    settings: dict[str, Any] | None = None,
    head: Literal["bottleneck", "plain"] | None = None,
    bottleneck_dim: Annotated[int, Field(ge=1)] | None = None,
    input: InputSpec | None = None,
    views: Views | None = None,
    epochs: Epochs | None = None,
    seed: Seed = 0,
    split: str = "train",
    val_split: str = "val",
    checkpoint: Literal["best", "last"] = "best",
    device: DeviceName = "auto",
    workers: int = 0,
) -> TrainResult:
    """Train `arch` on a labelled source, make its card, register it under `name`.

    The epoch with the best macro accuracy (of pixels: mean IoU) on `val_split` is kept, or the
    last one. `head` (by default "bottleneck") and `bottleneck_dim` (256) are of classifiers alone.
    """
    tracking.check_name(name)
    manifest, device = manifests.refer(data), resolve(device)
    spec = spec_for(
        manifest, arch, head=head, bottleneck_dim=bottleneck_dim, input=input, views=views
    )
    plan = make_train_plan(
        manifest, (split, val_split), spec, settings or {}, start=init, checkpoint=checkpoint,
        epochs=epochs, seed=seed,
    )  # fmt: skip
    params = {"arch": arch, **plan.config, "seed": seed, "init": init or ""}
    key = tracking.run_key(manifest, plan, name)
    tags = {"prefect.flow_run_id": str(flow_run.id)}
    title = _title()
    with tracking.run(title, key=key, tags=tags, params=params) as run_id:
        tracking.log_manifest(run_id, short(data), manifest, "source")
        found = train(manifest, plan, run_id, title, device, workers)
        trained = trained_model(found, plan, run_id)
        model, report = add_card(trained, manifest, val_split, device)
        version = _register(model, name, run_id, report, short(data))
    return TrainResult(
        flow_run_id=str(flow_run.id), mlflow_run_id=run_id, version=version, report=report
    )


def _card_title() -> str:
    given = flow_run.parameters
    return f"card of {short(given['model'])} on {short(given['data'])}"


@flow(name="card", flow_run_name=_card_title)
def make_card(
    model: str, data: str, split: str = "val", name: str | None = None, device: DeviceName = "auto"
) -> TrainResult:
    """At the source site: register a version of `model` with the card of its own data."""
    found, manifest = refer(model), manifests.refer(data)
    name = name or name_of(model)
    tracking.check_name(name)
    key = tracking.run_key("card", found, manifest, split, name)
    tags = {"prefect.flow_run_id": str(flow_run.id)}
    with tracking.run(_card_title(), key=key, tags=tags, params={"model": found.uri}) as run_id:
        tracking.log_manifest(run_id, short(data), manifest, "source")
        carded, report = add_card(found, manifest, split, device)
        version = _register(carded, name, run_id, report, short(data))
    return TrainResult(
        flow_run_id=str(flow_run.id), mlflow_run_id=run_id, version=version, report=report
    )


def _register(model: ModelRef, name: str, run_id: str, report: Report, data: str) -> Version:
    points = [(f"source/{metric}", value, 0) for metric, value in report.metrics.items()]
    tracking.log_points(run_id, points)
    tags = {"source": data, "report": report.model_dump_json(include={"split", "metrics"})}
    version = register(model, name, run_id, tags, "source")
    crown_if_first(version)
    return version
