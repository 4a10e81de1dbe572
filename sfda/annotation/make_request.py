"""The making of a request: what the model guesses of its rows, their pictures, and its folder."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from sfda.annotation.choose_rows import PROBABILITIES, ChosenRows
from sfda.annotation.query_plan import QueryPlan
from sfda.annotation.request_files import documents
from sfda.errors import BadInput, shell_command
from sfda.formats.keypoints import CropReader
from sfda.formats.request import REQUEST_FILE, Guess, Request, RequestedRow, image_name
from sfda.formats.volumes import slice_of
from sfda.inference.over_split import infer_split
from sfda.loading.opened import Opened, open_ref
from sfda.manifests.rows import Split
from sfda.manifests.write import partial_folder
from sfda.problems.registry import PROBLEMS
from sfda.refs import ManifestRef, ModelRef, ModelSpec
from sfda.state_folder import disk_errors, named_by_a_person
from sfda.types import UNKNOWN


def guesses_for(
    network: nn.Module, spec: ModelSpec, opened: Opened, rows: np.ndarray, device: torch.device
) -> dict[str, Any]:
    """What the model says of the rows that are asked about, by row id, as the problem's `infer`
    gives it; nothing for classes of whole images, which are known already.
    """
    if PROBLEMS[spec.problem].whole_image:
        return {}
    outputs = {}
    for row in rows.tolist():
        for output in infer_split(network, opened, spec, device, (row, row + 1)):
            outputs[opened.split.row_ids[row]] = output
    return outputs


def make_request(
    model: ModelRef,
    spec: ModelSpec,
    target: ManifestRef,
    split: Split,
    plan: QueryPlan,
    chosen: ChosenRows,
    outputs: dict[str, Any],
) -> tuple[Request, dict[str, Guess]]:
    """The request, and what the model says, in its classes and in pixels of its pictures."""
    problem = PROBLEMS[spec.problem]
    manifest, classes = open_ref(target).unlabelled(), spec.classes
    names = manifest.classes if isinstance(manifest.classes, tuple) else classes
    if outputs and set(classes) == set(names):
        names = classes
    copied = plan.copy_images or manifest.archive is not None or _sliced(split, chosen.rows)
    problem.labelling.refuse_classes(names, classes, manifest.name)
    index_of = np.array([names.index(c) if c in names else UNKNOWN for c in classes])
    certainty = problem.certainty(chosen.probs)
    requested, shown_guesses = [], {}
    for row in chosen.rows.tolist():
        name, key = split.row_ids[row], split.names[row]
        key = key.partition(":")[2] if manifest.arrays else key
        label = None
        if problem.whole_image:
            best = classes[int(chosen.probs[row].argmax())]
            label = best if best in names else names[0]
        picture = _picture(split, row, copied)
        if name in outputs:
            guess = problem.labelling.guess(outputs[name], index_of)
            shown_guesses[name] = problem.labelling.in_picture(guess, picture["corner"])
        requested.append(
            RequestedRow(
                row=name,
                key=key,
                file=image_name(name) if copied else problem.image_file(key),
                label=label,
                confidence=float(certainty[row]),
                **picture,
            )
        )
    skeleton = manifest.skeleton or spec.skeleton
    request = Request(
        problem=manifest.problem,
        manifest=manifest.name,
        manifest_sha256=target.sha256,
        split=plan.split,
        column="index" if manifest.arrays else "file",
        classes=tuple(names),
        edges=skeleton.edges if skeleton else (),
        by=plan.by,
        seed=plan.seed,
        model=model.uri,
        model_sha256=model.sha256,
        copied=copied,
        requested=tuple(requested),
    )
    return request, shown_guesses


def _picture(split: Split, row: int, copied: bool) -> dict[str, Any]:
    """Size of the picture that a person sees, its corner in the image, and who is meant in it."""
    if not isinstance(split.reader, CropReader):
        height, width = split.reader.size(row)
        return {"height": height, "width": width, "corner": (0, 0)}
    crop, box = split.reader.crop(row), split.reader.boxes[row]
    if not copied:
        height, width = split.reader.images.size(row)
        return {"height": height, "width": width, "corner": (0, 0), "box": box}
    corner = (crop.left, crop.top)
    if box:
        box = (box[0] - crop.left, box[1] - crop.top, box[2], box[3])
    return {"height": crop.side, "width": crop.side, "corner": corner, "box": box}


def _sliced(split: Split, rows: np.ndarray) -> bool:
    """Whether some rows are slices of volumes, which no tool for pictures opens."""
    return any(slice_of(split.names[row]) for row in rows.tolist())


def refuse_full(folder: Path, request_file: str) -> None:
    """Raise BadInput for a folder that a request cannot be written to; whether one that holds such
    a file is the same request is seen later, by `lies_in`."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        kind = "link" if folder.is_symlink() else "file"
        raise BadInput(f"{folder} is a {kind}; name a new folder with --out")
    if folder.exists() and any(folder.iterdir()) and not (folder / request_file).is_file():
        raise BadInput(f"{folder} holds something already; name a new folder with --out")


