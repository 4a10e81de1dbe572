"""TIFFs that claim far more than their pixels need are refused before anything is decoded."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfda.bounds.limits import TIFF_NUMBERS
from sfda.formats.images import raw_bytes, size_of_bytes
from sfda.images.tiff_directories import refuse_tiff

Tags = dict[int, tuple[int, int, int | bytes]]  # type, number of values, and the values
PIXELS = zlib.compress(bytes(256))
GREY: Tags = {
    256: (3, 1, 16),
    257: (3, 1, 16),
    258: (3, 1, 8),
    259: (3, 1, 8),
    262: (3, 1, 1),
    277: (3, 1, 1),
}
STRIP: Tags = {273: (4, 1, PIXELS), 278: (3, 1, 16), 279: (4, 1, len(PIXELS))}


def tiff(*pages: Tags) -> bytes:
    """A TIFF of these pages; tags that are bytes lie after their page."""
    out = b"II*\0" + struct.pack("<I", 8)
    for page in pages:
        entries, after = b"", len(out) + 6 + 12 * len(page)
        beyond = b""
        for tag, (kind, count, value) in sorted(page.items()):
            if isinstance(value, bytes):
                value, beyond = after + len(beyond), beyond + value
            entries += struct.pack("<HHII", tag, kind, count, value)
        following = after + len(beyond) if page is not pages[-1] else 0
        out += struct.pack("<H", len(page)) + entries + struct.pack("<I", following) + beyond
    return out


def tile(width: int, height: int) -> Tags:
    return {322: (4, 1, width), 323: (4, 1, height), 324: (4, 1, PIXELS), 325: (4, 1, len(PIXELS))}


def fractions(count: int) -> bytes:
    """A directory of one tag of so many fractions, as it lies in EXIF."""
    return struct.pack("<HHHIII", 1, 282, 5, count, 0, 0)


MUCH: dict[str, tuple[bytes, str]] = {
    "a tile": (tiff(GREY | tile(44_000, 44_000)), "a tile of 44000 x 44000"),
    "a long tile": (tiff(GREY | tile(2**32 - 1, 1)), "a tile of 4294967295 x 1 "),
    "samples": (tiff(GREY | tile(4096, 4096) | {277: (4, 1, 99)}), "a tile of 4096 x 4096"),
    "a later tile": (tiff(GREY | STRIP, GREY | tile(44_000, 44_000)), "a tile of 44000"),
    "strips": (
        tiff(GREY | STRIP | {273: (4, TIFF_NUMBERS.most, bytes(4)), 279: (4, 1, 1)}),
        "numbers, more than 500000",
    ),
    "more strips than rows": (
        tiff(GREY | STRIP | {273: (4, 1001, bytes(4004)), 279: (4, 1, 1)}), "it has 1001 strips"
    ),
    "more tiles than pixels": (
        tiff(GREY | tile(16, 16) | {324: (4, 1001, bytes(4004))}), "it has 1001 strips or tiles"
    ),
    "odd XMP": (tiff(GREY | STRIP | {700: (5, 1, bytes(8))}), "tags are damaged"),
    "fractions": (tiff(GREY | STRIP | {266: (5, 10_001, bytes(8))}), "10001 fractions"),
    "fractions within": (tiff(GREY | STRIP | {34665: (4, 1, fractions(10_001))}), "10001 fr"),
    "no page type": (tiff(GREY | STRIP | {254: (5, 1, bytes(8))}), "tag 254 .* of type 5"),
    "a page type as text": (tiff(GREY | STRIP | {254: (2, 1, 65)}), "tag 254 .* of type 2"),
    "two widths": (tiff(GREY | STRIP | {256: (3, 2, 16)}), "tag 256 .* 2 values"),
    "another header": (b"MM\0+" + bytes(60), "header is of no known kind"),
    "endless tags": (b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**62), "directory has"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "fault"), MUCH.values(), ids=MUCH.keys())
def test_a_tiff_that_claims_much_is_refused_by_its_tags(data: bytes, fault: str) -> None:
    for look in (raw_bytes, size_of_bytes):
        with pytest.raises(ValueError, match=fault):
            look(data)


def test_of_two_tags_that_say_how_much_is_decoded_neither_counts() -> None:
    data = bytearray(tiff(GREY | tile(16, 16)))
    twice = data.index(struct.pack("<HHI", 323, 4, 1))
    data[twice : twice + 12] = struct.pack("<HHII", 322, 4, 1, 44_000)
    with pytest.raises(ValueError, match="tag 322 is there twice"):
        refuse_tiff(bytes(data))


def test_strips_that_are_said_to_be_longer_than_their_picture_cost_what_it_has() -> None:
    for rows in (16, 2**31 - 1, 2**32 - 1):
        assert raw_bytes(tiff(GREY | STRIP | {278: (4, 1, rows)})).shape == (16, 16)


@pytest.mark.parametrize(
    "settings",
    [{}, {"compression": "tiff_deflate"}, {"compression": "jpeg"}, {"compression": "tiff_lzw"},
     {"big_tiff": True},
     {"strip_size": 1}, {"compression": "tiff_lzw", "strip_size": 1},
     {"dpi": (300, 300), "description": "a"}],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_what_others_write_is_read(mode: str, settings: dict[str, Any]) -> None:
    out = io.BytesIO()
    Image.new(mode, (300, 200)).save(out, "TIFF", **settings)
    assert raw_bytes(out.getvalue()).shape[:2] == (200, 300)
    assert size_of_bytes(out.getvalue()) == (200, 300)


def test_tiles_and_a_turn_are_read() -> None:
    data = tiff(GREY | tile(16, 16) | {274: (3, 1, 6), 256: (3, 1, 16), 257: (3, 1, 8)})
    assert raw_bytes(data).shape == (16, 8)
    assert not np.any(raw_bytes(data))
