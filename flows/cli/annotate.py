"""The commands of active adaptation: labels asked for, taken, and whole experiments with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.model_input import problem_of_model
from flows.cli.options import (
    DeviceOption,
    JsonOption,
    ModelOption,
    PresetOption,
    SeedOption,
    SelectByOption,
    SettingsOption,
    SkipUnreadableOption,
    SourceOption,
    SplitOption,
    TargetOption,
)
from flows.cli.parsing import (
    comma_list,
    pop_group,
    read_seeds,
    read_settings,
    settings_by_method,
)
from flows.cli.session import session
from sfda.errors import listed, shell_command

if TYPE_CHECKING:
    from sfda.annotation.take import TakeResult

DONE = "done already; "  # an earlier start of the same command


def query(
    model: ModelOption,
    target: TargetOption,
    by: Annotated[
        str,
        typer.Option(help="random, entropy, margin, coreset, badge, lftl, or FILE.py:Class"),
    ],
    budget: Annotated[str, typer.Option(help="a number of images, or a share: 50, 1%")],
    out: Annotated[Path, typer.Option(help="a new folder for the request")],
    before: Annotated[Path | None, typer.Option(help="the last request, for lftl")] = None,
    copy: Annotated[bool, typer.Option("--copy", help="copy the images into the request")] = False,
    settings: SettingsOption = None,
    split: SplitOption = "adapt",
    skip_unreadable: SkipUnreadableOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Choose samples for a person to label, and write a request for tools that people use."""
    with session(json, flow=True, models=[model], data=[target]) as output:
        from flows.query_labels import query as flow
        from sfda.adaptation.target import as_manifest
        from sfda.formats.request import REQUEST_FILE

        again = (out / REQUEST_FILE).is_file()  # another than this one is refused
        manifest = as_manifest(target, lambda: problem_of_model(model))
        request = flow(
            model,
            target,
            by,
            budget,
            str(out),
            str(before) if before else None,
            settings=read_settings(settings),
            split=split,
            copy_images=copy,
            seed=seed,
            device=device,
            skip_unreadable=skip_unreadable,
        )
        files = [row.key for row in request.requested]
        result = {
            "request": str(out),
            "count": len(files),
            "manifest": manifest,
            "copied": request.copied,
            "wanted": files,
            "again": again,
        }
        text = (
            f"{out}: {DONE if again else ''}{len(files)} images are to be labelled "
            "(label_studio.json, cvat_coco.json, request.csv)\nthen: "
            + shell_command("sfda", "answer", out, "ANSWERS", "--target", manifest)
        )
        output.show(result, text)


def answer(
    request: Annotated[Path, typer.Argument(help="the folder of the request")],
    answers: Annotated[Path, typer.Argument(help="Label Studio's or CVAT's export, or the CSV")],
    target: Annotated[Path, typer.Option(help="the manifest that was asked about")],
    out: Annotated[Path | None, typer.Option(help="default: the next version beside it")] = None,
    empty: Annotated[
        bool, typer.Option("--empty", help="images without a box, or a class, hold none")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Check the answers and write the next version of the target's manifest.

    A suspended run that waits for them goes on.
    """
    with session(json) as output:
        from sfda.annotation.carry_over import note_annotations
        from sfda.annotation.take import take_annotations, unmarked_message
        from sfda.state_folder import data_folder
        from tasks.prefect_runtime.resume import go_on

        taken = take_annotations(
            request, answers, target, out=out, data_root=data_folder(), empty=empty
        )
        note_annotations(taken.manifest)  # a start that was killed may have left this undone
        resumed = go_on(request, taken.manifest)
        result = {
            "manifest": str(taken.manifest),
            "answered": taken.annotated,
            "asked": taken.requested,
            "total": taken.total,
            "left_out": taken.unmarked,
            "resumed": resumed,
            "again": taken.again,
            "unanswered": {reason: list(keys) for reason, keys in taken.unanswered},
        }
        rest = [f"{len(keys)} {why}: {listed(keys)}" for why, keys in taken.unanswered]
        if rest:
            command = shell_command(
                "sfda", "answer", request, "ANSWERS", "--target", taken.manifest
            )
            rest.append(f"once they are answered: {command}")
        text = (
            f"{taken.manifest}: {DONE if taken.again else ''}{taken.annotated} of "
            f"{taken.requested} answered, {taken.total} labels in all"
            + "".join(f"\n{line}" for line in rest)
            + (f"\n{unmarked_message(taken.unmarked, taken.nothing)}" if taken.unmarked else "")
            + (f"\nrun {resumed} goes on" if resumed else f"\nthen: {_adapting(request, taken)}")
        )
        output.show(result, text)


def _adapting(request: Path, taken: TakeResult) -> str:
    """The command that learns from the answers."""
    from sfda.formats.request import read_request

    model = read_request(request).model
    return shell_command("sfda", "adapt", "--source", model, "--target", taken.manifest)


def rounds(
    source: SourceOption,
    target: Annotated[Path, typer.Option(help="a manifest with labels, held back but for answers")],
    queries: Annotated[str, typer.Option(help="a,b,c")],
    methods: Annotated[str, typer.Option(help="a,b,c")],
    budgets: Annotated[str, typer.Option(help="totals that grow: 1%,2%,5%")],
    seeds: Annotated[str, typer.Option(help="0,1,2")] = "0",
    preset: PresetOption = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="METHOD.k=v, or query.NAME.k=v")
    ] = None,
    select_by: SelectByOption = "last",
    skip_unreadable: SkipUnreadableOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """An experiment: queries x methods over growing budgets, answered from held-back labels."""
    with session(json, flow=True, adapts=True, models=[source], data=[target]) as output:
        from flows import presets
        from flows.rounds import rounds as flow

        shipped = presets.read(preset, allowed={"settings"}) if preset else {}
        chosen, overrides = comma_list(methods), read_settings(settings)
        query_settings = pop_group(overrides, "query")
        compared = flow(
            source,
            str(target),
            comma_list(queries),
            chosen,
            comma_list(budgets),
            read_seeds(seeds),
            settings=settings_by_method(chosen, pop_group(shipped, "settings"), overrides),
            query_settings=query_settings,
            select_by=select_by,
            device=device,
            skip_unreadable=skip_unreadable,
        )
        output.show(compared.model_dump(), compared.table)


def register(app: typer.Typer) -> None:
    """Put these commands on the command line."""
    for command in (query, answer, rounds):
        app.command()(command)
