"""Commands about data: manifests verified, made and cut down, and boxes of other formats."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows.cli.model_input import skeleton_of
from flows.cli.options import (
    ClassesFileOption,
    JsonOption,
    ManifestArgument,
    ProblemOption,
    SkeletonOption,
)
from flows.cli.output import Output
from flows.cli.parsing import class_names
from flows.cli.session import session

BoxFormat = Literal["xywh", "xyxy", "cxcywh", "xywh-shares", "xyxy-shares", "cxcywh-shares"]
JointFormat = Literal["pixels", "shares", "box-pixels", "box-shares"]


def check(
    manifest: Annotated[Path, typer.Argument(help="a manifest; with --explain, any images")],
    explain: Annotated[
        bool, typer.Option("--explain", help="say what a folder, zip or npz holds, and what to do")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Verify a manifest and name every fault; or explain what nobody has prepared."""
    with session(json, state=False) as out:
        if explain:
            from sfda.authoring.unprepared.explain import explain as explanation_of

            seen = explanation_of(manifest)
            out.show(seen.model_dump(), seen.text())
            return
        from sfda.loading.progress import ProgressBar
        from sfda.manifests.verify import verify_manifest
        from sfda.state_folder import data_folder

        with ProgressBar(f"check {manifest}", 0) as progress:
            report = verify_manifest(manifest, data_folder(), progress=progress.to)
        result = {
            "ok": report.ok,
            "faults": list(report.faults),
            "count": report.count,
            "classes": report.classes,
            "notes": list(report.notes),
        }
        lines = list(report.faults) or [f"{manifest}: {report.count} images, no fault"]
        out.show(result, "\n".join([*lines, *report.notes]))
        if not report.ok:
            raise SystemExit(2)


def manifest(
    path: Path,
    out: Annotated[Path, typer.Option(help="where to write the manifest")],
    problem: ProblemOption = "classification",
    model: Annotated[str | None, typer.Option(help="take the class names of this model")] = None,
    classes: Annotated[str | None, typer.Option(help="a,b,c")] = None,
    classes_file: ClassesFileOption = None,
    labels: Annotated[
        Path | None, typer.Option(help="CSV with file,class (file,classes where several fit)")
    ] = None,
    template: Annotated[Path | None, typer.Option(help="a benchmark's template")] = None,
    masks: Annotated[
        str | None, typer.Option(help="folder of index masks; '.': NAME_mask beside each image")
    ] = None,
    values: Annotated[str | None, typer.Option(help="masks: value of each class, 0,255")] = None,
    ignore: Annotated[str | None, typer.Option(help="masks: value left out; default 255")] = None,
    groups: Annotated[
        str | None,
        typer.Option(help="images of one video: folder, a regex with one (group), a glob 'vid*_'"),
    ] = None,
    spacing: Annotated[str | None, typer.Option(help="mm between pixels, 0.5x0.5")] = None,
    resample: Annotated[
        bool, typer.Option("--resample", help="volumes: write masks that lie where images do")
    ] = False,
    annotations: Annotated[Path | None, typer.Option(help="boxes or poses: a COCO JSON")] = None,
    box_format: Annotated[
        BoxFormat | None, typer.Option(help="what a bbox is, if not x,y,width,height in pixels")
    ] = None,
    joint_format: Annotated[
        JointFormat | None, typer.Option(help="what keypoints are, if not pixels")
    ] = None,
    skeleton: SkeletonOption = None,
    limit: Annotated[int | None, typer.Option(help="at most so many images, of all kinds")] = None,
    share: Annotated[float | None, typer.Option(help="a part of the images, 0.1: of each kind")] = (
        None
    ),
    seed: Annotated[int, typer.Option(min=0, help="which images --limit and --share take")] = 0,
    json: JsonOption = False,
) -> None:
    """Make a manifest for a folder, a zip or an npz of images."""
    with session(json, state=model is not None) as output:
        from sfda.authoring.from_folder import build_manifest
        from sfda.authoring.from_masks import MaskOptions
        from sfda.authoring.splits import Portion
        from sfda.errors import BadInput
        from sfda.formats.plausibility.rewriting import CoordinateFormats
        from sfda.state_folder import data_folder

        names = class_names(classes, classes_file) if classes or classes_file else None
        if model and names:
            raise BadInput("give --model or --classes, not both: a model brings its class names")
        bones, padding = skeleton_of(skeleton, problem), None
        if model:
            from tasks.tracking.models import model_ref, open_spec

            names = model_ref(model).classes
            bones, padding = bones or open_spec(model).skeleton, open_spec(model).padding
        made = build_manifest(
            path,
            problem=problem,
            classes=names,
            labels_csv=labels,
            out=out,
            template=template,
            masks=MaskOptions.from_text(masks, values, ignore, None, spacing, resample=resample),
            annotations=annotations,
            formats=CoordinateFormats(box_format, joint_format),
            skeleton=bones,
            data_root=data_folder() if os.environ.get("SFDA_DATA") else None,
            part=Portion(limit, share, seed),
            groups=groups,
            padding=padding,
        )
        _show_manifest(output, made)


