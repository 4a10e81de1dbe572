"""Weights that are deleted are whole or gone, wherever the deleting is killed."""

from __future__ import annotations

from pathlib import Path

from killed import kills

from sfda.adaptation.run_folder import drop_weights, epoch_folder
from sfda.refs import Candidate

FILES = {"spec.json", "weights.safetensors"}
EPOCHS = [Candidate(epoch=n, scores={}, weights=None, sha256=None) for n in range(2)]


def write(folder: Path) -> None:
    for one in EPOCHS:
        epoch_folder(folder, one.epoch).mkdir(exist_ok=True)
        for name in FILES:
            (epoch_folder(folder, one.epoch) / name).touch()


def test_a_kill_leaves_an_epoch_whole_or_gone(tmp_path: Path) -> None:
    write(tmp_path)
    steps = 0
    for steps in kills(lambda: drop_weights(tmp_path, EPOCHS, but=1)):  # noqa: B007
        for folder in tmp_path.glob("epoch-*"):
            assert {file.name for file in folder.iterdir()} == FILES
        write(tmp_path)
    assert steps > 4
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-0001"]
