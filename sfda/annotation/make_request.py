"""The making of a request: what the model guesses of its rows, their pictures, and its folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from sfda.annotation.choose_rows import PROBABILITIES, ChosenRows
from sfda.annotation.query_plan import QueryPlan
from sfda.annotation.request import REQUEST_FILE, Guess, Request, RequestedRow, image_name
from sfda.annotation.request_files import documents
from sfda.errors import BadInput
from sfda.formats.keypoints import CropReader, file_of
from sfda.formats.masks import class_table
from sfda.formats.volumes import slice_of
from sfda.inference.over_split import infer_split
from sfda.inference.pose import Pose
from sfda.loading.opened import Opened, open_ref
from sfda.manifests.class_matching import joint_order
from sfda.manifests.rows import Split
from sfda.refs import ManifestRef, ModelRef, ModelSpec
from sfda.state_folder import disk_errors, named_by_a_person
from sfda.types import UNKNOWN

SHOWN_SCORE = 0.3  # score from which a box is shown to people


def guesses_for(
    network: nn.Module, spec: ModelSpec, opened: Opened, rows: np.ndarray, device: torch.device
) -> dict[str, Guess]:
    """What the model says of the rows that are asked about, in its own classes and in pixels of
    the images as they came; nothing for classes, which are known already.
    """
    if spec.problem == "classification":
        return {}
    kind = {"segmentation": "mask", "detection": "boxes", "pose": "pose"}[spec.problem]
    guesses = {}
    for row in rows.tolist():
        for _, output, *_ in infer_split(network, opened, spec, device, (row, row + 1)):
            guesses[opened.split.row_ids[row]] = Guess(**{kind: output})
    return guesses


def _renamed(guess: Guess, index_of: np.ndarray) -> Guess:
    """The guess in the classes of the request: `index_of` [C] of the model's, UNKNOWN for none."""
    if guess.mask is not None:
        return guess._replace(mask=class_table(index_of)[guess.mask])
    if guess.boxes is not None:
        boxes = guess.boxes.where(guess.boxes.scores >= SHOWN_SCORE)
        boxes = boxes._replace(labels=torch.from_numpy(index_of)[boxes.labels])
        return guess._replace(boxes=boxes.where(boxes.labels != UNKNOWN))
    assert guess.pose is not None
    order = np.argsort(index_of)
    return guess._replace(pose=Pose(guess.pose.joints[order], guess.pose.scores[order]))


def make_request(
    model: ModelRef,
    spec: ModelSpec,
    target: ManifestRef,
    split: Split,
    plan: QueryPlan,
    chosen: ChosenRows,
    guesses: dict[str, Guess],
) -> tuple[Request, dict[str, Guess]]:
    """The request, and the guesses in its classes and in pixels of its pictures."""
    manifest, classes = open_ref(target).unlabelled(), spec.classes
    names = manifest.classes if isinstance(manifest.classes, tuple) else classes
    if guesses and set(classes) == set(names):
        names = classes
    copied = plan.copy_images or manifest.archive is not None or _sliced(split, chosen.rows)
    if spec.problem == "pose":
        joint_order(names, classes, manifest.name)  # refuses other joints
    index_of = np.array([names.index(c) if c in names else UNKNOWN for c in classes])
    certainty = _certainty(spec.problem, chosen.probs)
    requested, shown_guesses = [], {}
    for row in chosen.rows.tolist():
        name, key = split.row_ids[row], split.names[row]
        key = key.partition(":")[2] if manifest.arrays else key
        label = None
        if spec.problem == "classification":
            best = classes[int(chosen.probs[row].argmax())]
            label = best if best in names else names[0]
        picture = _picture(split, row, copied)
        if name in guesses:
            shown_guesses[name] = _in_picture(_renamed(guesses[name], index_of), picture["corner"])
        file = file_of(key) if spec.problem == "pose" else key
        requested.append(
            RequestedRow(
                row=name,
                key=key,
                file=image_name(name) if copied else file,
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


def _in_picture(guess: Guess, corner: tuple[int, int]) -> Guess:
    """The guess in pixels of a picture with this corner; only crops of poses have another."""
    if corner == (0, 0):
        return guess
    assert guess.pose is not None
    return guess._replace(pose=guess.pose._replace(joints=guess.pose.joints - np.array(corner)))


def _certainty(problem: str, probs: np.ndarray) -> np.ndarray:
    """How sure the model is of each row: the likeliest class; of boxes and joints, whose last
    column is "nothing there", all that is not that.
    """
    if problem in ("detection", "pose"):
        return np.asarray(1 - probs[:, -1])
    return np.asarray(probs.max(1))


def _sliced(split: Split, rows: np.ndarray) -> bool:
    """Whether some rows are slices of volumes, which no tool for pictures opens."""
    return any(slice_of(split.names[row]) for row in rows.tolist())


def refuse_full(folder: Path) -> None:
    """Raise BadInput for a folder that a request cannot be written to."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file; name a new folder with --out")
    if folder.exists() and any(folder.iterdir()):
        raise BadInput(f"{folder} holds something already; name a new folder with --out")


def write_request(
    folder: Path, request: Request, guesses: dict[str, Guess], split: Split, chosen: ChosenRows
) -> None:
    """Write the folder, whole or not at all: the request for every tool, and the pictures."""
    rest = np.ones(len(split), bool)
    rest[chosen.rows] = False
    with disk_errors(str(folder)), named_by_a_person(folder) as umask:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            part.chmod(0o777 & ~umask)
            for name, content in documents(request, guesses).items():
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
            if folder.exists():
                folder.rmdir()  # empty, as was made sure
            os.replace(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)


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
        f"Answers come back with `sfda answer {folder} ANSWERS --target MANIFEST`; the next "
        "`sfda adapt` starts from the manifest that it writes.",
        "",
        "| image | the model says | confidence |",
        "|---|---|---:|",
    ]
    what = {"detection": "boxes", "pose": "joints"}.get(request.problem, "a mask")
    lines += [f"| {w.key} | {w.label or what} | {w.confidence:.3f} |" for w in shown]
    if more := len(request.requested) - len(shown):
        lines.append(f"| and {more} more, see `{REQUEST_FILE}` | | |")
    return "\n".join(lines)
