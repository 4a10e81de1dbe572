"""When an earlier result may stand in for a run: same inputs, same code, and files still intact."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.settings import get_current_settings
from pydantic import BaseModel

import sfda
import tasks
from sfda.errors import BadInput
from sfda.inference.predictions import verify_predictions
from sfda.manifests.digests import file_digest, key_of
from sfda.networks.foreign.code import package_here
from sfda.plugin_sources import library_versions, plugin_digest
from sfda.refs import ModelRef, PredictionsRef
from sfda.weights.bundle import bundle_digest
from tasks.prefect_runtime.cached_results import read_record

log = logging.getLogger("sfda")


def code_digest() -> str:
    """SHA-256 over the sources of library, stages and plug-ins, and over the versions of the
    libraries that compute: a change in them makes results stale.
    """
    return key_of(own=_own_digest(), plug_ins=plugin_digest(), libraries=library_versions())


@lru_cache
def _own_digest() -> str:
    """Of the code that this process has loaded, or will."""
    digest = hashlib.sha256()
    for root in (Path(sfda.__file__).parent, Path(tasks.__file__).parent):
        for file in sorted(root.rglob("*.py")):
            digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


@dataclass
class SameWork(CachePolicy):
    """Reuse a task's result if its inputs, its own source and the library are unchanged.

    Inputs named in `ignore` (where to log, which device) do not count; of the splits named in
    `seen_alone` it counts what an adaptation can see of them, and not their manifest. A kept
    result whose files are gone or altered is forgotten, and the task runs again.
    """

    ignore: tuple[str, ...] = ()
    seen_alone: tuple[str, ...] = ()

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: object,
    ) -> str | None:
        """The key of this call, after making sure that what is kept under it is intact."""
        key = key_of(
            task=task_ctx.task.name,
            source=inspect.getsource(task_ctx.task.fn),
            code=code_digest(),
            networks=[package_here(v.arch) for v in inputs.values() if isinstance(v, ModelRef)],
            inputs={n: self._counted(n, v) for n, v in inputs.items() if n not in self.ignore},
        )
        record = Path(get_current_settings().results.local_storage_path) / key
        if not record.is_symlink() and not record.is_file():
            return key
        result = read_record(record)
        if result is None:
            log.warning("%s is no result of this package; it is removed, and made anew", record)
        if result is None or not intact(result):
            record.unlink()
        return key

    def _counted(self, name: str, value: object) -> object:
        if name in self.seen_alone and isinstance(value, BaseModel):
            return value.model_dump(exclude={"manifest"})
        return value


def intact(result: object) -> bool:
    """Whether every file that a kept result refers to still has the digest kept with it."""
    return all(_unchanged(reference) for reference in _references(result))


def _references(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, str) and value[:1] in "{[":
        try:
            value = json.loads(value)
        except ValueError:
            return
    if isinstance(value, dict):
        if (
            value.get("picture")
            or value.get("panel")
            or any(name.endswith("sha256") for name in value)
        ):
            yield value
        for part in value.values():
            yield from _references(part)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part)


def _unchanged(reference: dict[str, Any]) -> bool:
    if pictures := [file for kind in ("picture", "panel") if (file := reference.get(kind))]:
        return all(Path(file).is_file() for file in pictures)
    if weights := reference.get("weights"):
        try:
            return bool(bundle_digest(Path(weights)) == reference["sha256"])
        except (BadInput, OSError):
            return False
    if reference.get("folder") and reference.get("source_sha256"):
        return _whole(PredictionsRef.model_validate(reference))
    if reference.get("folder") and reference.get("history_sha256"):
        file = Path(reference["folder"], "history.json")
        return file.is_file() and file_digest(file) == reference["history_sha256"]
    return True


def _whole(predictions: PredictionsRef) -> bool:
    try:
        verify_predictions(predictions)
    except BadInput:
        return False
    return True
