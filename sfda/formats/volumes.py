"""Volumes in NIfTI files, read as slices along their last axis.

`case01.nii.gz#12` names the slice of index 12. Its rows are the second axis of the array and its
columns the first, so that [slice, row, column] is the order in which ITK gives the same file.
"""

from __future__ import annotations

import functools
import gzip
import io
import math
import struct
import threading
from dataclasses import dataclass
from gzip import BadGzipFile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sfda.bounds.files import check_regular, machine_memory, read_all, read_member, zip_opened
from sfda.bounds.limits import VOLUME_BYTES, VOLUME_NOTE_BYTES
from sfda.errors import BadInput
from sfda.images.intensity_window import Picture, Raw, Window, percentiles, to_bytes

VOLUMES = (".nii", ".nii.gz")
VOLUMES_IN_MEMORY = 2  # whole volumes in memory: that of the images and that of the masks
SCALED_AT_ONCE = 1 << 20  # voxels that are scaled at once
SAME_PLACE = 0.1  # of the shortest side of a voxel
# by a header's length, the type and place of where voxels begin, and where they do without notes
START, HEADERS = 544, {348: ("f", 108, 352), 540: ("q", 168, 544)}
MILLIMETRES = {"meter": 1000.0, "micron": 0.001}
Matrix = np.ndarray[Any, np.dtype[np.float64]]
_LOADING = threading.Lock()


class FileAddress(NamedTuple):
    """A file, or a member of a zip."""

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return f"{self.member} in {self.path}" if self.member else str(self.path)

    @property
    def missing(self) -> str:
        """What to say where it is not there."""
        if self.member:
            return f"{self.member} is missing from {self.path}"
        return f"{self.path} is missing"


class Slice(NamedTuple):
    """A slice of a volume: the file, and the place along the last axis, from 0."""

    file: str
    at: int


class Grid(NamedTuple):
    """What a header says: [slices, rows, columns], the millimetres between them, and where they
    lie: millimetres by (column, row, slice, 1), [4, 4]; None where it does not say.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    affine: tuple[tuple[float, ...], ...] | None = None


def is_volume(name: str) -> bool:
    """Whether a file of this name holds a volume."""
    return name.lower().endswith(VOLUMES)


def slice_of(name: str) -> Slice | None:
    """The slice that a row names; None if it names a picture. Raises BadInput.

    >>> slice_of("a/case01.nii.gz#12")
    Slice(file='a/case01.nii.gz', at=12)
    """
    file, mark, index = name.rpartition("#")
    if not mark and not is_volume(name):
        return None
    if is_volume(name) or (is_volume(file) and not index.isdecimal()):
        raise BadInput(
            f"{name} is a whole volume, and rows are slices: name them {file or name}#0, "
            f"{file or name}#1 ..., as `sfda manifest` does"
        )
    return Slice(file, int(index)) if is_volume(file) else None


@dataclass(frozen=True, eq=False)
class Volume:
    """One volume, in memory or, if its file is not compressed, read slice by slice."""

    array: Any  # [X, Y, Z], perhaps with more axes of length 1
    grid: Grid

    def raw(self, index: int) -> Raw:
        """One slice as intensities [H, W]. Raises BadInput if there is no such slice."""
        if index >= self.grid.shape[0]:
            raise BadInput(f"there is no slice {index}, only 0..{self.grid.shape[0] - 1}")
        plane = self.array[:, :, index] if len(self.array.shape) > 2 else self.array[:, :]
        return np.asarray(plane).reshape(self.grid.shape[:0:-1]).T

    def image(self, index: int, window: Window) -> Picture:
        """One slice as uint8 [H, W]; percentiles are those of the whole volume."""
        window = window or "percentile"
        return to_bytes(self.raw(index), window, self.ends if window == "percentile" else None)

    @property
    def ends(self) -> tuple[float, float]:
        """Percentiles of the whole volume's intensities."""
        with _LOADING:
            return self._ends

    @functools.cached_property
    def _ends(self) -> tuple[float, float]:
        array = self.array if isinstance(self.array, np.ndarray) else _in_memory(self.array)
        _refuse_memory(array.size * (3 * array.dtype.itemsize + 1))  # finite ones, once more sorted
        return percentiles(array)


