"""The options and arguments that two commands or more take: their types and what help says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sfda.problem_names import PROBLEM_NAMES

JsonOption = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]
DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option()]
SkipUnreadableOption = Annotated[
    float | None,
    typer.Option(min=0, help="share of images that may be broken and left out; 10, or 0.01"),
]
WorkersOption = Annotated[int, typer.Option(min=0, help="processes that load images")]
SeedOption = Annotated[int, typer.Option(min=0)]
UnsetSeedOption = Annotated[int | None, typer.Option(min=0)]  # a preset may state it
PortOption = Annotated[int, typer.Option(min=1, max=65535)]

SourceOption = Annotated[str, typer.Option(help="models:/NAME@source, models:/NAME/3, a bundle")]
ModelOption = Annotated[str, typer.Option(help="models:/NAME@champion, models:/NAME/3, a bundle")]
TargetOption = Annotated[str, typer.Option(help="a manifest, or a folder of images")]
LabelledOption = Annotated[Path, typer.Option(help="a manifest with labels")]
SplitOption = Annotated[str, typer.Option(help="a split of the manifest")]
UnsetSplitOption = Annotated[str | None, typer.Option(help="a split of the manifest")]
TestSplitOption = Annotated[str | None, typer.Option(help="the labelled split for the report")]
GrowingTargetArgument = Annotated[
    Path, typer.Argument(help="a folder, zip, npz, .txt list, or a manifest")
]
TargetNameOption = Annotated[str | None, typer.Option(help="default: the folder's name")]
TestLabelsOption = Annotated[
    Path | None, typer.Option(help="CSV with file,class: these images test")
]

MethodOption = Annotated[
    str | None,
    typer.Option(help="see `sfda methods`; default: the problem's; auto; or FILE.py:Class"),
]
SettingsOption = Annotated[
    list[str] | None, typer.Option("--set", help="a setting, k=v; dots nest: schedule.lr=0.01")
]
PolicyOption = Annotated[
    list[str] | None,
    typer.Option("--policy", help="min_files, min_share, drift, settle, start_from: k=v"),
]
PresetOption = Annotated[str | None, typer.Option(help="a shipped preset's name, or a file")]
SelectByOption = Annotated[str | None, typer.Option(help="a validator, FILE.py:Class, or last")]
EpochsOption = Annotated[int | None, typer.Option(min=1)]
TimeBudgetOption = Annotated[
    str | None, typer.Option(help="time for the epochs, e.g. 30m: then the best")
]
NameOption = Annotated[str, typer.Option(help="register under this name")]
UnsetNameOption = Annotated[str | None, typer.Option(help="register under this name")]
RegisteredNameArgument = Annotated[str, typer.Argument(help="a registered name")]
AgainOption = Annotated[
    bool, typer.Option("--again", help="register anew what the same work has registered already")
]
PromoteOption = Annotated[bool, typer.Option("--promote", help="if the verdict says so")]
DecisionOption = Annotated[
    Path | None, typer.Option("--decision", help="YAML: alpha, margin, budget, unattended ...")
]
PriorOption = Annotated[
    list[str] | None, typer.Option("--prior", help="a class's share of the target, CLASS=0.2")
]
GuideOption = Annotated[
    str | None,
    typer.Option("--guide", help="csv:FILE, timm:ARCH@FILE, clip:ARCH@FILE, a model, self"),
]
GuideClassesOption = Annotated[
    Path | None, typer.Option("--guide-classes", help="YAML: which of its classes are which")
]
GuideNamesOption = Annotated[
    Path | None, typer.Option("--guide-names", help="of clip: names of the classes, one a line")
]
GuideSettingsOption = Annotated[
    list[str] | None,
    typer.Option("--guide-set", help="temperature=match, quick_gelu=true, templates=FILE"),
]
NotifyOption = Annotated[
    str | None, typer.Option("--notify", help="a Prefect block: slack-webhook/NAME")
]

ManifestArgument = Annotated[Path, typer.Argument(help="a manifest")]
if TYPE_CHECKING:
    ChosenProblem = str
else:  # the command line offers what lies in the folder of problems
    ChosenProblem = Literal[PROBLEM_NAMES]
ProblemOption = Annotated[ChosenProblem, typer.Option()]
SkeletonOption = Annotated[
    Path | None, typer.Option(help="pose: YAML with edges, pairs, groups, unit, sigmas")
]
ClassesFileOption = Annotated[
    Path | None, typer.Option(help="class names: one a line, a JSON list, YOLO's data.yaml")
]
ArchOption = Annotated[
    str, typer.Option(help="torchvision:resnet50, timm:..., my.models:Net, ./net.py:Net")
]
ArchSetOption = Annotated[
    list[str] | None, typer.Option("--arch-set", help="what a class of yours is made with, k=v")
]
InputOption = Annotated[Path | None, typer.Option(help="YAML: size, resize, mean, std, tiled ...")]
SizeOption = Annotated[str | None, typer.Option(help="pixels: 224, or 120x160 (height x width)")]
ResizeOption = Annotated[str | None, typer.Option(help="pixels before the crop to --size")]
MeanOption = Annotated[str | None, typer.Option(help="0.485,0.456,0.406")]
StdOption = Annotated[str | None, typer.Option(help="0.229,0.224,0.225")]
ChannelsOption = Annotated[str | None, typer.Option(help="rgb, bgr or gray")]
WindowOption = Annotated[
    str | None, typer.Option(help="intensities that are black and white: 0,4095, or percentile")
]
