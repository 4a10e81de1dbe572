"""Which samples a person should label next, and the request that asks for them."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from prefect import task

from sfda import plugins
from sfda.annotation.request import FILE, Guess, Request, WantedRow, image_name
from sfda.annotation.request_files import documents
from sfda.building_blocks.device import DeviceName, choose, place
from sfda.config import Config, merged
from sfda.errors import BadInput
from sfda.formats.keypoints import CropReader, file_of
from sfda.formats.masks import IGNORE
from sfda.formats.readers import BROKEN
from sfda.formats.volumes import slice_of
from sfda.inference.pose import Pose
from sfda.inference.split import look_at
from sfda.inference.summaries import WHOLE, keep_summaries
from sfda.loading import opened as manifests
from sfda.loading.scan import at_once, scan
from sfda.manifests.rows import Split
from sfda.manifests.schema import Manifest
from sfda.queries._base import Before, Pool, Query
from sfda.refs import ManifestRef, ModelRef, ModelSpec
from sfda.state_folder import disk_errors, home
from sfda.types import UNKNOWN
from tasks.prefect_runtime.retry import SERVERS
from tasks.tracking.models import open_model

log = logging.getLogger("sfda")
SHOWN = 0.3  # score from which a box is shown to people
PROBABILITIES = "probabilities.npz"  # of the model that asked: the next query's contrast


class QueryPlan(Config):
    """What fixes a query besides model and target."""

    by: str
    budget: int
    config: dict[str, Any]
    split: str
    seed: int
    copy_images: bool = False


def read_budget(text: str, size: int) -> int:
    """`50`, or a share of the split such as `1%`. Raises BadInput.

    >>> read_budget("50", 1000), read_budget("1%", 1250)
    (50, 12)
    """
    number, percent, rest = str(text).strip().partition("%")
    try:
        found = round(size * float(number) / 100) if percent else int(number)
    except (ValueError, OverflowError):
        found = 0
    if rest or found < 1:
        raise BadInput(f"budget {text} of {size} images: write a number above 0, or a share, 1%")
    return found


def make_query_plan(
    problem: str, by: str, budget: int, split: str, settings: Mapping[str, Any], seed: int,
    copy_images: bool = False,
) -> QueryPlan:  # fmt: skip
    """The plan with its settings checked. Raises BadInput."""
    kind: type[Query] = plugins.load("queries", by)
    given = merged(kind.usual.get(problem, {}), dict(settings))
    config = kind.Config.from_settings(given).model_dump(mode="json")
    return QueryPlan(
        by=by, budget=budget, config=config, split=split, seed=seed, copy_images=copy_images
    )


@task(name="query of labels", **SERVERS)
def query_labels(
    model: ModelRef,
    target: ManifestRef,
    plan: QueryPlan,
    out: str,
    before: str | None = None,
    device: DeviceName = "auto",
) -> Request:
    """Choose rows, and write the request to the folder `out`, whole or not at all.

    `before` is the folder of the last request, whose model's probabilities `lftl` contrasts. Raises
    BadInput where there is nothing left to ask, or `out` holds something already.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file; name a new folder with --out")
    if folder.exists() and any(folder.iterdir()):
        raise BadInput(f"{folder} holds something already; name a new folder with --out")
    network, spec = open_model(model)
    chosen = choose(device)
    manifest = manifests.open_ref(target).unlabelled()
    if manifest.problem != spec.problem:
        raise BadInput(f"{target.path} is for {manifest.problem}, the model for {spec.problem}")
    manifests.class_map(manifest.classes, spec.classes, manifest.name)
    opened = manifests.open_split(manifest, plan.split, spec.input)
    split = opened.split
    place(network, chosen)
    done = split.answers.rows if split.answers else np.empty(0, np.int64)
    if len(done) == len(split):
        raise BadInput(f"every image of {target.path}, split '{plan.split}', has an answer already")
    with tempfile.TemporaryDirectory(dir=home()) as scratch, disk_errors(f"summaries in {scratch}"):
        size = at_once(network, spec.input)  # which the network that sums up no longer tells
        look = scan(opened.images, spec.input, device=chosen, batch_size=size)
        shards = keep_summaries(look, network, spec.problem, Path(scratch), len(split))
        whole = spec.problem in WHOLE
        pool = Pool(shards, done, _before(before, split), whole)
        if plan.by == "lftl" and len(done) and before is None:
            log.warning("lftl contrasts with the last request's model: give its folder as --before")
        kind: type[Query] = plugins.load("queries", plan.by)
        query = kind(kind.Config.from_settings(plan.config))
        rows = query.choose(pool, plan.budget, seed=plan.seed)
        probs = torch.cat([part for _, part in pool.passes("probs")]).numpy()
        margin = pool.column("margin").numpy()
    guesses = _guesses(network, spec, opened, rows, chosen)
    sure = _sure(spec.problem, probs)
    request = _request(
        model, target, manifest, split, plan, spec, rows, sure, probs, guesses
    )  # fmt: skip
    _write(folder, request, guesses, split, rows, probs, margin)
    return request