def convert(
    kind: Annotated[
        Literal["voc", "yolo"],
        typer.Argument(help="voc: Pascal VOC's XML; yolo: YOLO's folder of .txt files"),
    ],
    folder: Path,
    out: Annotated[Path, typer.Option(help="the COCO JSON to write")],
    classes: Annotated[str | None, typer.Option(help="a,b,c; default all that occur")] = None,
    classes_file: ClassesFileOption = None,
    empty: Annotated[
        bool, typer.Option("--empty", help="yolo: images without a .txt file hold nothing")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Boxes of another format as COCO JSON, for `sfda manifest --annotations`."""
    with session(json, state=False) as output:
        from sfda.authoring.conversion.voc import convert_voc
        from sfda.authoring.conversion.yolo import convert_yolo
        from sfda.errors import BadInput, shell_command
        from sfda.problems.registry import PROBLEMS

        names = class_names(classes, classes_file) if classes or classes_file else None
        if empty and kind != "yolo":
            raise BadInput("--empty is for yolo; an XML without an object says that itself")
        if kind == "yolo":
            counts = convert_yolo(folder, out, names, empty=empty)
        else:
            counts = convert_voc(folder, out, names)
        images = folder if folder.is_dir() else folder.parent
        problem = next(name for name, one in PROBLEMS.items() if one.annotations == "boxes")
        then = ("sfda", "manifest", images, "--problem", problem, "--annotations", out)
        lines = [
            f"{out}: {counts['images']} images, {counts['boxes']} boxes",
            *counts.get("notes", ()),
            f"then: {shell_command(*then, '--out', out.with_suffix('.yaml'))}",
        ]
        output.show({"out": str(out), **counts}, "\n".join(lines))


def subset(
    manifest: ManifestArgument,
    out: Annotated[Path, typer.Option(help="where to write the new manifest")],
    classes: Annotated[str | None, typer.Option(help="a,b,c: the classes to keep")] = None,
    regimes: Annotated[Path | None, typer.Option(help="a benchmark's regimes.yaml")] = None,
    regime: Annotated[
        Literal["closed", "partial", "open", "open-partial"] | None,
        typer.Option(help="one of that file"),
    ] = None,
    side: Annotated[Literal["source", "target"] | None, typer.Option()] = None,
    json: JsonOption = False,
) -> None:
    """Make a manifest of some classes of a labelled one, for partial and open targets."""
    with session(json, state=False) as output:
        from sfda.errors import BadInput
        from sfda.manifests.subset import side_of, write_subset
        from sfda.state_folder import data_folder

        if regimes and regime and side and not classes:
            names, suffix = side_of(regimes, regime, side), f"{regime}, {side}"
        elif classes and not (regimes or regime or side):
            names, suffix = class_names(classes), None
        else:
            raise BadInput("give --classes a,b,c, or --regimes FILE with --regime and --side")
        made = write_subset(
            manifest, classes=names, out=out, suffix=suffix, data_root=data_folder()
        )
        _show_manifest(output, made)


def _show_manifest(output: Output, made: Path) -> None:
    """A manifest just written: its splits, counts and classes."""
    from sfda.authoring.left_right import pairs_text
    from sfda.manifests.opening import open_manifest
    from sfda.manifests.verify import manifest_notes
    from sfda.problems.registry import PROBLEMS

    manifest = open_manifest(made)
    notes = manifest_notes(manifest)
    splits = {name: split.count for name, split in manifest.splits.items()}
    text = f"{made}: " + ", ".join(f"{name} {count}" for name, count in splits.items())
    result: dict[str, Any] = {
        "manifest": str(made),
        "splits": splits,
        "classes": manifest.classes,
        "notes": notes,
    }
    if "skeleton" in PROBLEMS[manifest.problem].manifest_fields and manifest.classes:
        pairs = manifest.skeleton.pairs if manifest.skeleton else ()
        result["pairs"] = [list(pair) for pair in pairs]
        text += f"\n{pairs_text(pairs)}\npadding of crops: {manifest.padding:g}"
    output.show(result, "\n".join([text, *notes]))


def register(app: typer.Typer) -> None:
    """Put these commands on the command line."""
    for command in (check, manifest, convert, subset):
        app.command()(command)
