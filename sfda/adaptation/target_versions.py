"""The versions of a growing target below home, and what was last adapted to."""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from sfda.annotation import carry_over
from sfda.authoring.from_folder import build_manifest
from sfda.config import Config
from sfda.decision.drift import Drift, drift_between
from sfda.documents import cut_off
from sfda.errors import BadInput, for_terminal
from sfda.formats.image_files import image_files
from sfda.loading.opened import manifest_ref
from sfda.manifests.digests import file_digest
from sfda.manifests.growing import (
    Change,
    Marks,
    TargetRecord,
    compare_marks,
    marks_of,
    survey,
)
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.manifests.write import put
from sfda.problems.registry import PROBLEMS
from sfda.refs import ManifestRef, ProblemName, Profile
from sfda.state_folder import data_folder, disk_errors, home
from sfda.strangers import open_own

MOST_NAME_BYTES = 200  # bytes of a target's name, which is a folder's


class RefreshPolicy(Config):
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
    start_from: Literal["source", "champion"] = Field(
        "source", description="the model that is adapted: always the source, or the champion"
    )

    def least(self, size: int) -> int:
        """How many changes to a target that had `size` files are enough.

        >>> RefreshPolicy(min_share=0.1).least(30), RefreshPolicy(min_share=0.1).least(31)
        (3, 4)
        """
        share = round(self.min_share * size, 6)  # 0.1 * 30 is a little more than 3
        return max(self.min_files, math.ceil(share))

    def wants(self, change: Change, size: int) -> bool:
        """Whether so many changes to a target that had `size` files are enough."""
        return change.count >= self.least(size)


class TargetCheck(Config):
    """What one check of a target came to."""

    folder: str
    record: TargetRecord
    since_version: Change  # since the newest version
    since_adapted: Change  # since the last adaptation
    relabelled: bool = False  # the file of labels is another than that of the newest version
    new_annotations: bool = False  # some have come since the newest version
    annotated: bool = False  # some have come since the last adaptation
    unsettled: int = 0  # files that may still be written to, left for the next check


@contextmanager
def target_folder(name: str) -> Iterator[Path | None]:
    """The folder of a target's versions, for one process at a time: None if another has it."""
    odd = not name.isprintable() or len(os.fsencode(name)) > MOST_NAME_BYTES
    if not name or odd or any(c in name for c in "/\\:") or name.startswith("."):
        shown = cut_off(for_terminal(name))
        raise BadInput(f"'{shown}' cannot name a target; use letters, digits, '-', '_' and '.'")
    folder = home() / "targets" / name
    folder.mkdir(parents=True, exist_ok=True)
    with open_own(folder / "lock", os.O_WRONLY, 0o600) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
            return
        yield folder


def check_target(
    folder: Path, target: str, policy: RefreshPolicy, split: str, labels: str | None
) -> TargetCheck:
    """Compare a target with what is remembered of it. Raises BadInput where it cannot be read."""
    if labels and not Path(labels).is_file():
        raise BadInput(f"no labels at {labels}; give a CSV with the columns file,class")
    path = Path(target).absolute()
    record = _read(folder, str(path))
    if path.suffix.lower() in (".yaml", ".yml"):
        marks, unsettled = _survey_manifest(path, split, record.marks), frozenset[str]()
    else:
        marks, unsettled = survey(path, record.marks, settle=policy.settle, now=time.time())
    labels_digest = file_digest(Path(labels)) if labels else None
    annotations = _annotations_digest(path, record)
    seen = {"marks": marks, "labels": labels_digest, "answers": annotations}
    return TargetCheck(
        folder=str(folder),
        record=record.model_copy(update=seen),
        since_version=compare_marks(record.marks, marks),
        since_adapted=compare_marks(record.adapted_marks, marks),
        relabelled=labels_digest != record.labels,
        new_annotations=annotations != record.answers,
        annotated=bool(record.adapted) and annotations != record.adapted_answers,
        unsettled=len(unsettled),
    )


def _annotations_digest(path: Path, record: TargetRecord) -> str | None:
    """Digest of the annotations of the images of a folder, list or archive."""
    if record.manifest is None or path.suffix.lower() in (".yaml", ".yml"):
        return None
    return carry_over.known_digest(Path(record.manifest.path))


