"""A kept result that names something to import or to unpickle is never read."""

from __future__ import annotations

import base64
import importlib
import json
import os
import pkgutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import cloudpickle
import pytest
from prefect import Task
from prefect._internal.result_records import ResultRecord, ResultRecordMetadata
from prefect.serializers import JSONSerializer, PickleSerializer
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

import tasks
from sfda.refs import ManifestRef
from tasks.prefect_runtime.cache import SameWork
from tasks.prefect_runtime.cached_results import KEPT, read_record


def record(result: Any, serializer: Any = None) -> dict[str, Any]:
    metadata = ResultRecordMetadata(serializer=serializer or JSONSerializer())
    return json.loads(ResultRecord(result=result, metadata=metadata).serialize())


class Runs:
    """What runs a command where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def hostile(mark: Path) -> dict[str, Any]:
    plain = record(ManifestRef(path="x", sha256="0"))
    name = {"type": "json", "object_decoder": "subprocess.getoutput"}
    made = {"__class__": "subprocess.getoutput", "data": [f"touch {mark}"]}
    pickled = base64.encodebytes(cloudpickle.dumps(Runs(mark))).decode()
    state = {"type": "COMPLETED", "data": {"storage_key": "payload"}}
    key = plain["metadata"] | {"storage_key": "payload"}
    return {
        "pickle": record(1, PickleSerializer())
        | {"result": json.dumps(cloudpickle.dumps(Runs(mark)).hex())},
        "a pickle library": plain
        | {"metadata": {"serializer": {"type": "pickle", "picklelib": "os"}}},
        "a decoder": plain | {"metadata": {"serializer": name}},
        "a library for json": plain
        | {"metadata": {"serializer": JSONSerializer().model_dump() | {"jsonlib": "this"}}},
        "a class": plain | {"result": json.dumps(made)},
        "a class within": plain | {"result": json.dumps([{"a": [made]}])},
        "a function of ours": plain
        | {"result": json.dumps({"__class__": "sfda.plugins.load", "data": ["methods", "bn"]})},
        "what a module of ours imports": plain
        | {"result": json.dumps({"__class__": "sfda.state_folder.os", "data": {}})},
        "a class that a module of ours imports": plain
        | {"result": json.dumps({"__class__": "flows.refresh_target.State", "data": state})},
        "settings of ours": plain
        | {"result": json.dumps({"__class__": "sfda.settings.AdaptSettings", "data": {}})},
        "a class that is a list": plain | {"result": json.dumps({"__class__": [], "data": {}})},
        "no serializer, which is pickle": plain | {"metadata": {}, "result": json.dumps(pickled)},
        "an older form": plain | {"data": pickled, "serializer": {"type": "pickle"}},
        "another file": plain | {"metadata": key},
        "an exception": plain
        | {"result": json.dumps({"__exc_type__": "builtins.OSError", "message": "x"})},
        "another storage": plain | {"metadata": plain["metadata"] | {"storage_block_id": "0" * 32}},
        "no record": [1],
        "nothing": {},
    }


@pytest.mark.parametrize("name", list(hostile(Path("mark"))))
def test_a_record_that_names_what_is_not_ours_is_removed(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    call = SimpleNamespace(task=SimpleNamespace(name="stage", fn=record))
    storage = tmp_path / "results"
    storage.mkdir()
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: storage}):
        key = SameWork().compute_key(call, {"a": 1}, {})
        file = storage / key
        file.write_text(json.dumps(hostile(mark)[name]))
        assert read_record(file) is None
        assert SameWork().compute_key(call, {"a": 1}, {}) == key
    assert not file.exists()
    assert not mark.exists()


def test_every_task_keeps_what_may_be_read() -> None:
    returned = set()
    for module in pkgutil.iter_modules(tasks.__path__, "tasks."):
        for one in vars(importlib.import_module(module.name)).values():
            if isinstance(one, Task) and one.persist_result:
                assert one.result_serializer == "json", one.name
                kind = get_type_hints(one.fn)["return"]
                returned |= {kind, *get_args(kind)}
    names = {f"{k.__module__}.{k.__qualname__}" for k in returned if isinstance(k, type)}
    plain = {"builtins.str", "builtins.tuple", "builtins.dict", "builtins.float"}
    assert {name for name in names if name not in plain} == KEPT - {"sfda.refs.ManifestRef"}


def test_a_record_of_ours_stays(tmp_path: Path) -> None:
    file = tmp_path / "record"
    for result in (ManifestRef(path="x", sha256="0"), [1, None, "a"], 3.5, {"a": [{}]}):
        file.write_text(json.dumps(record(result)))
        assert read_record(file) is not None


def test_links_twice_named_keys_and_files_of_others_are_not_read(tmp_path: Path) -> None:
    file, link = tmp_path / "record", tmp_path / "link"
    text = json.dumps(record(1))
    file.write_text(text)
    link.symlink_to(file)
    assert read_record(file) is not None
    assert read_record(link) is None
    twice = '{"__class__": "os.system", "__class__": "sfda.refs.ManifestRef", "data": {}}'
    file.write_text(json.dumps(json.loads(text) | {"result": twice}))
    assert read_record(file) is None
    file.write_text(text)
    if os.geteuid() == 0:
        os.chown(file, 12345, 12345)
        assert read_record(file) is None
