"""Images that cannot be read: up to a limit they are left out, as if no manifest named them.

Nothing depends on a row that is left out: no digest, no number of a row, no figure. At the next
look it is tried again.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sfda.errors import BadInput, listed
from sfda.images.decode import UnreadableImages
from sfda.loading.opened import open_ref, open_split
from sfda.loading.parts import keep_names
from sfda.manifests.rows import Sight, Split, look_at, read_split, row_files
from sfda.manifests.schema import Manifest
from sfda.problems.registry import PROBLEMS
from sfda.refs import InputSpec, ManifestRef
from sfda.state_folder import decoded_folder

log = logging.getLogger("sfda")
ALWAYS_BORNE, BORNE_SHARE = 10, 0.01  # so many broken images, or such a share, end nothing
NOTED = ".unreadable"  # suffix of an empty file that is named by an image and its content


class NothingReadable(BadInput):
    """No image of a split can be read."""


class ReadableRows(NamedTuple):
    """A manifest without what cannot be read, and what is wrong with each such image."""

    manifest: ManifestRef
    skipped: tuple[str, ...]


def most_skipped(count: int, share: float | None = None) -> int:
    """How many of so many images may be left out: ten, or one in a hundred, never over half; or
    the `share` that somebody states.

    >>> most_skipped(6), most_skipped(500), most_skipped(5000), most_skipped(500, 0.1)
    (3, 10, 50, 50)
    """
    if share is not None:
        return math.floor(share * count + 1e-9)
    return min(max(ALWAYS_BORNE, math.floor(BORNE_SHARE * count)), count // 2)


def leave_unreadable(
    ref: ManifestRef,
    splits: Sequence[str],
    spec: InputSpec,
    *,
    share: float | None = None,
    stated: str | None = None,
    option: str = "--skip-unreadable ",
) -> ReadableRows:
    """The manifest less the images of `splits` that cannot be read. All of them are decoded.

    `stated` is the target as a person named it, `option` what they state the share with. Raises
    BadInput naming them where they are more than `most_skipped` of a split.
    """
    manifest, faults = open_ref(ref).unlabelled(), dict[str, str]()
    for split in dict.fromkeys(splits):
        if split in manifest.splits:
            faults |= _faults_of(manifest.less(faults), split, spec)
            if faults:
                _refuse_many(manifest, read_split(manifest, split), faults, share, stated, option)
    if not faults:
        return ReadableRows(ref, ())
    messages = tuple(dict.fromkeys(faults.values()))
    log.warning("%s and left out: %s", _counted(len(messages)), listed(messages, "; "))
    without = keep_names({*manifest.left_out, *faults})
    return ReadableRows(ref.model_copy(update={"without": without}), messages)


def _faults_of(manifest: Manifest, split: str, spec: InputSpec) -> dict[str, str]:
    """What is wrong with each row that cannot be read, by its name: of all rows, where all are."""
    rows = read_split(manifest, split)
    try:
        faults = _noted(manifest, rows)
    except BadInput:
        if not (faults := _absent(manifest, rows)):
            raise
    while len(faults) < len(rows):
        less = manifest.less(faults)
        try:
            open_split(less, split, spec)
        except UnreadableImages as error:
            left = read_split(less, split)
            new = {left.names[row]: fault for row, fault in error.faults.items()}
            _note(less, left, new)
        except BadInput:
            new = _absent(manifest, rows)
            if not new.keys() - faults.keys():
                raise
        else:
            break
        faults |= new
    return faults


def _absent(manifest: Manifest, rows: Split) -> dict[str, str]:
    """Rows whose files are not there, or may not be read; of an archive none is looked for."""
    if manifest.archive_path or not manifest.location.is_dir():
        return {}
    file_of = PROBLEMS[manifest.problem].row_file
    odd = {}
    for file in row_files(manifest, rows):
        path = manifest.location / file
        if not path.is_file():
            odd[file] = f"image {path} is missing"
        elif not os.access(path, os.R_OK):
            odd[file] = f"image {path} cannot be read: permission denied"
    return {name: odd[file_of(name)] for name in rows.names if file_of(name) in odd} if odd else {}


def _marks(manifest: Manifest, rows: Split, sight: Sight) -> dict[str, Path]:
    """For each row the file that notes that its image, as it is now, cannot be read."""
    files, file_of = row_files(manifest, rows), PROBLEMS[manifest.problem].row_file
    whole = len(sight.files) != len(files)  # an archive: one digest for all
    digest_of = {file: sight.files[0 if whole else at] for at, file in enumerate(files)}
    marks = {}
    for name in rows.names:
        text = f"{name} {int(digest_of[file_of(name)])}"
        digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]
        marks[name] = decoded_folder() / f"{digest}{NOTED}"
    return marks


def _noted(manifest: Manifest, rows: Split) -> dict[str, str]:
    """What is wrong with rows that could not be read before, and cannot now: so the others are
    decoded once.
    """
    known = {path.name for path in decoded_folder().glob(f"*{NOTED}")}
    faults = dict[str, str]()
    if not known:
        return faults
    row_of = {name: row for row, name in enumerate(rows.names)}
    for name, mark in _marks(manifest, rows, look_at(manifest, rows)).items():
        if mark.name in known:
            try:
                rows.image(row_of[name])
                mark.unlink(missing_ok=True)
            except BadInput as error:
                faults[name] = str(error)
    return faults


def _note(manifest: Manifest, rows: Split, faults: Mapping[str, str]) -> None:
    marks = _marks(manifest, rows, look_at(manifest, rows))
    for name in faults:
        try:
            marks[name].touch()
        except OSError:  # it is a shortcut, no more
            return


def _refuse_many(
    manifest: Manifest,
    rows: Split,
    faults: Mapping[str, str],
    share: float | None,
    stated: str | None,
    option: str,
) -> None:
    """Raise BadInput where more images of a split are broken than may be left out."""
    file_of = PROBLEMS[manifest.problem].row_file
    files = {file_of(name) for name in rows.names}
    broken = {file_of(name): faults[name] for name in rows.names if name in faults}
    most = most_skipped(len(files), share)
    if len(broken) <= most and len(broken) < len(files):
        return
    again = "mend or remove them and run the same again"
    if stated is None or not Path(stated).is_dir():
        again = "mend or remove them, then make the manifest anew with `sfda manifest`"
    if len(broken) < len(files):
        needed = math.ceil(100 * len(broken) / len(files)) / 100
        again += f"; or leave them out with {option}{min(needed, 0.99):g}"
    kind = BadInput if len(broken) < len(files) else NothingReadable
    raise kind(
        f"{_counted(len(broken))}, of {len(files)} in split '{rows.name}' of "
        f"{stated or manifest.path}, where {most} may be left out: "
        f"{listed(tuple(broken.values()), '; ')}; {again}"
    )


def _counted(count: int) -> str:
    return "1 image cannot be read" if count == 1 else f"{count} images cannot be read"
