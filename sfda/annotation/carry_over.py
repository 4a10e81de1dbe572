"""Which answers people have given about which images, so that a target made anew keeps them.

A folder's manifest is made again at every look. What `sfda answer` took for any manifest of the
same images is remembered below home, and put into the next one.
"""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from sfda.annotation.next_version import (
    FiledAnnotations,
    FiledBySplit,
    filed_annotations,
    put_annotations,
)
from sfda.config import Config
from sfda.errors import BadInput
from sfda.formats.readers import NpzReader, npz_count
from sfda.manifests.digests import bytes_digest, file_digest
from sfda.manifests.opening import open_manifest
from sfda.manifests.readers import files_of
from sfda.manifests.rows import read_split
from sfda.manifests.schema import Manifest
from sfda.manifests.write import put, sweep_beside
from sfda.problems.registry import PROBLEMS
from sfda.state_folder import data_folder, disk_errors, home

log = logging.getLogger("sfda")


class AnnotatedManifest(Config):
    """A manifest with answers: which rows, and digests of the images that hold them, by file."""

    manifest: str
    files: dict[str, str]
    rows: tuple[str, ...] = ()


class KnownAnnotations(Config):
    """All manifests with answers about the same images, the newest last."""

    sources: tuple[AnnotatedManifest, ...] = ()


def note_annotations(path: Path) -> None:
    """Remember the answers in the manifest at `path`, and forget manifests that had no others. What
    was noted before stays as it is, also where a later version has taken its place."""
    manifest = open_manifest(path, data_root=data_folder())
    keys = {name: list(filed_annotations(manifest, name)) for name in manifest.splits}
    source = AnnotatedManifest(
        manifest=str(path.absolute()),
        files=_digests(manifest, [key for own in keys.values() for key in own]),
        rows=tuple(f"{name} {key}" for name, own in keys.items() for key in own),
    )
    known, file = _read(manifest), _file(manifest)
    if any(one == source or _succeeds(one, source) for one in known.sources):
        sweep_beside([file])
        return
    others = tuple(
        one
        for one in known.sources
        if one.manifest != source.manifest and not (one.rows and _covers(source, one))
    )
    with disk_errors(str(file)):
        file.parent.mkdir(parents=True, exist_ok=True)
        put({file: KnownAnnotations(sources=(*others, source)).model_dump_json(indent=1).encode()})


def _covers(one: AnnotatedManifest, other: AnnotatedManifest) -> bool:
    """Whether there are answers about all rows of the other, and the same images."""
    return set(other.rows) <= set(one.rows) and other.files.items() <= one.files.items()


def _succeeds(one: AnnotatedManifest, other: AnnotatedManifest) -> bool:
    """Whether it was written later and says something of all that the other does."""
    try:
        later = os.stat(one.manifest).st_mtime_ns > os.stat(other.manifest).st_mtime_ns
    except OSError:
        return False
    return later and _covers(one, other)


def carry_annotations(path: Path) -> int:
    """Put all that is known into the manifest at `path`, which has no answers; how many they are.

    Left out are rows that it has not, and images that are not those any more that were answered
    about. Where two answers differ the later one holds.
    """
    manifest = open_manifest(path, data_root=data_folder())
    sources, filed = _sources(manifest), FiledBySplit()
    for split in manifest.splits if sources else ():
        keys = set(read_split(manifest.unlabelled(), split).names)
        annotations: FiledAnnotations = {}
        classes: tuple[str, ...] | None = None
        for source, old in sources:
            spec = old.splits[split].answers if split in old.splits else None
            if spec is None:
                continue
            if spec.classes != classes:
                annotations, classes = {}, spec.classes  # a new list of classes begins anew
            try:
                own = filed_annotations(old, split)
            except BadInput as error:
                log.warning("answers that %s named are left out: %s", source.manifest, error)
                continue
            now = _digests(manifest, list(own))
            for key, annotation in own.items():
                name, file = manifest.row_name(key), _file_name(manifest, key)
                if name in keys and file in now and now[file] == source.files.get(file):
                    annotations[key] = annotation
        if annotations and classes:
            filed[split] = (classes, annotations)
    if filed:
        put_annotations(manifest, filed)
    return sum(len(annotations) for _, annotations in filed.values())


def known_digest(path: Path) -> str | None:
    """Of all answers that are known about the images of the manifest at `path`; None for none."""
    try:
        manifest = open_manifest(path, data_root=data_folder())
    except BadInput:  # it is made anew anyway
        return None
    digests = [
        spec.answers.sha256
        for _, old in _sources(manifest)
        for spec in old.splits.values()
        if spec.answers
    ]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest() if digests else None


def newest_version(path: Path) -> int:
    """The highest version that is known of the images of the manifest at `path`, or 1."""
    if not path.is_file():
        return 1
    manifest = open_manifest(path, data_root=data_folder())
    return max([1, *(old.version for _, old in _sources(manifest))])


def _sources(manifest: Manifest) -> list[tuple[AnnotatedManifest, Manifest]]:
    """What is known of the manifest's images; what cannot be read any more is told of."""
    sources = []
    for source in _read(manifest).sources:
        try:
            sources.append((source, open_manifest(source.manifest, data_root=data_folder())))
        except BadInput as error:
            log.warning("answers are left out: %s", error)
    return sources


def _digests(manifest: Manifest, keys: list[str]) -> dict[str, str]:
    """Digests of the images that hold these rows, those that are gone left out."""
    names = sorted({_file_name(manifest, key) for key in keys})
    if manifest.arrays and manifest.archive_path:
        rows = np.array([int(name) for name in names], np.int64)
        reader = NpzReader(manifest.archive_path, manifest.arrays.image, rows)
        count = npz_count(manifest.archive_path, manifest.arrays.image)
        return {
            name: bytes_digest(np.ascontiguousarray(reader.raw(position)).tobytes())
            for position, name in enumerate(names)
            if rows[position] < count
        }
    if not manifest.archive_path:
        file_of_name = {name: manifest.location / name for name in names}
        return {
            name: file_digest(position)
            for name, position in file_of_name.items()
            if position.is_file()
        }
    files, digests = files_of(manifest), {}
    for name in names:
        with suppress(KeyError):
            digests[name] = bytes_digest(files.read(name))
    return digests


def _file_name(manifest: Manifest, key: str) -> str:
    return PROBLEMS[manifest.problem].row_file(key)


def _file(manifest: Manifest) -> Path:
    location: Any = manifest.archive_path or manifest.location
    key = hashlib.sha256(f"{manifest.problem} {os.path.realpath(location)}".encode()).hexdigest()
    return home() / "answers" / f"{key[:24]}.json"


def _read(manifest: Manifest) -> KnownAnnotations:
    try:
        return KnownAnnotations.model_validate_json(_file(manifest).read_bytes())
    except (FileNotFoundError, ValidationError):
        return KnownAnnotations()
