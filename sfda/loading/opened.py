"""Open a manifest, verify it, and bring its images to where they are read fast."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sfda.errors import BadInput
from sfda.formats.volumes import slice_of
from sfda.images.decode import decode_images
from sfda.images.store import Pictures, images_at, images_between
from sfda.loading.parts import read_names, read_rows
from sfda.loading.progress import ProgressBar, warn_once
from sfda.manifests.class_matching import ClassShift, class_map, class_shift
from sfda.manifests.digests import file_digest, file_digests
from sfda.manifests.inspection import inspect_split
from sfda.manifests.opening import open_manifest
from sfda.manifests.readers import missing_images
from sfda.manifests.rows import (
    Split,
    look_at,
    read_split,
    stamped_files,
    stamps_digest,
    unlabelled_digest,
)
from sfda.manifests.schema import Manifest
from sfda.problems.registry import PROBLEMS
from sfda.refs import InputSpec, LabelledSplit, ManifestRef, ModelRef, ModelSpec, SplitRef
from sfda.state_folder import Stamp, data_folder, decoded_folder, stamp_of
from sfda.types import UNKNOWN, Regime, TargetInfo


@dataclass(frozen=True)
class Opened:
    """A split with its decoded images on disk: uint8 [N, H, W, C], or each of its own size."""

    split: Split
    images: Pictures
    seen: str  # digest of what there is to see of it, of all its rows
    rows: str | None = None  # digest of which of its rows these are; None: all

    def only(self, rows: str | None) -> Opened:
        """A part of it, by the digest of its rows. Raises BadInput where they are not kept."""
        if rows is None:
            return self
        own = read_rows(rows, len(self.split))
        return Opened(self.split.take(own), images_at(self.images, own), self.seen, rows)

    def ref(self, manifest: ManifestRef) -> SplitRef:
        """Its address, in this manifest."""
        return SplitRef(manifest=manifest, split=self.split.name, seen=self.seen, rows=self.rows)

    def part(self, first: int, end: int) -> Pictures:
        """The images of some rows, from `first` to one before `end`."""
        return images_between(self.images, first, end)

    def info(
        self,
        regime: Regime | None = None,
        model: ModelRef | None = None,
        ratios: tuple[float, ...] | None = None,
        *,
        whole: bool = True,
    ) -> TargetInfo:
        """What a method may know of it: nothing that comes from its labels.

        The user's class ratios are brought into the order of the model's classes. `whole`: the
        model sees images as wholes, not tiles of them.
        """
        priors = self.split.priors
        if priors is not None and model:
            index_of = class_map(self.split.classes, model.classes, self.split.manifest)
            ordered = np.zeros((len(priors), len(model.classes)), dtype=np.float32)
            ordered[:, index_of[index_of != UNKNOWN]] = priors[:, index_of != UNKNOWN]
            priors = ordered
        split = self.split.unnamed()
        return TargetInfo(
            len(split.row_ids),
            split.row_ids,
            groups=split.groups,
            priors=None if priors is None else torch.from_numpy(np.array(priors, np.float32)),
            regime=regime,
            classes=model.classes if model else None,
            source_ratios=None if ratios is None else torch.tensor(ratios),
            whole=whole,
        )


def manifest_ref(path: str | Path) -> ManifestRef:
    """A manifest by address and content, after it and its archive were checked against digests.

    Raises BadInput where they are not.
    """
    manifest = open_manifest(Path(path), data_root=data_folder())
    archive = manifest.archive_path
    if manifest.archive and archive:
        if not archive.is_file():
            raise BadInput(f"{path}: {missing_images(manifest)}")
        if file_digest(archive) != manifest.archive.sha256:
            raise BadInput(
                f"{archive} is not the file that {path} was made for: its digest differs; put the "
                "original back, or make the manifest anew with `sfda manifest`"
            )
    return ManifestRef(path=str(manifest.path.absolute()), sha256=manifest.sha256)


def open_ref(ref: ManifestRef) -> Manifest:
    """The manifest of a reference. Raises BadInput if the file has changed since."""
    manifest = open_manifest(Path(ref.path), data_root=data_folder())
    if manifest.sha256 != ref.sha256:
        raise BadInput(f"{ref.path} has changed while the job ran; start the job again")
    return manifest.less(read_names(ref.without)) if ref.without else manifest


def seen_digest(ref: ManifestRef, split: str) -> str:
    """Digest of all that an adaptation can see of a split; labels do not count."""
    return unlabelled_digest(open_ref(ref).unlabelled(), split)


def split_ref(ref: ManifestRef, split: str) -> SplitRef:
    """A split by address and by what can be seen of it."""
    return SplitRef(manifest=ref, split=split, seen=seen_digest(ref, split))


def label_files_digest(ref: ManifestRef, split: str) -> str | None:
    """Digest of the files that a split's labels lie in, such as masks; None where the
    manifest says it already: in an archive, or for labels that are no files.
    """
    manifest = open_ref(ref)
    entry = inspect_split(manifest, split)
    if not entry.label_files or manifest.archive_path:
        return None
    files: dict[str, tuple[str, Stamp]] = {}
    for name in dict.fromkeys(entry.label_files):
        part = slice_of(name)
        file = manifest.location / (part.file if part else name)
        if name and file.is_file():  # what is missing is told where it is read
            files[name] = str(file.absolute()), stamp_of(file)
    total = hashlib.sha256()
    for name, digest in zip(files, file_digests(files.values()), strict=True):
        total.update(f"{name} {digest}\n".encode())
    return total.hexdigest()


def open_split(
    manifest: Manifest, split: str, spec: InputSpec, *, seen: str | None = None
) -> Opened:
    """A split, its images decoded once and kept below home for the epochs and runs to come.

    `seen` is the digest of what there is to see of it, where somebody has looked already.
    """
    rows = read_split(manifest, split)
    return _with_images(manifest, rows, spec, seen or look_at(manifest, rows).seen)


def _with_images(manifest: Manifest, rows: Split, spec: InputSpec, seen: str) -> Opened:
    """Rows with their images; `seen` is the digest of what there is to see of them."""

    def confirm() -> None:
        if look_at(manifest, rows).seen != seen:
            raise changed(manifest.path)

    with ProgressBar(f"decode {manifest.name} {rows.name}", len(rows.row_ids)) as progress:
        images = decode_images(
            rows,
            spec,
            decoded_folder(),
            key=decode_key(seen, spec),
            progress=progress.to,
            confirm=confirm,
        )
    return Opened(rows, images, seen)


def changed(path: Path | str) -> BadInput:
    """What a job works on is no longer what it began with."""
    return BadInput(f"images of {path} have changed while the job ran; start the job again")


def stamps_of(target: SplitRef, rows: Split) -> str:
    """The stamps of the images of a target's split, `rows` all of it, which are as they were seen.
    Raises BadInput otherwise.
    """
    look = look_at(open_ref(target.manifest).unlabelled(), rows)
    if look.seen != target.seen:
        raise changed(target.manifest.path)
    return look.stamps


def open_stamped(target: SplitRef, stamps: str, spec: InputSpec) -> Opened:
    """A target whose images another process has read: they are not read again, if these are the
    stamps of all of its split's. Raises BadInput if they are not.
    """
    manifest = open_ref(target.manifest).unlabelled()
    rows = read_split(manifest, target.split)
    if stamps_digest(stamped_files(manifest, rows)) != stamps:
        raise changed(target.manifest.path)
    return _with_images(manifest, rows, spec, target.seen).only(target.rows)


def open_part(part: SplitRef, spec: ModelSpec, *, labelled: bool = False) -> Opened:
    """A split, or its part, for a model: without labels, or with them, for those who may see them.

    Raises BadInput as `open_unlabelled`, or where its rows are not kept.
    """
    opener = open_labelled if labelled else open_unlabelled
    return opener(part.manifest, part.split, spec, seen=part.seen).only(part.rows)


def open_labelled(
    ref: ManifestRef, split: str, spec: ModelSpec, *, seen: str | None = None
) -> Opened:
    """A split for a model, with its labels. Raises BadInput where it is for another problem."""
    manifest = open_ref(ref)
    _refuse_problem(ref, manifest, spec)
    return open_split(manifest, split, spec.input, seen=seen)


def open_unlabelled(
    ref: ManifestRef, split: str, spec: ModelSpec, *, seen: str | None = None
) -> Opened:
    """A split for a model, without its labels. Raises BadInput where it is for another problem, or
    its classes do not fit the model's.

    `seen` as of `open_split`.
    """
    manifest = open_ref(ref).unlabelled()
    _refuse_problem(ref, manifest, spec)
    class_map(manifest.classes, spec.classes, manifest.name)
    return open_split(manifest, split, spec.input, seen=seen)


def _refuse_problem(ref: ManifestRef, manifest: Manifest, spec: ModelSpec) -> None:
    if manifest.problem != spec.problem:
        raise BadInput(f"{ref.path} is for {manifest.problem}, the model for {spec.problem}")
    warn_once(PROBLEMS[spec.problem].manifest_concern(manifest, spec))


def shift_of(ref: ManifestRef, model: ModelRef) -> ClassShift:
    """How the classes of a manifest differ from a model's. Raises BadInput as `class_map`."""
    manifest = open_ref(ref)
    return class_shift(manifest.classes, model.classes, manifest.name)


