"""Which kept results may be read: a record names its own reader and types.

Prefect imports what it names. A record that somebody else put there could name pickle, or any
function, and would run on being read. So only those are left that are ours in every name.
"""

from __future__ import annotations

import importlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from prefect.serializers import JSONSerializer
from pydantic import BaseModel, JsonValue

from sfda.plugin_sources import OWN_PACKAGES

LARGEST_RECORD = 64 * 2**20


def read_record(file: Path) -> dict[str, Any] | None:
    """The record that Prefect keeps in a file; None for one that it must not read."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as opened:
            status = os.fstat(handle)
            regular = stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST_RECORD
            if not regular or status.st_uid not in (os.geteuid(), 0):
                return None
            record = _plain(opened.read(LARGEST_RECORD).decode())
        return record if _names_ours_alone(record) else None
    except (OSError, ValueError, RecursionError):
        return None


def _plain(text: str) -> JsonValue:
    """What JSON says; ValueError where it says a key twice, which two readers may take two ways."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key stands there twice")
        return dict(pairs)

    value: JsonValue = json.loads(text, object_pairs_hook=unique)
    return value


def _names_ours_alone(record: JsonValue) -> TypeGuard[dict[str, Any]]:
    if not isinstance(record, dict) or not isinstance(result := record.get("result"), str):
        return False
    metadata = record.get("metadata") or {}
    if not isinstance(metadata, dict):
        return False
    usual = JSONSerializer().model_dump()
    if metadata.get("serializer", usual) != usual or metadata.get("storage_block_id"):
        return False
    return all(_is_ours(part) for part in _dictionaries(_plain(result)))


def _dictionaries(value: JsonValue) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _dictionaries(part)


def _is_ours(part: dict[str, Any]) -> bool:
    """Whether what the dictionary is made into, if anything, is one of our own data types."""
    if "__exc_type__" in part:
        return False
    if "__class__" not in part:
        return True
    module, _, name = str(part["__class__"]).rpartition(".")
    if module.partition(".")[0] not in OWN_PACKAGES:
        return False
    try:
        kind = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return False
    return isinstance(kind, type) and issubclass(kind, BaseModel)
