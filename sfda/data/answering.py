"""From a request and its answers to the next version of the target's manifest, all or nothing."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import yaml
from PIL import Image

from sfda.data.digests import bytes_digest
from sfda.data.exports import Given, painted, read_export
from sfda.data.labels import listed
from sfda.data.masks import IGNORE, Mask
from sfda.data.requests import Request, WantedRow, read_request
from sfda.data.rows import read_csv, read_split
from sfda.data.schema import Manifest, open_manifest
from sfda.data.writing import put
from sfda.errors import BadInput


class Taken(NamedTuple):
    """What `sfda answer` wrote."""

    manifest: Path
    answered: int  # of this request
    asked: int
    total: int  # answers that the manifest has now


def take_answers(
    folder: Path,
    answers: Path,
    target: Path,
    *,
    out: Path | None = None,
    data_root: Path | None = None,
) -> Taken:
    """Check every answer to the request in `folder` and write the next version of `target`.

    It lies beside `target` (`usps.yaml`, then `usps.v2.yaml`) unless `out` says otherwise, with
    earlier answers kept. Raises BadInput that names every fault; nothing is written then.
    """
    request = read_request(folder)
    manifest = open_manifest(target, data_root=data_root)
    split = read_split(manifest.unlabelled(), request.split)
    faults = []
    if (manifest.name, manifest.problem) != (request.manifest, request.problem):
        raise BadInput(f"{folder} asks about {request.manifest}, not about {manifest.name}")
    place = dict(zip(split.row_ids, split.names, strict=True))
    gone = [w.key for w in request.wanted if w.row not in place]
    if gone:
        faults.append(f"images that {target} lacks: {listed(gone)}")
    known = {split.row_ids[int(r)] for r in split.answers.rows} if split.answers else set()
    if again := [w.key for w in request.wanted if w.row in known]:
        faults.append(f"answered already in {target}: {listed(again)}")
    found, more = match(request, read_export(answers))
    faults += more
    if not faults and not found:
        faults.append("not one sample has an answer")
    if faults:
        raise BadInput(f"{answers}: " + "; ".join(faults) + "; nothing was taken")
    path = out or next_path(target, manifest)
    total = _write(manifest, request, found, path)
    return Taken(path, len(found), len(request.wanted), total)


def match(
    request: Request, given: list[Given]
) -> tuple[dict[str, tuple[WantedRow, str | Mask]], list[str]]:
    """The answer to each row, and every fault."""
    by_row = {w.row: w for w in request.wanted}
    by_name: dict[str, list[WantedRow]] = {}
    for w in request.wanted:
        for name in {w.key, w.file, PurePosixPath(w.file).name}:
            by_name.setdefault(name, []).append(w)
    found: dict[str, tuple[WantedRow, str | Mask]] = {}
    kinds: dict[str, list[str]] = {}
    seen: Counter[str] = Counter()
    for one in given:
        wanted = by_row.get(one.row or "")
        if wanted is None and not one.row and one.file:
            near = by_name.get(one.file) or by_name.get(PurePosixPath(one.file).name) or []
            wanted = near[0] if len(near) == 1 else None
        told = one.file or one.row or one.where
        if wanted is None:
            kinds.setdefault("never asked for", []).append(told)
            continue
        seen[wanted.row] += 1
        if seen[wanted.row] > 1:
            kinds.setdefault("answered twice", []).append(wanted.key)
            continue
        if one.fault:
            kinds.setdefault("unusable", []).append(f"{wanted.key}: {one.fault}")
            continue
        answer, kind, fault = _answer(request, wanted, one)
        if fault:
            kinds.setdefault(kind, []).append(fault)
        elif answer is not None:
            found[wanted.row] = (wanted, answer)
    return found, [f"{kind}: {listed(list(dict.fromkeys(said)))}" for kind, said in kinds.items()]


def _answer(request: Request, wanted: WantedRow, one: Given) -> tuple[str | Mask | None, str, str]:
    if request.problem == "classification":
        if not one.labels:
            return None, "", ""
        if len(one.labels) > 1:
            return None, "several classes", f"{wanted.key} ({', '.join(one.labels)})"
        if one.labels[0] not in request.classes:
            told = f"{wanted.key} ({one.labels[0]})"
            return None, f"unknown class (known: {listed(request.classes)})", told
        return one.labels[0], "", ""
    if not one.regions and one.mask is None:
        return None, "", ""
    odd = sorted({r.label for r in one.regions} - set(request.classes))
    if odd:
        told = f"{wanted.key} ({', '.join(odd)})"
        return None, f"unknown class (known: {listed(request.classes)})", told
    size = (wanted.height, wanted.width)
    shapes = {r.bits.shape for r in one.regions} | (
        {one.mask.shape} if one.mask is not None else set()
    )
    if shapes != {size}:
        return None, "of another size than its image", f"{wanted.key} ({sorted(shapes)[0]})"
    mask = painted(one, request.classes, size)
    values = np.unique(mask[mask != IGNORE])
    if not len(values):
        return None, "no pixel that counts", wanted.key
    if values.max() >= len(request.classes):
        return None, "values of no class", f"{wanted.key} ({int(values.max())})"
    return mask, "", ""


def next_path(path: Path, manifest: Manifest) -> Path:
    """Where the next version lies: beside this one, under its name and number.

    >>> next_path(Path("a/usps.v2.yaml"), Manifest.model_construct(version=2)).name
    'usps.v3.yaml'
    """
    stem = re.sub(r"\.v\d+$", "", path.stem)
    return path.with_name(f"{stem}.v{manifest.version + 1}{path.suffix}")


def _write(
    manifest: Manifest, request: Request, found: dict[str, tuple[WantedRow, str | Mask]], out: Path
) -> int:
    if out.suffix not in (".yaml", ".yml"):
        raise BadInput(f"a manifest is a .yaml file, {out} is not named like one")
    if out.exists():
        raise BadInput(f"{out} exists already; name another file with --out")
    old = manifest.splits[request.split].answers
    if old and old.classes != request.classes:
        raise BadInput(
            f"{manifest.path} has answers in the classes {listed(old.classes)}, the request in "
            f"{listed(request.classes)}; ask again with the same model's classes"
        )
    what = "mask" if manifest.problem == "segmentation" else "class"
    table = out.with_suffix(".answers.csv")
    masks = out.with_suffix(".masks")
    rows: list[tuple[str, str]] = []
    images: dict[str, Mask | Path] = {}
    if old:
        place = manifest.path.parent / old.rows
        for row in read_csv(place)[0]:
            value = row[what]
            if what == "mask":
                images[PurePosixPath(value).name] = place.parent / value
                value = f"{masks.name}/{PurePosixPath(value).name}"
            rows.append((row[request.column], value))
    for wanted, answer in found.values():
        value = f"{masks.name}/{wanted.row}.png"
        if isinstance(answer, str):
            value = answer
        else:
            images[f"{wanted.row}.png"] = answer
        rows.append((wanted.key, value))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([request.column, what])
    writer.writerows(rows)
    content = text.getvalue().encode()
    entry = {
        "rows": table.name, "sha256": bytes_digest(content), "count": len(rows),
        "classes": list(request.classes),
    }  # fmt: skip
    files: dict[Path, bytes] = {table: content}
    document = _document(manifest, request.split, entry, out, files)
    files[out] = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100).encode()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if images:
            _put_masks(images, masks)
        put(files)
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error}") from None
    return len(rows)


def _put_masks(images: dict[str, Mask | Path], masks: Path) -> None:
    part = Path(tempfile.mkdtemp(dir=masks.parent, prefix=f".{masks.name}."))
    try:
        part.chmod(0o755)
        for name, mask in images.items():
            if isinstance(mask, Path):
                shutil.copyfile(mask, part / name)
            else:
                Image.fromarray(mask).save(part / name)
        shutil.rmtree(masks, ignore_errors=True)  # of a start that was killed: no manifest names it
        part.rename(masks)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _document(
    manifest: Manifest, split: str, entry: dict[str, Any], out: Path, files: dict[Path, bytes]
) -> dict[str, Any]:
    """The manifest's own file with one more version and the answers; paths as seen from `out`."""
    document: dict[str, Any] = yaml.safe_load(manifest.path.read_text(encoding="utf-8"))
    document["version"] = manifest.version + 1
    here, there = manifest.path.parent.resolve(), out.parent.resolve()
    for name, spec in manifest.splits.items():
        given = dict(document["splits"][name])
        row_file = manifest.rows_path(spec)
        if row_file and here != there and row_file.parent.resolve() == here:
            files.setdefault(out.parent / row_file.name, row_file.read_bytes())
        document["splits"][name] = given
    document["splits"][split]["answers"] = entry
    if here != there and str(document["root"]).startswith("."):
        relative = Path(os.path.relpath(manifest.location.resolve(), there)).as_posix()
        document["root"] = relative if relative.startswith(".") else f"./{relative}"
    return document
