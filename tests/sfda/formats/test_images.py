"""What a picture may be: a closed list of formats, of a bounded size and a bounded work."""

from __future__ import annotations

import importlib
import io
import struct
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from sfda.bounds.limits import EXIF_BYTES, JPEG_SCANS, PICTURE_PIXELS
from sfda.formats.image_files import HEIF_SUFFIXES, SUFFIXES
from sfda.formats.images import (
    BY_FOOT,
    FORMATS,
    open_picture,
    raw_bytes,
    size_of_bytes,
)
from sfda.images.dicom import DICOM_SUFFIXES
from sfda.images.tiff_directories import MOST_PAGES, ORIENTATION

ROOT = Path(__file__).parents[3]


def encoded(kind: str, **settings: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 30, 30)).save(out, kind, **settings)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PCX", "SGI", "PDF"])
def test_a_picture_of_another_format_is_refused_whatever_its_name(kind: str) -> None:
    with pytest.raises(UnidentifiedImageError):
        raw_bytes(encoded(kind))


def test_every_suffix_that_is_taken_is_of_a_format_that_is_read() -> None:
    Image.init()
    taken = (*FORMATS, BY_FOOT)
    others = {*HEIF_SUFFIXES, *DICOM_SUFFIXES}
    assert {Image.EXTENSION[s] for s in SUFFIXES if s not in others} == set(taken)
    for kind in taken:
        assert raw_bytes(encoded(kind)).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("kind", "mode", "settings"),
    [
        ("JPEG2000", "RGB", {"irreversible": False}),
        ("JPEG2000", "L", {}),
        ("JPEG2000", "RGBA", {"no_jp2": True}),  # the bare stream
        ("AVIF", "RGB", {}),
        ("TGA", "RGB", {}),
        ("TGA", "RGBA", {"compression": "tga_rle"}),
        ("TGA", "P", {}),
        ("TGA", "L", {"orientation": 1}),
        ("JPEG", "CMYK", {}),
    ],
)
def test_what_cameras_and_scanners_write_is_read(
    kind: str, mode: str, settings: dict[str, object]
) -> None:
    out = io.BytesIO()
    image = Image.new("RGB", (9, 6), (180, 90, 40)).convert(mode)
    image.save(out, kind, **settings)
    read = raw_bytes(out.getvalue())
    assert size_of_bytes(out.getvalue()) == (6, 9)
    usual = np.asarray(image.convert("L" if mode == "L" else "RGB"))
    assert read.shape == usual.shape
    assert abs(read.astype(int) - usual).max() < 6


def test_a_targa_without_a_foot_is_told_by_its_length_and_nothing_else_is_one() -> None:
    whole = encoded("TGA")
    bare = whole[: 18 + 16 * 16 * 3]
    assert raw_bytes(bare).shape == (16, 16, 3)
    for data in (bare[:-1], bytes(18), bare[:18] + bytes(10_000), b"\0\1" + bare[2:]):
        with pytest.raises((ValueError, OSError)):
            raw_bytes(data)


def test_heic_is_read_by_its_package_or_refused_with_it() -> None:
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    if find_spec("pillow_heif"):
        pillow_heif = importlib.import_module("pillow_heif")
        out = io.BytesIO()
        pillow_heif.from_pillow(Image.new("RGB", (64, 48), (200, 30, 30))).save(out)
        assert raw_bytes(out.getvalue()).shape == (48, 64, 3)
        return
    with pytest.raises(ValueError, match="pip install pillow-heif"):
        raw_bytes(data)


@pytest.mark.skipif(not find_spec("pillow_heif"), reason="pillow-heif is not installed")
@pytest.mark.parametrize(
    ("tag", "turn"),
    [(1, None), (6, Image.Transpose.ROTATE_90), (8, Image.Transpose.ROTATE_270), (5, 5)],
)
def test_a_turned_heic_is_upright_once(tag: int, turn: int | None) -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:20, :30], pixels[30:, 40:] = (250, 20, 20), (20, 20, 250)
    upright = Image.fromarray(pixels)
    stored = upright if turn is None else upright.transpose(Image.Transpose(turn))
    exif, out = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = tag
    pillow_heif = importlib.import_module("pillow_heif")
    pillow_heif.from_pillow(stored).save(out, exif=exif.tobytes(), quality=95)
    assert size_of_bytes(out.getvalue()) == (48, 64)
    assert np.abs(raw_bytes(out.getvalue()).astype(int) - pixels).mean() < 1
    with pytest.raises((ValueError, OSError)):
        raw_bytes(out.getvalue()[:-50])


def test_pictures_are_opened_in_one_place() -> None:
    opening = [
        str(file.relative_to(ROOT))
        for folder in ("sfda", "tasks", "flows")
        for file in (ROOT / folder).rglob("*.py")
        if "Image.open(" in file.read_text()
    ]
    assert opening == ["sfda/formats/images.py"]


