"""Encoded pictures, as they lie in files: PNG, TIFF, JPEG and some more formats, no others.

PIL tells a format by what a file begins with, whatever its name is, and for some of them starts
other programs or reads other files. So the formats are a closed list, and what a picture costs is
looked at before it is decoded.
"""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from sfda.bounds.limits import EXIF_BYTES, JPEG_SCANS, JPEG_SEGMENTS, PICTURE_PIXELS
from sfda.documents import cut_off
from sfda.formats.image_files import HEIF_REMEDY
from sfda.images.dicom import dicom_raw, dicom_size, dicom_values, is_dicom
from sfda.images.intensity_window import Picture, Raw, Window, to_bytes
from sfda.images.tiff_directories import MOST_PAGES, ORIENTATION, refuse_exif, refuse_tiff

AS_STORED = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
# as PIL calls them
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
BY_FOOT = "TGA"  # begins with nothing of its own: it is told by its end, or by its length
PLUGGED_IN = "HEIF"  # read where the package pillow-heif is installed
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_TGA_FOOT = b"TRUEVISION-XFILE.\0"
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # what begins a segment of a JPEG
_EXIF = re.compile(rb"\xff\xe1(..)Exif\0\0", re.DOTALL)  # what begins one of EXIF


@contextmanager
def _one_error() -> Iterator[None]:
    """What PIL lets through of tags of an odd type, as ValueError."""
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError) as error:
        reason = cut_off(" ".join(f"{type(error).__name__} {error}".split()))
        raise ValueError(f"its tags are damaged ({reason}); save it anew") from None


def decode_bytes(data: bytes, window: Window = None) -> Picture:
    """An encoded image as uint8, [H, W] if it is grey and [H, W, 3] RGB otherwise, upright by EXIF.

    Raises what PIL raises on broken data.
    """
    if is_dicom(data):  # its intensities have no usual range
        raw = dicom_raw(data)
        return to_bytes(raw, None if raw.dtype == np.uint8 else window or "percentile")
    # without a window PIL makes 8 bits of 16 a colour, and those bytes are what models know
    return to_bytes(raw_bytes(data, deep=window is not None), window)


@_one_error()
def raw_bytes(data: bytes, *, deep: bool = True) -> Raw:
    """An encoded image in the type it was saved in, [H, W] or [H, W, 3], upright by EXIF.

    Raises what PIL raises on broken data, and ValueError for a TIFF of several pages.
    """
    if is_dicom(data):
        return dicom_raw(data)
    image = _upright(data)
    if image.mode == "F":
        return np.asarray(image)
    if image.mode.startswith("I"):  # 16 bits a pixel, perhaps signed
        return np.asarray(image).astype(np.int32)
    if deep and image.mode in ("RGB", "RGBA") and _sixteen_bits(stored := open_picture(data), data):
        colours = cv2.imdecode(np.frombuffer(data, np.uint8), AS_STORED)
        if colours is None:
            raise ValueError("its 16-bit colours are damaged, or stored in an unknown way")
        # OpenCV turns a TIFF, whatever it is told
        orientation = 1 if stored.format == "TIFF" else _orientation(stored)
        return np.ascontiguousarray(_turned(colours[..., 2::-1], orientation))
    grey = image.mode in ("L", "1", "LA")
    return np.asarray(image.convert("L" if grey else "RGB"))


@_one_error()
def value_bytes(data: bytes) -> Raw:
    """An encoded mask's pixel values [H, W]; with more axes if it holds colours, [H, W, C]."""
    if is_dicom(data):
        return dicom_values(data)
    image = _upright(data)
    return np.asarray(image.convert("L") if image.mode == "LA" else image)


@_one_error()
def size_of_bytes(data: bytes) -> tuple[int, int]:
    """(height, width) of an encoded image, upright by EXIF, not decoded."""
    if is_dicom(data):
        return dicom_size(data)
    image = open_picture(data)
    # PIL tells the upright sides of a TIFF, and the stored ones of all others
    turned = _orientation(image) in (5, 6, 7, 8) and image.format != "TIFF"
    return (image.width, image.height) if turned else (image.height, image.width)


@_one_error()
def orientation_of_bytes(data: bytes) -> int:
    """How an encoded image lies by EXIF; 1 is upright."""
    return 1 if is_dicom(data) else _orientation(open_picture(data))


@_one_error()
def open_picture(data: bytes) -> Image.Image:
    """An encoded image of one of `FORMATS`, not decoded.

    Raises what PIL raises on broken data and on other formats, and ValueError for a picture of more
    than `PICTURE_PIXELS` pixels, or one that takes far longer to decode than its size tells.
    """
    if data.startswith(b"\xff\xd8"):
        _refuse_scans(data)
        # PIL joins them and reads the whole, before one can look
        _refuse_long_exif(sum(int.from_bytes(part[1]) for part in _EXIF.finditer(data)))
    if data.startswith((b"II", b"MM")):
        refuse_tiff(data)
    if PICTURE_PIXELS.most > (Image.MAX_IMAGE_PIXELS or 0):
        Image.MAX_IMAGE_PIXELS = PICTURE_PIXELS.most  # PIL refuses from twice as many on
    try:
        image = Image.open(io.BytesIO(data), formats=_formats(data))
    except Image.DecompressionBombError:
        raise ValueError(f"it has {PICTURE_PIXELS.beyond}; cut it into parts") from None
    if image.width * image.height > PICTURE_PIXELS.most:
        met = PICTURE_PIXELS.refusal(f"{image.width} x {image.height}")
        raise ValueError(f"it has {met}; cut it into parts")
    return image


