"""YAML, JSON, XML and members of zips that others may have written: read within bounds.

A few hundred bytes of YAML can stand for more than any memory, JSON and XML can be nested deeper
than Python counts, and numbers can have more digits than it reads. All of that is one error here.
"""

from __future__ import annotations

import io
import json
import math
import os
import xml.etree.ElementTree as ET
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from xml.parsers import expat

import yaml

if TYPE_CHECKING:
    from _typeshed import SupportsRead, WriteableBuffer

YAML_BYTES = 4 << 20
YAML_SIZE = 100_000  # nodes with all that aliases repeat, and one more every 32 characters of text
DEPTH = 60  # of nested lists, mappings and elements
NUMBER_CHARACTERS = 100  # of a number or a date
KEY_CHARACTERS = 16  # of a number that is a key: those of many more may all have one hash
EXPORT_BYTES = 512 << 20  # of JSON or XML that a tool exported
MOST_JSON_VALUES = 100_000_000  # numbers, texts and containers of one JSON: some GB of memory
MOST_JSON_CONTAINERS = 20_000_000  # lists and objects of one JSON, which take most memory
MOST_XML_ELEMENTS = 5_000_000  # elements and attributes of one XML
TABLE_BYTES = 2 << 30  # of a CSV, or of a COCO JSON
PICTURE_BYTES = 1 << 30  # of one image file
VOLUME_BYTES = 4 << 30  # of one volume, unpacked
PICTURE_PIXELS = 100_000_000  # of one picture, and of what is drawn in it
READ_AT_ONCE = 1 << 20  # bytes that are read at once
MOST_UNPACKED = 1100  # bytes out of one that was deflated, which can be 1032

_CONVERSIONS = (
    yaml.YAMLError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)  # what PyYAML lets through of a value that is not what its tag claims


class Unreadable(ValueError):
    """A document cannot be read; the message is one line, without the document's name."""


def read_bounded(path: Path, limit: int) -> bytes:
    """What a file holds. Raises OSError, or Unreadable where that is more than `limit` bytes."""
    with path.open("rb") as file:
        return read_opened(file, limit)


def read_opened(file: IO[bytes], limit: int) -> bytes:
    """What an opened file of the disk holds. Raises as `read_bounded`."""
    _check_size(file, limit)
    return read_all(file, limit)


def stream_opened(file: IO[bytes], limit: int) -> io.BufferedReader:
    """The same to be read little by little. Raises Unreadable, here or where it is read too far."""
    _check_size(file, limit)
    return io.BufferedReader(_Counted(file, limit), READ_AT_ONCE)


def _check_size(file: IO[bytes], limit: int) -> None:
    if os.fstat(file.fileno()).st_size > limit:  # perhaps holes alone
        raise _too_long(limit)


class _Counted(io.RawIOBase):
    """An opened file that is an error beyond `limit` bytes, whatever length it states."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        super().__init__()
        self._file, self._limit, self._size = file, limit, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        part = self._file.read(memoryview(buffer).nbytes)
        memoryview(buffer)[: len(part)] = part
        self._size += len(part)
        if self._size > self._limit:
            raise _too_long(self._limit)
        return len(part)


def _too_long(limit: int) -> Unreadable:
    return Unreadable(f"it has more than {limit} bytes")


def read_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """What a member of a zip holds. Raises KeyError, what zipfile raises, or Unreadable where that
    is more than `limit` bytes, by what the zip says, or really.
    """
    about = archive.getinfo(name)
    if about.file_size > limit:
        raise Unreadable(f"unpacked it has {about.file_size} bytes, more than {limit}")
    # other kinds unpack all that was read, however much that becomes
    plain = about.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    with archive.open(about) as file:
        return read_all(file, limit, piece=READ_AT_ONCE if plain else 1 << 12)


def claim_fault(needed: int, about: zipfile.ZipInfo, path: Path) -> str:
    """What is wrong with an array of so many bytes in a member of the zip at `path`, which is
    unpacked as a whole; '' if nothing is.
    """
    packed = min(about.compress_size, path.stat().st_size)
    if needed > about.file_size or needed > MOST_UNPACKED * packed:
        return f"which the {packed} bytes of its member cannot hold"
    if needed > machine_memory():
        return "which is more than this machine's memory; make several files of it"
    return ""


def machine_memory() -> float:
    """Bytes of this machine's memory; without end where that cannot be told."""
    with suppress(AttributeError, OSError, ValueError):  # not every system has these
        pages = os.sysconf("SC_PHYS_PAGES")
        return pages * os.sysconf("SC_PAGE_SIZE") if pages > 0 else math.inf
    return math.inf


def read_all(file: SupportsRead[bytes], limit: int, piece: int = READ_AT_ONCE) -> bytes:
    """The rest of an opened file, piece by piece. Raises Unreadable beyond `limit` bytes."""
    pieces, size = [], 0
    while part := file.read(piece):
        pieces.append(part)
        size += len(part)
        if size > limit:
            raise _too_long(limit)
    return b"".join(pieces)


