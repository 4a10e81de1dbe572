"""Images decoded once, prepared for one model and kept in a file that is mapped into memory."""

from __future__ import annotations

import errno
import fcntl
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from sfda.errors import BadInput, listed
from sfda.images.intensity_window import DIM, Picture, Window
from sfda.images.preprocess import prepare_image
from sfda.images.store import Pictures, RaggedWriter, open_ragged
from sfda.refs import InputSpec

DECODED_AHEAD = 256  # images that are decoded before they are written
log = logging.getLogger("sfda")
SPARE = 16 * 2**20  # bytes that are left free on the disk
LOCKED_AFTER = 1.0  # seconds in which the writer of a temporary file has locked it
ABANDONED = 3600.0  # seconds after which it has none any more, where files cannot be locked
OnProgress = Callable[[int, int], None]


class UnreadableImages(BadInput):
    """Images that cannot be decoded: `faults` says of each row why."""

    def __init__(self, faults: Mapping[int, str], count: int) -> None:
        self.faults = dict(faults)
        named = listed(tuple(self.faults.values()), "; ")
        super().__init__(
            f"{len(self.faults)} of {count} images cannot be used: {named}; mend or remove them, "
            "then make the manifest anew with `sfda manifest`"
        )


class ImageSet(Protocol):
    """Something with images in it, such as a Split."""

    def __len__(self) -> int: ...

    def image(self, row: int, window: Window = None) -> Picture:
        """One image, uint8 [H, W, 3] or [H, W]. Raises BadInput naming it."""
        ...


