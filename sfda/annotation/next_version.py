"""The files of a manifest's next version: its answers old and new, and the manifest itself.

Classes and masks stand in a CSV; boxes and joints in a COCO JSON whose images are the answered
rows, by their keys.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml
from PIL import Image

from sfda.documents import parse_yaml
from sfda.errors import BadInput, listed
from sfda.formats.coco import read_coco
from sfda.formats.masks import Mask
from sfda.formats.request import Request, RequestedRow
from sfda.formats.table import csv_bytes, read_csv
from sfda.manifests.digests import bytes_digest, file_digest, row_id
from sfda.manifests.schema import Manifest
from sfda.manifests.write import (
    partial_folder,
    put,
    refuse_other_suffix,
    relative_root,
    sweep_beside,
)
from sfda.problems.labelling import Annotation
from sfda.problems.registry import PROBLEMS
from sfda.state_folder import named_by_a_person

MASK_NAME = re.compile(r"[0-9a-f]{16}\.png")  # after the row's id
RowAnnotations = dict[str, tuple[RequestedRow, Annotation]]
"""What people say of requested rows, by their ids."""
Part = dict[str, Any]
FiledAnnotations = dict[str, str | Mask | Path | list[Part]]
"""Annotations as they are filed, by key: a class, a mask or its file, COCO's annotations."""
FiledBySplit = dict[str, tuple[tuple[str, ...], FiledAnnotations]]
"""Annotations and the classes they may name, by split."""


class VersionWritten(NamedTuple):
    """A manifest's next version."""

    answers: int  # that it has, old and new
    again: bool  # it was there already, as it is


def put_version(
    manifest: Manifest, request: Request, row_annotations: RowAnnotations, out: Path
) -> VersionWritten:
    """Write the manifest with these answers beside its earlier ones, unless just that was written.

    Raises BadInput where `out` is anything else, or holds answers in other classes.
    """
    refuse_other_suffix(out)
    old = manifest.splits[request.split].answers
    if old and old.classes != request.classes:
        raise BadInput(
            f"{manifest.path} has answers in the classes {listed(old.classes)}, the request in "
            f"{listed(request.classes)}; ask again with the same model's classes"
        )
    filed_here = filed_annotations(manifest, request.split)
    as_filed = PROBLEMS[manifest.problem].labelling.filed
    filed_here |= {sample.key: as_filed(own) for sample, own in row_annotations.values()}
    filed: FiledBySplit = {}
    if not _beside(manifest, out):  # those of other splits come along
        filed = {
            name: (spec.answers.classes, filed_annotations(manifest, name))
            for name, spec in manifest.splits.items()
            if spec.answers
        }
    filed[request.split] = (request.classes, filed_here)
    new = _files_of(manifest, filed, out, version=manifest.version + 1)
    again = out.exists()
    if again and not new.lie_there():
        raise BadInput(f"{out} exists already with other content; name another file with --out")
    if again:
        sweep_beside(new.files)
    else:
        new.put(out)
    return VersionWritten(len(filed_here), again)


def put_annotations(manifest: Manifest, filed: FiledBySplit) -> None:
    """Write answers into a manifest that has none, in its place. Raises BadInput."""
    _files_of(manifest, filed, manifest.path, version=manifest.version).put(manifest.path)


def filed_annotations(manifest: Manifest, split: str) -> FiledAnnotations:
    """The answers of a split as they are filed. Raises BadInput where they are not as they were."""
    spec = manifest.splits[split].answers
    if spec is None:
        return {}
    table = manifest.path.parent / spec.rows
    if not table.is_file() or file_digest(table) != spec.sha256:
        raise BadInput(f"file of answers {table} is missing, or not the one that was written")
    if table.suffix == ".json":
        document = read_coco(table)
        parts: dict[Any, list[Part]] = {image["id"]: [] for image in document["images"]}
        for one in document["annotations"]:
            own = {k: v for k, v in one.items() if k not in ("id", "image_id")}
            parts[one["image_id"]].append(own)
        return {image["file_name"]: parts[image["id"]] for image in document["images"]}
    key = manifest.key_column
    rows, _ = read_csv(table)
    problem = PROBLEMS[manifest.problem]
    what = str(problem.annotation_column)
    if not problem.labels_are_files:
        return {row[key]: row[what] for row in rows}
    files: FiledAnnotations = {row[key]: table.parent / row[what] for row in rows}
    if gone := [str(file) for file in files.values() if not Path(str(file)).is_file()]:
        raise BadInput(f"{problem.label_word} that were answered are missing: {listed(gone)}")
    return files


class _NewFiles(NamedTuple):
    """The files of a manifest's next version: masks by their folder and name, then all others, the
    manifest last."""

    pictures: dict[Path, dict[str, Mask | Path]]
    files: dict[Path, bytes]

    def lie_there(self) -> bool:
        """Whether each is there with just this content."""
        return all(_holds(path, content()) for path, content in self._contents())

    def strange(self, out: Path) -> list[Path]:
        """Files in the places of those beside `out` that hold anything else, or are links."""
        return [
            path
            for path, content in self._contents()
            if path != out
            and os.path.lexists(path)
            and (path.is_symlink() or not _holds(path, content()))
        ]

    def _contents(self) -> Iterator[tuple[Path, Callable[[], bytes]]]:
        for path, content in self.files.items():
            yield path, partial(bytes, content)
        for folder, images in self.pictures.items():
            for name, mask in images.items():
                yield folder / name, partial(_png, mask)

    def put(self, out: Path) -> None:
        """Write them all. Raises BadInput that names `out`, the manifest among them, and where
        another file than `out` is there that holds anything else.
        """
        for path in self.strange(out):
            raise BadInput(f"{path} exists already with other content; move it away")
        try:
            with named_by_a_person(out):
                out.parent.mkdir(parents=True, exist_ok=True)
            for masks, images in self.pictures.items():
                if images:
                    _put_masks(images, masks)
            put(self.files)
        except OSError as error:
            raise BadInput(f"cannot write {out}: {error}") from None


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _png(mask: Mask | Path) -> bytes:
    if isinstance(mask, Path):
        return mask.read_bytes()
    content = BytesIO()
    Image.fromarray(mask).save(content, format="png")
    return content.getvalue()


