"""A state that is none: the run begins anew, and says so."""

from __future__ import annotations

import io
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sfda.adaptation.run_folder import load_state, save_state, write_history
from sfda.types import State

Linking = Callable[[Path, Path], None]


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"no file of torch's", pickle.dumps(Path("x")), saved([]), saved({"history": b"[{}]"})],
    ids=["empty", "text", "pickle", "a list", "another history"],
)
def test_what_is_no_state_is_as_none(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    with caplog.at_level(logging.WARNING, "sfda"):
        assert load_state(tmp_path, torch.device("cpu")) is None
    assert "is no state of a run" in caplog.text


def test_a_folder_in_place_of_a_half_written_state_goes(tmp_path: Path) -> None:
    (tmp_path / ".state.77" / "deep").mkdir(parents=True)
    assert load_state(tmp_path, torch.device("cpu")) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_history_and_state_are_written_through_no_link(tmp_path: Path, link: Linking) -> None:
    theirs, run = tmp_path / "theirs", tmp_path / "run"
    theirs.write_text("dear")
    run.mkdir()
    for name in (".history", "history.json", f".state.{os.getpid()}", "state.pt"):
        link(theirs, run / name)
    write_history(run, [])
    save_state(run, State(1, {}, None), [])
    assert theirs.read_text() == "dear"
    assert not (run / "history.json").is_symlink()
    assert load_state(run, torch.device("cpu")) is not None