@pytest.mark.parametrize(("width", "height"), [(10_001, 10_000), (100_000, 100_000)])
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(width: int, height: int) -> None:
    data = bytearray(encoded("PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(
        ValueError, match=rf"{PICTURE_PIXELS.most} .*SFDA_LIMIT_PICTURE_PIXELS .*; cut"
    ):
        open_picture(bytes(data))


def test_a_jpeg_of_repeated_scans_is_refused_before_it_is_decoded() -> None:
    data = encoded("JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    assert raw_bytes(data + b"\xff\xda" * JPEG_SCANS.most * 2).shape == (16, 16, 3)  # after its end
    with pytest.raises(ValueError, match=f"more than {JPEG_SCANS.most} scans"):
        raw_bytes(data[:-2] + data[last:-2] * JPEG_SCANS.most + data[-2:])


def test_a_jpeg_of_very_many_segments_is_refused() -> None:
    data = encoded("JPEG")
    with pytest.raises(ValueError, match="segments"):
        raw_bytes(data[:2] + b"\xff\xfe\x00\x02" * 100_001 + data[2:])


def exif(tag: int = 274, kind: int = 3, count: int = 1, value: int = 6, size: int = 0) -> bytes:
    """EXIF of one tag, and zeros after it; a value that is a place is that after the tag."""
    head = b"II*\0" + struct.pack("<IHHHIII", 8, 1, tag, kind, count, value, 0)
    return b"Exif\0\0" + head.ljust(size, b"\0")


def with_exif(kind: str, block: bytes) -> bytes:
    """A picture of 16 x 8 pixels with a block of EXIF, however long."""
    out = io.BytesIO()
    small = Image.new("RGB", (16, 8), (200, 30, 30))
    if kind == "WEBP":
        small.save(out, kind, exif=block)
        return out.getvalue()
    small.save(out, kind.removesuffix(" last"))
    data, body = out.getvalue(), block[6:]
    if kind == "JPEG":
        parts = (b"Exif\0\0" + body[i : i + 65000] for i in range(0, len(body), 65000))
        segments = (b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in parts)
        return data[:2] + b"".join(segments) + data[2:]
    check = struct.pack(">I", zlib.crc32(b"eXIf" + body))
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + check
    at = len(data) - 12 if "last" in kind else 33  # after the pixels, or before
    return data[:at] + chunk + data[at:]


CARRIERS = ("JPEG", "PNG", "PNG last", "WEBP")


@pytest.mark.parametrize("kind", CARRIERS)
@pytest.mark.parametrize(
    ("block", "fault"),
    [
        (
            exif(kind=5, count=EXIF_BYTES.most // 8, value=26, size=EXIF_BYTES.most + 100),
            "bytes of EXIF",
        ),
        (exif(kind=5, count=1, value=26, size=100), "tag 274 .* 1 values of type 5"),
        (exif(count=2), "tag 274 .* 2 values of type 3"),
        (
            exif(tag=282, kind=5, count=10_001, value=26, size=81_000),
            "10001 fractions, more than 10000",
        ),
        (exif(tag=34853, kind=5, count=1, value=26, size=100), "tag 34853"),
    ],
    ids=["long", "fraction", "two", "fractions", "address"],
)
def test_exif_that_claims_much_is_refused(kind: str, block: bytes, fault: str) -> None:
    data = with_exif(kind, block)
    for look in (raw_bytes, size_of_bytes):
        with pytest.raises(ValueError, match=fault):
            look(data)


@pytest.mark.parametrize("kind", CARRIERS)
@pytest.mark.parametrize("block", [exif(), exif(kind=4)])
def test_a_picture_is_turned_by_its_exif(kind: str, block: bytes) -> None:
    data = with_exif(kind, block)
    assert raw_bytes(data).shape == (16, 8, 3)
    assert size_of_bytes(data) == (16, 8)


@pytest.mark.parametrize("block", [exif(value=1), exif(tag=282, kind=5, value=9999), b"Exif\0\0"])
def test_exif_that_says_nothing_turns_nothing(block: bytes) -> None:
    for kind in CARRIERS:
        assert size_of_bytes(with_exif(kind, block)) == (8, 16)


def tiff(kinds: list[int]) -> bytes:
    """A TIFF of one pixel a page, each a full page (0) or a small copy of another (1)."""
    out, at = b"II*\0" + struct.pack("<I", 8), 8
    for number, kind in enumerate(kinds):
        tags = [(254, kind), (256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 4), (279, 1)]
        out += struct.pack("<H", len(tags))
        out += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        at += 6 + 12 * len(tags)
        out += struct.pack("<I", at if number + 1 < len(kinds) else 0)
    return out


def test_of_a_tiff_no_more_pages_are_looked_at_than_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    assert raw_bytes(tiff([0] + [1] * (MOST_PAGES - 1))).shape == (1, 1)
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    read: list[int] = []
    load = ImageFileDirectory_v2.load
    monkeypatch.setattr(
        ImageFileDirectory_v2, "load", lambda tags, file: (read.append(1), load(tags, file))[1]
    )
    for kinds in ([0] * 2000, [0] + [1] * 2000):
        read.clear()
        with pytest.raises(ValueError, match="several pages"):
            raw_bytes(tiff(kinds))
        assert len(read) < 3 * MOST_PAGES
