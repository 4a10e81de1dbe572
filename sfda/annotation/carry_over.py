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

from sfda.annotation.next_version import Filed, Kept, kept_answers, put_answers
from sfda.config import Config
from sfda.errors import BadInput
from sfda.formats.keypoints import file_of
from sfda.formats.readers import NpzReader, npz_count
from sfda.formats.volumes import slice_of
from sfda.manifests.digests import bytes_digest, file_digest
from sfda.manifests.rows import files_of, read_split
from sfda.manifests.schema import Manifest, open_manifest
from sfda.state_folder import data_folder, disk_errors, home

log = logging.getLogger("sfda")


class Source(Config):
    """A manifest with answers: which rows, and digests of the images that hold them, by file."""

    manifest: str
    files: dict[str, str]
    rows: tuple[str, ...] = ()


class Known(Config):
    """All manifests with answers about the same images, the newest last."""

    sources: tuple[Source, ...] = ()


def note(path: Path) -> None:
    """Remember the answers in the manifest at `path`, and forget manifests that had no others."""
    manifest = open_manifest(path, data_root=data_folder())
    keys = {name: list(kept_answers(manifest, name)) for name in manifest.splits}
    found = Source(
        manifest=str(path.absolute()),
        files=_digests(manifest, [key for own in keys.values() for key in own]),
        rows=tuple(f"{name} {key}" for name, own in keys.items() for key in own),
    )
    known = _read(manifest)
    others = tuple(
        one
        for one in known.sources
        if one.manifest != found.manifest
        and not (
            one.rows
            and set(one.rows) <= set(found.rows)
            and one.files.items() <= found.files.items()
        )
    )
    file = _file(manifest)
    with disk_errors(str(file)):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(Known(sources=(*others, found)).model_dump_json(indent=1))
        part.replace(file)


def carry(path: Path) -> int:
    """Put all that is known into the manifest at `path`, which has no answers; how many they are.

    Left out are rows that it has not, and images that are not those any more that were answered
    about. Where two answers differ the later one holds.
    """
    manifest = open_manifest(path, data_root=data_folder())
    sources, filed = _sources(manifest), Filed()
    for split in manifest.splits if sources else ():
        keys = set(read_split(manifest.unlabelled(), split).names)
        kept: Kept = {}
        classes: tuple[str, ...] | None = None
        for source, old in sources:
            spec = old.splits[split].answers if split in old.splits else None
            if spec is None:
                continue
            if spec.classes != classes:
                kept, classes = {}, spec.classes  # a new list of classes begins anew
            try:
                found = kept_answers(old, split)
            except BadInput as error:
                log.warning("answers that %s named are left out: %s", source.manifest, error)
                continue
            now = _digests(manifest, list(found))
            for key, answer in found.items():
                name, file = _name(manifest, key), _file_name(manifest, key)
                if name in keys and file in now and now[file] == source.files.get(file):
                    kept[key] = answer
        if kept and classes:
            filed[split] = (classes, kept)
    if filed:
        put_answers(manifest, filed)
    return sum(len(kept) for _, kept in filed.values())


def digest(path: Path) -> str | None:
    """Of all answers that are known about the images of the manifest at `path`; None for none."""
    try:
        manifest = open_manifest(path, data_root=data_folder())
    except BadInput:  # it is made anew anyway
        return None
    found = [
        spec.answers.sha256
        for _, old in _sources(manifest)
        for spec in old.splits.values()
        if spec.answers
    ]
    return hashlib.sha256(" ".join(found).encode()).hexdigest() if found else None


def newest_version(path: Path) -> int:
    """The highest version that is known of the images of the manifest at `path`, or 1."""
    if not path.is_file():
        return 1
    manifest = open_manifest(path, data_root=data_folder())
    return max([1, *(old.version for _, old in _sources(manifest))])


def _sources(manifest: Manifest) -> list[tuple[Source, Manifest]]:
    """What is known of the manifest's images; what cannot be read any more is told of."""
    found = []
    for source in _read(manifest).sources:
        try:
            found.append((source, open_manifest(source.manifest, data_root=data_folder())))
        except BadInput as error:
            log.warning("answers are left out: %s", error)
    return found


def _digests(manifest: Manifest, keys: list[str]) -> dict[str, str]:
    """Digests of the images that hold these rows, those that are gone left out."""
    names = sorted({_file_name(manifest, key) for key in keys})
    if manifest.arrays and manifest.archive_path:
        rows = np.array([int(name) for name in names], np.int64)
        reader = NpzReader(manifest.archive_path, manifest.arrays.image, rows)
        count = npz_count(manifest.archive_path, manifest.arrays.image)
        return {
            name: bytes_digest(np.ascontiguousarray(reader.raw(place)).tobytes())
            for place, name in enumerate(names)
            if rows[place] < count
        }
    if not manifest.archive_path:
        places = {name: manifest.location / name for name in names}
        return {name: file_digest(place) for name, place in places.items() if place.is_file()}
    files, found = files_of(manifest), {}
    for name in names:
        with suppress(KeyError):
            found[name] = bytes_digest(files.read(name))
    return found


def _file_name(manifest: Manifest, key: str) -> str:
    if manifest.problem == "pose":
        return file_of(key)
    part = slice_of(key)
    return part.file if part else key


def _name(manifest: Manifest, key: str) -> str:
    return f"{manifest.arrays.image}:{key}" if manifest.arrays else key


def _file(manifest: Manifest) -> Path:
    place: Any = manifest.archive_path or manifest.location
    key = hashlib.sha256(f"{manifest.problem} {os.path.realpath(place)}".encode()).hexdigest()
    return home() / "answers" / f"{key[:24]}.json"


def _read(manifest: Manifest) -> Known:
    try:
        return Known.model_validate_json(_file(manifest).read_bytes())
    except (FileNotFoundError, ValidationError):
        return Known()
