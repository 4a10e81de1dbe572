"""What `make gpu` runs: methods on networks with random weights, and synthetic images on disk.

Random weights alone give every image the same output, and the smallest rounding another gradient.
So residual branches are made small, batch norm takes the statistics of some images, and the last
layer is scaled until some outputs are sure: all of it as in a trained network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from sfda import plugins
from sfda.adaptation.plan import default_choice, settings_for
from sfda.adaptation.scoring import make_scorer
from sfda.building_blocks.device import to_device
from sfda.building_blocks.norm import norms
from sfda.images.preprocess import Stack, centre_crop, standardise
from sfda.loading.batches import TargetLoader
from sfda.loading.scan import scan
from sfda.networks.torchvision_detection import TorchvisionDetector
from sfda.problems.pose.network import PoseNet
from sfda.problems.registry import PROBLEMS
from sfda.refs import InputSpec, ModelSpec, Profile, Skeleton
from sfda.types import Images, Scan, TargetInfo

BLOCKS = (16, 32, 64)  # pixels of one colour in a synthetic image
BRANCH = 0.2  # scale of a residual branch; at 1 the gradients of bfloat16 are at right angles
SPREAD = 4.0  # of an image's logits over the classes: some are sure, others are not
SLOW = 1e-9  # learning rate where only time counts: every epoch has the same boxes to learn
LOOSE = {"threshold": 0.3, "confidence": 0.5, "background": 1.0}  # regions to distil at all


@dataclass(frozen=True)
class Case:
    """One method on one network and one set of images."""

    problem: str
    method: str
    arch: str
    classes: int
    input: dict[str, Any]  # sizes of an InputSpec
    rows: int
    few: int  # rows where a few steps are enough
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Unambiguous among the cases."""
        height, width = self.input["size"]
        side = f"{height} px" if height == width else f"{height} x {width} px"
        return f"{self.method}, {self.arch.partition(':')[2]}, {side}"


def _cases(arch: str, rows: int, few: int, input: dict[str, Any], **more: Any) -> list[Case]:
    """The six methods of classification, 65 classes as Office-Home's."""
    usual = {"glc": {"coefficient": 1.0}}  # else t-SNE on the processor, once a run
    return [
        Case("classification", name, arch, 65, input, rows, few, usual.get(name, {}) | more)
        for name in ("shot", "aad", "nrc", "sfda2", "mean_teacher", "glc")
    ]


RESNET, UNET = "torchvision:resnet50", "smp:unet/resnet34"
RCNN = "torchvision:fasterrcnn_resnet50_fpn"
WIDE = {"size": (800, 1333), "letterbox": True}
PRIORLESS = {"without_prior": True}
SMALL, FEW = {"size": (64, 64)}, {"schedule": {"batch_size": 8}}
CASES = [  # in each section the quick ones first
    *_cases(RESNET, 2560, 384, {"resize": (256, 256), "size": (224, 224)}),
    Case("segmentation", "mean_teacher", UNET, 19, {"size": (512, 512)}, 160, 48),
    Case("pose", "post", "torchvision:resnet50", 16, {"size": (256, 256)}, 480, 192, PRIORLESS),
    Case("detection", "lpld", RCNN, 20, WIDE, 24, 6, LOOSE),
    Case("detection", "mean_teacher", RCNN, 20, WIDE, 24, 6, {"threshold": 0.3}),
]
CASES.append(CASES.pop(5))  # glc, which clusters
TINY = [
    *_cases("sfda:lenet", 24, 24, {"size": (28, 28), "channels": "gray"}, **FEW),
    Case("segmentation", "mean_teacher", "sfda:tinyunet", 5, SMALL, 24, 24),
    Case("pose", "post", "sfda:tiny", 4, SMALL, 24, 24, FEW | PRIORLESS),
    Case("detection", "lpld", "sfda:tinyrcnn", 3, SMALL | {"letterbox": True}, 4, 4, LOOSE),
    Case("detection", "mean_teacher", "sfda:tinyrcnn", 3, SMALL | {"letterbox": True}, 4, 4),
]


@dataclass(frozen=True)
class Bench:
    """What all measurements share; `sources` is filled with the source models, by problem."""

    folder: Path
    device: torch.device
    workers: int
    repeats: int
    sources: dict[str, nn.Module] = field(default_factory=dict)