def _formats(data: bytes) -> tuple[str, ...]:
    """What an encoded image may be. Raises ValueError for HEIC where nothing reads it."""
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS and b"avif" not in data[8:64]:
        try:
            pillow_heif = importlib.import_module("pillow_heif")
        except ImportError:
            raise ValueError(f"it is HEIC, which is read with {HEIF_REMEDY}") from None
        pillow_heif.register_heif_opener(thumbnails=False)
        return (PLUGGED_IN,)
    return (BY_FOOT,) if _is_tga(data) else FORMATS


def _is_tga(data: bytes) -> bool:
    """Whether this is a Targa: by its foot, or a plausible head of one as long as the data are."""
    if len(data) < 18 or data[1] > 1 or data[2] not in (1, 2, 3, 9, 10, 11):
        return False
    width, height = (int.from_bytes(data[at : at + 2], "little") for at in (12, 14))
    if not (width and height and data[16] in (8, 16, 24, 32)):
        return False
    if data.endswith(_TGA_FOOT):
        return True
    mapped = int.from_bytes(data[5:7], "little") * (data[7] + 7) // 8 if data[1] else 0
    length = 18 + data[0] + mapped + width * height * data[16] // 8
    packed = data[2] > 8
    return len(data) < length + 18 if packed else length <= len(data) <= length + 4096


def _refuse_scans(data: bytes) -> None:
    """Raise ValueError for a JPEG of very many scans or segments."""
    position, scans, most = 2, 0, JPEG_SCANS.most
    for _ in range(JPEG_SEGMENTS.most):
        marker = _MARKER.search(data, position)
        kind = data[marker.end() - 1] if marker else 0xD9
        if marker is None or kind == 0xD9:  # the end of the picture: what follows is not read
            return
        scans += kind == 0xDA
        if scans > most:
            raise ValueError(f"it is a JPEG of {JPEG_SCANS.beyond}; save it anew")
        bare = kind in (0x01, 0xD8)  # without a length
        length = 0 if bare else int.from_bytes(data[marker.end() : marker.end() + 2])
        position = marker.end() + length
    raise ValueError(f"it is a JPEG of {JPEG_SEGMENTS.beyond}; save it anew")


def _upright(data: bytes) -> Image.Image:
    opened = open_picture(data)
    if opened.format == "TIFF":
        _refuse_pages(opened)
    opened.load()
    # the copy that PIL would make forgets the tags, which tell 16 bits from 8
    return ImageOps.exif_transpose(opened) if _orientation(opened) != 1 else opened


def _turned(pixels: Raw, orientation: int) -> Raw:
    """Pixels as they are stored made upright, as EXIF defines it."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def _orientation(image: Image.Image) -> int:
    """How a picture lies by EXIF, 1 is upright. Raises ValueError for EXIF that claims much."""
    if image.format == "PNG" and "exif" not in image.info:
        image.load()  # it may follow the pixels
    _refuse_exif(image.info)
    turned: int = image.getexif().get(ORIENTATION, 1)
    return turned


def _refuse_long_exif(size: int) -> None:
    if size > EXIF_BYTES.most:
        raise ValueError(f"it has {EXIF_BYTES.refusal(size)}; save it without")


def _refuse_exif(info: dict[Any, Any]) -> None:
    exif = info.get("exif") or b""
    _refuse_long_exif(len(exif))
    for _ in range(2):  # as PIL does
        exif = exif.removeprefix(b"Exif\0\0")
    if exif:
        refuse_exif(exif)


def _refuse_pages(image: Image.Image) -> None:
    """Raise ValueError if a TIFF has more than one page that is not a small copy of another.

    Only so many pages are looked at as are needed to tell: a small file can have thousands.
    """
    full = 0
    for page in range(MOST_PAGES + 1):
        try:
            image.seek(page)
        except EOFError:
            break
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        full += not tags.get(254, 0) & 1
        if full > 1 or page == MOST_PAGES:
            raise ValueError("it has several pages; save each as a file, or all as a NIfTI volume")
    image.seek(0)


def _sixteen_bits(image: Image.Image, data: bytes) -> bool:
    """Whether a picture of colours has so many for each."""
    if image.format == "PNG":
        return data[24] == 16
    bits: tuple[int, ...] = getattr(image, "tag_v2", {}).get(258, (8,))
    return max(bits) == 16
