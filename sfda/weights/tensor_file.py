"""The safetensors files of bundles, read by hand: every number of a header is checked before it is
used, and what comes out are copies, so that no later write to the file changes them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from io import BufferedIOBase
from typing import Any, NamedTuple, NoReturn

import torch
from pydantic import JsonValue
from torch import Tensor

from sfda.bounds.limits import HEADER_BYTES

MOST_ELEMENTS = 2**48  # of one tensor, an axis of no length counted as one
LONGEST_NAME = 512
PIECE = 2**18  # bytes that are hashed at a time
KINDS = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}


class Entry(NamedTuple):
    """Where a tensor lies in its file, in bytes, and what it is."""

    kind: torch.dtype
    shape: tuple[int, ...]
    begin: int
    size: int


class TensorFile:
    """An open file of tensors: `entries` by name, `metadata`, and the tensors when asked for.

    Raises ValueError for what no such file may say, and where it ends early.
    """

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        whole = file.seek(0, os.SEEK_END)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if whole < 8 or length > whole - 8:
            raise ValueError(f"its header has {length} bytes, the file {whole}")
        if length > HEADER_BYTES.most:
            raise ValueError(f"its header has {HEADER_BYTES.refusal(length)}")
        header = strict_json(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no table of tensors")
        self.metadata = _metadata(header.pop("__metadata__", {}))
        self.entries = {name: _entry(name, facts, 8 + length) for name, facts in header.items()}
        _check_no_gaps(self.entries, 8 + length, whole)

    def tensor(self, name: str) -> Tensor:
        """A copy of a tensor, on the CPU."""
        entry = self.entries[name]
        tensor = torch.empty(entry.shape, dtype=entry.kind)
        if entry.size:
            self._file.seek(entry.begin)
            buffer = tensor.reshape(-1).view(torch.uint8).numpy().data
            while buffer:
                read = self._file.readinto(buffer)
                if not read:
                    raise ValueError("it ends early")
                buffer = buffer[read:]
        return tensor

    def pieces(self, name: str) -> Iterator[memoryview]:
        """A tensor's bytes, piece by piece: each is gone when the next one comes."""
        left, buffer = self.entries[name].size, memoryview(bytearray(PIECE))
        self._file.seek(self.entries[name].begin)
        while left:
            read = self._file.readinto(buffer[: min(PIECE, left)])
            if not read:
                raise ValueError("it ends early")
            left -= read
            yield buffer[:read]


def strict_json(text: bytes) -> JsonValue:
    """What JSON says that has but one meaning. Raises ValueError: also for a key that stands there
    twice, numbers that are none, and nesting that is too deep to be read.
    """
    try:
        value: JsonValue = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise ValueError(f"{name[:80]!r} stands there twice")
        table[name] = value
    return table


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _metadata(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(part, str) for part in value.values()):
        raise ValueError("its metadata are no table of words")
    return value


def _entry(name: str, facts: object, start: int) -> Entry:
    """A tensor's line of the header, whose offsets count from `start`."""
    if not name.isprintable() or len(name) > LONGEST_NAME:
        raise ValueError(f"{name[:80]!r} names no part of a network")
    fields = {"dtype", "shape", "data_offsets"}
    if not isinstance(facts, dict) or set(facts) != fields or facts["dtype"] not in [*KINDS]:
        raise ValueError(f"{name[:80]!r} is no tensor of a type that is known here")
    shape, offsets = facts["shape"], facts["data_offsets"]
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{name[:80]!r} has a shape or a place that is none")
    kind = KINDS[facts["dtype"]]
    if math.prod(max(side, 1) for side in shape) > MOST_ELEMENTS:
        raise ValueError(f"{name[:80]!r} is larger than any tensor")
    size = math.prod(shape) * kind.itemsize
    if offsets[1] - offsets[0] != size:
        raise ValueError(f"{name[:80]!r} has {offsets[1] - offsets[0]} bytes, not {size}")
    return Entry(kind, tuple(shape), start + offsets[0], size)


def _counts(value: object) -> bool:
    """Whether this is a short list of whole numbers from 0."""
    return (
        isinstance(value, list)
        and len(value) <= 16
        and all(type(part) is int and 0 <= part < 2**63 for part in value)
    )


def _check_no_gaps(entries: Mapping[str, Entry], begin: int, end: int) -> None:
    """Raise ValueError unless the tensors lie one after the other and fill the file."""
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.size)):
        if entry.begin != begin:
            raise ValueError("its tensors overlap, or leave bytes between them")
        begin += entry.size
    if begin != end:
        raise ValueError(f"its tensors end at byte {begin}, the file at {end}")
