"""A small real job of several labels an image: bars and posts in an npz, a duller target."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import small
import torch

from sfda.adaptation.loop import adapt
from sfda.adaptation.supervised import Supervised, SupervisedConfig
from sfda.loading.labelled_batches import LabelledLoader
from sfda.problems._labels import ImageTargets
from sfda.problems.multilabel.network import MultilabelClassifier, build_from_spec, make_spec
from sfda.problems.registry import PROBLEMS
from sfda.refs import ModelRef
from sfda.weights.bundle import write_bundle

CLASSES = ("bar", "post")
SPEC = make_spec("sfda:tiny", CLASSES)
SOURCE = {"train": 60, "val": 30}
TARGET = {"adapt": 48, "test": 30}


def arrays(sizes: dict[str, int], *, seed: int, dull: bool = False) -> dict[str, np.ndarray]:
    """Images `x`, labels `y` [N, 2] of 0 and 1 and the split of each row; some show neither."""
    kinds = np.arange(sum(sizes.values())) % 4  # neither, bar, post, both
    images = small.patterns((kinds + 2) % 3, seed=seed, dull=dull)  # bars are 0, posts 1, both 2
    noise = np.random.default_rng(seed).normal(size=images.shape)
    empty = (110 + 12 * noise if dull else 20 + 8 * noise).clip(0, 255).astype(np.uint8)
    images = np.where((kinds == 0)[:, None, None], empty, images)
    labels = np.stack([kinds % 2, kinds // 2], 1)
    return {"x": images, "y": labels, "split": np.repeat(np.arange(len(sizes)), [*sizes.values()])}


def write(folder: Path, name: str, sizes: dict[str, int], *, seed: int, **changes: Any) -> Path:
    """The npz and its manifest."""
    inputs = arrays(sizes, seed=seed, dull=bool(changes.pop("dull", False)))
    more = {"problem": "multilabel", "classes": list(CLASSES)} | changes
    return small.write(folder, name, inputs, sizes, **more)


@cache
def _trained() -> MultilabelClassifier:
    inputs = arrays(SOURCE, seed=1)
    learnt = inputs["split"] == 0
    torch.manual_seed(0)
    config = SupervisedConfig.from_settings(
        {
            "schedule": small.FAST | {"lr": 0.05, "epochs": 8},
            "lr_scale": {"backbone": 1.0},
            "smoothing": 0.0,
        }
    )
    method = Supervised(build_from_spec(SPEC), small.info(int(learnt.sum())), config)
    loader = LabelledLoader(
        inputs["x"][learnt][..., None],
        ImageTargets(inputs["y"][learnt], np.float32),
        SPEC.input,
        SPEC.views,
        problem=PROBLEMS["multilabel"],
        batch_size=8,
        seed=0,
        device="cpu",
    )
    for _ in adapt(method, loader, small.look(inputs["x"][learnt]), config.schedule):
        pass
    trained: MultilabelClassifier = method.student.eval()
    return trained


def source() -> MultilabelClassifier:
    """A fresh copy of the source model."""
    return copy.deepcopy(_trained())


def bundle(folder: Path) -> ModelRef:
    """The source model on disk."""
    digest = write_bundle(folder, source(), SPEC)
    return ModelRef(
        uri=str(folder), sha256=digest, problem="multilabel", arch=SPEC.arch, classes=CLASSES
    )