def _before(folder: str | None, split: Split) -> Before | None:
    """What the last request's model said, in the order of these rows."""
    if folder is None:
        return None
    file = Path(folder, PROBABILITIES)
    try:
        with np.load(file, allow_pickle=False) as found:
            ids, probs, margin = found["row_ids"], found["probs"], found["margin"]
            if probs.ndim != 2 or ids.shape != margin.shape or len(ids) != len(probs):
                raise ValueError("its arrays are of other shapes")
    except (*BROKEN, KeyError):
        raise BadInput(
            f"{folder} holds no probabilities of an earlier request ({PROBABILITIES} is missing or "
            "damaged); leave out --before"
        ) from None
    place = {name: i for i, name in enumerate(ids.tolist())}
    all_probs = np.full((len(split), probs.shape[1]), np.nan, np.float32)
    all_margin = np.full(len(split), np.nan, np.float32)
    for row, name in enumerate(split.row_ids):
        if (at := place.get(name)) is not None:
            all_probs[row], all_margin[row] = probs[at], margin[at]
    return Before(torch.from_numpy(all_probs), torch.from_numpy(all_margin))


def _guesses(
    network: Any, spec: Any, opened: manifests.Opened, rows: np.ndarray, device: torch.device
) -> dict[str, Guess]:
    """What the model answers to the rows that are asked about, in its own classes and in pixels of
    the images as they came; nothing for classes, which are known already.
    """
    if spec.problem == "classification":
        return {}
    found = {}
    for row in rows.tolist():
        for _, answer, *_ in look_at(network, opened, spec, device, (row, row + 1)):
            kind = {"segmentation": "mask", "detection": "boxes", "pose": "pose"}[spec.problem]
            found[opened.split.row_ids[row]] = Guess(**{kind: answer})
    return found


def _named(guess: Guess, place: np.ndarray) -> Guess:
    """The guess in the classes of the request: `place` [C] of the model's, UNKNOWN for none."""
    if guess.mask is not None:
        table = np.full(256, IGNORE, np.uint8)
        table[: len(place)] = np.where(place == UNKNOWN, IGNORE, place)
        return guess._replace(mask=table[guess.mask])
    if guess.boxes is not None:
        boxes = guess.boxes.where(guess.boxes.scores >= SHOWN)
        boxes = boxes._replace(labels=torch.from_numpy(place)[boxes.labels])
        return guess._replace(boxes=boxes.where(boxes.labels != UNKNOWN))
    assert guess.pose is not None
    order = np.argsort(place)
    return guess._replace(pose=Pose(guess.pose.joints[order], guess.pose.scores[order]))


