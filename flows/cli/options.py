"""The application `sfda` and the options that its commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

app = typer.Typer(
    name="sfda",
    help="Fit a vision model somebody else trained to new, unlabelled data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option()]
Problem = Literal["classification", "segmentation", "detection", "pose"]
Workers = Annotated[int, typer.Option(min=0, help="processes that load images")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="a setting, k=v; dots nest: schedule.lr=0.01")
]
Epochs = Annotated[int | None, typer.Option(min=1)]
Regime = Literal["closed", "partial", "open", "open-partial"]
Preset = Annotated[str | None, typer.Option(help="a shipped preset's name, or a file")]
Input = Annotated[Path | None, typer.Option(help="YAML: size, resize, mean, std, tiled ...")]
Size = Annotated[str | None, typer.Option(help="pixels: 224, or 120x160 (height x width)")]
Mean = Annotated[str | None, typer.Option(help="0.485,0.456,0.406")]
Std = Annotated[str | None, typer.Option(help="0.229,0.224,0.225")]
Channels = Annotated[str | None, typer.Option(help="rgb, bgr or gray")]
Port = Annotated[int, typer.Option(min=1, max=65535)]
Budget = Annotated[str | None, typer.Option(help="time for the epochs, e.g. 30m: then the best")]
Skeleton = Annotated[
    Path | None, typer.Option(help="pose: YAML with edges, pairs, groups, unit, sigmas")
]


def skeleton_of(path: Path | None, problem: str) -> Any:
    """The skeleton that a file holds, or None. Raises BadInput, also where it has no meaning."""
    if path is None:
        return None
    from sfda.authoring.from_keypoints import read_skeleton
    from sfda.errors import BadInput

    if problem != "pose":
        raise BadInput(f"--skeleton is for pose, not for {problem}")
    return read_skeleton(path)
