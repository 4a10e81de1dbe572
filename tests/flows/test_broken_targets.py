"""Commands that look at a target leave out the few images that cannot be read, and name them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import small
import torch
from conftest import sfda
from PIL import Image

from sfda.weights.bundle import write_bundle


@pytest.fixture
def folder(home: Path, tmp_path: Path) -> Path:
    """Models `old` and `new`, and a folder `in` of twelve images, of which one is empty."""
    small.bundle(tmp_path / "old")
    network = copy.deepcopy(small.source())
    torch.manual_seed(0)
    for weight in network.parameters():
        weight.data += torch.randn_like(weight)
    write_bundle(tmp_path / "new", network, small.SPEC)
    (tmp_path / "in").mkdir()
    for number, image in enumerate(small.arrays({"adapt": 12}, seed=2, dull=True)["x"]):
        Image.fromarray(image).save(tmp_path / f"in/{number:03d}.png")
    (tmp_path / "in/007.png").write_bytes(b"")
    return tmp_path


def commands(folder: Path) -> dict[str, list[object]]:
    target = ["--target", folder / "in"]
    asks = ["--candidate", folder / "new", "--against", folder / "old", "--out", folder / "asked"]
    return {"profile": ["--source", folder / "old", *target], "audit": [*asks, *target]}


@pytest.mark.parametrize("command", ["profile", "audit"])
def test_the_others_are_looked_at(command: str, folder: Path) -> None:
    skipped = sfda(command, *commands(folder)[command], "--json").json["skipped"]
    assert ["007.png" in message for message in skipped] == [True]


@pytest.mark.parametrize("command", ["profile", "audit"])
def test_the_share_and_the_remedy_are_those_of_the_command(command: str, folder: Path) -> None:
    words = commands(folder)[command]
    refused = sfda(command, *words, "--skip-unreadable", 0)
    assert refused.code == 2
    assert "run the same again; or leave them out with --skip-unreadable 0.09" in refused.err
