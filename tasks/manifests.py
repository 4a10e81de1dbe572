"""Open a manifest, verify it, and bring its images to where they are read fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfda.data.decode import decode, decode_key
from sfda.data.manifest import (
    Manifest,
    Split,
    file_digest,
    open_manifest,
    read_split,
    unlabelled_digest,
)
from sfda.errors import BadInput
from sfda.folders import data_folder
from sfda.refs import InputSpec, LabelledSplit, ManifestRef, ModelRef
from sfda.types import TargetInfo
from tasks.home import home
from tasks.progress import Progress

Labels = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Opened:
    """A split with its decoded images: uint8 [N, H, W, C], memory-mapped."""

    split: Split
    images: np.ndarray[Any, np.dtype[np.uint8]]

    @property
    def info(self) -> TargetInfo:
        """What a method may know of it."""
        return TargetInfo(len(self.split.row_ids), self.split.row_ids)


def refer(path: str | Path) -> ManifestRef:
    """A manifest by address and content, after it and its archive were found to be what they say.

    Raises BadInput where they are not.
    """
    manifest = open_manifest(Path(path), data_root=data_folder())
    archive = manifest.archive_path
    if manifest.archive and archive:
        if not archive.is_file():
            raise BadInput(f"{archive}, the archive of {path}, is missing; set SFDA_DATA right")
        if file_digest(archive) != manifest.archive.sha256:
            raise BadInput(
                f"{archive} is not the file that {path} was made for: its digest differs; put the "
                "original back, or make the manifest anew with `sfda manifest`"
            )
    return ManifestRef(path=str(manifest.path.absolute()), sha256=file_digest(manifest.path))


def open_ref(ref: ManifestRef) -> Manifest:
    """The manifest of a reference. Raises BadInput if the file has changed since."""
    manifest = open_manifest(Path(ref.path), data_root=data_folder())
    if file_digest(manifest.path) != ref.sha256:
        raise BadInput(f"{ref.path} has changed while the job ran; start the job again")
    return manifest


def seen_digest(ref: ManifestRef, split: str) -> str:
    """Digest of all that an adaptation can see of a split; labels do not count."""
    return unlabelled_digest(open_ref(ref).unlabelled(), split)


def open_split(manifest: Manifest, split: str, spec: InputSpec) -> Opened:
    """A split, its images decoded once and kept below home for the epochs and runs to come."""
    found = read_split(manifest, split)
    key = decode_key(manifest, split, spec)
    with Progress(f"decode {manifest.name} {split}", len(found.row_ids)) as progress:
        images = decode(found, spec, home() / "decoded", key=key, progress=progress.to)
    return Opened(found, images)


def labels_for(split: Split, model: ModelRef) -> Labels:
    """The split's labels in the model's class order, by name.

    Raises BadInput where there are none, or names do not fit.
    """
    if split.labels is None:
        raise BadInput(f"{split.manifest} has no labels in '{split.name}', and this needs some")
    return class_map(split.classes, model.classes, split.manifest)[split.labels]


def class_map(classes: tuple[str, ...] | int | None, model: tuple[str, ...], what: str) -> Labels:
    """For every class of a manifest its index in the model, by name, whatever the order.

    Without names the count must be the model's. Raises BadInput otherwise.
    """
    if classes is None or isinstance(classes, int):
        count = len(model) if classes is None else classes
        if count != len(model):
            raise BadInput(
                f"{what} has {count} unnamed classes, the model has {len(model)} "
                f"({', '.join(model[:5])} ...); name the classes in the manifest"
            )
        return np.arange(count)
    if foreign := [name for name in classes if name not in model]:
        raise BadInput(
            f"{what} names classes that the model lacks: {', '.join(foreign)}; "
            f"the model has {', '.join(model)}"
        )
    place = {name: i for i, name in enumerate(model)}
    return np.array([place[name] for name in classes], dtype=np.int64)


def test_split(ref: ManifestRef, name: str | None) -> LabelledSplit | None:
    """The split that evaluation uses: `name`, or "test" where there is one with labels, or None.

    Raises BadInput for a split that was named and is not there or has no labels.
    """
    manifest = open_ref(ref)
    if not has_labels(manifest, name or "test"):
        if name is None:
            return None
        known = ", ".join(manifest.splits)
        raise BadInput(f"{ref.path} has no labelled split '{name}'; its splits are {known}")
    return LabelledSplit(name=name or "test", seen=seen_digest(ref, name or "test"))


def has_labels(manifest: Manifest, split: str) -> bool:
    """Whether a split of this manifest exists and carries labels."""
    return split in manifest.splits and read_split(manifest, split).labels is not None


def class_names(ref: ManifestRef) -> tuple[str, ...]:
    """The classes of a manifest, named "0", "1" ... where it states a number alone.

    Raises BadInput where it states none.
    """
    classes = open_ref(ref).classes
    if classes is None:
        raise BadInput(f"{ref.path} names no classes, and training needs them")
    return tuple(str(i) for i in range(classes)) if isinstance(classes, int) else classes
