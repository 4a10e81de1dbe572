"""Open a manifest, verify it, and bring its images to where they are read fast."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfda.building_blocks.boxes import BoxLabels
from sfda.config import Config
from sfda.errors import BadInput, listed
from sfda.formats.coco import BoxTable
from sfda.formats.keypoints import CropReader, Person
from sfda.formats.masks import IGNORE, Mask
from sfda.formats.volumes import slice_of
from sfda.images.decode import decode
from sfda.images.store import Pictures
from sfda.loading.progress import Progress
from sfda.manifests.digests import file_digest
from sfda.manifests.rows import Split, inspect_split, read_split, unlabelled_digest
from sfda.manifests.schema import Manifest, open_manifest
from sfda.refs import InputSpec, LabelledSplit, ManifestRef, ModelRef
from sfda.state_folder import data_folder, decoded_folder
from sfda.types import UNKNOWN, Regime, TargetInfo

Labels = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Opened:
    """A split with its decoded images on disk: uint8 [N, H, W, C], or each of its own size."""

    split: Split
    images: Pictures

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
            place = class_map(self.split.classes, model.classes, self.split.manifest)
            found = np.zeros((len(priors), len(model.classes)), dtype=np.float32)
            found[:, place[place != UNKNOWN]] = priors[:, place != UNKNOWN]
            priors = found
        return TargetInfo(
            len(self.split.row_ids),
            self.split.row_ids,
            groups=self.split.groups,
            priors=None if priors is None else torch.from_numpy(np.array(priors, np.float32)),
            regime=regime,
            classes=model.classes if model else None,
            source_ratios=None if ratios is None else torch.tensor(ratios),
            whole=whole,
        )


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


def masks_digest(ref: ManifestRef, split: str) -> str | None:
    """Digest of the files that a split's masks lie in; None where the manifest says it already: in
    an archive, or for labels that are no files.
    """
    manifest = open_ref(ref)
    found, _ = inspect_split(manifest, split)
    if not found.masks or manifest.archive_path:
        return None
    total = hashlib.sha256()
    for name in dict.fromkeys(found.masks):
        part = slice_of(name)
        file = manifest.location / (part.file if part else name)
        if name and file.is_file():  # what is missing is told where it is read
            total.update(f"{name} {file_digest(file)}\n".encode())
    return total.hexdigest()


def open_split(manifest: Manifest, split: str, spec: InputSpec) -> Opened:
    """A split, its images decoded once and kept below home for the epochs and runs to come."""
    found = read_split(manifest, split)
    key = decode_key(manifest, split, spec)
    with Progress(f"decode {manifest.name} {split}", len(found.row_ids)) as progress:
        images = decode(found, spec, decoded_folder(), key=key, progress=progress.to)
    return Opened(found, images)


def labels_for(split: Split, model: tuple[str, ...], *, unknown: bool = False) -> Labels:
    """The split's labels in the order of the model's classes; foreign classes as UNKNOWN.

    Raises BadInput where there are none or names do not fit, and, unless `unknown` samples have a
    meaning here, where a sample's class is foreign to the model.
    """
    if split.labels is None:
        raise BadInput(f"{split.manifest} has no labels in '{split.name}', and this needs some")
    found = class_map(split.classes, model, split.manifest)[split.labels]
    if not unknown and (found == UNKNOWN).any():
        shift = class_shift(split.classes, model, split.manifest)
        raise BadInput(
            f"{split.manifest} has samples of classes that the model lacks, and learning from "
            f"labels needs them: {listed(shift.extra)}; the model has {listed(model)}"
        )
    return found


def mask_table(split: Split, model: tuple[str, ...]) -> Mask:
    """[256]: for every value of the masks the class of the model, or 255 where it does not count.

    Pixels of classes that the model lacks do not count. Raises BadInput where there are no masks,
    or names do not fit.
    """
    if split.masks is None:
        raise BadInput(f"{split.manifest} has no masks in '{split.name}', and this needs some")
    table = np.full(256, IGNORE, dtype=np.uint8)
    place = class_map(split.classes, model, split.manifest)
    table[: len(place)] = np.where(place == UNKNOWN, IGNORE, place)
    return table


def boxes_for(split: Split, model: tuple[str, ...], *, unknown: bool = False) -> BoxTable:
    """The split's boxes in the model's classes, those of classes that it lacks left out.

    Raises BadInput where there are none or names do not fit, and, unless `unknown` classes may be
    left out here, where a box's class is foreign to the model.
    """
    if split.boxes is None:
        raise BadInput(f"{split.manifest} has no boxes in '{split.name}', and this needs some")
    place = class_map(split.classes, model, split.manifest)
    rows, foreign = in_classes(split.boxes, place)
    if foreign and not unknown:
        shift = class_shift(split.classes, model, split.manifest)
        raise BadInput(
            f"{split.manifest} has boxes of classes that the model lacks, and learning from "
            f"them needs those: {listed(shift.extra)}; the model has {listed(model)}"
        )
    return BoxTable(rows, split.boxes.notes)


def in_classes(table: BoxTable, place: Labels) -> tuple[tuple[BoxLabels, ...], int]:
    """The boxes in the model's classes, `place` [C], and how many were left out as foreign."""
    rows, foreign = [], 0
    for found in table.rows:
        labels = place[found.labels]
        known = labels != UNKNOWN
        foreign += int((~known).sum())
        rows.append(BoxLabels(found.boxes[known], labels[known], found.crowd[known]))
    return tuple(rows), foreign


