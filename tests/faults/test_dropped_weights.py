"""Weights that are deleted are whole or gone, wherever the deleting is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from sfda.adaptation.run_folder import drop_weights, epoch_folder
from sfda.refs import Candidate
from tests.faults.command import listen

FILES = {"spec.json", "weights.safetensors"}
EPOCHS = [Candidate(epoch=n, scores={}, weights=None, sha256=None) for n in range(2)]


def killed(folder: Path, step: int) -> bool:
    """Whether deleting takes so many steps on the disk; it is killed before the last of them."""
    pid = os.fork()
    if not pid:
        listen(f"{signal.SIGKILL.value}:{step}")
        drop_weights(folder, EPOCHS, but=1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_a_kill_leaves_an_epoch_whole_or_gone(tmp_path: Path) -> None:
    for step in range(1, 100):
        for one in EPOCHS:
            epoch_folder(tmp_path, one.epoch).mkdir(exist_ok=True)
            for name in FILES:
                (epoch_folder(tmp_path, one.epoch) / name).touch()
        again = killed(tmp_path, step)
        for folder in tmp_path.glob("epoch-*"):
            assert {file.name for file in folder.iterdir()} == FILES, f"killed at step {step}"
        if not again:
            assert step > 4
            break
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-0001"]