def lies_in(folder: Path, request_file: str, content: bytes) -> bool:
    """Whether a folder holds this request already. Raises BadInput where it holds another."""
    file = folder / request_file
    if not file.is_file():
        return False
    if file.read_bytes() != content:
        raise BadInput(f"{folder} holds another request already; name a new folder with --out")
    return True


def put_folder(part: Path, folder: Path) -> None:
    """Move a folder to where an empty one is, or none. Raises BadInput for a link."""
    if folder.is_symlink():
        raise BadInput(f"{folder} is a link; name another folder")
    if folder.exists():
        folder.rmdir()
    os.replace(part, folder)


def write_request(
    folder: Path, request: Request, guesses: dict[str, Guess], split: Split, chosen: ChosenRows
) -> None:
    """Write the folder, whole or not at all: the request for every tool, and the pictures. Where it
    is there already nothing is done. Raises BadInput where another is."""
    files = documents(request, guesses)
    if lies_in(folder, REQUEST_FILE, files[REQUEST_FILE]):
        return
    rest = np.ones(len(split), bool)
    rest[chosen.rows] = False
    with disk_errors(str(folder)), named_by_a_person(folder) as umask:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with partial_folder(folder.parent, folder.name) as part:
            part.chmod(0o777 & ~umask)
            for name, content in files.items():
                (part / name).write_bytes(content)
            if request.copied:
                for row, entry in zip(chosen.rows.tolist(), request.requested, strict=True):
                    path = part / PurePosixPath(entry.file)
                    path.parent.mkdir(exist_ok=True)
                    Image.fromarray(split.image(row)).save(path)
            np.savez(
                part / PROBABILITIES,
                row_ids=np.array(split.row_ids)[rest],
                probs=chosen.probs[rest],
                margin=chosen.margin[rest],
            )
            put_folder(part, folder)


def request_text(request: Request, folder: str) -> str:
    """What is wanted of whom, as markdown."""
    shown = request.requested[:20]
    lines = [
        f"### {len(request.requested)} labels are wanted for {request.manifest}",
        "",
        f"Chosen by `{request.by}` in split `{request.split}` in the eyes of `{request.model}`. "
        f"The request lies in `{folder}`: `label_studio.json` with `label_studio.xml`, "
        "`cvat_coco.json`, `request.csv`.",
        "",
        f"Answers come back with `{shell_command('sfda', 'answer', folder, 'ANSWERS')} --target "
        "MANIFEST`; the next `sfda adapt` starts from the manifest that it writes.",
        "",
        "| image | the model says | confidence |",
        "|---|---|---:|",
    ]
    what = PROBLEMS[request.problem].label_word
    lines += [f"| {w.key} | {w.label or what} | {w.confidence:.3f} |" for w in shown]
    if more := len(request.requested) - len(shown):
        lines.append(f"| and {more} more, see `{REQUEST_FILE}` | | |")
    return "\n".join(lines)
