"""The directories of a TIFF, and of EXIF, which is one: what they claim, before others believe it.

A directory is a list of tags, each of a type and a number of values that lie elsewhere in the
file. PIL makes an object of every value, and decodes a tile as large as its tags say.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sfda.bounds.limits import TIFF_FRACTIONS, TIFF_NUMBERS, TIFF_PARTS, TIFF_TAGS, TILE_BYTES

MOST_PAGES = 16  # of a TIFF: the picture and smaller copies, each half as wide
TILE_PICTURES = 4  # or so many times what its picture has

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
TEXTS, FRACTIONS = (1, 2, 7), (5, 10)  # types of bytes and text, and of pairs of numbers
UNSIGNED = {3: "H", 4: "L", 13: "L", 16: "Q"}  # types of numbers without a sign
SUBFILE, WIDTH, HEIGHT, BITS, ORIENTATION, SAMPLES = 254, 256, 257, 258, 274, 277
STRIP_HEIGHT, TILE_WIDTH, TILE_HEIGHT, STRIPS, TILES = 278, 322, 323, 273, 324
ONE_NUMBER = (
    *(SUBFILE, WIDTH, HEIGHT, ORIENTATION, SAMPLES),
    *(STRIP_HEIGHT, TILE_WIDTH, TILE_HEIGHT),
)
EXIF, GPS, INTEROPERABILITY = 34665, 34853, 40965  # addresses of directories within
MOST_SAMPLES = 64  # numbers of bits that are looked at; no mode has as many


class _Layout(NamedTuple):
    """How a file's numbers are laid out: struct formats and sizes in bytes."""

    order: str
    tags: str  # their number
    address: str

    @property
    def entry(self) -> str:
        """Tag, type, number of values, and the values or where they lie."""
        return f"{self.order}HH{self.address}{struct.calcsize(self.order + self.address)}s"


class _Entry(NamedTuple):
    kind: int
    length: int  # number of values
    values: bytes  # of few numbers; else where they lie


LAYOUTS = {
    b"II*\0": _Layout("<", "H", "L"),
    b"MM\0*": _Layout(">", "H", "L"),
    b"II\0*": _Layout("<", "H", "L"),  # wrong, and read by PIL
    b"MM*\0": _Layout(">", "H", "L"),
    b"II+\0": _Layout("<", "Q", "Q"),  # the same from the highest byte on PIL cannot read
}


def refuse_tiff(data: bytes) -> None:
    """Raise ValueError for a TIFF with a page that claims far more than its pixels need."""
    layout, address = _begin(data)
    for _ in range(MOST_PAGES + 1):  # more are never looked at
        entries, address = _directory(data, layout, address)
        for directory in _with_those_within(data, layout, entries):
            _refuse_numbers(directory)
        _refuse_parts(data, layout, entries)
        if not address:
            return


def refuse_exif(data: bytes) -> None:
    """Raise ValueError for EXIF, from its TIFF header on, that claims far more than is needed."""
    layout, address = _begin(data)
    entries, _ = _directory(data, layout, address)
    for directory in _with_those_within(data, layout, entries):
        _refuse_numbers(directory)
    _number(data, layout, entries, ORIENTATION, 1)


def _begin(data: bytes) -> tuple[_Layout, int]:
    """The layout and the address of the first directory."""
    layout = LAYOUTS.get(data[:4])
    if layout is None:
        raise ValueError("its TIFF header is of no known kind; save it anew")
    at = 4 if layout.address == "L" else 8
    return layout, (*_unpacked(data, layout.order + layout.address, at), 0)[0]


def _directory(data: bytes, layout: _Layout, address: int) -> tuple[dict[int, _Entry], int]:
    """The tags of a directory, and the address of the next, 0 if there is none.

    As in PIL the first of several entries of one tag counts, and what lies beyond the end is not
    there. Raises ValueError for several entries of a tag that says how much is to be decoded.
    """
    (count,) = _unpacked(data, layout.order + layout.tags, address) or (0,)
    if count > TIFF_TAGS.most:  # a BigTIFF can claim any number
        raise ValueError(f"a TIFF directory has {TIFF_TAGS.refusal(count)}; save it anew")
    entries: dict[int, _Entry] = {}
    step = struct.calcsize(layout.entry)
    at = address + struct.calcsize(layout.order + layout.tags)
    for _ in range(count):
        if at + step > len(data):
            return entries, 0
        tag, kind, values, inside = struct.unpack_from(layout.entry, data, at)
        if tag in entries and tag in (*ONE_NUMBER, BITS):
            raise ValueError(f"its TIFF tag {tag} is there twice; save it anew")
        entries.setdefault(tag, _Entry(kind, values, inside))
        at += step
    return entries, (*_unpacked(data, layout.order + layout.address, at), 0)[0]