def evaluation_split(ref: ManifestRef, name: str | None) -> LabelledSplit | None:
    """The split that evaluation uses: `name`, or "test" where there is one with labels, or None.

    Raises BadInput for a split that was named and is not there or has no labels.
    """
    manifest, own = open_ref(ref), name or "test"
    rows = read_split(manifest, own) if own in manifest.splits else None
    if rows is None or rows.labels is None:
        if name is None:
            return None
        known = ", ".join(manifest.splits)
        raise BadInput(f"{ref.path} has no labelled split '{name}'; its splits are {known}")
    seen = look_at(manifest, rows).seen
    return LabelledSplit(name=own, seen=seen, masks=label_files_digest(ref, own))


def has_labels(manifest: Manifest, split: str) -> bool:
    """Whether a split of this manifest exists and carries labels."""
    return split in manifest.splits and read_split(manifest, split).labels is not None


def manifest_classes(ref: ManifestRef) -> tuple[str, ...]:
    """The classes of a manifest, named "0", "1" ... where it states a number alone.

    Raises BadInput where it states none.
    """
    classes = open_ref(ref).classes
    if classes is None:
        raise BadInput(f"{ref.path} names no classes, and training needs them")
    return tuple(str(i) for i in range(classes)) if isinstance(classes, int) else classes


STORE_FORMAT = 1  # of kept images: to be raised when decoding or resizing gives other bytes


def decode_key(seen: str, spec: InputSpec) -> str:
    """A key for `decode_images` that changes with the images, their order and their storage.

    `seen` is the digest of what there is to see of the split.
    """
    stored: tuple[object, ...]
    stored = (spec.stored, spec.keep_ratio, spec.interpolation, spec.channels, STORE_FORMAT)
    if spec.letterbox:
        stored = (*stored, "letterbox", spec.mean, spec.scale)
    if spec.tiled or spec.window:
        stored = (spec.tiled or spec.stored, spec.window, *stored[1:])
    text = f"{seen} {stored}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]