def decode_images(
    split: ImageSet,
    spec: InputSpec,
    folder: Path,
    *,
    key: str,
    progress: OnProgress | None = None,
    workers: int | None = None,
    free: Callable[[Path], int] | None = None,
    confirm: Callable[[], None] | None = None,
) -> Pictures:
    """All images of `split` as uint8 [N, H, W, C] of `spec.stored` size, read-only and on disk.

    For a tiled input each is of its own size: a `Ragged`. They are kept as `<folder>/<key>.npy`
    (or `.ragged`) and found there the next time; `key` must name the images and the spec, as
    `decode_key` does. The file is written under another name and then moved, so what is there is
    whole, whoever else writes and whenever the process ends. `free` tells the free bytes of a
    folder; `confirm` is called before what was decoded is kept, and may refuse it by raising.

    Raises UnreadableImages, or BadInput if the disk is too small.
    """
    shape, path = _stored_as(len(split), spec, folder, key)
    pictures = decoded_images(len(split), spec, folder, key)
    if pictures is not None:
        return pictures
    # how large images of their own sizes are shows as they are decoded
    needed = SPARE + (0 if spec.tiled else int(np.prod(shape)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        there = (free or _free_bytes)(folder)
        if there < needed:
            raise _full(folder, needed, there)
        _write_beside(path, shape, split, spec, progress, workers or _cores(), confirm)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(folder, needed, _free_bytes(folder)) from None
        raise BadInput(f"cannot keep decoded images in {folder}: {error}") from None
    pictures = decoded_images(len(split), spec, folder, key)
    if pictures is None:
        raise BadInput(f"{path} was changed by another program while it was made; run again")
    return pictures


def decoded_images(count: int, spec: InputSpec, folder: Path, key: str) -> Pictures | None:
    """What `decode_images` has kept, of so many images; None where that is not whole or not so."""
    shape, path = _stored_as(count, spec, folder, key)
    return open_ragged(path, count) if spec.tiled else _stored(path, shape)


def _stored_as(count: int, spec: InputSpec, folder: Path, key: str) -> tuple[tuple[int, ...], Path]:
    """Shape [N, H, W, C] of images that are all of one size, and the file for them."""
    suffix = "ragged" if spec.tiled else "npy"
    return (count, *spec.stored, spec.depth), folder / f"{key}.{suffix}"


def write_images(
    handle: BinaryIO,
    split: ImageSet,
    spec: InputSpec,
    *,
    progress: OnProgress | None = None,
    workers: int = 1,
) -> None:
    """Decode all images and write their bytes in order. Raises OSError, and UnreadableImages at the
    end.

    For a tiled input their shapes follow.
    """
    faults, brightest = dict[int, str](), 0
    ragged = RaggedWriter(handle) if spec.tiled else None
    with ThreadPoolExecutor(workers) as pool:
        for done, (image, fault) in enumerate(_decoded(pool, split, spec), start=1):
            if fault:
                faults[done - 1] = fault
            elif not faults:  # after a fault the file will not be kept
                brightest = max(brightest, int(image.max(initial=0)))
                ragged.write(image) if ragged else handle.write(image.data)
            if progress:
                progress(done, len(split))
    if faults:
        raise UnreadableImages(faults, len(split))
    if brightest <= DIM and len(split) and spec.window is None:
        log.warning(
            "no image is brighter than %d of 255: if they have more than 8 bits, the model needs a "
            "window, as in `import-model --window 0,4095`; `sfda check` says which",
            brightest,
        )
    if ragged:
        ragged.finish()


def _decoded(
    pool: ThreadPoolExecutor, split: ImageSet, spec: InputSpec
) -> Iterator[tuple[Picture, str]]:
    """Each image and '', or an empty one and what is wrong; at most a chunk in memory."""

    def one(row: int) -> tuple[Picture, str]:
        try:
            # a window is named only where there is one: other sets of images need not know of it
            image = split.image(row, spec.window) if spec.window else split.image(row)
            return prepare_image(image, spec), ""
        except BadInput as error:
            return np.empty(0, np.uint8), str(error)

    chunk = _chunk(spec)
    for start in range(0, len(split), chunk):
        yield from pool.map(one, range(start, min(start + chunk, len(split))))


def _chunk(spec: InputSpec) -> int:
    """Images that are decoded before they are written; whole ones may be large."""
    return 8 if spec.tiled else DECODED_AHEAD


def _write_beside(
    path: Path,
    shape: tuple[int, ...],
    split: ImageSet,
    spec: InputSpec,
    progress: OnProgress | None,
    workers: int,
    confirm: Callable[[], None] | None,
) -> None:
    number, name = unfinished_file(path.parent, path.stem)
    try:
        # not a memory map: a full disk would end the process there instead of raising
        with os.fdopen(number, "wb") as handle:
            if not spec.tiled:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(handle, header)
            write_images(handle, split, spec, progress=progress, workers=workers)
            handle.flush()
            os.fsync(handle.fileno())
        if confirm:
            confirm()
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def _stored(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array at `path` if it is whole and fits."""
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == np.uint8 else None


def unfinished_file(folder: Path, stem: str) -> tuple[int, str]:
    """A new file, open and locked, and its address: `sweep` removes it once its writer is gone."""
    number, name = tempfile.mkstemp(dir=folder, prefix=f".{stem}.", suffix=".tmp")
    with suppress(OSError):  # not every file system has locks
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return number, name


def sweep(folder: Path) -> None:
    """Remove what killed runs left of unfinished files; a living writer has locked its own."""
    for leftover in folder.glob(".*.tmp"):
        with suppress(OSError):
            number = os.open(leftover, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if time.time() - os.fstat(number).st_mtime > _shortest_age(number):
                    leftover.unlink()
            finally:
                os.close(number)


def _shortest_age(number: int) -> float:
    """Seconds after which an open unfinished file has no writer; endless while it has one."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return math.inf
    except OSError:
        return ABANDONED
    return LOCKED_AFTER


def _full(folder: Path, needed: int, there: int) -> BadInput:
    return BadInput(
        f"the disk of {folder} is too small for the decoded images: {needed} bytes needed, "
        f"{there} free; make room, or set SFDA_HOME to a larger disk"
    )


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _cores() -> int:
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
