"""The command `sfda`: thin and typed, over the flows. Heavy imports are inside the commands."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import data as cli_data  # noqa: F401 (their commands)
from flows.cli.annotate import register as register_active
from flows.cli.options import Budget, Device, Epochs, Json, Port, Preset, Set, Workers, app
from flows.cli.output import (
    adapt_result,
    adapt_text,
    evaluate_text,
    model_views,
    problem_of_model,
    show_move,
    taken,
)
from flows.cli.session import end_at_once, read_settings, session, words
from flows.cli.status import register as register_status


@app.command()
def adapt(
    source: Annotated[str, typer.Option(help="models:/NAME@champion, models:/NAME/3, a bundle")],
    target: Annotated[str, typer.Option(help="a manifest, or a folder of images")],
    method: Annotated[str | None, typer.Option(help="see `sfda methods`; default shot")] = None,
    settings: Set = None,
    preset: Preset = None,
    select_by: Annotated[str | None, typer.Option(help="a validator, or last")] = None,
    epochs: Epochs = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    name: Annotated[str | None, typer.Option(help="register under this name")] = None,
    split: str | None = None,
    test_split: str | None = None,
    promote: Annotated[bool, typer.Option("--promote", help="if labels show it better")] = False,
    budget: Budget = None,
    device: Device = "auto",
    workers: Workers = 0,
    json: Json = False,
) -> None:
    """Adapt a model to unlabelled data, choose, evaluate, register."""
    with session(json, flow=True, adapts=True, models=[source], data=[target]) as out:
        from flows import presets
        from flows.adapt import adapt as flow
        from flows.form import checked_duration, flow_parameters
        from sfda.config import merged

        given = presets.read(preset, allowed=flow_parameters(flow)) if preset else {}
        more = read_settings(settings or [])
        views = merged(taken(given, "views"), taken(more, "views"))
        explicit = {
            "method": method, "select_by": select_by, "epochs": epochs, "seed": seed, "name": name,
            "split": split, "test_split": test_split, "budget": checked_duration(budget),
        }  # fmt: skip
        given |= {key: value for key, value in explicit.items() if value is not None}
        given["settings"] = merged(taken(given, "settings"), more)
        given = {"promote": promote, "device": device, "workers": workers, **given}
        started = time.monotonic()
        found = flow(source, target, views=model_views(source, views), **given)
        result = adapt_result(found, time.monotonic() - started)
        out.show(result, adapt_text(result))


@app.command()
def evaluate(
    model: Annotated[str, typer.Option(help="models:/NAME@champion")],
    data: Annotated[Path, typer.Option(help="a manifest with labels")],
    split: str = "test",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Metrics of one model on one labelled split."""
    with session(json) as out:
        from sfda.loading import opened as manifests
        from tasks.evaluate import evaluate_model
        from tasks.tracking.models import refer

        found = evaluate_model(refer(model), manifests.refer(data), split, device)
        out.show({"metrics": found.metrics, **found.model_dump()}, evaluate_text(found))


@app.command()
def compare(
    source: Annotated[str, typer.Option(help="models:/NAME@source")],
    target: Annotated[Path, typer.Option(help="a manifest with a labelled test split")],
    methods: Annotated[str, typer.Option(help="a,b,c; 'supervised' is the bound")],
    seeds: Annotated[str | None, typer.Option(help="0,1,2; default 0")] = None,
    settings: Set = None,
    preset: Preset = None,
    select_by: str | None = None,
    epochs: Epochs = None,
    split: str | None = None,
    test_split: str | None = None,
    device: Device = "auto",
    workers: Workers = 0,
    json: Json = False,
) -> None:
    """One table of methods; settings: METHOD.k=v for one of them, k=v for all."""
    with session(json, flow=True, adapts=True, models=[source], data=[target]) as out:
        from flows import presets
        from flows.compare import compare as flow
        from flows.form import flow_parameters, per_method, read_seeds
        from sfda.config import merged

        given = presets.read(preset, allowed=flow_parameters(flow)) if preset else {}
        chosen = list(words(methods, None))
        more = read_settings(settings or [])
        views = merged(taken(given, "views"), taken(more, "views"))
        given["settings"] = per_method(chosen, taken(given, "settings"), more)
        explicit = {
            "select_by": select_by, "epochs": epochs, "split": split, "test_split": test_split,
            "seeds": read_seeds(seeds) if seeds else None,
        }  # fmt: skip
        given |= {key: value for key, value in explicit.items() if value is not None}
        given = {"device": device, "workers": workers, **given}
        found = flow(
            source, str(target), given.pop("methods", chosen), views=model_views(source, views),
            **given,
        )  # fmt: skip
        out.show(found.model_dump(), found.table)


