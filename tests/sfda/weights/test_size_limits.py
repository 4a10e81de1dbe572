"""A spec that asks for more than its weights can fill is refused at once, for every family."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sfda.config import merged
from sfda.errors import BadInput
from sfda.problems.classification import network as classification
from sfda.problems.registry import PROBLEMS, read_bundle
from sfda.refs import ModelSpec
from sfda.testing.toys import mmdet_detection as toymm
from sfda.weights.bundle import write_bundle
from sfda.weights.size_limits import SPARE_BYTES, bounded_build

MOST_GROWTH = 300 * 2**20  # bytes of memory, while a hostile model is refused
MANY = 2**40  # no machine has so much


class LittleWeights(nn.Module):
    """The weights of a hostile bundle: next to none."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))


def spec(problem: str, arch: str, **parts: Any) -> dict[str, Any]:
    """A spec with these parts, unchecked, as a hostile person writes it."""
    like = classification.make_spec("sfda:tiny", ("a", "b"))
    colour = like.input.model_copy(
        update={"channels": "rgb", "mean": (0.5,) * 3, "std": (0.5,) * 3, "size": (64, 64)}
    )
    usual = {"problem": problem, "arch": arch, "input": like.input if "sfda" in arch else colour}
    return like.model_dump() | usual | {"head": "plain"} | parts


def mmdet(**backbone: Any) -> dict[str, Any]:
    config = toymm.config()
    config["backbone"] |= backbone
    return spec("detection", "mmdet:x", config=config)


JOINTS = {"classes": ("a", "b"), "skeleton": {"edges": [("a", "b")]}}
SWIN = {
    "type": "SwinTransformer", "embed_dims": 4, "num_heads": [1, 1, 1, 1], "window_size": 2,
    "depths": [2, 2, 5_000, 2],
}  # fmt: skip
HOSTILE: dict[str, dict[str, Any]] = {
    "a wide bottleneck": spec(
        "classification", "sfda:lenet", head="bottleneck", bottleneck_dim=MANY
    ),
    "wider than numbers go": spec(
        "classification", "sfda:lenet", head="bottleneck", bottleneck_dim=10**30
    ),
    "narrower than none": spec(
        "classification", "sfda:lenet", head="bottleneck", bottleneck_dim=-5
    ),
    "many classes": spec(
        "classification", "sfda:lenet", classes=tuple(f"{n}" for n in range(90_000))
    ),
    "the largest of torchvision": spec("classification", "torchvision:regnet_y_128gf"),
    "the largest of timm": spec("classification", "timm:vit_gigantic_patch14_224"),
    "a large encoder": spec("segmentation", "smp:unet/resnet152"),
    "a large segmenter": spec("segmentation", "torchvision:fcn_resnet101"),
    "a detector of many classes": spec(
        "detection", "sfda:tinyrcnn", classes=tuple(f"{n}" for n in range(90_000))
    ),
    "a large detector": spec("detection", "torchvision:fasterrcnn_resnet152_fpn"),
    "channels of mmdet": mmdet(stem_channels=100_000, base_channels=100_000),
    "more channels of mmdet": mmdet(base_channels=MANY),
    "layers of mmdet": spec(
        "detection", "mmdet:x", config={**toymm.config(), "backbone": SWIN}
    ),
    "anchors of mmdet": spec("detection", "mmdet:x", config={
        **toymm.config(), "rpn_head": {**toymm.config()["rpn_head"], "anchor_generator": {
            "type": "AnchorGenerator", "octave_base_scale": 4, "scales_per_octave": 100_000,
            "ratios": [1.0] * 1000, "strides": [4] * 1000,
        }},
    }),
    "a wide prior of poses": spec("pose", "pose:tiny", prior_hidden=(10**6, 10**6), **JOINTS),
    "a deep prior of poses": spec("pose", "pose:tiny", prior_hidden=(1,) * 10**5, **JOINTS),
    "a prior of no width": spec("pose", "pose:tiny", prior_hidden=(-1, 0), **JOINTS),
    "a large backbone of poses": spec("pose", "pose:resnet152", **JOINTS),
    "a large backbone of timm": spec("pose", "pose:timm:convnext_xxlarge", **JOINTS),
}  # fmt: skip


def memory(what: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most since the peak was forgotten."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{what}:\s+(\d+) kB", status)[1]) * 1024


