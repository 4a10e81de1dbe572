"""What becomes a version: the bundle's own files, whatever was left beside or in place of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import small

from sfda.adaptation.run_folder import Epoch, read_history, write_history
from sfda.errors import BadInput
from sfda.refs import ModelRef, Version
from sfda.weights.bundle import read_spec, write_bundle
from tasks import register
from tasks.tracking import run_key


@pytest.fixture
def registered(monkeypatch):
    """What was registered, instead of a registry."""
    seen: list[dict[str, bytes]] = []

    def register_bundle(run_id, bundle, name, **more):
        seen.append({file.name: file.read_bytes() for file in bundle.iterdir()})
        return Version(name=name, version="1", uri="models:/toy/1")

    fake = SimpleNamespace(
        register_bundle=register_bundle,
        set_alias=lambda *_: None,
        version_of_work=lambda *_: None,
        key_of_run=str,
        run_key=run_key,
    )
    monkeypatch.setattr(register, "tracking", fake)
    return seen


@pytest.fixture
def model(tmp_path):
    return small.bundle(tmp_path / "run" / "epoch-0000")


def taken(model, source=None):
    return register.register_model.fn(model, "toy", "run", {}, "candidate", source)


def test_its_files_and_the_sources_card_are_taken(model, registered, tmp_path):
    source = small.bundle(tmp_path / "source")
    (tmp_path / "source" / "card.safetensors").write_bytes(b"card")
    taken(model, source)
    folder = Path(model.uri)
    assert registered == [
        {name: (folder / name).read_bytes() for name in ("spec.json", "weights.safetensors")}
        | {"card.safetensors": b"card"}
    ]


def test_the_card_that_an_adapted_model_states_is_the_one_that_is_taken(registered, tmp_path):
    network, made = small.source(), tmp_path / "made"
    made.write_bytes(b"card")
    write_bundle(tmp_path / "source", network, small.SPEC, card=made)
    spec = read_spec(tmp_path / "source")  # adapted models have it, and no card in their folder
    digest = write_bundle(tmp_path / "run" / "epoch-0000", network, spec)
    model = ModelRef(
        uri=str(tmp_path / "run" / "epoch-0000"), sha256=digest, problem=spec.problem,
        arch=spec.arch, classes=spec.classes,
    )  # fmt: skip
    source = model.model_copy(update={"uri": str(tmp_path / "source")})
    taken(model, source)
    assert registered[0]["card.safetensors"] == b"card"
    (tmp_path / "source" / "card.safetensors").write_bytes(b"another")
    with pytest.raises(BadInput, match="changed or exchanged"):
        taken(model, source)
    assert len(registered) == 1


def test_a_link_in_place_of_a_file_is_refused(model, registered, tmp_path):
    folder, secret = Path(model.uri), tmp_path / "secret"
    secret.write_text("of the source data")
    (folder / "card.safetensors").symlink_to(secret)
    with pytest.raises(BadInput, match="links are not followed"):
        taken(model)
    (folder / "card.safetensors").unlink()
    (folder / "spec.json").rename(tmp_path / "spec.json")
    (folder / "spec.json").symlink_to(tmp_path / "spec.json")
    with pytest.raises(BadInput, match="links are not followed"):
        taken(model)
    assert not registered


def test_a_link_in_place_of_the_folder_is_refused(model, registered, tmp_path):
    folder = Path(model.uri)
    shutil.move(folder, tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="links are not followed"):
        taken(model)
    assert not registered


def test_other_weights_than_those_that_were_chosen_are_refused(model, registered):
    with pytest.raises(BadInput, match="holds model"):
        taken(model.model_copy(update={"sha256": "0" * 64}))
    assert not registered


def test_a_history_that_is_a_link_or_was_changed_is_refused(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    epoch = Epoch(
        epoch=0,
        steps=[0],
        losses={"infomax": [0.5]},
        rate=[0.1],
        last_step=3,
        images=8,
        seconds=0.5,
        scores={"infomax": float("inf")},
        sha256="0" * 64,
        weights=None,
    )
    digest = write_history(folder, [epoch])
    assert read_history(folder, digest) == [epoch]
    (folder / "history.json").write_text("[]")
    with pytest.raises(BadInput, match="was changed"):
        read_history(folder, digest)
    (folder / "history.json").rename(tmp_path / "history.json")
    (folder / "history.json").symlink_to(tmp_path / "history.json")
    with pytest.raises(BadInput, match="links are not followed"):
        read_history(folder, digest)
