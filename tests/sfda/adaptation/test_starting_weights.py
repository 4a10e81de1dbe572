"""Of the file that a training starts from it is said what was taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small
import torch

from sfda.adaptation.training_plan import starting_network
from sfda.refs import FileRef


@pytest.mark.parametrize(
    ("wrapped", "told"),
    [
        (lambda state: state, "taken; "),
        (lambda state: {"state_dict": state, "epoch": 3}, "`state_dict`; left out: epoch; "),
        (lambda state: {"ema": {f"module.{k}": v for k, v in state.items()}}, "`ema.module`"),
    ],
    ids=["plain", "epoch", "average"],
)
def test_what_is_taken_of_starting_weights_is_said(
    tmp_path: Path, wrapped: Any, told: str, caplog: Any
) -> None:
    caplog.set_level("INFO", "sfda")
    source = small.source()
    torch.save(wrapped(source.state_dict()), tmp_path / "w.pth")
    start = FileRef(path=str(tmp_path / "w.pth"), sha256="0" * 64)
    network = starting_network(small.SPEC, start)
    inner = len(source.backbone.state_dict())
    rest = len(source.state_dict()) - inner
    line = caplog.records[-1].getMessage()
    assert line.startswith(f"{tmp_path / 'w.pth'}: {inner + rest} tensors taken")
    assert told in line
    assert line.endswith(
        f"; {inner} of them fill the backbone, {rest} (of a last layer, say) are not used"
    )
    ours, theirs = network.backbone.state_dict(), source.backbone.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
