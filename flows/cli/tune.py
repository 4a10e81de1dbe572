"""The command that tries methods and settings within a budget of time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.options import (
    DecisionOption,
    DeviceOption,
    EpochsOption,
    JsonOption,
    PriorOption,
    PromoteOption,
    SeedOption,
    SelectByOption,
    SkipUnreadableOption,
    SourceOption,
    TargetOption,
    TestSplitOption,
    UnsetNameOption,
    UnsetSplitOption,
    WorkersOption,
)
from flows.cli.output import verdict_text
from flows.cli.parsing import (
    checked_duration,
    comma_list,
    read_shares,
    stated,
    stated_policy,
)
from flows.cli.session import session

GRID = "a grid is METHOD: {SETTING: [values]}, one method a line"


def tune(
    source: SourceOption,
    target: TargetOption,
    methods: Annotated[
        str | None, typer.Option(help="a,b,c; default: the problem's usual ones")
    ] = None,
    grid: Annotated[
        Path | None, typer.Option(help="YAML of values: {shot: {schedule.lr: [0.01, 0.001]}}")
    ] = None,
    budget: Annotated[str, typer.Option(help="time for the epochs of all trials: 30m, 2h")] = "1h",
    select_by: SelectByOption = None,
    epochs: EpochsOption = None,
    seed: SeedOption = 0,
    name: UnsetNameOption = None,
    split: UnsetSplitOption = None,
    test_split: TestSplitOption = None,
    promote: PromoteOption = False,
    decision: DecisionOption = None,
    prior: PriorOption = None,
    skip_unreadable: SkipUnreadableOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = 0,
    json: JsonOption = False,
) -> None:
    """Try methods and settings, rank all without labels, judge the best."""
    with session(json, flow=True, adapts=True, models=[source], data=[target]) as out:
        checked_duration(budget)
        from flows.tune import run_tune
        from sfda.settings import RunSettings

        options = stated(
            select_by=select_by,
            epochs=epochs,
            split=split,
            test_split=test_split,
            decision=stated_policy(decision),
            prior=read_shares(prior),
            skip_unreadable=skip_unreadable,
        )
        asked = RunSettings.from_settings(
            options | {"device": device, "workers": workers}, "options"
        )
        chosen = comma_list(methods) if methods else None
        own = {"seed": seed, "name": name, "promote": promote, "budget": budget}
        result = run_tune(
            source, str(target), methods=chosen, grid=_grid(grid), adaptation=asked, **own
        )
        out.show(result.model_dump(mode="json"), _text(result.model_dump(mode="json")))


def _grid(file: Path | None) -> dict[str, Any] | None:
    """What a file says. Raises BadInput where it is no grid."""
    from sfda.config import read_yaml
    from sfda.errors import BadInput

    if file is None:
        return None
    read = read_yaml(file, GRID)
    if not isinstance(read, dict) or not all(isinstance(own, dict) for own in read.values()):
        raise BadInput(f"{file} is no grid; {GRID}")
    return read


def _text(result: dict[str, Any]) -> str:
    version = result["version"]
    lines = [result["table"], ""]
    lines += [f"registered as {version['uri']}"] if version else []
    lines += [f"report {result['report']}"] if result["report"] else []
    return "\n".join([*lines, verdict_text(result)])


def register(app: typer.Typer) -> None:
    """Put this command on the command line."""
    app.command()(tune)
