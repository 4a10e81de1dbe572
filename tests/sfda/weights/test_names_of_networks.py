"""A name in a spec builds a network of the libraries' own: none is fetched, none read elsewhere."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from sfda.errors import BadInput
from sfda.problems.classification import network as classification
from sfda.problems.registry import read_bundle
from sfda.weights.bundle import write_bundle


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("a name in a spec asked the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


ELSEWHERE = ("hf_hub:a/b", "hf-hub:a/b", "local-dir:FOLDER", "timm/x", "resnet18.x/../y", "x y", "")


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize(
    ("problem", "arch"),
    [
        ("classification", "timm:NAME"),
        ("segmentation", "smp:unet/tu-NAME"),
        ("segmentation", "smp:unet/NAME"),
        ("pose", "pose:timm:NAME"),
        ("pose", "pose:NAME"),
        ("classification", "torchvision:NAME"),
        ("segmentation", "torchvision:NAME"),
        ("detection", "torchvision:NAME"),
        ("detection", "sfda:NAME"),
    ],
)
def test_a_name_of_elsewhere_is_refused(problem: str, arch: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    spec = classification.make_spec("sfda:tiny", ("a", "b"))
    shown = arch.replace("NAME", name.replace("FOLDER", str(tmp_path)))
    parts = {"problem": problem, "arch": shown, "input": spec.input.model_copy(
        update={"channels": "rgb", "mean": (0.5,) * 3, "std": (0.5,) * 3, "size": (64, 64)}
    )}  # fmt: skip
    write_bundle(tmp_path / "bundle", nn.Module(), spec.model_copy(update=parts))
    with pytest.raises(BadInput):
        read_bundle(tmp_path / "bundle")


def test_a_file_of_the_current_folder_does_not_take_the_name_of_one_that_mmdet_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a file is a program, and would run."""
    pytest.importorskip("mmdet")
    from sfda.networks.mmdet_config import _file

    name = "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
    planted = tmp_path / name
    planted.parent.mkdir()
    planted.write_text("open('ran', 'w')\nmodel = dict(type='X')\n")
    monkeypatch.chdir(tmp_path)
    _file.cache_clear()
    assert _file(name).model.type == "FasterRCNN"
    assert not (tmp_path / "ran").exists()
    assert _file(f"./{name}").model.type == "X"
    assert (tmp_path / "ran").exists()