def people_for(split: Split, joints: tuple[str, ...]) -> tuple[Person, ...]:
    """The split's persons, their joints in the order of the model's.

    Raises BadInput where there are none, or where the joints are not the model's.
    """
    if split.people is None:
        raise BadInput(f"{split.manifest} has no joints in '{split.name}', and this needs some")
    own = split.classes if isinstance(split.classes, tuple) else ()
    order = joint_order(own, joints, split.manifest)
    return tuple(in_order(person, order) for person in split.people)


def in_order(person: Person, order: list[int]) -> Person:
    """The person with the joints in another order."""
    return person._replace(joints=person.joints[order], visible=person.visible[order])


def joint_order(own: tuple[str, ...], joints: tuple[str, ...], what: str) -> list[int]:
    """Where each of the model's joints stands among `own`. Raises BadInput where they differ."""
    if set(own) != set(joints):
        raise BadInput(
            f"{what} has the joints {listed(own)}, the model {listed(joints)}; a pose model is for "
            "the joints that it was trained on"
        )
    return [own.index(name) for name in joints]


def crops_of(split: Split) -> CropReader:
    """Where the persons of a split lie in their images."""
    assert isinstance(split.reader, CropReader)
    return split.reader


def shared_classes(split: Split, model: tuple[str, ...]) -> list[int]:
    """The model's classes that the split's list names too: those that metrics are about."""
    return sorted({int(i) for i in class_map(split.classes, model, split.manifest) if i != UNKNOWN})


