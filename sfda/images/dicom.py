"""DICOM images, one frame a file, and the series that they are slices of.

What a file asks for is looked at before its pixels are read: pictures of one frame, not compressed
or run-length coded, as scanners and `dcmconv` write them. Everything else is refused with the way.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sfda.bounds.limits import DICOM_PARTS, DICOM_READS, PICTURE_PIXELS
from sfda.documents import cut_off
from sfda.images.intensity_window import Raw

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
PREAMBLE = 128  # bytes of nothing before the word that tells
UNCOMPRESSED = frozenset(("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"))
RUN_LENGTHS = "1.2.840.10008.1.2.5"
DEFLATED = b"1.2.840.10008.1.2.1.99"  # its header unpacks to any length
ITEM = b"\xfe\xff\x00\xe0"  # begins a part of coded pixels
RUN_HEADER = 64  # bytes before the runs: how many segments, and where each begins
MOST_PADDING = 1 << 16  # bytes to which a segment may unpack beyond its pixels
GREY = ("MONOCHROME1", "MONOCHROME2")  # of the first, small numbers are bright
_HEADER = (
    *("TransferSyntaxUID", "SeriesInstanceUID", "InstanceNumber", "ImagePositionPatient"),
    *("ImageOrientationPatient", "PixelSpacing", "SliceThickness", "Rows", "Columns"),
)


class PlacedSlice(NamedTuple):
    """Where a slice lies: its series, its place along the series' axis in mm, or by number, and the
    millimetres between rows and columns; None where a file does not say.
    """

    series: str
    position: float
    thickness: float | None
    spacing: tuple[float, float] | None


def is_dicom(data: bytes) -> bool:
    """Whether a file's first bytes say that it is one."""
    return data[PREAMBLE : PREAMBLE + 4] == b"DICM"


def dicom_raw(data: bytes) -> Raw:
    """The intensities of its picture, [H, W] float32 or integer, or uint8 [H, W, 3].

    Rescaled as the file says (Hounsfield units of CT); bright is large. Raises ValueError.
    """
    with _one_error():
        header = _opened(data)
        _refuse(header)
        pixels = np.asarray(header.pixel_array)
        if header.PhotometricInterpretation not in GREY:
            return pixels
        slope = float(header.get("RescaleSlope", 1) or 1)
        shift = float(header.get("RescaleIntercept", 0) or 0)
        low, high = float(pixels.min()), float(pixels.max())
        if header.PhotometricInterpretation == "MONOCHROME1":  # low + high - pixels, rescaled
            slope, shift = -slope, (low + high) * slope + shift
        ends = [low * slope + shift, high * slope + shift]
        whole = slope == int(slope) and shift == int(shift) and max(map(abs, ends)) < 2**31
        fits = whole and max(abs(low), abs(high)) * max(1, abs(slope)) < 2**31
        scaled: Raw = pixels.astype(np.int32 if fits else np.float32)
        scaled *= scaled.dtype.type(slope)
        scaled += scaled.dtype.type(shift)
        return scaled


def dicom_values(data: bytes) -> Raw:
    """The numbers of a mask, as they are stored. Raises ValueError."""
    with _one_error():
        header = _opened(data)
        _refuse(header)
        return np.asarray(header.pixel_array)


def dicom_size(data: bytes) -> tuple[int, int]:
    """(height, width), by the header alone. Raises ValueError."""
    with _one_error():
        header = _opened(data, pixels=False)
        return int(header.Rows), int(header.Columns)


def placed_slice(data: bytes) -> PlacedSlice:
    """Where the slice of a file lies, by the header alone. Raises ValueError."""
    with _one_error():
        header = _opened(data, pixels=False, tags=_HEADER)
        if "Rows" not in header or "Columns" not in header:
            raise ValueError("it holds no picture")
        spacing = header.get("PixelSpacing")
        corner, axes = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
        position = float(header.get("InstanceNumber", 0) or 0)
        placed = corner and axes and len(corner) == 3 and len(axes) == 6
        if placed:
            rows, columns = (np.array(axes[i : i + 3], float) for i in (0, 3))
            position = float(np.cross(rows, columns) @ np.array(corner, float))
        thickness = header.get("SliceThickness")
        return PlacedSlice(
            str(header.get("SeriesInstanceUID", "")),
            position,
            float(thickness) if thickness else None,
            (float(spacing[0]), float(spacing[1])) if spacing and len(spacing) == 2 else None,
        )


