"""The commands that give a source model: trained, imported, with its card or a prior."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.options import (
    Channels,
    Device,
    Epochs,
    Input,
    Json,
    Mean,
    Preset,
    Problem,
    Set,
    Size,
    Skeleton,
    Std,
    Workers,
    app,
    skeleton_of,
)
from flows.cli.output import (
    problem_of_manifest,
    show_source,
    stated_input,
    taken,
    usual_views,
    version_of,
)
from flows.cli.session import read_settings, session, words


@app.command("train-source")
def train_source(
    data: Annotated[Path, typer.Option(help="a manifest with labels")],
    arch: Annotated[str, typer.Option(help="torchvision:resnet50, timm:..., sfda:lenet")],
    name: str = typer.Option(...),
    init: Annotated[Path | None, typer.Option(help="backbone weights to start from")] = None,
    settings: Set = None,
    preset: Preset = None,
    input: Input = None,
    size: Size = None,
    resize: Annotated[str | None, typer.Option(help="pixels before the crop to --size")] = None,
    mean: Mean = None,
    std: Std = None,
    channels: Channels = None,
    head: Annotated[
        Literal["bottleneck", "plain"] | None, typer.Option(help="default bottleneck")
    ] = None,
    split: Annotated[str | None, typer.Option(help="default train")] = None,
    val_split: Annotated[str | None, typer.Option(help="default val")] = None,
    checkpoint: Annotated[Literal["best", "last"] | None, typer.Option(help="default best")] = None,
    epochs: Epochs = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    device: Device = "auto",
    workers: Workers = 0,
    json: Json = False,
) -> None:
    """Train and register a source model, where the source data are."""
    with session(json, flow=True, data=[data]) as out:
        from flows import presets
        from flows import train_source as flow
        from flows.form import flow_parameters
        from sfda.config import merged
        from sfda.refs import Views

        problem = problem_of_manifest(data)
        allowed = flow_parameters(flow.train_source) - {"data", "arch", "name"}
        given = presets.read(preset, allowed=allowed) if preset else {}
        more = read_settings(settings or [])
        views = merged(taken(given, "views"), taken(more, "views"))
        explicit = {
            "init": str(init) if init else None, "head": head, "epochs": epochs, "seed": seed,
            "split": split, "val_split": val_split, "checkpoint": checkpoint,
            "input": stated_input(
                arch, problem, file=input, new=True, size=size, resize=resize, mean=mean, std=std,
                channels=channels,
            ),
            "views": Views.from_settings(usual_views(arch, problem, views)) if views else None,
        }  # fmt: skip
        given |= {key: value for key, value in explicit.items() if value is not None}
        given["settings"] = merged(taken(given, "settings"), more)
        given = {"device": device, "workers": workers, **given}
        show_source(out, flow.train_source(str(data), arch, name, **given))


@app.command()
def card(
    model: Annotated[str, typer.Option(help="models:/NAME@source")],
    data: Annotated[Path, typer.Option(help="a labelled manifest of the source")],
    split: str = "val",
    name: str | None = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """At the source site: give a model the card that travels instead of its data."""
    with session(json, flow=True, models=[model], data=[data]) as out:
        from flows.train_source import make_card

        show_source(out, make_card(model, str(data), split=split, name=name, device=device))


@app.command("train-prior")
def train_prior(
    model: Annotated[str, typer.Option(help="models:/NAME@source, a pose model")],
    poses: Annotated[Path, typer.Option(help="a manifest, or a COCO JSON with keypoints")],
    split: str | None = None,
    name: str | None = None,
    settings: Set = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json: Json = False,
) -> None:
    """At the source site: give a pose model a prior of poses; no image is read."""
    with session(json, flow=True) as out:
        from flows.train_prior import train_prior as flow

        found = flow(
            model, str(poses), split=split, name=name, settings=read_settings(settings or []),
            seed=seed,
        )  # fmt: skip
        report = found.report
        said = (
            f"{found.version.uri} registered with prior {found.prior_sha256[:16]}; on "
            f"{report.poses} held-out poses: rank correlation {report.spearman:.3f}, real "
            f"{report.clean:.3f}, far {report.far:.3f}"
        )
        out.show({**version_of(found), **found.model_dump()}, said)


@app.command("import-model")
def import_model(
    weights: Annotated[Path, typer.Argument(help="a checkpoint, or a folder with SHOT's three")],
    arch: Annotated[str, typer.Option(help="torchvision:resnet50, timm:..., sfda:lenet")],
    name: str = typer.Option(...),
    problem: Problem = "classification",
    classes: Annotated[str | None, typer.Option(help="a,b,c in the order of the outputs")] = None,
    classes_file: Annotated[Path | None, typer.Option(help="one class a line")] = None,
    input: Input = None,
    size: Size = None,
    resize: Annotated[str | None, typer.Option(help="pixels before the crop to --size")] = None,
    mean: Mean = None,
    std: Std = None,
    channels: Channels = None,
    skeleton: Skeleton = None,
    json: Json = False,
) -> None:
    """Register a model that was trained elsewhere."""
    with session(json, flow=True) as out:
        from flows.import_model import import_model as flow

        bones = skeleton_of(skeleton, problem)

        spec = stated_input(
            arch, problem, file=input, size=size, resize=resize, mean=mean, std=std,
            channels=channels,
        )  # fmt: skip
        found = flow(
            str(weights), arch, words(classes, classes_file), name, problem=problem, input=spec,
            skeleton=bones,
        )  # fmt: skip
        result = {**version_of(found), "sha256": found.sha256, "mlflow_run_id": found.mlflow_run_id}
        out.show(result, f"{found.version.uri} registered, digest {found.sha256[:16]}")