def volume(address: FileAddress) -> Volume:
    """The volume at `place`; the last ones stay in memory, so that slices in order cost one load.

    Raises OSError, or ValueError for what is no volume of three axes.
    """
    stat = address.path.stat()
    with _LOADING:  # else every thread would load it
        return _volume(address, stat.st_size, stat.st_mtime_ns)


def grid(address: FileAddress) -> Grid:
    """Shape and spacing of the volume at `place`, by its header. Raises as `volume`."""
    stat = address.path.stat()
    return _grid(address, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=VOLUMES_IN_MEMORY)
def _volume(address: FileAddress, size: int, time: int) -> Volume:
    image = _open(address)
    sizes = _grid_of(image)
    if address.member is None and address.path.suffix.lower() == ".nii":
        return Volume(image.dataobj, sizes)  # read from the disk as it is sliced
    return Volume(_in_memory(image.dataobj), sizes)


def _in_memory(voxels: Any) -> Raw:
    """All voxels of nibabel's array on the disk; as float32 where they are scaled or longer floats.

    The float64 that nibabel makes of them is never whole in memory. Raises ValueError where the
    rest does not fit.
    """
    kind, scaled = voxels.dtype, (voxels.slope, voxels.inter) != (1, 0)
    if not scaled and (np.issubdtype(kind, np.integer) or kind.itemsize <= 4):
        _refuse_memory(math.prod(voxels.shape) * kind.itemsize)
        return np.asanyarray(voxels)
    from nibabel.volumeutils import apply_read_scaling

    _refuse_memory(math.prod(voxels.shape) * (kind.itemsize + 4))
    stored = voxels.get_unscaled().ravel(order="F")
    values = np.empty(stored.size, np.float32)
    for start in range(0, stored.size, SCALED_AT_ONCE):
        part = slice(start, start + SCALED_AT_ONCE)
        values[part] = apply_read_scaling(stored[part], voxels.slope, voxels.inter)
    return values.reshape(voxels.shape, order="F")


def _refuse_memory(needed: int) -> None:
    if needed > machine_memory():
        raise ValueError(
            f"it needs {needed} bytes, more than this machine's memory; make several files of it"
        )


@functools.lru_cache(maxsize=100_000)
def _grid(address: FileAddress, size: int, time: int) -> Grid:
    return _grid_of(_open(address))


def _open(address: FileAddress) -> Any:
    import nibabel  # slow to import
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError, ImageDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        if address.member is None:
            check_regular(address.path)
            unpack = gzip.open if address.path.suffix.lower() == ".gz" else open
            with unpack(address.path, "rb") as file:
                kind = getattr(nibabel, _class_of(file.read(START)))
            image: Any = kind.from_filename(address.path)
        else:
            with zip_opened(address.path) as archive:
                data = read_member(archive, address.member, VOLUME_BYTES)
            if address.member.lower().endswith(".gz"):
                with gzip.open(io.BytesIO(data)) as file:
                    data = read_all(file, VOLUME_BYTES)
            image = getattr(nibabel, _class_of(data[:START])).from_bytes(data)
    except (ImageFileError, HeaderDataError, ImageDataError, WrapStructError, BadGzipFile) as error:
        raise ValueError(f"it is no NIfTI file: {' '.join(str(error).split())}") from None
    dtype = image.get_data_dtype()
    if not (np.issubdtype(dtype, np.integer) or np.issubdtype(dtype, np.floating)):
        raise ValueError(f"it holds {dtype}, not one number a voxel")
    needed = math.prod(map(int, image.shape)) * dtype.itemsize
    if needed > VOLUME_BYTES.most:
        raise ValueError(f"its voxels claim {VOLUME_BYTES.refusal(needed)}")
    return image


