"""The grammar of `--arch`, and families that other distributions add."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sfda import plugins
from sfda.errors import BadInput
from sfda.networks.grammar import Arch, family, is_foreign, parse, serving
from sfda.networks.registry import network_input
from sfda.problems.registry import PROBLEMS, read_bundle
from sfda.refs import InputSpec
from sfda.weights.bundle import write_bundle

OTHER = '''
from torch import nn
from sfda.networks.families._base import Family
from sfda.refs import InputSpec


class Other(Family):
    """Small networks of another lab."""

    answers = frozenset({"classes", "masks", "joints"})

    def known(self, name, answer):
        return name if name == "net" else None

    def input(self, name, answer):
        return InputSpec(size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)

    def build(self, name, answer, outputs, depth):
        body = nn.Sequential(nn.Conv2d(depth, 6, 3, padding=1), nn.ReLU())
        if answer == "classes":
            return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, outputs))
        return Maps(body, outputs)


class Maps(nn.Module):
    def __init__(self, body, outputs):
        super().__init__()
        self.body, self.logits = body, nn.Conv2d(6, outputs, 1)

    def forward(self, images):
        return self.logits(self.body(images))


class Thief(Other):
    pass
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution that adds the family `otherlab`, one under our name, and a broken one."""
    (tmp_path / "otherlab_networks.py").write_text(OTHER)
    facts = tmp_path / "other_lab-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: other-lab\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(
        "[sfda.networks]\notherlab = otherlab_networks:Other\n"
        "torchvision = otherlab_networks:Thief\nbroken = otherlab_absent:Other\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("otherlab_networks", None)


@pytest.mark.parametrize(
    ("arch", "answer", "library", "name"),
    [
        ("torchvision:resnet50", "classes", "torchvision", "resnet50"),
        ("sfda:tiny", "classes", "sfda", "tiny"),
        ("smp:Unet/resnet18", "masks", "smp", "unet/resnet18"),
        ("sfda:tinyunet", "masks", "sfda", "tinyunet"),
        ("sfda:tinyrcnn", "boxes", "sfda", "tinyrcnn"),
        ("mmdet:a/b.py", "boxes", "mmdet", "a/b.py"),
        ("pose:resnet50", "joints", "torchvision", "resnet50"),
        ("torchvision:resnet50", "joints", "torchvision", "resnet50"),
        ("pose:timm:resnet18", "joints", "timm", "resnet18"),
        ("timm:resnet18", "joints", "timm", "resnet18"),
        ("pose:tiny", "joints", "sfda", "tiny"),
        ("sfda:tiny", "joints", "sfda", "tiny"),
    ],
)
def test_one_grammar_for_all_problems(arch: str, answer: Any, library: str, name: str) -> None:
    assert parse(arch, answer) == Arch(library, name)
    assert not is_foreign(arch)


def test_a_pose_network_is_the_same_by_its_older_word() -> None:
    pose = PROBLEMS["pose"]
    assert pose.defaults("pose:tiny") == pose.defaults("sfda:tiny")
    nets = [
        pose.build_from_spec(pose.make_spec(arch, ("a", "b")))
        for arch in ("pose:tiny", "sfda:tiny")
    ]
    shapes = [{k: v.shape for k, v in net.state_dict().items()} for net in nets]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("answer", ["classes", "masks", "boxes", "joints"])
def test_an_unknown_network_is_told_what_there_is(answer: Any) -> None:
    with pytest.raises(BadInput) as caught:
        parse("resnet50", answer)
    assert f"no architecture 'resnet50' for {answer}" in str(caught.value)
    for library in serving(answer):
        assert f"{library}:" in str(caught.value)


def test_another_distribution_adds_a_family(
    installed: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its networks serve three problems, and a bundle of them opens like any other."""
    with caplog.at_level(logging.WARNING, "sfda"):
        assert "otherlab" in plugins.names("networks")
        assert "broken" not in plugins.names("networks")
        assert type(family("torchvision")).__module__ == "sfda.networks.families.torchvision"
    output = "\n".join(record.getMessage() for record in caplog.records)
    assert "sfda.networks: 'torchvision' of other-lab is a name of this package's own" in output
    assert "sfda.networks: 'broken' of other-lab cannot be imported" in output
    assert network_input("otherlab:net", "joints") == InputSpec(
        size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3
    )
    for problem in ("classification", "segmentation", "pose"):
        spec = PROBLEMS[problem].make_spec("otherlab:net", ("a", "b"))
        network = PROBLEMS[problem].build_from_spec(spec).eval()
        write_bundle(tmp_path / problem, network, spec)
        again, _ = read_bundle(tmp_path / problem)
        images = torch.rand(2, 3, 16, 16)
        with torch.no_grad():
            assert torch.equal(again(images).logits, network(images).logits)
        with pytest.raises(BadInput, match="no architecture 'otherlab:absent'"):
            parse("otherlab:absent", PROBLEMS[problem].answer)
    with pytest.raises(BadInput, match="no architecture"):
        parse("otherlab:net", "boxes")
