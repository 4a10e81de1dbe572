"""The commands that give a source model: trained, imported, with its card or a prior."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from flows.cli.model_input import (
    check_padding,
    check_problem_of,
    new_views,
    problem_of_manifest,
    problem_of_model,
    skeleton_of,
    stated_input,
    with_pairs,
)
from flows.cli.options import (
    AgainOption,
    ArchOption,
    ArchSetOption,
    ChannelsOption,
    DeviceOption,
    EpochsOption,
    InputOption,
    JsonOption,
    LabelledOption,
    MeanOption,
    NameOption,
    PresetOption,
    ProblemOption,
    ResizeOption,
    SeedOption,
    SettingsOption,
    SizeOption,
    SkeletonOption,
    SourceOption,
    SplitOption,
    StdOption,
    UnsetNameOption,
    UnsetSeedOption,
    UnsetSplitOption,
    WindowOption,
    WorkersOption,
)
from flows.cli.output import show_import, show_prior, show_source
from flows.cli.parsing import class_names, pop_group, read_settings, stated
from flows.cli.session import session


def train_source(
    data: LabelledOption,
    arch: ArchOption,
    name: NameOption,
    init: Annotated[Path | None, typer.Option(help="backbone weights to start from")] = None,
    settings: SettingsOption = None,
    preset: PresetOption = None,
    input: InputOption = None,
    size: SizeOption = None,
    resize: ResizeOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    channels: ChannelsOption = None,
    window: WindowOption = None,
    head: Annotated[
        str | None, typer.Option(help="bottleneck (default), plain, or a layer of your own class")
    ] = None,
    arch_set: ArchSetOption = None,
    split: Annotated[str | None, typer.Option(help="default train")] = None,
    val_split: Annotated[str | None, typer.Option(help="default val")] = None,
    checkpoint: Annotated[Literal["best", "last"] | None, typer.Option(help="default best")] = None,
    epochs: EpochsOption = None,
    seed: UnsetSeedOption = None,
    again: AgainOption = False,
    device: DeviceOption = "auto",
    workers: WorkersOption = 0,
    json: JsonOption = False,
) -> None:
    """Train and register a source model, where the source data are."""
    with session(json, flow=True, data=[data]) as out:
        from flows import presets
        from flows import train_source as flow
        from sfda.config import merged

        problem = problem_of_manifest(data)
        allowed = presets.allowed_for(flow.train_source) - {"data", "arch", "name"}
        shipped = presets.read(preset, allowed=allowed) if preset else {}
        overrides = read_settings(settings)
        own = read_settings(arch_set, "--arch-set")
        views = merged(pop_group(shipped, "views"), pop_group(overrides, "views"))
        trained_with = merged(pop_group(shipped, "settings"), overrides)
        spec = stated_input(
            arch,
            problem,
            arch_settings=own,
            new=True,
            file=input,
            size=size,
            resize=resize,
            mean=mean,
            std=std,
            channels=channels,
            window=window,
        )
        options = stated(
            init=str(init) if init else None,
            head=head,
            arch_settings=own or None,
            epochs=epochs,
            seed=seed,
            split=split,
            val_split=val_split,
            checkpoint=checkpoint,
            input=spec,
            views=new_views(arch, problem, views),
        )
        usual = {"device": device, "workers": workers, "again": again}
        parameters = {**usual, **shipped, **options}
        show_source(
            out, flow.train_source(str(data), arch, name, settings=trained_with, **parameters)
        )


class RehearseCommand(TyperCommand):
    """A command whose `--rehearse` may stand without a number: the usual one is meant then."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The same with the number put in."""
        return super().parse_args(ctx, with_number(args))


def with_number(words: list[str]) -> list[str]:
    """The words of a command, with 24 after each `--rehearse` that has no number.

    >>> with_number(["--rehearse", "--data", "m"]), with_number(["--rehearse", "8"])
    (['--rehearse', '24', '--data', 'm'], ['--rehearse', '8'])
    """
    out: list[str] = []
    for number, word in enumerate(words):
        out.append(word)
        if word == "--rehearse" and (words[number + 1 :] or ["--"])[0].startswith("-"):
            out.append("24")
    return out


