"""Source manifest -> source model with its card, registered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows.addresses import short_address
from sfda.adaptation.training_plan import make_train_plan, spec_for
from sfda.building_blocks.device import DeviceName, resolve
from sfda.config import Config
from sfda.loading import opened as manifests
from sfda.networks.foreign.code import named_by_person
from sfda.refs import InputSpec, ModelRef, Report, Version, Views
from sfda.settings import Epochs, Seed
from tasks import tracking
from tasks.adapt import drop_state
from tasks.register import register_source
from tasks.train_source import add_card, train, trained_model


class TrainResult(Config):
    """What training a source model, or adding a card to one, tells at its end."""

    flow_run_id: str
    mlflow_run_id: str
    version: Version
    report: Report


def _title() -> str:
    parameters = flow_run.parameters
    return f"train {parameters['name']} on {short_address(parameters['data'])}"


@flow(name="train-source", flow_run_name=_title)
def train_source(
    data: str,
    arch: str,
    name: str,
    init: str | None = None,
    settings: dict[str, Any] | None = None,
    head: str | None = None,
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
    arch_settings: dict[str, Any] | None = None,
    again: bool = False,
) -> TrainResult:
    """Train `arch` on a labelled source, make its card, register it under `name`.

    The epoch with the best macro accuracy (of pixels: mean IoU) on `val_split` is kept, or the
    last one. `head` (by default "bottleneck") and `bottleneck_dim` (256) are of classifiers alone;
    of a class of one's own, made with `arch_settings`, `head` may name the layer of the logits.
    """
    tracking.check_name(name)
    manifest, device = manifests.manifest_ref(data), resolve(device)
    parts = {"bottleneck_dim": bottleneck_dim, "input": input, "views": views}
    spec = spec_for(manifest, arch, **which_head(head), **parts, arch_settings=arch_settings)
    plan = make_train_plan(
        manifest,
        (split, val_split),
        spec,
        settings or {},
        start=init,
        checkpoint=checkpoint,
        epochs=epochs,
        seed=seed,
    )
    params = {"arch": arch, **plan.config, "seed": seed, "init": init or ""}
    key = tracking.run_key(manifest, plan, name, again=str(flow_run.id) if again else None)
    tags = {"prefect.flow_run_id": str(flow_run.id)}
    title = _title()
    trusted = named_by_person(spec.code)  # whoever names an arch to be trained has named its code
    with trusted, tracking.run(title, key=key, tags=tags, params=params) as run_id:
        tracking.log_manifest(run_id, short_address(data), manifest, "source")
        training = train(manifest, plan, run_id, title, device, workers)
        trained = trained_model(training, plan, run_id)
        model, report = add_card(trained, manifest, val_split, device)
        version = register_reported(model, name, run_id, report, short_address(data))
        drop_state(training)
    return TrainResult(
        flow_run_id=str(flow_run.id), mlflow_run_id=run_id, version=version, report=report
    )


def which_head(head: str | None) -> dict[str, str]:
    """`head` as parts of a spec: one of the kinds, or the layer of a network's own.

    >>> which_head("fc"), which_head("bottleneck")
    ({'head': 'plain', 'head_layer': 'fc'}, {'head': 'bottleneck'})
    """
    if head is None or head in ("bottleneck", "plain"):
        return {"head": head} if head else {}
    return {"head": "plain", "head_layer": head}


def register_reported(
    model: ModelRef, name: str, run_id: str, report: Report, data: str
) -> Version:
    """Register a source model with its report on a split of its own data."""
    points = [(f"source/{metric}", value, 0) for metric, value in report.metrics.items()]
    tracking.log_points(run_id, points)
    tags = {"source": data, "report": report.model_dump_json(include={"split", "metrics"})}
    return register_source(model, name, run_id, tags)
