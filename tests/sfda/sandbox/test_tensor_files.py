"""Where a process has no shared memory of its own, nothing of it is left in the machine's."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

from sfda.sandbox import privileges
from sfda.sandbox.privileges import SHARED_MEMORY
from sfda.sandbox.tensor_files import _reduced


@pytest.mark.parametrize("mounted", [True, False])
def test_tensors_lie_where_nothing_outlives_the_process(tmp_path, monkeypatch, mounted):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(privileges, "_own_mounts", {SHARED_MEMORY} if mounted else set())
    tensor = torch.arange(100_000)
    make, words = _reduced(tensor)
    file = Path(words[0])
    assert file.parent == (SHARED_MEMORY if mounted else tmp_path)
    assert torch.equal(make(*words), tensor)
    assert not file.exists()
