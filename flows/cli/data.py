"""Commands about data: manifests verified, made and cut down, and boxes of other formats."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.options import Json, Problem, Regime, Skeleton, app, skeleton_of
from flows.cli.session import Output, session, words


@app.command()
def check(manifest: Path, json: Json = False) -> None:
    """Verify a manifest and name every fault."""
    with session(json, state=False) as out:
        from sfda.loading.progress import Progress
        from sfda.manifests.verify import check as check_manifest
        from sfda.state_folder import data_folder

        with Progress(f"check {manifest}", 0) as progress:
            found = check_manifest(manifest, data_folder(), progress=progress.to)
        result = {
            "ok": found.ok,
            "faults": list(found.faults),
            "count": found.count,
            "classes": found.classes,
            "notes": list(found.notes),
        }
        said = "\n".join(found.faults) or f"{manifest}: {found.count} images, no fault"
        said = "\n".join([said, *found.notes])
        out.show(result, said)
        if not found.ok:
            raise SystemExit(2)


@app.command()
def manifest(
    path: Path,
    out: Annotated[Path, typer.Option(help="where to write the manifest")],
    problem: Problem = "classification",
    model: Annotated[str | None, typer.Option(help="take the class names of this model")] = None,
    classes: Annotated[str | None, typer.Option(help="a,b,c")] = None,
    labels: Annotated[Path | None, typer.Option(help="CSV with file,class")] = None,
    template: Annotated[Path | None, typer.Option(help="a benchmark's template")] = None,
    masks: Annotated[
        str | None, typer.Option(help="folder of index masks; '.': NAME_mask beside each image")
    ] = None,
    values: Annotated[str | None, typer.Option(help="masks: value of each class, 0,255")] = None,
    ignore: Annotated[str | None, typer.Option(help="masks: value left out; default 255")] = None,
    groups: Annotated[
        Literal["folder"] | None, typer.Option(help="images of one folder are one video or volume")
    ] = None,
    spacing: Annotated[str | None, typer.Option(help="mm between pixels, 0.5x0.5")] = None,
    annotations: Annotated[Path | None, typer.Option(help="boxes or poses: a COCO JSON")] = None,
    skeleton: Skeleton = None,
    json: Json = False,
) -> None:
    """Make a manifest for a folder, a zip or an npz of images."""
    with session(json, state=model is not None) as output:
        from sfda.authoring.from_folder import build_manifest
        from sfda.authoring.from_masks import MaskOptions
        from sfda.errors import BadInput
        from sfda.state_folder import data_folder

        names = words(classes, None) if classes else None
        if model and names:
            raise BadInput("give --model or --classes, not both: a model brings its class names")
        bones = skeleton_of(skeleton, problem)
        if model:
            from tasks.tracking.models import open_spec, refer

            names = refer(model).classes
            bones = bones or open_spec(model).skeleton
        made = build_manifest(
            path, problem=problem, classes=names, labels_csv=labels, out=out, template=template,
            masks=MaskOptions.from_text(masks, values, ignore, groups, spacing),
            annotations=annotations, skeleton=bones,
            data_root=data_folder() if os.environ.get("SFDA_DATA") else None,
        )  # fmt: skip
        _show_manifest(output, made)


@app.command()
def convert(
    kind: Annotated[Literal["voc"], typer.Argument(help="voc: Pascal VOC's XML")],
    folder: Path,
    out: Annotated[Path, typer.Option(help="the COCO JSON to write")],
    classes: Annotated[str | None, typer.Option(help="a,b,c; default all that occur")] = None,
    json: Json = False,
) -> None:
    """Boxes of another format as COCO JSON, for `sfda manifest --annotations`."""
    with session(json, state=False) as output:
        from sfda.authoring.from_coco import convert_voc

        found = convert_voc(folder, out, words(classes, None) if classes else None)
        text = f"{out}: {found['images']} images, {found['boxes']} boxes"
        output.show({"out": str(out), **found}, text)


@app.command()
def subset(
    manifest: Path,
    out: Annotated[Path, typer.Option(help="where to write the new manifest")],
    classes: Annotated[str | None, typer.Option(help="a,b,c: the classes to keep")] = None,
    regimes: Annotated[Path | None, typer.Option(help="a benchmark's regimes.yaml")] = None,
    regime: Annotated[Regime | None, typer.Option(help="one of that file")] = None,
    side: Annotated[Literal["source", "target"] | None, typer.Option()] = None,
    json: Json = False,
) -> None:
    """Make a manifest of some classes of a labelled one, for partial and open targets."""
    with session(json, state=False) as output:
        from sfda.errors import BadInput
        from sfda.manifests.subset import side_of
        from sfda.manifests.subset import subset as write
        from sfda.state_folder import data_folder

        if regimes and regime and side and not classes:
            names, suffix = side_of(regimes, regime, side), f"{regime}, {side}"
        elif classes and not (regimes or regime or side):
            names, suffix = words(classes, None), None
        else:
            raise BadInput("give --classes a,b,c, or --regimes FILE with --regime and --side")
        made = write(manifest, classes=names, out=out, suffix=suffix, data_root=data_folder())
        _show_manifest(output, made)


def _show_manifest(output: Output, made: Path) -> None:
    """A manifest just written: its splits, counts and classes."""
    from sfda.manifests.schema import open_manifest

    found = open_manifest(made)
    splits = {name: split.count for name, split in found.splits.items()}
    text = f"{made}: " + ", ".join(f"{name} {count}" for name, count in splits.items())
    output.show({"manifest": str(made), "splits": splits, "classes": found.classes}, text)
