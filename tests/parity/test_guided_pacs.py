"""Guided methods on PACS, photo to art painting: EfficientNet-Lite0, which knows ImageNet's classes
and two thirds of PACS's, guides a SqueezeNet that has learnt PACS's photographs.

What is asserted: with the guide the best ends above the source and above the guide alone; with a
guide whose answers are another image's, vilaad is not a point below aad, which it is without one.
The last of four epochs counts, so that nothing is chosen. `python -m tests.parity.test_guided_pacs`
prints the figures.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from sfda import plugins
from sfda.adaptation.loop import adapt
from sfda.adaptation.plan import settings_for
from sfda.adaptation.supervised import Supervised, SupervisedConfig
from sfda.building_blocks.device import choose
from sfda.guides.complete import complete_guide
from sfda.guides.encoder import gathered
from sfda.guides.make import kept_table
from sfda.guides.origin import guide_origin
from sfda.guides.table import GuideTable, read_table
from sfda.loading.batches import TargetLoader
from sfda.loading.labelled_batches import LabelledLoader
from sfda.loading.labels import labels_in
from sfda.loading.opened import manifest_ref, open_part, split_ref
from sfda.loading.scan import scan
from sfda.problems._labels import ImageTargets
from sfda.problems.classification.network import Classifier, make_spec
from sfda.problems.registry import PROBLEMS
from sfda.refs import InputSpec, ModelRef, ModelSpec, SplitRef, Views
from sfda.settings import GuideSettings
from sfda.types import EpochEnd, Guide
from sfda.weights.bundle import network_digest
from sfda.weights.checkpoints import read_weights

MANIFESTS = Path(__file__).parents[2] / "data_manifests" / "pacs"
EPOCHS = 4
UNGUIDED = ("aad", "gda")
GUIDED = ("vilaad", "colearn", "prode")
SIZE = InputSpec(size=(128, 128), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def pack() -> Path:
    return Path(os.environ["SFDA_DATA"])


@cache
def part(domain: str, split: str) -> SplitRef:
    return split_ref(manifest_ref(MANIFESTS / f"{domain}.yaml"), split)


@cache
def spec() -> ModelSpec:
    with open(pack() / "weights" / "imagenet1k_to_pacs.csv", newline="") as file:
        rows = {row["pacs_class"] for row in csv.DictReader(file)}
    classes = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
    assert rows <= set(classes)
    views = Views(pad=8)
    return make_spec("torchvision:squeezenet1_1", classes, input=SIZE, views=views)


@cache
def source() -> Classifier:
    """SqueezeNet's ImageNet backbone, tuned on the photographs' training part for 8 epochs."""
    torch.manual_seed(0)
    opened = open_part(part("photo", "train"), spec(), labelled=True)
    network = PROBLEMS["classification"].build_from_spec(spec())
    backbone = read_weights(pack() / "weights" / "squeezenet1_1_imagenet_backbone.npz")
    PROBLEMS["classification"].load_backbone(network, backbone)
    config = SupervisedConfig.from_settings({"schedule": {"epochs": 8}})
    info = opened.info()
    method = Supervised(network, info, config)
    loader = LabelledLoader(
        opened.images,
        ImageTargets(labels_in(opened.split, spec().classes).index),
        spec().input,
        spec().views,
        problem=PROBLEMS["classification"],
        batch_size=config.schedule.batch_size,
        seed=0,
        device=choose("auto"),
    )
    look = scan(opened.images, spec().input, device=choose("auto"))
    for _ in adapt(method, loader, look, config.schedule):
        pass
    network = method.student.eval()
    assert isinstance(network, Classifier)
    return network


@cache
def outputs(split: str) -> torch.Tensor:
    """The source's logits of a split of the paintings."""
    opened = open_part(part("art_painting", split), spec())
    look = scan(opened.images, spec().input, device=choose("auto"))
    return gathered(look(source()), len(opened.split))[1]