class Target:
    """A case with its network and images, ready to be run on a device."""

    def __init__(self, case: Case, bench: Bench) -> None:
        self.case, self.device = case, bench.device
        self.workers, self.repeats = bench.workers, bench.repeats
        self.spec = _spec(case)
        path = bench.folder / f"{case.problem}-{case.rows}.npy"
        self.images = _images(path, case.rows, self.spec.input)
        self.kind = plugins.load("methods", case.method)
        if case.problem not in bench.sources:
            bench.sources[case.problem] = _source(self)
        self.source = bench.sources[case.problem]

    def config(self, lr: float | None = None, epochs: int = 2) -> Any:
        """The method's settings, with another learning rate if one is named."""
        config = settings_for(self.case.method, self.case.problem, self.case.settings, epochs)
        if lr is None:
            return config
        schedule = config.schedule.model_copy(update={"lr": lr})
        return config.model_copy(update={"schedule": schedule})

    def method(self, config: Any) -> Any:
        """A fresh method on the device."""
        torch.manual_seed(0)
        rows = tuple(str(row) for row in range(len(self.images)))
        method = self.kind(
            self.source, TargetInfo(len(rows), rows, classes=self.spec.classes), config
        )
        to_device(method, self.device)
        return method

    def copy(self, method: Any) -> Any:
        """Another one in the same state; some methods hold modules, which no deepcopy takes."""
        fresh = self.method(method.config)
        fresh.load_state_dict(method.state_dict())
        return fresh

    def loader(self, config: Any, workers: int | None = None) -> TargetLoader:
        """The batches, as an adaptation makes them."""
        problem, views = self.case.problem, self.kind.views
        return TargetLoader(
            self.images,
            self.spec.input,
            self.spec.views,
            strong=views != "none",
            batch_size=config.schedule.batch_size,
            drop_last=config.schedule.drop_last,
            seed=0,
            device=self.device,
            workers=self.workers if workers is None else workers,
            smallest=1 if problem == "detection" else 2,
            geometric=problem == "pose" and views != "none",
            shown=problem == "segmentation",
        )

    def scan(self) -> Scan:
        """The scan of all images."""
        return scan(self.images, self.spec.input, device=self.device)

    def scoring(self, method: Any) -> Callable[[nn.Module], Any]:
        """All scores that an epoch gets by default, as a function of the network."""
        opened: Any = SimpleNamespace(images=self.images)
        return make_scorer(
            opened,
            self.spec.input,
            self.spec.views,
            default_choice(self.case.method, self.case.problem),
            method,
            self.case.problem,
            self.device,
            Profile(
                classes=dict.fromkeys(self.spec.classes, 1),
                confidence_histogram=[],
                mean_confidence=0.5,
            ),
        )

    def batch(self, count: int) -> Images:
        """So many images as the network sees them, and after the last again the first."""
        rows = np.arange(count) % len(self.images)
        stored = np.ascontiguousarray(centre_crop(self.images[rows], self.spec.input.size))
        return standardise(torch.from_numpy(stored), self.spec.input, self.device)


def _spec(case: Case) -> ModelSpec:
    names = tuple(f"c{n}" for n in range(case.classes))
    pairs = tuple(zip(names[::2], names[1::2], strict=True)) if case.problem == "pose" else ()
    more = {"skeleton": Skeleton(pairs=pairs)} if pairs else {}
    half = (0.5,) if case.input.get("channels") == "gray" else (0.5, 0.5, 0.5)
    input = InputSpec(**case.input, mean=half, std=half)
    spec: ModelSpec = PROBLEMS[case.problem].make_spec(case.arch, names, input=input, **more)
    return spec


def _images(path: Path, rows: int, spec: InputSpec) -> Stack:
    """Images of coloured blocks, each in its own tone, mapped into memory as decoded ones are."""
    if not path.is_file():
        height, width = spec.stored
        rng = np.random.default_rng(0)
        images = np.lib.format.open_memmap(
            path, mode="w+", dtype=np.uint8, shape=(rows, height, width, spec.depth)
        )
        for row in range(rows):
            block = int(rng.choice(BLOCKS))
            tone, contrast = rng.uniform(0, 255, spec.depth), rng.uniform(20, 128)
            shape = (-(-height // block), -(-width // block), spec.depth)
            colours = np.clip(tone + contrast * rng.uniform(-1, 1, shape), 0, 255).astype(np.uint8)
            images[row] = colours.repeat(block, 0).repeat(block, 1)[:height, :width]
        images.flush()
    stored: Stack = np.load(path, mmap_mode="r")
    return stored


def _source(target: Target) -> nn.Module:
    """The source model, on the processor: only copies of it are used."""
    torch.manual_seed(0)
    network: nn.Module = PROBLEMS[target.case.problem].build_from_spec(target.spec)
    network.to(target.device)
    pretend_trained_(network, target.batch(4 if target.case.problem == "detection" else 16))
    return network.cpu()


@torch.no_grad()
def pretend_trained_(network: Any, images: Images) -> None:
    """Small residual branches, these images' statistics, and a last layer sure of some of them."""
    for block in network.modules():
        if isinstance(block, BasicBlock | Bottleneck):
            last = block.bn3 if isinstance(block, Bottleneck) else block.bn2
            nn.init.constant_(last.weight, BRANCH)
    layers = norms(network.eval())
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = None  # the mean over all batches, which is this one
        layer.reset_running_stats()
        layer.train()
    network(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
    output = network(images)
    boxes = isinstance(network, TorchvisionDetector)
    last = network.roi_heads.box_predictor.cls_score if boxes else network.head
    if isinstance(network, PoseNet):
        factor = 1 / output.heatmaps.amax((2, 3)).mean()  # peaks of about 1
    else:
        factor = SPREAD / output.logits.std(1).mean()
    for parameter in last.parameters():
        parameter.mul_(factor)