def _opened(
    data: bytes, *, pixels: bool = True, tags: tuple[str, ...] | None = None
) -> FileDataset:
    import pydicom  # slow to import

    if DEFLATED in data:  # wherever it stands: its header may be long
        raise ValueError("it is deflated: write it plainly, as `dcmconv +te` does")
    return pydicom.dcmread(
        _Counted(data), stop_before_pixels=not pixels, specific_tags=list(tags) if tags else None
    )


class _Counted(io.BytesIO):
    """A file whose header takes no more reads than any that is honest: of each element pydicom
    makes an object.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = DICOM_READS.most

    def read(self, size: int | None = -1, /) -> bytes:
        """So many bytes at most. Raises ValueError."""
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"its header takes {DICOM_READS.beyond}")
        return super().read(size)


def _refuse(header: FileDataset) -> None:
    """Raise ValueError for a picture that is not read, or of more pixels than its file can hold."""
    syntax = str(header.file_meta.get("TransferSyntaxUID", ""))
    if not syntax:
        raise ValueError("its header is damaged: it does not say how its pixels are stored")
    if syntax not in (*UNCOMPRESSED, RUN_LENGTHS):
        raise ValueError(
            f"its pixels are compressed ({cut_off(syntax)}): decompress it, as `gdcmconv --raw` or "
            "`dcmdjpeg` do, or make a NIfTI volume of the series with dcm2niix"
        )
    frames = int(header.get("NumberOfFrames", 1) or 1)
    if frames != 1:
        raise ValueError(f"it has {frames} frames: make a NIfTI volume of it with dcm2niix")
    kind, samples = header.PhotometricInterpretation, int(header.get("SamplesPerPixel", 1))
    if (kind, samples) not in (*((grey, 1) for grey in GREY), ("RGB", 3)):
        raise ValueError(f"its pixels are {cut_off(str(kind))}; grey or RGB ones are read")
    height, width, bits = int(header.Rows), int(header.Columns), int(header.BitsAllocated)
    if height * width > PICTURE_PIXELS.most:
        raise ValueError(f"it has {PICTURE_PIXELS.refusal(f'{width} x {height}')}")
    if bits not in (8, 16, 32) or height < 1 or width < 1 or (samples == 3 and bits != 8):
        raise ValueError(f"it has {width} x {height} pixels of {bits} bits, which are not read")
    if syntax == RUN_LENGTHS:
        _refuse_runs(bytes(header.PixelData), height * width, samples * bits // 8)


def _refuse_runs(coded: bytes, pixels: int, segments: int) -> None:
    """Raise ValueError for run lengths that unpack to far more than `pixels` bytes a segment.

    A run of two bytes may stand for 128, and pydicom unpacks them all before it looks.
    """
    from pydicom.encaps import get_frame

    if (parts := coded.count(ITEM)) > DICOM_PARTS.most:
        raise ValueError(f"its pixels are in {DICOM_PARTS.refusal(parts)}")
    frame = get_frame(coded, 0, number_of_frames=1)
    count, *begins = struct.unpack("<16I", frame[:RUN_HEADER])
    if count != segments:
        raise ValueError(f"its pixels are in {count} segments, not in {segments}")
    ends = [*begins[1:count], len(frame)]
    for begin, end in zip(begins[:count], ends, strict=True):
        at, size = begin, 0
        while at < end and size <= pixels + MOST_PADDING:
            kind = frame[at] if at < len(frame) else 128
            run = kind + 1 if kind < 128 else 257 - kind if kind > 128 else 1
            at += 1 + (run if kind < 128 else kind != 128)  # 128 stands for nothing, yet is a step
            size += run
        if size > pixels + MOST_PADDING:
            raise ValueError("its run lengths unpack to more than its pixels")


@contextmanager
def _one_error() -> Iterator[None]:
    """What pydicom raises on a damaged file, as ValueError."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        yield
    except ValueError:
        raise
    except (
        *(BytesLengthException, InvalidDicomError, AttributeError, LookupError, TypeError),
        *(ArithmeticError, OSError, EOFError, RuntimeError, struct.error, MemoryError),
    ) as error:
        reason = cut_off(" ".join(f"{type(error).__name__} {error}".split()), 200)
        raise ValueError(f"its DICOM is damaged ({reason})") from None


def series_axis(places: list[float]) -> float | None:
    """Millimetres between slices in order; None for one slice, or several at one place.

    >>> series_axis([0.0, 2.5, 5.0])
    2.5
    """
    gaps = np.diff(np.array(places, dtype=np.float64))
    return float(np.median(gaps)) if len(gaps) and gaps.min() > 0 else None
