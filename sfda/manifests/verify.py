"""Verification of a manifest against its data: every fault, not the first."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfda.errors import BadInput
from sfda.formats.readers import FileReader, Folder, Zip, npz_count, open_zip
from sfda.images.intensity_window import DIM, range_unused
from sfda.manifests.digests import file_digest
from sfda.manifests.inspection import inspect_split
from sfda.manifests.labels import SplitContent
from sfda.manifests.opening import open_manifest
from sfda.manifests.readers import make_reader, missing_images
from sfda.manifests.rows import split_annotations
from sfda.manifests.schema import REMAKE, Manifest
from sfda.problems.registry import PROBLEMS

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CheckResult:
    """What a verification found. `count` is the number of distinct images over all splits."""

    ok: bool
    faults: list[str]
    count: int
    classes: tuple[str, ...] | int | None
    notes: tuple[str, ...] = ()  # what is no fault but should be known, such as boxes left out


def verify_manifest(
    path: Path | str, data_root: Path | None = None, *, progress: Progress | None = None
) -> CheckResult:
    """Verify digests, counts, classes, every image and every mask of the manifest at `path`.

    `progress(done, total)` is called as images, and then masks, are decoded. Nothing that is
    wrong with the data raises: it becomes a fault.
    """
    try:
        manifest = open_manifest(path, data_root=data_root)
    except BadInput as error:
        return CheckResult(False, [str(error)], 0, None)
    faults = _archive_faults(manifest)
    keys: dict[str, None] = {}  # a set in order: splits may share images
    filed: dict[tuple[str, str], None] = {}
    notes: list[str] = []
    problem = PROBLEMS[manifest.problem]
    for split in manifest.splits:
        content = inspect_split(manifest, split)
        if content.labels:
            notes += [f"split '{split}': {note}" for note in content.labels.notes()]
        faults += content.faults
        keys.update(dict.fromkeys(map(problem.image_file, content.keys)))
        faults += _annotation_faults(manifest, split, content.keys)
        where = problem.geometry(manifest, split)
        faults += [f"split '{split}': {fault}" for fault in where.faults]
        notes += [f"split '{split}': {note}" for note in where.notes]
        filed.update(dict.fromkeys(zip(content.keys, content.label_files or (), strict=False)))
    unread, dim = _image_faults(manifest, tuple(keys), progress)
    faults, notes = faults + unread, notes + dim
    more, odd = _label_faults(manifest, tuple(filed), progress)
    faults, notes = faults + more, notes + odd
    faults = list(dict.fromkeys(faults))
    return CheckResult(not faults, faults, len(keys), manifest.classes, tuple(notes))


def manifest_notes(manifest: Manifest) -> list[str]:
    """What should be known of the labels of a manifest with a COCO JSON, without a look at the
    images' content.
    """
    notes: list[str] = []
    looked_at: set[tuple[str | None, str | None]] = set()
    for name, spec in manifest.splits.items():
        if (spec.rows, spec.where) in looked_at or not str(spec.rows).endswith(".json"):
            continue
        looked_at.add((spec.rows, spec.where))
        labels = inspect_split(manifest, name).labels
        own = list(labels.notes()) if labels else []
        own += PROBLEMS[manifest.problem].geometry(manifest, name).notes
        notes += [f"split '{name}': {note}" for note in own]
    return notes


def _annotation_faults(manifest: Manifest, split: str, keys: list[str]) -> list[str]:
    """What is wrong with the answers to a split's rows."""
    if manifest.splits[split].answers is None:
        return []
    try:
        annotated = split_annotations(manifest, split, keys, make_reader(manifest, keys))
    except ValueError as error:
        return [f"split '{split}': {error}"]
    if annotated is None:
        return []
    return _faults_of(annotated.labels.check, len(annotated.rows), None)[0]


def _archive_faults(manifest: Manifest) -> list[str]:
    if manifest.archive is None:
        missing = not manifest.location.is_dir()
        return [missing_images(manifest)] if missing else []
    path = manifest.archive_path
    assert path is not None
    if not path.is_file():
        return [missing_images(manifest)]
    if file_digest(path) != manifest.archive.sha256:
        return [
            f"archive {path} is not the one the manifest was made with (other sha256); {REMAKE}"
        ]
    return []


def _image_faults(
    manifest: Manifest, keys: tuple[str, ...], progress: Progress | None
) -> tuple[list[str], list[str]]:
    """Decode each image once; what is missing or corrupt is a fault by name. And notes."""
    path = manifest.archive_path
    try:
        if manifest.arrays and path:
            npz_count(path, manifest.arrays.image)
            return [], []
        if path is None:
            if not manifest.location.is_dir():
                return [], []  # said already
            reader = FileReader(Folder(manifest.location), keys)
        else:
            open_zip(path).close()
            reader = FileReader(Zip(path), keys)
    except BadInput as error:
        return ([] if path and not path.is_file() else [str(error)]), []

    def dim_range(row: int) -> tuple[float, float] | None:
        """The range of an image of more than 8 bits that is nearly black; None of others."""
        picture = reader.image(row)
        if picture.max(initial=0) > DIM:
            return None
        raw = reader.raw(row)
        return None if raw.dtype == np.uint8 else (float(raw.min()), float(raw.max()))

    faults, ranges = _faults_of(dim_range, len(keys), progress)
    dim = [ends for ends in ranges if ends]
    if len(dim) < len(ranges) or not dim:
        return faults, []
    return faults, [range_unused(min(low for low, _ in dim), max(high for _, high in dim))]


def _label_faults(
    manifest: Manifest, pairs: tuple[tuple[str, str], ...], progress: Progress | None
) -> tuple[list[str], list[str]]:
    """Read each file of labels once; what is wrong with it, or does not fit its image, is a
    fault. And notes on all of them together.
    """
    if not pairs or not manifest.labelled:
        return [], []
    keys, files = [key for key, _ in pairs], [file for _, file in pairs]
    content = SplitContent(keys=keys, label_files=files)
    try:
        images = make_reader(manifest, keys)
        labels = PROBLEMS[manifest.problem].labels_of(manifest, content, images)
    except ValueError:
        return [], []  # said of the images already
    if labels is None:
        return [], []
    faults, seen = _faults_of(labels.check, len(pairs), progress)
    names = manifest.classes
    if not isinstance(names, tuple):
        names = tuple(str(number) for number in range(names or 0))
    more, notes = labels.concerns(seen, names)
    return faults + more, notes


def _faults_of(
    read: Callable[[int], object], count: int, progress: Progress | None
) -> tuple[list[str], list[Any]]:
    """What is wrong with each of `count` rows, in order, and what was read of the others."""

    def fault_or_content(row: int) -> tuple[str | None, object]:
        try:
            seen = read(row)
        except BadInput as error:
            return str(error), None
        return None, seen

    faults, all_seen = list[str](), list[Any]()
    with ThreadPoolExecutor() as pool:
        for done, (message, seen) in enumerate(pool.map(fault_or_content, range(count)), start=1):
            if message:
                faults.append(message)
            else:
                all_seen.append(seen)
            if progress:
                progress(done, count)
    return faults, all_seen