class AnswerSizes(Sequence[tuple[int, int]]):
    """(height, width) in pixels of each image as it came: what masks and boxes are answered in."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, row: Any) -> Any:
        return self.split.reader.size(row)


def class_map(classes: tuple[str, ...] | int | None, model: tuple[str, ...], what: str) -> Labels:
    """For every class of a manifest its index in the model, by name, whatever the order.

    Classes that the model lacks are UNKNOWN. Without names the count must be the model's. Raises
    BadInput otherwise, and where no class is shared.
    """
    if classes is None or isinstance(classes, int):
        count = len(model) if classes is None else classes
        if count != len(model):
            raise BadInput(
                f"{what} has {count} unnamed classes, the model has {len(model)} "
                f"({', '.join(model[:5])} ...); name the classes in the manifest"
            )
        return np.arange(count)
    place = {name: i for i, name in enumerate(model)}
    if not any(name in place for name in classes):
        raise BadInput(
            f"{what} shares no class with the model: it names {listed(classes)}, the model "
            f"has {listed(model)}"
        )
    return np.array([place.get(name, UNKNOWN) for name in classes], dtype=np.int64)


class ClassShift(Config):
    """How a target's list of classes differs from the model's."""

    regime: Regime | None  # None where the target does not name its classes
    extra: tuple[str, ...] = ()  # the target's own: "unknown" to the model
    missing: tuple[str, ...] = ()  # the model's, absent from the target

    def text(self) -> str:
        """For the user, every class by name; empty where nothing differs."""
        said = []
        if self.extra:
            said.append(f"classes that the model lacks, counted as unknown: {listed(self.extra)}")
        if self.missing:
            said.append(f"classes of the model that the target lacks: {listed(self.missing)}")
        pairs = [
            (name, *difflib.get_close_matches(name, self.missing, n=1, cutoff=0.75))
            for name in self.extra
        ]
        said += [
            f"if '{pair[0]}' is meant to be '{pair[1]}', correct the manifest"
            for pair in pairs
            if len(pair) > 1
        ]
        return f"{self.regime} target: " + "; ".join(said) if said else ""


def class_shift(
    classes: tuple[str, ...] | int | None, model: tuple[str, ...], what: str
) -> ClassShift:
    """The regime that the target's list of classes declares. Raises BadInput as `class_map`."""
    class_map(classes, model, what)
    if not isinstance(classes, tuple):
        return ClassShift(regime=None)
    extra = tuple(name for name in classes if name not in model)
    missing = tuple(name for name in model if name not in classes)
    regimes: dict[tuple[bool, bool], Regime] = {
        (False, False): "closed",
        (False, True): "partial",
        (True, False): "open",
        (True, True): "open-partial",
    }
    return ClassShift(regime=regimes[bool(extra), bool(missing)], extra=extra, missing=missing)


def shift_of(ref: ManifestRef, model: ModelRef) -> ClassShift:
    """How the classes of a manifest differ from a model's. Raises BadInput as `class_map`."""
    manifest = open_ref(ref)
    return class_shift(manifest.classes, model.classes, manifest.name)


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
    own = name or "test"
    return LabelledSplit(name=own, seen=seen_digest(ref, own), masks=masks_digest(ref, own))


def has_labels(manifest: Manifest, split: str) -> bool:
    """Whether a split of this manifest exists and carries labels."""
    return split in manifest.splits and read_split(manifest, split).labelled


def check_learnable(ref: ManifestRef, split: str, classes: tuple[str, ...]) -> None:
    """Raise BadInput unless every row of the split has a label, of one of these classes."""
    found = open_ref(ref)
    learn: dict[str, Callable[..., Any]] = {
        "segmentation": mask_table, "detection": boxes_for, "pose": people_for
    }  # fmt: skip
    learn.get(found.problem, labels_for)(read_split(found, split), classes)


def class_names(ref: ManifestRef) -> tuple[str, ...]:
    """The classes of a manifest, named "0", "1" ... where it states a number alone.

    Raises BadInput where it states none.
    """
    classes = open_ref(ref).classes
    if classes is None:
        raise BadInput(f"{ref.path} names no classes, and training needs them")
    return tuple(str(i) for i in range(classes)) if isinstance(classes, int) else classes


FORMAT = 1  # of kept images: to be raised when decoding or resizing gives other bytes


def decode_key(manifest: Manifest, split: str, spec: InputSpec) -> str:
    """A key for `decode` that changes with the images, their order, and how they are stored."""
    stored: tuple[object, ...]
    stored = (spec.stored, spec.keep_ratio, spec.interpolation, spec.channels, FORMAT)
    if spec.letterbox:
        stored = (*stored, "letterbox", spec.mean, spec.scale)
    if spec.tiled or spec.window:
        stored = (spec.tiled or spec.stored, spec.window, *stored[1:])
    text = f"{unlabelled_digest(manifest, split)} {stored}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]
