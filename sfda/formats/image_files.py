"""Which files of a folder, a list or an archive hold images, by their names alone."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from sfda.bounds.files import read_bounded
from sfda.bounds.limits import LIST_BYTES
from sfda.documents import decoded
from sfda.errors import BadInput, listed, shell_command
from sfda.formats.volumes import VOLUMES
from sfda.images.dicom import DICOM_SUFFIXES
from sfda.sandbox.crossing import Within, inside

HAS_HEIF = find_spec("pillow_heif") is not None
HEIF_SUFFIXES = (".heic", ".heif")  # read where pillow-heif is installed
HEIF_REMEDY = "the package pillow-heif: pip install pillow-heif"
_READ = (
    *("apng", "avif", "avifs", "bmp", "gif", "j2c", "j2k", "jfif", "jp2", "jpc", "jpe", "jpeg"),
    *("jpf", "jpg", "jpx", "pbm", "pgm", "png", "pnm", "ppm", "tga", "tif", "tiff", "webp"),
)
SUFFIXES = (
    *(f".{ending}" for ending in _READ),
    *DICOM_SUFFIXES,
    *(HEIF_SUFFIXES if HAS_HEIF else ()),
)
# what lies beside images and is none: nobody misses it
_PAPER_ENDINGS = (
    *("cfg", "csv", "doc", "docx", "html", "ini", "json", "jsonl", "log", "md", "names", "pdf"),
    *("py", "rst", "rtf", "sha256", "toml", "tsv", "txt", "xls", "xlsx", "xml", "yaml", "yml"),
)
PAPERS = frozenset(f".{ending}" for ending in _PAPER_ENDINGS)
VIDEOS = frozenset((".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"))
IGNORED_NAMES = frozenset(("thumbs.db", "desktop.ini", "ehthumbs.db"))
IGNORED_FOLDERS = frozenset(("__MACOSX",))  # as hidden ones are


@dataclass
class PassedOver:
    """Files that are not taken for images, by suffix: how many, and some of their names."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def note(self, name: str) -> None:
        """Count a file, unless nobody takes it for an image: a document, or a hidden file."""
        parts = name.split("/")
        last = parts[-1].lower()
        suffix = ".nii.gz" if last.endswith(".nii.gz") else PurePosixPath(last).suffix
        if suffix in PAPERS or last in IGNORED_NAMES or not last:
            return
        if any(part.startswith(".") or part in IGNORED_FOLDERS for part in parts):
            return
        self.counts[suffix] = self.counts.get(suffix, 0) + 1
        if self.counts[suffix] <= 3:
            self.examples.setdefault(suffix, []).append(name)

    def text(self) -> str:
        """In words, with what would read them; '' where there is nothing to tell."""
        if not self.counts:
            return ""
        kinds = [
            f"{count} {suffix or 'without a suffix'} ({', '.join(sorted(self.examples[suffix]))}"
            + (", ...)" if count > len(self.examples[suffix]) else ")")
            for suffix, count in sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        ]
        text = f"passed over, not read as images: {listed(kinds)}"
        if not self.counts.keys().isdisjoint(HEIF_SUFFIXES):
            text += f"; HEIC is read with {HEIF_REMEDY}"
        if films := sorted(self.counts.keys() & VIDEOS):
            film = PurePosixPath(self.examples[films[0]][0])
            frames = f"./{film.stem}_%05d.png"  # without a folder it could be an option, or a URL
            command = shell_command("ffmpeg", "-i", f"./{film.name}", frames)
            text += f"; of a video its frames are read: {command}"
        if not self.counts.keys().isdisjoint((".nii", ".nii.gz")):
            text += "; volumes are read for segmentation"
        return text


