"""Which kept results may be read: a record names its own reader and types.

Prefect imports what it names. A record that somebody else put there could name pickle, or any
function, and would run on being read. So only those are left that our own tasks could have kept.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from prefect.serializers import JSONSerializer
from pydantic import JsonValue

LARGEST_RECORD = 64 * 2**20
# what our tasks return: nothing else is made of a record, whatever our modules import
KEPT = frozenset(
    {
        "sfda.decision.gate.Evidence",
        "sfda.problems.pose.prior_training.PriorReport",
        "sfda.refs.Adaptation",
        "sfda.refs.ManifestRef",
        "sfda.refs.ModelRef",
        "sfda.refs.PredictionsRef",
        "sfda.refs.SideBySide",
        "sfda.report.comparison.EpochMetrics",
        "sfda.report.comparison.SourceOnly",
    }
)


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
        return record if _is_ours(record, file) else None
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


def _is_ours(record: JsonValue, file: Path) -> TypeGuard[dict[str, Any]]:
    # Prefect takes other keys of a record for a result or a serializer, as it once wrote them
    if not isinstance(record, dict) or set(record) != {"metadata", "result"}:
        return False
    metadata, result = record["metadata"], record["result"]
    if not isinstance(metadata, dict) or not isinstance(result, str):
        return False
    # one that is not stated is pickle
    if metadata.get("serializer") != JSONSerializer().model_dump():
        return False
    if metadata.get("storage_block_id") or not _is_of(metadata.get("storage_key"), file):
        return False
    return all(_may_be_made(part) for part in _dictionaries(_plain(result)))


def _is_of(key: JsonValue, file: Path) -> bool:
    """Whether a storage key, by which Prefect may read again, is the file that it stands in."""
    if not isinstance(key, str):
        return key is None
    stated = file.parent / key
    return stated.name == file.name and stated.parent.resolve() == file.parent.resolve()


def _dictionaries(value: JsonValue) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _dictionaries(part)


def _may_be_made(part: dict[str, Any]) -> bool:
    """Whether what the dictionary is made into, if anything, is what one of our tasks returns."""
    if "__exc_type__" in part:
        return False
    made = part.get("__class__")
    return "__class__" not in part or (isinstance(made, str) and made in KEPT)
