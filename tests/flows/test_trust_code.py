"""`--trust-code`: on every command that opens a model, for that call alone; without it nothing."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import pytest
import typer
from conftest import sfda
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from flows.cli.app import app
from flows.cli.trust import OPENS_MODELS, offer_trust_
from sfda.networks.foreign.trusted import TRUST_CODE, trusted_packages
from sfda.problems.detection import network as detection
from sfda.weights.bundle import write_bundle


def test_every_command_that_opens_a_model_offers_it() -> None:
    for command in app.registered_commands:
        parameters = set(inspect.signature(command.callback).parameters)
        assert ("trust_code" in parameters) == bool(OPENS_MODELS & parameters), command.name


def test_it_holds_for_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    small = typer.Typer()

    @small.command()
    def opens(model: str) -> None:
        seen.append(trusted_packages())

    offer_trust_(small)
    monkeypatch.delenv(TRUST_CODE, raising=False)
    run = CliRunner().invoke
    assert run(small, ["m", "--trust-code", "a", "--trust-code", "b"]).exit_code == 0
    assert TRUST_CODE not in os.environ
    assert run(small, ["m"]).exit_code == 0
    monkeypatch.setenv(TRUST_CODE, "c,d")
    assert run(small, ["m", "--trust-code", "a"]).exit_code == 0
    assert seen == [{"a", "b"}, set(), {"a", "c", "d"}]
    assert os.environ[TRUST_CODE] == "c,d"


@pytest.mark.parametrize(
    ("variable", "option"), [("torch", "foo"), ("foo", "torch"), (None, "subprocess")]
)
def test_what_nobody_may_trust_ends_with_one_message(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None, option: str
) -> None:
    monkeypatch.delenv(TRUST_CODE, raising=False)
    if variable:
        monkeypatch.setenv(TRUST_CODE, variable)
    command = ["predict", "--model", "m", "--data", "d", "--out", "o.csv", "--trust-code", option]
    output = sfda(*command)
    assert output.code == 2
    assert len(output.err.splitlines()) == 1
    assert "that is part of Python or of what runs here anyway" in output.err
    assert os.environ.get(TRUST_CODE) == variable


def test_a_hostile_bundle_ends_with_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    popen = {"type": "subprocess.Popen", "args": ["/bin/sh", "-c", f"touch {mark}"]}
    config = {
        "type": "FasterRCNN", "rpn_head": {}, "roi_head": None, "train_cfg": {}, "test_cfg": {},
        "backbone": popen,
    }  # fmt: skip
    spec = detection.make_spec("sfda:tinyrcnn", ("a", "b"))
    spec = spec.model_copy(update={"arch": "mmdet:x", "config": config})
    write_bundle(tmp_path / "bundle", nn.Module(), spec)
    folder = tmp_path / "images"
    folder.mkdir()
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / "home"))
    for name in "ab":
        Image.new("RGB", (64, 64)).save(folder / f"{name}.png")
    command = ["predict", "--model", str(tmp_path / "bundle"), "--data", str(folder)]
    output = sfda(*command, "--out", tmp_path / "out.csv")
    assert output.code == 2
    assert "subprocess.Popen" in output.err
    assert "do not open it" in output.err
    assert not mark.exists()
    assert not (tmp_path / "out.csv").exists()