def _request(
    model: ModelRef, target: ManifestRef, manifest: Manifest, split: Split, plan: QueryPlan,
    spec: ModelSpec, rows: np.ndarray, sure: np.ndarray, probs: np.ndarray,
    guesses: dict[str, Guess],
) -> Request:  # fmt: skip
    """The request; `guesses` become those in its classes and of its pictures."""
    classes = spec.classes
    names = manifest.classes if isinstance(manifest.classes, tuple) else classes
    if guesses and set(classes) == set(names):
        names = classes
    copied = plan.copy_images or manifest.archive is not None or _sliced(split, rows)
    if spec.problem == "pose":
        manifests.joint_order(names, classes, manifest.name)  # refuses other joints
    place = np.array([names.index(c) if c in names else UNKNOWN for c in classes])
    wanted = []
    for row in rows.tolist():
        name, key = split.row_ids[row], split.names[row]
        key = key.partition(":")[2] if manifest.arrays else key
        label = None
        if spec.problem == "classification":
            best = classes[int(probs[row].argmax())]
            label = best if best in names else names[0]
        if name in guesses:
            guesses[name] = _named(guesses[name], place)
        file = file_of(key) if spec.problem == "pose" else key
        shown = _shown(split, row, copied)
        if shown["corner"] != (0, 0):
            guesses[name] = _moved(guesses[name], shown["corner"])
        wanted.append(
            WantedRow(
                row=name, key=key, file=image_name(name) if copied else file, label=label,
                confidence=float(sure[row]), **shown,
            )
        )  # fmt: skip
    skeleton = manifest.skeleton or spec.skeleton
    return Request(
        problem=manifest.problem, manifest=manifest.name, manifest_sha256=target.sha256,
        split=plan.split, column="index" if manifest.arrays else "file", classes=tuple(names),
        edges=skeleton.edges if skeleton else (), by=plan.by, seed=plan.seed, model=model.uri,
        model_sha256=model.sha256, copied=copied, wanted=tuple(wanted),
    )  # fmt: skip


def _shown(split: Split, row: int, copied: bool) -> dict[str, Any]:
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


def _moved(guess: Guess, corner: tuple[int, int]) -> Guess:
    """Joints in pixels of a crop with this corner."""
    assert guess.pose is not None
    return guess._replace(pose=guess.pose._replace(joints=guess.pose.joints - np.array(corner)))


def _sure(problem: str, probs: np.ndarray) -> np.ndarray:
    """How sure the model is of each row: the likeliest class; of boxes and joints, whose last
    column is "nothing there", all that is not that.
    """
    found: np.ndarray = 1 - probs[:, -1] if problem in ("detection", "pose") else probs.max(1)
    return found


def _sliced(split: Split, rows: np.ndarray) -> bool:
    """Whether some rows are slices of volumes, which no tool for pictures opens."""
    return any(slice_of(split.names[row]) for row in rows.tolist())


def _write(
    folder: Path, request: Request, guesses: dict[str, Guess], split: Split, rows: np.ndarray,
    probs: np.ndarray, margin: np.ndarray,
) -> None:  # fmt: skip
    rest = np.ones(len(split), bool)
    rest[rows] = False
    with disk_errors(str(folder)):
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            part.chmod(0o755)
            for name, content in documents(request, guesses).items():
                (part / name).write_bytes(content)
            if request.copied:
                for row, wanted in zip(rows.tolist(), request.wanted, strict=True):
                    place_ = part / PurePosixPath(wanted.file)
                    place_.parent.mkdir(exist_ok=True)
                    Image.fromarray(split.image(row)).save(place_)
            np.savez(
                part / PROBABILITIES, row_ids=np.array(split.row_ids)[rest], probs=probs[rest],
                margin=margin[rest],
            )  # fmt: skip
            if folder.exists():
                folder.rmdir()  # empty, as was made sure
            os.replace(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def request_text(request: Request, folder: str) -> str:
    """What is wanted of whom, as markdown."""
    shown = request.wanted[:20]
    lines = [
        f"### {len(request.wanted)} labels are wanted for {request.manifest}",
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
    if more := len(request.wanted) - len(shown):
        lines.append(f"| and {more} more, see `{FILE}` | | |")
    return "\n".join(lines)