def _class_of(start: bytes) -> str:
    """nibabel's class for a file that begins so: of NIfTI's first version, or of its second.

    Raises ValueError for more notes than one has: of every 16 bytes of them it makes an object.
    """
    for order in "<>":
        (length,) = struct.unpack_from(f"{order}i", start := start.ljust(START, b"\0"))
        if length in HEADERS:
            kind, at, usual = HEADERS[length]
            (begin,) = struct.unpack_from(order + kind, start, at)
            if start[usual - 4] and not usual <= begin <= usual + VOLUME_NOTE_BYTES.most:
                raise ValueError(f"its header has {VOLUME_NOTE_BYTES.beyond}, or none that end")
            return "Nifti2Image" if length == 540 else "Nifti1Image"
    return "Nifti1Image"


def _grid_of(image: Any) -> Grid:
    shape = tuple(int(size) for size in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"it has {list(shape)} voxels; split it into volumes of three axes")
    wide, high, deep = (*shape, 1)[:3]
    scale = MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)
    zooms = [float(zoom) * scale for zoom in image.header.get_zooms()[:3]]
    across, down, through = (*zooms, 1.0)[:3]
    placed = int(image.header["sform_code"]) > 0 or int(image.header["qform_code"]) > 0
    moved = np.diag([scale, scale, scale, 1.0]) @ image.affine
    affine = tuple(map(tuple, moved.tolist())) if placed else None
    return Grid((deep, high, wide), (through, down, across), affine)


def difference_of_grids(image: Grid, mask: Grid) -> str:
    """How a mask's geometry differs from its image's, with both; '' where it is the same.

    Where a header does not say where its voxels lie, sizes of voxels are compared alone.

    >>> grid = Grid((4, 12, 16), (1.0, 1.0, 1.0), None)
    >>> difference_of_grids(grid, grid._replace(spacing=(3.0, 1.0, 1.0)))
    'its voxels are 3 x 1 x 1 mm, and those of the image 1 x 1 x 1 mm (slice x row x column)'
    """
    both = ""
    if image.affine is not None and mask.affine is not None:
        both = f": affine {_text(mask.affine)}, and of the image {_text(image.affine)}"
    if image.shape != mask.shape:
        return (
            f"it has {_sides(mask.shape)} voxels, and the image {_sides(image.shape)} "
            f"(slice x row x column){both}"
        )
    if not np.allclose(image.spacing, mask.spacing, rtol=0.01):
        return (
            f"its voxels are {_sides(mask.spacing)} mm, and those of the image "
            f"{_sides(image.spacing)} mm (slice x row x column){both}"
        )
    if image.affine is None or mask.affine is None:
        return ""
    ours, theirs = np.array(image.affine), np.array(mask.affine)
    corners = np.array(np.meshgrid(*([0, side - 1] for side in image.shape[::-1]), [1]))
    corners = corners.reshape(4, -1)
    apart = np.linalg.norm(((ours - theirs) @ corners)[:3], axis=0).max()
    if apart <= SAME_PLACE * min(image.spacing):
        return ""
    return _movement(ours, theirs) + both


def _movement(image: Matrix, mask: Matrix) -> str:
    """What would bring one to the other, in a word."""
    axes, others = (
        matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0) for matrix in (image, mask)
    )
    along = (axes * others).sum(0)
    if (np.abs(along) > 1 - 1e-3).all():
        if mirrored := [str(axis) for axis in np.flatnonzero(along < 0)]:
            return f"it is mirrored along axis {', '.join(mirrored)}"
        return f"it lies {np.linalg.norm((image - mask)[:3, 3]):.4g} mm away"
    return "it is turned"


def _sides(sides: tuple[float, ...]) -> str:
    return " x ".join(f"{side:g}" for side in sides)


def _text(affine: tuple[tuple[float, ...], ...]) -> str:
    """The first three rows, as they are printed."""
    return "[" + "; ".join(" ".join(f"{one:.4g}" for one in row) for row in affine[:3]) + "]"