def _with_those_within(
    data: bytes, layout: _Layout, entries: dict[int, _Entry]
) -> Iterator[dict[int, _Entry]]:
    """A directory and those that EXIF keeps within it."""
    yield entries
    for tag in (EXIF, GPS, INTEROPERABILITY):
        if tag not in entries:
            continue
        address = _number(data, layout, entries, tag, 0)
        if not 0 < address < len(data):
            continue
        within, _ = _directory(data, layout, address)
        yield within
        if tag == EXIF:
            yield from _with_those_within(
                data, layout, {t: e for t, e in within.items() if t == INTEROPERABILITY}
            )


def _refuse_numbers(entries: dict[int, _Entry]) -> None:
    """Raise ValueError for more values than PIL can make objects of in a second."""
    counts = [(e.kind, e.length) for e in entries.values() if e.kind not in TEXTS]
    for limit, kinds in ((TIFF_NUMBERS, SIZES), (TIFF_FRACTIONS, FRACTIONS)):
        total = sum(count for kind, count in counts if kind in kinds)
        if total > limit.most:
            raise ValueError(
                f"its tags (TIFF or EXIF) hold {limit.refusal(total)}; save it without, or anew"
            )


def _refuse_parts(data: bytes, layout: _Layout, entries: dict[int, _Entry]) -> None:
    """Raise ValueError for a tile that is far larger than its picture, more strips or tiles than
    it needs, and for tags of a size that are no whole numbers.
    """
    one = {tag: _number(data, layout, entries, tag, 1) for tag in ONE_NUMBER}
    bits = max(_numbers(data, layout, entries, BITS, MOST_SAMPLES) or [1])
    pixel, wide, high = one[SAMPLES] * bits / 8, one[TILE_WIDTH], one[TILE_HEIGHT]
    if wide * high * pixel > max(TILE_BYTES.most, TILE_PICTURES * one[WIDTH] * one[HEIGHT] * pixel):
        raise ValueError(
            f"a tile of {wide} x {high} pixels is far larger than its picture, and has "
            f"{TILE_BYTES.beyond}; save it anew"
        )
    needed = -(-one[HEIGHT] // max(1, one[STRIP_HEIGHT])) if STRIP_HEIGHT in entries else 1
    if TILE_WIDTH in entries:
        needed += -(-one[WIDTH] // max(1, wide)) * -(-one[HEIGHT] // max(1, high))
    for tag in (STRIPS, TILES):
        if tag in entries and entries[tag].length > max(TIFF_PARTS.most, needed * one[SAMPLES]):
            raise ValueError(
                f"it has {TIFF_PARTS.refusal(entries[tag].length)}, and than it has pixels for; "
                "save it anew"
            )


def _number(
    data: bytes, layout: _Layout, entries: dict[int, _Entry], tag: int, otherwise: int
) -> int:
    """The one number of a tag. Raises ValueError if it holds something else."""
    return (*_numbers(data, layout, entries, tag, 1), otherwise)[0]


def _numbers(
    data: bytes, layout: _Layout, entries: dict[int, _Entry], tag: int, most: int
) -> Sequence[int]:
    """The numbers of a tag, none if they are not there. Raises ValueError for more than `most`, or
    other values than whole numbers.
    """
    entry = entries.get(tag)
    if entry is None:
        return ()
    if entry.kind not in UNSIGNED or not 1 <= entry.length <= most:
        raise ValueError(
            f"its tag {tag} (TIFF or EXIF) holds {entry.length} values of type {entry.kind}, "
            f"where 1 to {most} whole numbers belong; save it anew"
        )
    form = f"{layout.order}{entry.length}{UNSIGNED[entry.kind]}"
    if struct.calcsize(form) <= len(entry.values):
        return struct.unpack_from(form, entry.values)
    return _unpacked(data, form, *struct.unpack(layout.order + layout.address, entry.values))


def _unpacked(data: bytes, form: str, at: int) -> tuple[int, ...]:
    """The numbers there, none beyond the end."""
    return struct.unpack_from(form, data, at) if at + struct.calcsize(form) <= len(data) else ()