def card(
    model: SourceOption,
    data: Annotated[Path, typer.Option(help="a labelled manifest of the source")],
    split: SplitOption = "val",
    name: UnsetNameOption = None,
    rehearse: Annotated[
        int | None,
        typer.Option(metavar="[N]", help="adapt to N (24) synthetic shifts first, and keep gains"),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="of rehearsals; default: the problem's")
    ] = None,
    settings: SettingsOption = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="of a rehearsal; default at most 15")
    ] = None,
    seed: SeedOption = 0,
    budget: Annotated[
        str | None, typer.Option(help="time after which no rehearsal begins, e.g. 30m")
    ] = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """At the source site: give a model the card that travels instead of its data."""
    with session(json, flow=True, models=[model], data=[data]) as out:
        from flows.card import make_card
        from sfda.errors import BadInput
        from sfda.rehearsal.plan import plan_rehearsals
        from sfda.settings import seconds_of

        plan = None
        if rehearse is not None:
            plan = plan_rehearsals(
                problem_of_model(model),
                count=rehearse,
                method=method,
                settings=read_settings(settings),
                epochs=epochs,
                seed=seed,
            )
        elif method or settings or epochs or budget:
            raise BadInput("--method, --set, --epochs and --budget are of --rehearse: add it")
        carded = make_card(
            model,
            str(data),
            split=split,
            name=name,
            device=device,
            rehearsal=plan,
            budget=seconds_of(budget),
        )
        show_source(out, carded, carded.rehearsals)


def train_prior(
    model: Annotated[str, typer.Option(help="models:/NAME@source, a pose model")],
    poses: Annotated[Path, typer.Option(help="a manifest, or a COCO JSON with keypoints")],
    split: UnsetSplitOption = None,
    name: UnsetNameOption = None,
    settings: SettingsOption = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """At the source site: give a pose model a prior of poses; no image is read."""
    with session(json, flow=True) as out:
        from flows.train_prior import train_prior as flow

        trained = flow(
            model, str(poses), split=split, name=name, settings=read_settings(settings), seed=seed
        )
        show_prior(out, trained)


def import_model(
    weights: Annotated[Path, typer.Argument(help="a checkpoint, or a folder with SHOT's three")],
    arch: ArchOption,
    name: NameOption,
    problem: ProblemOption = "classification",
    classes: Annotated[str | None, typer.Option(help="a,b,c in the order of the outputs")] = None,
    classes_file: Annotated[Path | None, typer.Option(help="one a line; or JSON, YAML")] = None,
    input: InputOption = None,
    size: SizeOption = None,
    resize: ResizeOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    channels: ChannelsOption = None,
    window: WindowOption = None,
    head: Annotated[
        str | None, typer.Option(help="your own class: the layer that gives the logits")
    ] = None,
    arch_set: ArchSetOption = None,
    skeleton: SkeletonOption = None,
    padding: Annotated[
        float | None,
        typer.Option(help="pose: side of the crops it was trained on, by the box's longer side"),
    ] = None,
    weights_key: Annotated[
        str | None,
        typer.Option(help="which weights of several in the file: model_ema, teacher, student ..."),
    ] = None,
    again: AgainOption = False,
    json: JsonOption = False,
) -> None:
    """Register a model that was trained elsewhere."""
    with session(json, flow=True) as out:
        from flows.import_model import import_model as flow
        from sfda.weights.checkpoints import refuse_bundle

        refuse_bundle(weights)
        check_problem_of(arch, problem)
        bones, own = skeleton_of(skeleton, problem), read_settings(arch_set, "--arch-set")
        spec = stated_input(
            arch,
            problem,
            arch_settings=own,
            file=input,
            size=size,
            resize=resize,
            mean=mean,
            std=std,
            channels=channels,
            window=window,
        )
        names = class_names(classes, classes_file)
        bones = with_pairs(bones, names, problem)
        check_padding(padding, problem)
        imported = flow(
            str(weights),
            arch,
            names,
            name,
            problem=problem,
            input=spec,
            skeleton=bones,
            arch_settings=own or None,
            head=head,
            again=again,
            weights_key=weights_key,
            padding=padding,
        )
        show_import(out, imported, bones)


def register(app: typer.Typer) -> None:
    """Put these commands on the command line."""
    app.command("train-source")(train_source)
    app.command("import-model")(import_model)
    app.command("card", cls=RehearseCommand)(card)
    app.command("train-prior")(train_prior)