def image_files(path: Path) -> dict[str, Path]:
    """The files that the images in `path` lie in, by name: those below a folder or in a list, or
    the one zip or npz. Nothing is opened.

    Raises BadInput as `list_images`, but an empty folder is no fault.
    """
    if path.is_dir():
        return {key: path / key for key in sorted(images_below(path, SUFFIXES + VOLUMES))}
    if path.suffix.lower() == ".txt" and path.is_file():
        return {key: path.parent / key for key in sorted(images_in_list(path, SUFFIXES + VOLUMES))}
    if path.is_file() and path.suffix.lower() in (".zip", ".npz"):
        return {path.name: path}
    raise BadInput(f"{path} is no folder, zip, npz, or .txt list of images; or it is missing")


def images_below(
    root: Path, suffixes: tuple[str, ...], others: PassedOver | None = None
) -> list[str]:
    """Names below a folder, links followed; `others` is told of the files that are no images.

    Raises BadInput for those that lead out of it.
    """
    keys: list[str] = []
    visited: set[Path] = set()
    top = root.resolve()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        real = (root / below).resolve()
        if real in visited:  # a link back up
            continue
        visited.add(real)
        is_own = real.is_relative_to(top)
        folders = _look_into(root, below, suffixes, keys, others, is_own=is_own)
        waiting += reversed(folders)
    return keys


def _look_into(
    root: Path,
    below: str,
    suffixes: tuple[str, ...],
    keys: list[str],
    others: PassedOver | None,
    *,
    is_own: bool,
) -> list[str]:
    """The folders in one folder below `root`; the names of its images are added to `keys`, and
    `others` is told of its other files.

    A folder that cannot be read has none. `is_own`: it does not really lie elsewhere. Raises
    BadInput for an image that does.
    """
    folders: list[str] = []
    try:
        entries = os.scandir(root / below)
    except OSError:
        return folders
    with entries:
        for entry in entries:  # one by one: a million of them are 250 MB
            name = f"{below}/{entry.name}" if below else entry.name
            if _is_folder(entry):
                if not entry.name.startswith(".") and entry.name not in IGNORED_FOLDERS:
                    folders.append(name)
            elif is_image_name(entry.name, suffixes) and not _is_pipe(entry):
                if not is_own or entry.is_symlink():
                    inside(root, name)
                keys.append(name)
            elif others is not None:
                others.note(name)
    return folders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_pipe(entry: os.DirEntry[str]) -> bool:
    """Whether reading it could wait for ever; a link to nothing is told of as a missing image."""
    if entry.is_file(follow_symlinks=False):  # the listing says so: its status is not asked for
        return False
    try:
        return not stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return False


def images_in_list(path: Path, suffixes: tuple[str, ...]) -> list[str]:
    """One path a line, relative to the list's folder. Raises BadInput naming all that is amiss."""
    try:
        text = decoded(read_bounded(path, LIST_BYTES), path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is no text with one image a line: {error}") from None
    lines = map(str.strip, text.splitlines())
    keys = [line.replace("\\", "/").removeprefix("./") for line in lines if line]
    odd = [k for k in keys if PurePosixPath(k).is_absolute() or ".." in PurePosixPath(k).parts]
    other = [key for key in keys if not key.lower().endswith(suffixes)]
    rest = dict.fromkeys(keys).keys() - {*odd, *other}
    absent = sorted(key for key in rest if not os.path.isfile(f"{path.parent}/{key}"))
    kinds = {"outside of its folder": odd, "no images": other, "missing": absent}
    faults = [f"{kind}: {', '.join(names[:5])}" for kind, names in kinds.items() if names]
    if len(set(keys)) < len(keys):
        faults.append("some images are named twice")
    if faults:
        raise BadInput(f"{path} names files that cannot be taken; " + "; ".join(faults))
    within = Within(path.parent)
    for key in keys:
        within.check(key)
    return keys


def is_image_name(path: str, suffixes: tuple[str, ...]) -> bool:
    if not path.lower().endswith(suffixes):
        return False
    if "/." not in path and path[0] != ".":
        return True
    return not any(part.startswith(".") for part in PurePosixPath(path).parts)