def _survey_manifest(path: Path, split: str, before: Marks) -> Marks:
    """Marks of the files that a manifest's split is made of: its archive, or its images."""
    manifest = open_manifest(path, data_root=data_folder())
    if archive := manifest.archive_path:
        files = {archive.name: archive}
    else:
        files = {}
        for name in read_split(manifest.unlabelled(), split).names:
            own = PROBLEMS[manifest.problem].row_file(name)
            files[own] = manifest.location / own
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing and len(missing) == len(files):
        raise BadInput(f"{files[missing[0]]}, which {path} names, is missing; correct the manifest")
    files = {name: file for name, file in files.items() if name not in set(missing)}
    return marks_of(
        {name: (str(file.absolute()), file.stat()) for name, file in files.items()}, before
    )


def next_version(
    check: TargetCheck,
    target: str,
    problem: ProblemName,
    classes: tuple[str, ...],
    labels: str | None = None,
) -> TargetRecord:
    """Write the next version of the target's manifest and remember it; all of it or nothing.

    A target that is a manifest itself stays the user's: it is referred to as it is now.
    """
    folder, path = Path(check.folder), Path(target).absolute()
    number = check.record.version + 1
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
                skip=_left_out(path, check.record.marks),
                version=number,
            )
            carry_over.carry_annotations(made)
        ref = manifest_ref(made)
        record = check.record.model_copy(update={"version": number, "manifest": ref})
        record = record.model_copy(update={"answers": _annotations_digest(path, record)})
        document = {
            "version": number,
            "manifest": ref.model_dump(),
            "target": str(path),
            **check.since_version.model_dump(),
            "files": {name: mark.sha256 for name, mark in check.record.marks.items()},
        }
        text = json.dumps(document, indent=1).encode()
        put({folder / f"v{number:04d}.json": text, **_state(folder, record)})
    return record


def _left_out(path: Path, marks: Marks) -> frozenset[str]:
    """Files of a folder that this check did not take: they may still be written to."""
    if path.suffix.lower() in (".zip", ".npz"):
        return frozenset()
    return frozenset(image_files(path).keys() - marks.keys())


def rewritten(record: TargetRecord) -> bool:
    """Whether the newest version's manifest is not as it was: its user may have corrected it."""
    if record.manifest is None:
        return False
    path = Path(record.manifest.path)
    return not path.is_file() or file_digest(path) != record.manifest.sha256


def added_images(
    check: TargetCheck, record: TargetRecord, target: str, problem: ProblemName
) -> ManifestRef | None:
    """A manifest of the images alone that came since the last adaptation; None if there are none.

    For a folder or a list; what is new inside of an archive cannot be told.
    """
    path = Path(target).absolute()
    new = {*check.since_adapted.added, *check.since_adapted.altered}
    if not new or path.suffix.lower() in (".yaml", ".yml", ".zip", ".npz"):
        return None
    others = frozenset(image_files(path).keys() - new)
    out = Path(check.folder, f"v{record.version:04d}-new.yaml")
    with disk_errors(str(out)):
        return manifest_ref(build_manifest(path, problem=problem, out=out, skip=others))


def remember(folder: str, record: TargetRecord, **changes: object) -> TargetRecord:
    """Keep what has changed, in one step."""
    now = record.model_copy(update=changes)
    with disk_errors(folder):
        put(_state(Path(folder), now))
    return now


def _state(folder: Path, record: TargetRecord) -> dict[Path, bytes]:
    return {folder / "state.json": record.model_dump_json(indent=1).encode()}


def _read(folder: Path, target: str) -> TargetRecord:
    file = folder / "state.json"
    if not file.is_file():
        return TargetRecord(target=target)
    try:
        record = TargetRecord.model_validate_json(file.read_bytes())
    except ValidationError:
        raise BadInput(
            f"{file} is damaged; delete the folder {folder} to begin with version 1 again"
        ) from None
    if os.path.realpath(record.target) != os.path.realpath(target):
        raise BadInput(
            f"the target '{folder.name}' is {record.target}, not {target}; give another "
            "--target-name"
        )
    return record


def drift_of(check: TargetCheck, now: Profile, images: int) -> Drift | None:
    """Drift of new images from the champion's profile; None where nothing can be told."""
    if check.record.profile is None:
        return None
    return drift_between(check.record.profile, now, (check.record.images, images))
