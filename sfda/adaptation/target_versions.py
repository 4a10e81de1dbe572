"""The versions of a growing target below home, and what was last adapted to."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from sfda.annotation import carry_over as known_answers
from sfda.authoring.from_folder import build_manifest
from sfda.config import Config
from sfda.decision.drift import Drift, drift_between
from sfda.errors import BadInput
from sfda.formats.image_files import image_files
from sfda.formats.keypoints import file_of
from sfda.formats.volumes import slice_of
from sfda.loading import opened as manifests
from sfda.manifests.digests import file_digest
from sfda.manifests.growing import Change, FileMark, Marks, difference, survey
from sfda.manifests.rows import read_split
from sfda.manifests.schema import open_manifest
from sfda.manifests.write import put
from sfda.refs import ManifestRef, Problem
from sfda.state_folder import data_folder, disk_errors, home


class Policy(Config):
    """When a changed target is worth an adaptation, and what it starts from.

    Files count that came, went or changed since the last adaptation. The first adaptation needs
    no change.
    """

    min_files: int = Field(1, ge=1, description="fewer changed files start nothing")
    min_share: float = Field(0.1, ge=0, le=1, description="nor does a smaller share of the target")
    drift: float | None = Field(
        0.25, ge=0, description="stability index of new images above which it starts in any case"
    )
    settle: float = Field(10.0, ge=0, description="seconds a file must have been left alone")
    start_from: Literal["source", "champion"] = "source"

    def wants(self, change: Change, size: int) -> bool:
        """Whether so many changes to a target that had `size` files are enough."""
        return change.count >= self.min_files and change.count >= self.min_share * size


class Kept(Config):
    """What is remembered of a target between two looks."""

    target: str
    version: int = 0
    manifest: ManifestRef | None = None
    marks: Marks = {}  # of the newest version
    labels: str | None = None  # digest of the file of labels that it was made with
    answers: str | None = None  # digest of all that people had answered about it then
    adapted: int = 0  # the version that was last adapted to
    adapted_marks: Marks = {}
    adapted_answers: str | None = None
    model: str | None = None  # digest of the champion that `profile` is of
    profile: dict[str, Any] | None = None
    images: int = 0  # that the profile is of


class Look(Config):
    """What one look at a target found."""

    folder: str
    kept: Kept
    since_version: Change  # since the newest version
    since_adapted: Change  # since the last adaptation
    relabelled: bool = False  # the file of labels is another than that of the newest version
    noted: bool = False  # people have answered since the newest version
    answered: bool = False  # people have answered since the last adaptation
    fresh: int = 0  # files that may still be written to, left for the next look


@contextmanager
def target_folder(name: str) -> Iterator[Path | None]:
    """The folder of a target's versions, for one process at a time: None if another has it."""
    if not name or any(c in name for c in "/\\:") or name.startswith("."):
        raise BadInput(f"'{name}' cannot name a target; use letters, digits, '-', '_' and '.'")
    folder = home() / "targets" / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
            return
        yield folder


def look_at(folder: Path, target: str, policy: Policy, split: str, labels: str | None) -> Look:
    """Compare a target with what is remembered of it. Raises BadInput where it cannot be read."""
    if labels and not Path(labels).is_file():
        raise BadInput(f"no labels at {labels}; give a CSV with the columns file,class")
    path = Path(target).absolute()
    kept = _read(folder, str(path))
    if path.suffix.lower() in (".yaml", ".yml"):
        marks, fresh = _survey_manifest(path, split, kept.marks), frozenset[str]()
    else:
        marks, fresh = survey(path, kept.marks, settle=policy.settle, now=time.time())
    given = file_digest(Path(labels)) if labels else None
    told = _answers(path, kept)
    return Look(
        folder=str(folder),
        kept=kept.model_copy(update={"marks": marks, "labels": given, "answers": told}),
        since_version=difference(kept.marks, marks),
        since_adapted=difference(kept.adapted_marks, marks),
        relabelled=given != kept.labels,
        noted=told != kept.answers,
        answered=bool(kept.adapted) and told != kept.adapted_answers,
        fresh=len(fresh),
    )


def _answers(path: Path, kept: Kept) -> str | None:
    """Digest of what people have answered about the images of a folder, list or archive."""
    if kept.manifest is None or path.suffix.lower() in (".yaml", ".yml"):
        return None
    return known_answers.digest(Path(kept.manifest.path))


