"""Pictures that lie on their side, of every format and depth, are as the upright picture."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfda.formats.images import decode_bytes, raw_bytes, size_of_bytes, value_bytes

HEIGHT, WIDTH = 16, 24
TURNS = range(1, 9)
DRAWN = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)


def laid(upright: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    """The pixels as a camera stores them that then says this orientation (EXIF 2.3, table 6)."""
    back = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: np.rot90,  # shown, it is turned clockwise
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(back[orientation](upright))


def saved(pixels: np.ndarray[Any, Any], kind: str, orientation: int, **more: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, exif=exif, **more)
    return out.getvalue()


def palette(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(laid(DRAWN[..., 0] % 8, orientation), "P")
    image.putpalette([level for number in range(8) for level in (number * 30, 0, 255)])
    out = io.BytesIO()
    image.save(out, kind, exif=exif)
    return out.getvalue()


def deep_tiff(pixels: np.ndarray[Any, Any], orientation: int) -> bytes:
    """16 bits a colour, which PIL does not write."""
    height, width, _ = pixels.shape
    body = pixels.astype("<u2").tobytes()
    bits, start = 8, 14
    entries = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, bits), (259, 3, 1, 1),
        (262, 3, 1, 2), (273, 4, 1, start), (274, 3, 1, orientation), (277, 3, 1, 3),
        (278, 3, 1, height), (279, 4, 1, len(body)), (284, 3, 1, 1),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in entries) + b"\0\0\0\0"
    head = b"II*\0" + struct.pack("<I", start + len(body)) + struct.pack("<3H", 16, 16, 16)
    return head + body + directory


def deep_png(pixels: np.ndarray[Any, Any], orientation: int) -> bytes:
    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    parts = [
        (b"IHDR", struct.pack(">2I5B", width, height, 16, 2, 0, 0, 0)),
        (b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1" + struct.pack(">H6x", orientation)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_eight_bits(kind: str, channels: int, orientation: int) -> None:
    if kind == "JPEG" and channels == 4:
        pytest.skip("a JPEG has no transparency")
    # of one value a block, so that JPEG keeps it well enough
    blocks = DRAWN[::8, ::8].repeat(8, 0).repeat(8, 1) if kind == "JPEG" else DRAWN
    pixels = blocks[..., 0] if channels == 1 else blocks[..., :channels]
    more = {"WEBP": {"lossless": True, "exact": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    data = saved(laid(pixels, orientation), kind, orientation, **more.get(kind, {}))
    assert size_of_bytes(data) == (HEIGHT, WIDTH)
    seen = [decode_bytes(data), raw_bytes(data), value_bytes(data)]
    for one in seen:
        assert one.shape[:2] == (HEIGHT, WIDTH)
        picture, truth = (a if a.ndim == 3 else a[..., None] for a in (one, pixels))
        common = min(picture.shape[2], truth.shape[2], 3)
        apart = np.abs(picture[..., :common].astype(int) - truth[..., :common])
        assert apart.max() <= (12 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits", "tiff_jpeg"])
def test_compressed_tiff(compression: str, orientation: int) -> None:
    blocks = DRAWN[::8, ::8, 0].repeat(8, 0).repeat(8, 1)
    data = saved(laid(blocks, orientation), "TIFF", orientation, compression=compression)
    assert size_of_bytes(data) == (HEIGHT, WIDTH)
    apart = np.abs(value_bytes(data).astype(int) - blocks)
    assert apart.max() <= (40 if compression == "tiff_jpeg" else 0)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits(kind: str, orientation: int) -> None:
    pixels = DRAWN[..., :2].copy().view("<u2")[..., 0]
    data = saved(laid(pixels, orientation), kind, orientation)
    assert size_of_bytes(data) == (HEIGHT, WIDTH)
    assert np.array_equal(raw_bytes(data), pixels)
    assert np.array_equal(value_bytes(data), pixels)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("write", [deep_png, deep_tiff])
def test_sixteen_bits_a_colour(write: Any, orientation: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=np.uint16)
    data = write(laid(pixels, orientation), orientation)
    assert size_of_bytes(data) == (HEIGHT, WIDTH)
    assert np.array_equal(raw_bytes(data), pixels)
    assert decode_bytes(data).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("orientation", TURNS)
def test_floats(orientation: int) -> None:
    pixels = DRAWN[..., 0].astype(np.float32) / 3
    data = saved(laid(pixels, orientation), "TIFF", orientation)
    assert size_of_bytes(data) == (HEIGHT, WIDTH)
    assert np.array_equal(raw_bytes(data), pixels)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_indices_of_a_palette(kind: str, orientation: int) -> None:
    data = palette(orientation, kind)
    assert size_of_bytes(data) == (HEIGHT, WIDTH)
    assert np.array_equal(value_bytes(data), DRAWN[..., 0] % 8)
