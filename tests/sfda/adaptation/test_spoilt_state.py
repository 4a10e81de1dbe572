"""A state that is none: the run begins anew, and says so."""

from __future__ import annotations

import io
import logging
import pickle
from pathlib import Path

import pytest
import torch

from sfda.adaptation.run_folder import load_state


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
