"""Encoded pictures, as they lie in files: PNG, TIFF, JPEG and what else PIL reads."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from sfda.images.intensity_window import Picture, Raw, Window, to_bytes


def decode_bytes(data: bytes, window: Window = None) -> Picture:
    """An encoded image as uint8, [H, W] if it is grey and [H, W, 3] RGB otherwise, upright by EXIF.

    Raises what PIL raises on broken data.
    """
    # without a window PIL makes 8 bits of 16 a colour, and those bytes are what models know
    return to_bytes(raw_bytes(data, deep=window is not None), window)


def raw_bytes(data: bytes, *, deep: bool = True) -> Raw:
    """An encoded image in the type it was saved in, [H, W] or [H, W, 3], upright by EXIF.

    Raises what PIL raises on broken data, and ValueError for a TIFF of several pages.
    """
    image = _upright(data)
    if image.mode == "F":
        return np.asarray(image)
    if image.mode.startswith("I"):  # 16 bits a pixel, perhaps signed
        return np.asarray(image).astype(np.int32)
    if deep and _sixteen_bit_colours(image, data):
        colours = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if colours is None:
            raise ValueError("its 16-bit colours are damaged, or stored in an unknown way")
        return np.ascontiguousarray(colours[..., 2::-1])
    grey = image.mode in ("L", "1", "LA")
    return np.asarray(image.convert("L" if grey else "RGB"))


def value_bytes(data: bytes) -> Raw:
    """An encoded mask's pixel values [H, W]; with more axes if it holds colours, [H, W, C]."""
    image = _upright(data)
    return np.asarray(image.convert("L") if image.mode == "LA" else image)


def size_of_bytes(data: bytes) -> tuple[int, int]:
    """(height, width) of an encoded image, upright by EXIF, not decoded."""
    image = Image.open(io.BytesIO(data))
    turned = image.getexif().get(0x0112) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def _upright(data: bytes) -> Image.Image:
    opened = Image.open(io.BytesIO(data))
    if opened.format == "TIFF":
        _refuse_pages(opened)
    opened.load()
    # the copy that PIL would make forgets the tags, which tell 16 bits from 8
    turned = opened.getexif().get(0x0112, 1) != 1
    return ImageOps.exif_transpose(opened) if turned else opened


def _refuse_pages(image: Image.Image) -> None:
    """Raise ValueError if a TIFF has more than one page that is not a small copy of another."""
    pages = 0
    for page in range(getattr(image, "n_frames", 1)):
        image.seek(page)
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        pages += not tags.get(254, 0) & 1
    if pages > 1:
        raise ValueError(f"it has {pages} pages; save each as a file, or all as a NIfTI volume")
    image.seek(0)


def _sixteen_bit_colours(image: Image.Image, data: bytes) -> bool:
    if image.mode not in ("RGB", "RGBA"):
        return False
    if image.format == "PNG":
        return data[24] == 16
    bits: tuple[int, ...] = getattr(image, "tag_v2", {}).get(258, (8,))
    return max(bits) == 16
