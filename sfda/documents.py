"""YAML, JSON and XML that others may have written: read within bounds.

A few hundred bytes of YAML can stand for more than any memory, JSON and XML can be nested deeper
than Python counts, and numbers can have more digits than it reads. All of that is one error here.
"""

from __future__ import annotations

import codecs
import functools
import json
import logging
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any
from xml.parsers import expat

import yaml

from sfda.bounds.files import Unreadable
from sfda.bounds.limits import (
    DEPTH,
    EXPORT_BYTES,
    JSON_CONTAINERS,
    JSON_VALUES,
    NUMBER_CHARACTERS,
    XML_ELEMENTS,
    YAML_BYTES,
    YAML_VALUES,
)
from sfda.errors import BadInput

log = logging.getLogger("sfda")
KEY_CHARACTERS = 16  # of a number that is a key: those of many more may all have one hash

_CONVERSIONS = (
    yaml.YAMLError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)  # what PyYAML lets through of a value that is not what its tag claims


def parse_yaml(content: str | bytes) -> Any:
    """What a YAML (or JSON) text says. Raises Unreadable."""
    if len(content) > YAML_BYTES.most:
        raise Unreadable(f"it has {YAML_BYTES.refusal(len(content))}")
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
        self._deepest, self._most = DEPTH.most, YAML_VALUES.most
        self._longest = NUMBER_CHARACTERS.most

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node:
        """A node. Raises YAMLError where it is too much, too deep, or part of itself."""
        alias = self.check_event(yaml.AliasEvent)
        self._level += 1
        if self._level > self._deepest:
            raise yaml.YAMLError(f"it is nested {DEPTH.beyond} deep")
        node = super().compose_node(parent, index)
        assert node is not None  # there is an event, so there is a node
        self._level -= 1
        if alias and id(node) not in self._extents:
            raise yaml.YAMLError("it names a part of itself that is not finished")
        size, height = self._extents.setdefault(id(node), self._extent(node))
        self._total += 1
        if max(size, self._total) > self._most:
            raise yaml.YAMLError(f"it stands for {YAML_VALUES.refusal(max(size, self._total))}")
        if height > self._deepest:
            raise yaml.YAMLError(f"it is nested {DEPTH.beyond} deep")
        return node

    def _extent(self, node: yaml.Node) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            kind = node.tag.rpartition(":")[2]
            if kind in ("int", "float", "timestamp") and len(node.value) > self._longest:
                met = NUMBER_CHARACTERS.refusal(len(node.value))
                raise yaml.YAMLError(f"a number of {met}; put text in quotes")
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


def json_bytes(document: Any, source: Path) -> bytes:
    """JSON of what was read at `source`. Raises BadInput where a number in it is none."""
    try:
        return json.dumps(document, allow_nan=False).encode()
    except ValueError:
        raise BadInput(
            f"{source} holds NaN or an infinity, as 1e999 is one: mend the numbers, or leave out "
            "what is not known"
        ) from None


def _check_values(content: str | bytes) -> None:
    def count(sign: str) -> int:
        return content.count(sign) if isinstance(content, str) else content.count(sign.encode())

    containers = count("[") + count("{")
    if containers > JSON_CONTAINERS.most:
        raise Unreadable(f"it has {JSON_CONTAINERS.refusal(containers)}; cut it in parts")
    values = containers + count(",")
    if values > JSON_VALUES.most:
        raise Unreadable(f"it has {JSON_VALUES.refusal(values)}; cut it in parts")


def parse_xml(content: bytes) -> ET.Element:
    """The root of an XML text without a document type, so without entities of its own.

    That is seen by the parser, whatever the encoding. Raises Unreadable.
    """
    if len(content) > EXPORT_BYTES.most:
        raise Unreadable(f"it has {EXPORT_BYTES.refusal(len(content))}")
    builder, parser = ET.TreeBuilder(), expat.ParserCreate()
    open_tags: list[str] = []
    elements, most, deepest = 0, XML_ELEMENTS.most, DEPTH.most

    def begin(tag: str, attributes: dict[str, str]) -> None:
        nonlocal elements
        elements += 1 + len(attributes)
        if elements > most:
            raise Unreadable(f"it has {XML_ELEMENTS.beyond}; cut it in parts")
        open_tags.append(tag)
        if len(open_tags) > deepest:
            raise Unreadable(f"it is nested {DEPTH.beyond} deep")
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


def encoding_of(start: bytes) -> str:
    """The encoding of a text by how it begins: a mark, or the NULs of UTF-16; else UTF-8.

    >>> encoding_of("file".encode("utf-16")), encoding_of(b"file")
    ('utf-16', 'utf-8-sig')
    """
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    even, odd = start[0:64:2], start[1:64:2]
    if odd and not any(odd) and all(even):
        return "utf-16-le"
    if odd and not any(even) and all(odd):
        return "utf-16-be"
    return "utf-8-sig"


def older_encoding(content: bytes) -> str | None:
    """The encoding of a text that is no UTF-8, as older programs of Windows and Unix write it; None
    for what is no text at all.
    """
    if any(byte < 0x20 and byte not in b"\t\n\f\r\x1a" for byte in content):
        return None
    return "latin-1" if set(content) & {0x81, 0x8D, 0x8F, 0x90, 0x9D} else "cp1252"


@functools.cache
def say_encoding(source: Path, encoding: str) -> None:
    """Say in the log, once in a process, that a text is no UTF-8 and how it is read instead."""
    log.warning(
        "%s is no UTF-8 and is read as %s; if letters come out wrong, save it as UTF-8",
        source,
        {"cp1252": "Windows-1252", "latin-1": "Latin-1"}.get(encoding, encoding),
    )


def decoded(content: bytes, source: Path | None = None) -> str:
    """A text of any of these encodings; of `source`, if there is one, an older one is told. Raises
    Unreadable for what is none.
    """
    encoding = encoding_of(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        older = older_encoding(content) if encoding == "utf-8-sig" else None
        text = content.decode(older) if older else "\0"
        if older and source is not None:
            say_encoding(source, older)
    if "\0" in text:
        raise Unreadable("it is no text")
    return text


def cut_off(text: str, most: int = 80) -> str:
    """A text, its end cut off where it is longer: what a message quotes of a file.

    >>> cut_off("abcdefgh", 4)
    'abcd...'
    """
    return text if len(text) <= most else f"{text[:most]}..."
