"""A target that grows: which of its files are new, gone or altered, at the cost of one look."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from sfda.config import Config
from sfda.errors import BadInput
from sfda.formats.image_files import image_files
from sfda.manifests.digests import file_digests
from sfda.refs import ManifestRef, Profile
from sfda.state_folder import Stamp, as_stamp

log = logging.getLogger("sfda")


class FileMark(Config):
    """A file as it was seen: its digest is computed anew only where size or time differ."""

    size: int  # bytes
    time: int  # nanoseconds, of its last change
    sha256: str


Marks = dict[str, FileMark]


class Change(Config):
    """Files that came, went, and have other bytes than before, by name in order."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many files differ."""
        return len(self.added) + len(self.removed) + len(self.altered)

    def text(self) -> str:
        """In words.

        >>> Change(added=("a.png", "b.png"), removed=("c.png",)).text()
        '2 added, 1 removed'
        """
        parts = {"added": self.added, "removed": self.removed, "altered": self.altered}
        return ", ".join(f"{len(v)} {k}" for k, v in parts.items() if v) or "nothing"


class TargetRecord(Config):
    """What is remembered of a target between two checks: `state.json` in its folder."""

    target: str
    version: int = 0
    manifest: ManifestRef | None = None
    marks: Marks = {}  # of the newest version
    labels: str | None = None  # digest of the file of labels that it was made with
    answers: str | None = None  # digest of all annotations of it then
    adapted: int = 0  # the version that was last adapted to
    adapted_marks: Marks = {}
    adapted_answers: str | None = None
    model: str | None = None  # digest of the champion that `profile` is of
    profile: Profile | None = None
    images: int = 0  # that the profile is of


def survey(
    path: Path, before: Mapping[str, FileMark], *, settle: float, now: float
) -> tuple[Marks, frozenset[str]]:
    """Marks of all image files of `path`, and the names of those that may still be written to.

    Those changed less than `settle` seconds before `now` (seconds since 1970): they are left for
    the next look, as are those that cannot be read. Only what is new or touched is read. Raises
    BadInput where `path` is no target or none can be read.
    """
    files: dict[str, tuple[str, os.stat_result]] = {}
    fresh = set()
    for name, file in image_files(path.absolute()).items():
        try:
            status = os.stat(file)
        except FileNotFoundError:
            continue  # gone since it was listed
        except OSError as error:
            raise BadInput(f"image {file} cannot be read: {error.strerror}") from None
        if now - status.st_mtime < settle:
            fresh.add(name)
        else:
            files[name] = str(file), status
    while True:
        try:
            return marks_of(files, before), frozenset(fresh)
        except FileNotFoundError:  # gone since: the next look does not meet it
            return survey(path, before, settle=settle, now=now)
        except OSError as error:
            odd = [name for name, (file, _) in files.items() if file == error.filename]
            if not odd or len(files) == 1:
                message = f"image {error.filename} cannot be read: {error.strerror}"
                raise BadInput(message) from None
            log.warning("image %s is left for the next look: %s", error.filename, error.strerror)
            del files[odd[0]]
            fresh.add(odd[0])


def marks_of(
    files: Mapping[str, tuple[str, os.stat_result]], before: Mapping[str, FileMark]
) -> Marks:
    """Marks of files (absolute path, status) by name; what is marked and as it was is not read.

    Raises OSError.
    """
    marks: Marks = {}
    unknown: dict[str, tuple[str, Stamp]] = {}
    for name, (path, status) in files.items():
        mark = before.get(name)
        if mark and mark.size == status.st_size and mark.time == status.st_mtime_ns:
            marks[name] = mark
        else:
            unknown[name] = path, as_stamp(status)
    if not unknown:
        return marks
    for (name, (_, stamp)), digest in zip(
        unknown.items(), file_digests(unknown.values()), strict=True
    ):
        marks[name] = FileMark(size=stamp.size, time=stamp.modified, sha256=digest)
    return {name: marks[name] for name in files}


def compare_marks(before: Mapping[str, FileMark], now: Mapping[str, FileMark]) -> Change:
    """What came, went or changed its bytes."""
    both = before.keys() & now.keys()
    return Change(
        added=tuple(sorted(now.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - now.keys())),
        altered=tuple(sorted(name for name in both if before[name].sha256 != now[name].sha256)),
    )