@app.command()
def predict(
    model: Annotated[str, typer.Option(help="models:/NAME@champion")],
    data: Annotated[str, typer.Option(help="a manifest, or a folder of images")],
    out: Annotated[Path, typer.Option(help="a folder for predictions.csv")],
    split: str = "adapt",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Answers of a model for every image, as CSV."""
    with session(json) as output:
        from sfda.inference.prediction_files import predict as run
        from sfda.loading.opened import as_manifest

        place = as_manifest(data, lambda: problem_of_model(model))
        count, file = run(model, place, split, out, device)
        output.show({"count": count, "file": str(file)}, f"{file}: {count} images")


@app.command()
def methods(json: Json = False) -> None:
    """What there is: problems, setting, paper."""
    with session(json, state=False) as out:
        from flows.form import describe_methods

        found = describe_methods()
        lines = [
            f"{row['name']:<14}{', '.join(row['problems']):<18}{row['setting']:<14}{row['paper']}\n"
            f"              {row['says']}"
            for row in found
        ]
        out.show({"methods": found}, "\n".join(lines))


@app.command()
def promote(name: str, version: str, json: Json = False) -> None:
    """Let a version of a model be the champion."""
    with session(json, flow=True) as out:
        from flows.promote import promote as flow

        show_move(out, flow(name, version))


@app.command()
def rollback(name: str, json: Json = False) -> None:
    """Let the champion before this one reign again."""
    with session(json, flow=True) as out:
        from flows.promote import rollback as flow

        show_move(out, flow(name))


@app.command()
def ui(mlflow_port: Port = 5000, prefect_port: Port = 4200, json: Json = False) -> None:
    """MLflow's and Prefect's pages over $SFDA_HOME, on loopback, until Ctrl-C."""
    with session(json) as out:
        from tasks.prefect_runtime.pages import servers, until_told

        with servers(mlflow_port, prefect_port) as urls:
            text = (
                f"MLflow   {urls['mlflow_url']}\nPrefect  {urls['prefect_url']}\nCtrl-C ends both."
            )
            out.show(dict(urls), text)
            until_told()


@app.command()
def serve(
    jobs: Annotated[Path | None, typer.Option(help="YAML: targets, sources and schedules")] = None,
    limit: Annotated[int, typer.Option(min=1, help="runs at a time; one a GPU")] = 1,
    notify: Annotated[str | None, typer.Option(help="a Prefect block: slack-webhook/ops")] = None,
    mlflow_port: Port = 5000,
    prefect_port: Port = 4200,
    json: Json = False,
) -> None:
    """All flows and scheduled jobs on this machine, with both pages, until Ctrl-C."""
    with session(json) as out:
        from flows.serve import serve as run

        def told(found: dict[str, Any]) -> None:
            lines = [f"MLflow   {found['mlflow_url']}", f"Prefect  {found['prefect_url']}"]
            lines += [f"serves   {name}" for name in found["deployments"]]
            out.show(found, "\n".join([*lines, "Ctrl-C ends all."]))

        run(jobs, limit, notify, (mlflow_port, prefect_port), told)


@app.command()
def demo(problem: str = "classification", device: Device = "auto", json: Json = False) -> None:
    """The main job on built-in data: train, adapt, choose, evaluate, register, promote."""
    with session(json, flow=True, adapts=True) as out:
        from flows import demo as flow
        from sfda.errors import BadInput

        if problem not in flow.DEMOS:
            known = ", ".join(flow.DEMOS)
            raise BadInput(f"no demo for '{problem}'; there are demos for {known}")
        found = flow.DEMOS[problem](device)
        shown = {**found.model_dump(), "selected_epoch": found.selected_epoch + 1}
        out.show(shown, flow.text(found))


register_active(app)
register_status(app)


def main() -> None:
    """The entry point."""
    end_at_once(app)
