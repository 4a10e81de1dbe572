"""The commands that show and run a whole installation: its state, its servers, the demo."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.options import DeviceOption, JsonOption, PortOption
from flows.cli.output import status_text
from flows.cli.session import session
from sfda.state_folder import full_disk, lasting_folder


def status(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="runs to show")] = 10,
    json: JsonOption = False,
) -> None:
    """Last runs, champions, growing targets, labels that are wanted, and jobs."""
    with session(json) as out:
        from tasks.prefect_runtime.status import read_status

        now = read_status(limit)
        out.show(now.model_dump(), status_text(now, time.time()))


def serve(
    jobs: Annotated[Path | None, typer.Option(help="YAML: targets, sources and schedules")] = None,
    limit: Annotated[int, typer.Option(min=1, help="runs at a time; one a GPU")] = 1,
    notify: Annotated[str | None, typer.Option(help="a Prefect block: slack-webhook/ops")] = None,
    mlflow_port: PortOption = 5000,
    prefect_port: PortOption = 4200,
    json: JsonOption = False,
) -> None:
    """Flows on targets as forms, scheduled jobs, automations, both pages; until Ctrl-C."""
    with session(json, serves=True) as out:
        from flows.serve import serve as run

        def show(served: dict[str, Any]) -> None:
            lines = [f"MLflow   {served['mlflow_url']}", f"Prefect  {served['prefect_url']}"]
            lines += [f"API      {served['prefect_api']}"]
            lines += [f"serves   {name}" for name in served["deployments"]]
            out.show(served, "\n".join([*lines, "Each link opens its page once. Ctrl-C ends all."]))

        run(jobs, limit, notify, (mlflow_port, prefect_port), show)


def ui(
    mlflow_port: PortOption = 5000, prefect_port: PortOption = 4200, json: JsonOption = False
) -> None:
    """MLflow's and Prefect's pages over $SFDA_HOME, on loopback, until Ctrl-C."""
    with session(json, serves=True) as out:
        from tasks.prefect_runtime.pages import servers, wait_for_signal

        with servers(mlflow_port, prefect_port) as urls:
            text = (
                f"MLflow   {urls['mlflow_url']}\nPrefect  {urls['prefect_url']}\n"
                "Each link opens its page once. Ctrl-C ends both."
            )
            out.show(dict(urls), text)
            wait_for_signal()


def clean(
    older_than: Annotated[
        str, typer.Option(help="what was made or used since stays: 12h, 30d")
    ] = "30d",
    keep: Annotated[
        int, typer.Option(min=0, help="newest versions of a name, and runs of a target, that stay")
    ] = 10,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only show what would go")] = False,
    json: JsonOption = False,
) -> None:
    """Delete from $SFDA_HOME what is old and needed by nobody; sizes before and after."""
    home = lasting_folder()
    full = home.is_dir() and full_disk(home) is not None  # Prefect's server would not start
    with session(json, flow=not dry_run and not full) as out:
        from flows.clean import FLOWS, clean_text
        from sfda.retention.policy import RetentionPolicy
        from tasks.clean import clean_home, would_clean

        policy = RetentionPolicy.from_settings({"older_than": older_than, "keep": keep})
        if dry_run:
            report = would_clean(policy, FLOWS)
        else:
            report = clean_home(policy, FLOWS, prefect=not full)
        out.show({**report.model_dump(), "freed_bytes": report.freed}, clean_text(report))


def demo(
    problem: str = "classification", device: DeviceOption = "auto", json: JsonOption = False
) -> None:
    """The main job on built-in data: train, adapt, choose, evaluate, register, promote."""
    with session(json, flow=True, adapts=True) as out:
        from flows.demo import DEMOS, demo_text
        from sfda.errors import BadInput

        if problem not in DEMOS:
            known = ", ".join(DEMOS)
            raise BadInput(f"no demo for '{problem}'; there are demos for {known}")
        shown = DEMOS[problem](device)
        out.show(
            {**shown.model_dump(), "selected_epoch": shown.selected_epoch + 1}, demo_text(shown)
        )


def methods(json: JsonOption = False) -> None:
    """What there is: problems, setting, paper."""
    with session(json, state=False) as out:
        from flows.cli.methods_table import describe_methods, methods_text

        rows = describe_methods()
        out.show({"methods": rows}, methods_text(rows))


def register(app: typer.Typer) -> None:
    """Put these commands on the command line."""
    for command in (methods, status, serve, clean, ui, demo):
        app.command()(command)