def class_file(folder: Path) -> Path:
    """Which of ImageNet's classes are which of PACS's: those that are exactly, and proxies."""
    lists: dict[str, list[str]] = {name: [] for name in spec().classes}
    with open(pack() / "weights" / "imagenet1k_to_pacs.csv", newline="") as file:
        for row in csv.DictReader(file):
            lists[row["pacs_class"]].append(row["imagenet_index"])
    path = folder / "classes.yaml"
    path.write_text("".join(f"{name}: [{', '.join(of)}]\n" for name, of in lists.items()))
    return path


def lite0(folder: Path, split: str) -> GuideTable:
    """The table of EfficientNet-Lite0 on a split of the paintings."""
    weights = pack() / "weights" / "efficientnet_lite0_imagenet.safetensors"
    settings = GuideSettings(
        uri=f"timm:tf_efficientnet_lite0@{weights}", classes=str(class_file(folder))
    )
    digest = network_digest(source(), spec())
    ref = ModelRef(
        uri="", sha256=digest, problem="classification", arch=spec().arch, classes=spec().classes
    )
    origin = guide_origin(settings, ref, lambda uri: (Path(uri), ref))
    device = choose("auto")
    where = kept_table(origin, part("art_painting", split), spec(), digest, iter(()), device)
    return read_table(*where)


def accuracy(answers: torch.Tensor, split: str = "test") -> float:
    """Share of right answers, in percent."""
    opened = open_part(part("art_painting", split), spec(), labelled=True)
    truth = torch.from_numpy(labels_in(opened.split, spec().classes).index.copy())
    return 100 * float((answers.argmax(1) == truth).double().mean())


def adapted(method: str, guide: Guide | None, seed: int = 0) -> float:
    """Accuracy on the test split after the last epoch."""
    config = settings_for(method, "classification", {}, EPOCHS)
    opened, device = open_part(part("art_painting", "adapt"), spec()), choose("auto")
    kind: Any = plugins.load("methods", method)
    torch.manual_seed(seed)
    algorithm = kind(source(), replace(opened.info(), guide=guide), config)
    loader = TargetLoader(
        opened.images,
        spec().input,
        spec().views,
        strong=kind.views != "none",
        batch_size=config.schedule.batch_size,
        drop_last=config.schedule.drop_last,
        seed=seed,
        device=device,
    )
    look = scan(opened.images, spec().input, device=device)
    events = adapt(algorithm, loader, look, config.schedule, seed=seed)
    (last,) = [e for e in events if isinstance(e, EpochEnd) and e.clock.epoch == EPOCHS - 1]
    test = open_part(part("art_painting", "test"), spec())
    after = scan(test.images, spec().input, device=device)(last.adapted)
    return accuracy(gathered(after, len(test.split))[1])


def guides(folder: Path) -> tuple[Guide, Guide, float]:
    """The guide, the same with answers of other images, and what it is worth alone."""
    table = lite0(folder, "adapt")
    order = torch.randperm(len(table.answered), generator=torch.Generator().manual_seed(0))
    assert table.logits is not None
    assert table.features is not None
    other = GuideTable(
        table.answered[order], table.covers, table.logits[order], table.features[order]
    )
    logits = outputs("adapt")
    alone = complete_guide(lite0(folder, "test"), outputs("test"), "match")
    made, shuffled = (complete_guide(one, logits, "match") for one in (table, other))
    return made, shuffled, accuracy(alone.logits)


def figures(folder: Path) -> Iterator[tuple[str, float]]:
    """Every figure by its name, as it is measured."""
    guide, shuffled, alone = guides(folder)
    yield "source", accuracy(outputs("test"))
    yield "guide alone", alone
    for name in UNGUIDED:
        yield name, adapted(name, None)
    for name in GUIDED:
        yield name, adapted(name, guide)
        yield f"{name}, random", adapted(name, shuffled)


@pytest.mark.slow
def test_a_guide_lifts_a_source_above_both(tmp_path: Path, home: Path) -> None:
    measured = dict(figures(tmp_path))
    best = max(measured[name] for name in GUIDED)
    assert best > max(measured["source"], measured["guide alone"]), measured
    assert measured["vilaad, random"] >= measured["aad"] - 1, measured


if __name__ == "__main__":
    import sys

    for label, figure in figures(Path(sys.argv[1])):
        print(f"{label}: {figure:.2f}", flush=True)
