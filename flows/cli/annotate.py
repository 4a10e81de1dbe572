"""The commands of active adaptation: `sfda query`, `sfda answer`, `sfda rounds`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.session import read_settings, session, words

Json = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option()]
Set = Annotated[list[str] | None, typer.Option("--set", help="a setting, k=v; dots nest")]


def query(
    model: Annotated[str, typer.Option(help="models:/NAME@champion")],
    target: Annotated[str, typer.Option(help="a manifest, or a folder of images")],
    by: Annotated[str, typer.Option(help="random, entropy, margin, coreset, badge, lftl")],
    budget: Annotated[str, typer.Option(help="a number of images, or a share: 50, 1%")],
    out: Annotated[Path, typer.Option(help="a new folder for the request")],
    before: Annotated[Path | None, typer.Option(help="the last request, for lftl")] = None,
    copy: Annotated[bool, typer.Option("--copy", help="copy the images into the request")] = False,
    settings: Set = None,
    split: str = "adapt",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Choose samples for a person to label, and write a request for tools that people use."""
    with session(json, flow=True, models=[model], data=[target]) as output:
        from flows.cli.output import problem_of_model
        from flows.query_labels import query as flow
        from sfda.loading.opened import as_manifest

        place = as_manifest(target, lambda: problem_of_model(model))
        found = flow(
            model, place, by, budget, str(out), str(before) if before else None,
            settings=read_settings(settings or []), split=split, copy_images=copy, seed=seed,
            device=device,
        )  # fmt: skip
        files = [w.key for w in found.wanted]
        result = {
            "request": str(out), "count": len(files), "manifest": place, "copied": found.copied,
            "wanted": files,
        }  # fmt: skip
        text = (
            f"{out}: {len(files)} images are to be labelled (label_studio.json, cvat_coco.json, "
            f"request.csv)\nthen: sfda answer {out} ANSWERS --target {place}"
        )
        output.show(result, text)


def answer(
    request: Annotated[Path, typer.Argument(help="the folder of the request")],
    answers: Annotated[Path, typer.Argument(help="Label Studio's or CVAT's export, or the CSV")],
    target: Annotated[Path, typer.Option(help="the manifest that was asked about")],
    out: Annotated[Path | None, typer.Option(help="default: the next version beside it")] = None,
    empty: Annotated[
        bool, typer.Option("--empty", help="images without a box hold no object")
    ] = False,
    json: Json = False,
) -> None:
    """Check the answers and write the next version of the target's manifest.

    A suspended run that waits for them goes on.
    """
    with session(json) as output:
        from sfda.annotation.carry_over import note
        from sfda.annotation.take import take_answers, told_bare
        from sfda.state_folder import data_folder
        from tasks.prefect_runtime.resume import go_on

        found = take_answers(
            request, answers, target, out=out, data_root=data_folder(), empty=empty
        )
        note(found.manifest)
        resumed = go_on(request, found.manifest)
        result = {
            "manifest": str(found.manifest), "answered": found.answered, "asked": found.asked,
            "total": found.total, "left_out": found.bare, "resumed": resumed,
        }  # fmt: skip
        text = (
            f"{found.manifest}: {found.answered} of {found.asked} answered, {found.total} labels "
            "in all"
            + (f"\n{told_bare(found.bare)}" if found.bare else "")
            + (f"\nrun {resumed} goes on" if resumed else "")
        )
        output.show(result, text)


def rounds(
    source: Annotated[str, typer.Option(help="models:/NAME@source")],
    target: Annotated[Path, typer.Option(help="a manifest with labels, held back but for answers")],
    queries: Annotated[str, typer.Option(help="a,b,c")],
    methods: Annotated[str, typer.Option(help="a,b,c")],
    budgets: Annotated[str, typer.Option(help="totals that grow: 1%,2%,5%")],
    seeds: Annotated[str, typer.Option()] = "0",
    preset: Annotated[str | None, typer.Option(help="settings by method, as for compare")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="METHOD.k=v, or query.NAME.k=v")
    ] = None,
    select_by: str = "last",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """An experiment: queries x methods over growing budgets, answered from held-back labels."""
    with session(json, flow=True, adapts=True, models=[source], data=[target]) as output:
        from flows import presets
        from flows.cli.output import taken
        from flows.form import per_method, read_seeds
        from flows.query_labels import rounds as flow

        chosen = list(words(methods, None))
        given = presets.read(preset, allowed={"settings"}) if preset else {}
        more = read_settings(settings or [])
        asked = taken(more, "query")
        own = per_method(chosen, taken(given, "settings"), more)
        found = flow(
            source, str(target), list(words(queries, None)), chosen, list(words(budgets, None)),
            read_seeds(seeds), settings=own, query_settings=asked, select_by=select_by,
            device=device,
        )  # fmt: skip
        output.show(found.model_dump(), found.table)


def register(app: typer.Typer) -> None:
    """Put the commands on the command line."""
    for command in (query, answer, rounds):
        app.command()(command)
