"""A kept result that names something to import or to unpickle is never read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest
from prefect._internal.result_records import ResultRecord, ResultRecordMetadata
from prefect.serializers import JSONSerializer, PickleSerializer
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from sfda.refs import ManifestRef
from tasks.prefect_runtime.cache import SameWork
from tasks.prefect_runtime.cached_results import read_record


def record(result: Any, serializer: Any = None) -> dict[str, Any]:
    metadata = ResultRecordMetadata(serializer=serializer or JSONSerializer(), storage_key="k")
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
        "an exception": plain
        | {"result": json.dumps({"__exc_type__": "builtins.OSError", "message": "x"})},
        "another storage": plain | {"metadata": {"storage_block_id": "0" * 32}},
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