def _files_of(manifest: Manifest, filed: FiledBySplit, out: Path, *, version: int) -> _NewFiles:
    pictures: dict[Path, dict[str, Mask | Path]] = {}
    files: dict[Path, bytes] = {}
    entries: dict[str, Part] = {}
    for split, (classes, filed_here) in filed.items():
        own = "" if split == "adapt" else f".{split}"
        if PROBLEMS[manifest.problem].annotation_column is None:
            table = out.with_suffix(f"{own}.answers.json")
            content = _document_of(manifest, classes, filed_here)
        else:
            table, masks = (out.with_suffix(f"{own}{end}") for end in (".answers.csv", ".masks"))
            content = _table_of(manifest, filed_here, masks.name, pictures.setdefault(masks, {}))
        files[table] = content
        entries[split] = {
            "rows": table.name,
            "sha256": bytes_digest(content),
            "count": len(filed_here),
            "classes": list(classes),
        }
    document = _manifest(manifest, entries, out, files) | {"version": version}
    files[out] = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100).encode()
    return _NewFiles(pictures, files)


def _table_of(
    manifest: Manifest, filed_here: FiledAnnotations, masks: str, images: dict[str, Mask | Path]
) -> bytes:
    """The CSV, and, into `images`, the masks that it names, each after its row."""
    lines = [(manifest.key_column, str(PROBLEMS[manifest.problem].annotation_column))]
    for key, annotation in filed_here.items():
        if not isinstance(annotation, str):
            assert not isinstance(annotation, list)
            file = f"{row_id(manifest.row_name(key))}.png"
            images[file] = annotation
            annotation = f"{masks}/{file}"
        lines.append((key, annotation))
    return csv_bytes(lines)


def _document_of(manifest: Manifest, classes: tuple[str, ...], filed: FiledAnnotations) -> bytes:
    """The COCO JSON."""
    categories = PROBLEMS[manifest.problem].labelling.document_categories(classes)
    images, annotations = [], []
    for number, (name, parts) in enumerate(filed.items()):
        assert isinstance(parts, list)
        images.append({"id": number, "file_name": name})
        annotations += [{"image_id": number} | part for part in parts]
    annotations = [{"id": number} | part for number, part in enumerate(annotations)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    return json.dumps(document, ensure_ascii=False).encode()


def _put_masks(images: dict[str, Mask | Path], masks: Path) -> None:
    with (
        partial_folder(masks.parent, masks.name) as part,
        named_by_a_person(masks) as umask,
    ):
        part.chmod(0o777 & ~umask)
        for name, mask in images.items():
            (part / name).write_bytes(_png(mask))
        _remove_ours(masks)
        part.rename(masks)


def _remove_ours(masks: Path) -> None:
    """Remove the masks of a start that was killed, which no manifest names. Raises BadInput where
    there are other things.
    """
    if not os.path.lexists(masks):
        return
    strange = masks if masks.is_symlink() or not masks.is_dir() else None
    for file in () if strange else masks.iterdir():
        if file.is_dir() or not MASK_NAME.fullmatch(file.name):
            strange = file
    if strange:
        raise BadInput(
            f"{strange} was not made by `sfda answer`, whose masks would take the place of {masks}"
            "; move it away, or give another --out"
        )
    shutil.rmtree(masks)


def _beside(manifest: Manifest, out: Path) -> bool:
    return manifest.path.parent.resolve() == out.parent.resolve()


def _manifest(
    manifest: Manifest, entries: dict[str, Part], out: Path, files: dict[Path, bytes]
) -> dict[str, Any]:
    """The manifest's own file with the answers; paths as seen from `out`."""
    document: dict[str, Any] = parse_yaml(manifest.path.read_bytes())
    here, there = manifest.path.parent.resolve(), out.parent.resolve()
    for name, spec in manifest.splits.items():
        entry = dict(document["splits"][name])
        row_file = manifest.rows_path(spec)
        if row_file and here != there and row_file.parent.resolve() == here:
            content = row_file.read_bytes()
            copy = _room_for(content, out, row_file.name)
            files[copy] = content
            entry["rows"] = copy.name
        if name in entries:
            entry["answers"] = entries[name]
        document["splits"][name] = entry
    root = str(document["root"])
    if here != there and (root.startswith(".") or PurePosixPath(root).is_absolute()):
        document["root"] = relative_root(manifest.location.resolve(), there)
    return document


def _room_for(content: bytes, out: Path, name: str) -> Path:
    """Where a copy of a row file may lie beside `out`: another manifest's is never replaced."""
    for path in (out.parent / name, out.parent / f"{out.stem}.{name}"):
        if not path.exists() or path.read_bytes() == content:
            return path
    raise BadInput(f"{out.parent} holds another {name} already; name another folder with --out")
