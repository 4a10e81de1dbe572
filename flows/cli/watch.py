"""The commands for targets that grow: `sfda refresh`, `sfda watch`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.options import Budget, Device, Epochs, Json, Set, app
from flows.cli.session import Output, read_settings, session

Target = Annotated[Path, typer.Argument(help="a folder, zip, npz, .txt list, or a manifest")]
Source = Annotated[str, typer.Option(help="models:/NAME@source")]
Method = Annotated[str | None, typer.Option(help="see `sfda methods`")]
PolicyOption = Annotated[
    list[str] | None,
    typer.Option("--policy", help="min_files, min_share, drift, settle, start_from: k=v"),
]
Labels = Annotated[Path | None, typer.Option(help="CSV with file,class: these images test")]
Name = Annotated[str | None, typer.Option(help="register under this name")]
TargetName = Annotated[str | None, typer.Option(help="default: the folder's name")]
Promote = Annotated[bool, typer.Option("--promote", help="if labels show it better")]


@app.command()
def refresh(
    target: Target,
    source: Source,
    method: Method = None,
    settings: Set = None,
    policy: PolicyOption = None,
    target_name: TargetName = None,
    labels: Labels = None,
    name: Name = None,
    select_by: str | None = None,
    epochs: Epochs = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    split: str = "adapt",
    promote: Promote = False,
    budget: Budget = None,
    announce: Annotated[bool, typer.Option("--announce", help="only send the event")] = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Look once at a target that grows: adapt if enough of it changed, or new images drift."""
    with session(json, flow=True, adapts=True, models=[source]) as out:
        given = _parameters(
            target, source, method, settings, policy, target_name, labels, name, select_by, epochs,
            seed, split, promote, budget, device,
        )  # fmt: skip
        _look(out, given | {"announce": announce})


@app.command()
def watch(
    target: Target,
    source: Source,
    every: Annotated[str, typer.Option(help="time between two looks: 30s, 5m, 1h")] = "5m",
    method: Method = None,
    settings: Set = None,
    policy: PolicyOption = None,
    target_name: TargetName = None,
    labels: Labels = None,
    name: Name = None,
    select_by: str | None = None,
    epochs: Epochs = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    split: str = "adapt",
    promote: Promote = False,
    budget: Budget = None,
    device: Device = "auto",
    looks: Annotated[int | None, typer.Option(min=1, help="end after so many looks")] = None,
    json: Json = False,
) -> None:
    """Look again and again, on one machine, until Ctrl-C; a look that fails ends nothing."""
    with session(json, flow=True, adapts=True) as out:
        import logging

        from flows.form import seconds_of

        pause = seconds_of(every) or 0.0
        given = _parameters(
            target, source, method, settings, policy, target_name, labels, name, select_by, epochs,
            seed, split, promote, budget, device,
        )  # fmt: skip
        done = 0
        while True:
            try:
                _look(out, given)
            except Exception as error:
                if done == 0:
                    raise  # a wrong call; later it is the target or a server that has gone wrong
                logging.getLogger("sfda").error("%s; the next look is in %s", error, every)
            done += 1
            if looks is not None and done >= looks:
                return
            threading.Event().wait(pause)


def _parameters(
    target: Path, source: str, method: str | None, settings: list[str] | None,
    policy: list[str] | None, target_name: str | None, labels: Path | None, name: str | None,
    select_by: str | None, epochs: int | None, seed: int, split: str, promote: bool,
    budget: str | None, device: str,
) -> dict[str, Any]:  # fmt: skip
    """The flow's parameters. Raises BadInput."""
    from flows.form import checked_duration
    from sfda.adaptation.target_versions import Policy

    return {
        "target": str(target.absolute()),
        "source": source,
        "method": method,
        "settings": read_settings(settings or []),
        "policy": Policy.from_settings(read_settings(policy or []), "policy"),
        "target_name": target_name,
        "labels": str(labels.absolute()) if labels else None,
        "name": name,
        "select_by": select_by,
        "epochs": epochs,
        "seed": seed,
        "split": split,
        "promote": promote,
        "budget": checked_duration(budget),
        "device": device,
    }


def _look(out: Output, given: dict[str, Any]) -> None:
    from flows.cli.output import adapt_result
    from flows.refresh_target import refresh_target

    found: Any = refresh_target(**given)
    shown = found.model_dump(exclude={"adapted"})
    shown["adapted"] = adapt_result(found.adapted, 0.0) if found.adapted else None
    out.show(shown, f"{found.outcome}: {found.says}")