def parse_yaml(content: str | bytes) -> Any:
    """What a YAML (or JSON) text says. Raises Unreadable."""
    if len(content) > YAML_BYTES:
        raise _too_long(YAML_BYTES)
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        return yaml.load(text, _Loader)
    except _CONVERSIONS as error:
        reason = _one_line(error) if isinstance(error, yaml.YAMLError) else _unread(error)
        raise Unreadable(reason) from None


class _Loader(yaml.SafeLoader):
    """A safe loader that knows how much a node stands for as soon as it is composed."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._extents: dict[int, tuple[int, int]] = {}  # by node: its size and height
        self._level = self._total = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node:
        """A node. Raises YAMLError where it is too much, too deep, or part of itself."""
        alias = self.check_event(yaml.AliasEvent)
        self._level += 1
        if self._level > DEPTH:
            raise yaml.YAMLError(f"it is nested more than {DEPTH} deep")
        node = super().compose_node(parent, index)
        assert node is not None  # there is an event, so there is a node
        self._level -= 1
        if alias and id(node) not in self._extents:
            raise yaml.YAMLError("it names a part of itself that is not finished")
        size, height = self._extents.setdefault(id(node), self._extent(node))
        self._total += 1
        if max(size, self._total) > YAML_SIZE:
            raise yaml.YAMLError(f"it stands for more than {YAML_SIZE} values")
        if height > DEPTH:
            raise yaml.YAMLError(f"it is nested more than {DEPTH} deep")
        return node

    def _extent(self, node: yaml.Node) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            kind = node.tag.rpartition(":")[2]
            if kind in ("int", "float", "timestamp") and len(node.value) > NUMBER_CHARACTERS:
                raise yaml.YAMLError(
                    f"a number of {len(node.value)} characters; put text in quotes"
                )
            return 1 + len(node.value) // 32, 1
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            for key, _ in node.value:
                number = key.tag.endswith((":int", ":float"))
                if number and len(key.value) > KEY_CHARACTERS:
                    raise yaml.YAMLError(
                        f"a key is a number of {len(key.value)} characters; put it in quotes"
                    )
            parts = [part for pair in node.value for part in pair]
        extents = [self._extents[id(part)] for part in parts]
        return 1 + sum(size for size, _ in extents), 1 + max((h for _, h in extents), default=0)


def parse_json(content: str | bytes) -> Any:
    """What a JSON text says. Raises Unreadable, also where it is of too many values: a gigabyte of
    empty lists would take thirty of memory. Commas and brackets within its texts count as well.
    """
    _check_values(content)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Unreadable(_unread(error)) from None


def _check_values(content: str | bytes) -> None:
    def count(sign: str) -> int:
        return content.count(sign) if isinstance(content, str) else content.count(sign.encode())

    containers = count("[") + count("{")
    if containers > MOST_JSON_CONTAINERS:
        raise Unreadable(
            f"it has more than {MOST_JSON_CONTAINERS} lists and objects; cut it in parts"
        )
    if containers + count(",") > MOST_JSON_VALUES:
        raise Unreadable(f"it has more than {MOST_JSON_VALUES} values; cut it in parts")


def parse_xml(content: bytes) -> ET.Element:
    """The root of an XML text without a document type, so without entities of its own.

    That is seen by the parser, whatever the encoding. Raises Unreadable.
    """
    if len(content) > EXPORT_BYTES:
        raise _too_long(EXPORT_BYTES)
    builder, parser = ET.TreeBuilder(), expat.ParserCreate()
    open_tags: list[str] = []
    elements = 0

    def begin(tag: str, attributes: dict[str, str]) -> None:
        nonlocal elements
        elements += 1 + len(attributes)
        if elements > MOST_XML_ELEMENTS:
            raise Unreadable(f"it has more than {MOST_XML_ELEMENTS} elements; cut it in parts")
        open_tags.append(tag)
        if len(open_tags) > DEPTH:
            raise Unreadable(f"it is nested more than {DEPTH} deep")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        open_tags.pop()
        builder.end(tag)

    def refuse(*_: object) -> None:
        raise Unreadable("it defines entities or a document type, which no export does")

    parser.StartElementHandler, parser.EndElementHandler = begin, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.buffer_text = True
    try:
        parser.Parse(content, True)
        return builder.close()
    except Unreadable:
        raise
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise Unreadable(_one_line(error)) from None


def _unread(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return _one_line(error) if isinstance(error, ValueError) else "a value is not what it claims"


def _one_line(error: Exception) -> str:
    return cut_off(" ".join(str(error).split()), 300)


def cut_off(text: str, most: int = 80) -> str:
    """A text, its end cut off where it is longer: what a message quotes of a file.

    >>> cut_off("abcdefgh", 4)
    'abcd...'
    """
    return text if len(text) <= most else f"{text[:most]}..."