def forget_peak() -> bool:
    """Whether the kernel can tell how much memory is taken from here on."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


@pytest.mark.parametrize("name", HOSTILE)
def test_what_the_weights_cannot_fill_is_refused(tmp_path: Path, name: str) -> None:
    if "mmdet" in name:
        toymm.network()  # imports are not what is measured
    folder = tmp_path / "bundle"
    stated = ModelSpec.model_validate(HOSTILE[name])
    write_bundle(folder, LittleWeights(), stated)
    before, told = memory("VmRSS"), forget_peak()
    with pytest.raises(BadInput) as refusal:
        read_bundle(folder)
    assert len(str(refusal.value).splitlines()) == 1
    assert len(str(refusal.value)) < 1000
    if told:
        assert memory("VmHWM") - before < MOST_GROWTH


def test_what_its_weights_fill_is_built_as_ever() -> None:
    stated = classification.make_spec("torchvision:squeezenet1_1", ("a", "b"))
    torch.manual_seed(0)
    network = PROBLEMS["classification"].build_from_spec(stated)
    torch.manual_seed(0)
    with bounded_build(network.state_dict(), stated.arch):
        again = PROBLEMS["classification"].build_from_spec(stated)
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_memory_counts_while_it_lives() -> None:
    half = SPARE_BYTES // 8  # numbers of four bytes
    with bounded_build({}, "x"):
        for _ in range(10):
            torch.empty(half)
        one = torch.empty(half)
        with torch.no_grad():
            one.view(2, -1).add_(1)
        del one
        torch.empty(half)

    def held() -> None:
        parts = [torch.empty(half // 2) for _ in range(16)]
        parts.append(torch.ones(1))

    def told_before_it_is_made() -> None:
        row = torch.zeros(2**20)
        row[:, None] + row[None]

    def a_library_that_goes_on() -> None:
        with contextlib.suppress(ValueError):
            torch.zeros(MANY)

    for work in (held, told_before_it_is_made, a_library_that_goes_on):
        with pytest.raises(BadInput, match=r"asks x for \d+ MiB and more"):
            within(work)


def within(work: Callable[[], None]) -> None:
    with bounded_build({}, "x"):
        work()


def test_other_threads_are_left_alone() -> None:
    held: list[torch.Tensor] = []

    def work() -> None:
        held.append(torch.empty(SPARE_BYTES // 2))
        nn.Sequential(*(nn.ReLU() for _ in range(6_000)))

    with bounded_build({}, "x"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert held


def nested(levels: int) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for _ in range(levels):
        table = {"a": table}
    return table


@pytest.mark.parametrize(
    "parts",
    [
        {"input": {"scale": float("nan")}},
        {"input": {"mean": ["endless"]}},
        {"input": {"std": [float("nan")]}},
        {"input": {"window": ["endless", 1.0]}},
        {"views": {"zoom": ["endless", 1.0]}},
        {"views": {"blur_sigma": "endless"}},
        {"views": {"zoom": [0.0, 1.0]}},
        {"views": {"pad": 10**9}},
        {"views": {"blur_sigma": 1e9}},
        {"config": nested(500)},
        {"bottleneck_dim": 1e300},
        {"prior_hidden": [1.5]},
        {"classes": ["\ud800", "b"]},
        {"input": {"size": (-1, 64)}},
        {"input": {"size": (10**9, 10**9)}},
        {"classes": ()},
        {"classes": ("a\nsfda: all is well", "b")},
        {"classes": ("\x1b[2J", "b")},
        {"classes": ("\x9b2J", "b")},
        {"classes": ("a\u2028b", "b")},
        {"classes": ("a" * 10_000, "b")},
        {"classes": tuple(str(n) for n in range(100_001))},
        {"arch": "sfda:\x1b]0;x\x07"},
        {"skeleton": {"edges": [("a", "no joint")]}},
        {"card_sha256": "../../card"},
        {"reject": float("nan")},
        {"bottleneck_dropout": "endless"},
        {"\x1b[2J" * 100: 1},
        {f"key {n}": 1 for n in range(10_000)},
    ],
)
def test_a_spec_of_odd_values_is_refused(tmp_path: Path, parts: dict[str, Any]) -> None:
    folder = tmp_path / "bundle"
    write_bundle(folder, LittleWeights(), classification.make_spec("sfda:tiny", ("a", "b")))
    file = folder / "spec.json"
    stated = merged(json.loads(file.read_text()), parts)
    file.write_text(json.dumps(stated).replace('"endless"', "1e999"))
    with pytest.raises(BadInput, match=r"spec\.json cannot be used") as refusal:
        read_bundle(folder)
    message = str(refusal.value)
    assert len(message) < 2000
    assert message.isprintable()


NAMES = ("ärger", "猫", "a/b", "..", "naïve café", "می‌خواهم", "👩‍🔬", "a, b", "%s {x}")


def test_names_of_people_are_good(tmp_path: Path) -> None:
    stated = classification.make_spec("sfda:tiny", NAMES)
    network = PROBLEMS["classification"].build_from_spec(stated)
    write_bundle(tmp_path / "bundle", network, stated)
    assert read_bundle(tmp_path / "bundle")[1].classes == NAMES
