"""An earlier result stands in only for the same inputs, the same code and files still intact."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small
from prefect.serializers import JSONSerializer
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

import sfda
from sfda.inference.pseudo_labels import keep_pseudo_labels
from sfda.manifests.digests import file_digest, key_of
from sfda.refs import Adaptation, Candidate, ManifestRef, SideBySide, SplitRef
from tasks.prefect_runtime.cache import SameWork, _own_digest, intact


def stage(source, device):
    return source


def key(policy: SameWork, inputs: dict[str, object], fn=stage, name: str = "stage") -> str | None:
    """The key that Prefect would be given for a call of a task with these inputs."""
    call = SimpleNamespace(task=SimpleNamespace(name=name, fn=fn))
    return policy.compute_key(call, inputs, {})


def test_the_key_ignores_what_it_is_told_to_and_nothing_else():
    policy = SameWork(ignore=("device",))
    first = key(policy, {"source": "a", "device": "cpu"})
    assert first == key(policy, {"device": "cuda", "source": "a"})
    assert first != key(policy, {"source": "b", "device": "cpu"})
    assert first != key(SameWork(), {"source": "a", "device": "cpu"})
    assert first != key(policy, {"source": "a", "device": "cpu"}, name="another stage")
    assert first == key(SameWork(), {"source": "a"})


def test_of_a_target_counts_what_can_be_seen_of_it_and_not_its_manifest():
    policy = SameWork(seen_alone=("target",))
    manifests = [ManifestRef(path=path, sha256=path * 64) for path in "ab"]
    here, there = (SplitRef(manifest=one, split="adapt", seen="c") for one in manifests)
    first = key(policy, {"target": here})
    assert first == key(policy, {"target": there})
    assert first != key(policy, {"target": here.model_copy(update={"seen": "d"})})
    assert first != key(policy, {"target": here.model_copy(update={"split": "test"})})
    assert key(SameWork(), {"target": here}) != key(SameWork(), {"target": there})


def test_the_key_changes_with_the_tasks_own_code():
    def same_name(source, device):
        return source

    here = key(SameWork(), {"source": "a"}, fn=same_name)

    def same_name(source, device):
        return source + source

    assert here != key(SameWork(), {"source": "a"}, fn=same_name)


def test_the_key_changes_with_any_file_of_the_library(tmp_path, monkeypatch):
    copy = tmp_path / "sfda"
    shutil.copytree(Path(sfda.__file__).parent, copy, ignore=shutil.ignore_patterns("*.pyc"))
    before = key(SameWork(), {"source": "a"})
    monkeypatch.setattr(sfda, "__file__", str(copy / "__init__.py"))
    _own_digest.cache_clear()
    try:
        assert key(SameWork(), {"source": "a"}) == before
        with (copy / "losses.py").open("a") as file:
            file.write("# one word more\n")
        _own_digest.cache_clear()
        assert key(SameWork(), {"source": "a"}) != before
    finally:
        _own_digest.cache_clear()


def test_parts_of_a_key_are_models_and_plain_values():
    ref = SideBySide(split=None, source=None, adapted=None)
    assert key_of(a=ref, b=[1, "x"]) == key_of(b=[1, "x"], a=ref)
    assert key_of(a=ref) != key_of(a=ref.model_copy(update={"picture": "p"}))
    assert key_of(a=1) != key_of(a="1")


@pytest.fixture
def adaptation(tmp_path) -> Adaptation:
    """A finished adaptation with one candidate whose weights are kept and one without."""
    model = small.bundle(tmp_path / "epoch-0001")
    history = tmp_path / "history.json"
    history.write_text("[]")
    return Adaptation(
        folder=str(tmp_path),
        history_sha256=file_digest(history),
        candidates=(
            Candidate(epoch=0, scores={"infomax": 0.1}, weights=None, sha256="0" * 64),
            Candidate(epoch=1, scores={"infomax": 0.2}, weights=model.uri, sha256=model.sha256),
        ),
        seconds=1.0,
        images_per_second=1.0,
        peak_memory_mb=1.0,
    )


def alter(file: Path) -> None:
    """Another last byte, the same length."""
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("spoil", [alter, Path.unlink])
@pytest.mark.parametrize("name", ["epoch-0001/weights.safetensors", "epoch-0001/spec.json"])
def test_altered_and_deleted_weights_are_seen(adaptation, name, spoil):
    remaining = {"metadata": {}, "result": adaptation.model_dump_json()}  # as Prefect writes it
    assert intact(remaining)
    spoil(Path(adaptation.folder, name))
    assert not intact(remaining)


@pytest.mark.parametrize("spoil", [alter, Path.unlink])
def test_an_altered_and_a_deleted_history_are_seen(adaptation, spoil):
    assert intact(adaptation.model_dump())
    spoil(Path(adaptation.folder, "history.json"))
    assert not intact(adaptation.model_dump())


@pytest.mark.parametrize("spoil", [alter, Path.unlink])
@pytest.mark.parametrize("name", ["index.json", "features-00000.npy", "logits-00000.npy"])
def test_altered_and_deleted_predictions_are_seen(tmp_path, name, spoil):
    images = small.source_arrays()["x"][:9]
    ref = keep_pseudo_labels(
        small.look(images),
        small.source(),
        small.SPEC,
        tmp_path / "kept",
        size=9,
        source_sha256="0" * 64,
    )
    assert intact(ref.model_dump())
    spoil(tmp_path / "kept" / name)
    assert not intact(ref.model_dump())


@pytest.mark.parametrize("kind", ["picture", "panel"])
def test_a_deleted_picture_is_seen(tmp_path, kind):
    picture = tmp_path / "p.png"
    picture.write_bytes(b"png")
    remaining = SideBySide(
        split="test", source=None, adapted=None, **{kind: str(picture)}
    ).model_dump()
    assert intact(remaining)
    picture.unlink()
    assert not intact(remaining)
    assert intact(SideBySide(split=None, source=None, adapted=None).model_dump())


def test_a_spoilt_result_is_forgotten_and_an_intact_one_kept(adaptation, tmp_path):
    storage = tmp_path / "results"
    storage.mkdir()
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: storage}):
        name = key(SameWork(), {"source": "a"})
        record = storage / str(name)
        metadata = {"serializer": JSONSerializer().model_dump()}
        content = {"metadata": metadata, "result": adaptation.model_dump_json()}
        record.write_text(json.dumps(content))
        assert key(SameWork(), {"source": "a"}) == name
        assert record.is_file()
        alter(Path(adaptation.folder, "history.json"))
        assert key(SameWork(), {"source": "a"}) == name
        assert not record.exists()


def test_results_without_files_are_always_intact():
    assert intact({"a": [1, "{not json", None, "[1, 2]"], "b": float(np.pi)})