def _survey_manifest(path: Path, split: str, before: Marks) -> Marks:
    """Marks of the files that a manifest's split is made of: its archive, or its images."""
    manifest = open_manifest(path, data_root=data_folder())
    if archive := manifest.archive_path:
        files = {archive.name: archive}
    else:
        files = {}
        for name in read_split(manifest.unlabelled(), split).names:
            part = slice_of(name)
            own = part.file if part else file_of(name) if manifest.problem == "pose" else name
            files[own] = manifest.location / own
    marks: Marks = {}
    for name, file in files.items():
        if not file.is_file():
            raise BadInput(f"{file}, which {path} names, is missing; correct the manifest")
        stat, known = file.stat(), before.get(name)
        if known and (known.size, known.time) == (stat.st_size, stat.st_mtime_ns):
            marks[name] = known
        else:
            digest = file_digest(file)
            marks[name] = FileMark(size=stat.st_size, time=stat.st_mtime_ns, sha256=digest)
    return marks


def next_version(
    look: Look,
    target: str,
    problem: Problem,
    classes: tuple[str, ...],
    labels: str | None = None,
) -> Kept:
    """Write the next version of the target's manifest and remember it; all of it or nothing.

    A target that is a manifest itself stays the user's: it is referred to as it is now.
    """
    folder, path = Path(look.folder), Path(target).absolute()
    number = look.kept.version + 1
    with disk_errors(f"version {number} of {target} in {folder}"):
        if path.suffix.lower() in (".yaml", ".yml"):
            made = path
        else:
            made = build_manifest(
                path,
                problem=problem,
                out=folder / f"v{number:04d}.yaml",
                classes=classes if labels else None,
                labels_csv=Path(labels) if labels else None,
                skip=_left_out(path, look.kept.marks),
                version=number,
            )
            known_answers.carry(made)
        told = _answers(path, look.kept.model_copy(update={"manifest": manifests.refer(made)}))
        ref = manifests.refer(made)
        record = {
            "version": number,
            "manifest": ref.model_dump(),
            "target": str(path),
            **look.since_version.model_dump(),
            "files": {name: mark.sha256 for name, mark in look.kept.marks.items()},
        }
        kept = look.kept.model_copy(update={"version": number, "manifest": ref, "answers": told})
        text = json.dumps(record, indent=1).encode()
        put({folder / f"v{number:04d}.json": text, **_state(folder, kept)})
    return kept


def _left_out(path: Path, marks: Marks) -> frozenset[str]:
    """Files of a folder that this look did not take: they may still be written to."""
    if path.suffix.lower() in (".zip", ".npz"):
        return frozenset()
    return frozenset(image_files(path).keys() - marks.keys())


def rewritten(kept: Kept) -> bool:
    """Whether the newest version's manifest is not as it was: its user may have corrected it."""
    if kept.manifest is None:
        return False
    path = Path(kept.manifest.path)
    return not path.is_file() or file_digest(path) != kept.manifest.sha256


def added_images(look: Look, kept: Kept, target: str, problem: Problem) -> ManifestRef | None:
    """A manifest of the images alone that came since the last adaptation; None if there are none.

    For a folder or a list; what is new inside of an archive cannot be told.
    """
    path = Path(target).absolute()
    new = {*look.since_adapted.added, *look.since_adapted.altered}
    if not new or path.suffix.lower() in (".yaml", ".yml", ".zip", ".npz"):
        return None
    others = frozenset(image_files(path).keys() - new)
    out = Path(look.folder, f"v{kept.version:04d}-new.yaml")
    with disk_errors(str(out)):
        return manifests.refer(build_manifest(path, problem=problem, out=out, skip=others))


def remember(folder: str, kept: Kept, **changes: Any) -> Kept:
    """Keep what has changed, in one step."""
    now = kept.model_copy(update=changes)
    with disk_errors(folder):
        put(_state(Path(folder), now))
    return now


def _state(folder: Path, kept: Kept) -> dict[Path, bytes]:
    return {folder / "state.json": kept.model_dump_json(indent=1).encode()}


def _read(folder: Path, target: str) -> Kept:
    file = folder / "state.json"
    if not file.is_file():
        return Kept(target=target)
    try:
        kept = Kept.model_validate_json(file.read_bytes())
    except ValidationError:
        raise BadInput(
            f"{file} is damaged; delete the folder {folder} to begin with version 1 again"
        ) from None
    if os.path.realpath(kept.target) != os.path.realpath(target):
        raise BadInput(
            f"the target '{folder.name}' is {kept.target}, not {target}; give another --target-name"
        )
    return kept


def drift_of(look: Look, now: dict[str, Any], images: int) -> Drift | None:
    """Drift of new images from the champion's profile; None where nothing can be told."""
    if look.kept.profile is None:
        return None
    return drift_between(look.kept.profile, now, (look.kept.images, images))
