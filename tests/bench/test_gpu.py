"""`make gpu` on the processor: every kind of measurement runs and is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.bench.gpu.__main__ import main
from tests.bench.gpu.table import text


@pytest.mark.slow
def test_every_section_runs_and_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gpu.json"
    tiny = ["--device", "cpu", "--tiny", "--out", str(out)]
    assert main([*tiny, "--methods", "shot", "post"]) == 0
    results = json.loads(out.read_text())
    sections = ["many_classes", "waits", "precision", "ddp", "loading", "epochs", "switches"]
    assert list(results["sections"]) == sections
    name = "shot, lenet, 28 px"
    waits, epochs = results["sections"]["waits"][name], results["sections"]["epochs"][name]
    assert waits["per_step"] == 0
    assert len(epochs["step_ms"]) == 2
    assert results["sections"]["ddp"][name]["loss_difference"] == 0
    assert f"| {name} |" in capsys.readouterr().out
    assert main(["--table", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == text(results)


def test_a_fault_and_a_lack_of_time_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gpu.json"
    tiny = ["--device", "cpu", "--tiny", "--out", str(out), "--methods", "shot", "--only", "ddp"]
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:  # a second group is refused
        assert main(tiny) == 1
    finally:
        torch.distributed.destroy_process_group()
    assert "ddp: shot, lenet, 28 px: ValueError" in capsys.readouterr().out
    assert main([*tiny, "--seconds", "0"]) == 0
    assert "ddp: shot, lenet, 28 px: not run: time" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_what_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert "--device cpu --tiny" in message
    assert message.count("\n") == 1
