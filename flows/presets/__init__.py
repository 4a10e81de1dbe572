"""Parameters of one flow and nothing else, as YAML; each names the paper that it is from."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from prefect import Flow

from flows.form import SETTINGS_GROUP, GroupedFlow
from sfda.config import read_yaml
from sfda.errors import BadInput

HERE = Path(__file__).parent


def names() -> list[str]:
    """The presets that ship."""
    return sorted(file.stem for file in HERE.glob("*.yaml"))


def read(preset: str, *, allowed: set[str] | None = None) -> dict[str, Any]:
    """The parameters in a preset of ours, or in a file. Raises BadInput for anything else.

    A name of ours is ours, whatever files the current folder has.
    """
    file = HERE / f"{preset}.yaml" if preset in names() else Path(preset)
    if not file.is_file():
        near = difflib.get_close_matches(preset, names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names())}"
        raise BadInput(f"no preset and no file '{preset}'; {hint}")
    parameters = read_yaml(file, "a preset holds parameters")
    if not isinstance(parameters, dict):
        raise BadInput(f"{file} holds no parameters: write `name: value` lines")
    if allowed is not None and (unknown := sorted(set(parameters) - allowed)):
        raise BadInput(
            f"{file} names {', '.join(unknown)}; the flow takes {', '.join(sorted(allowed))}"
        )
    return parameters


def allowed_for(flow: Flow[..., Any]) -> set[str]:
    """Names that a preset of this flow may give: its parameters, and those of its settings."""
    group = set(flow.flat_names) if isinstance(flow, GroupedFlow) else set()
    return {*flow.parameters.properties, *group} - {"source", "target", SETTINGS_GROUP}
