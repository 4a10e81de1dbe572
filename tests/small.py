"""A small real job: gray patterns of three classes in an npz, a duller target, a trained source."""

from __future__ import annotations

import copy
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from sfda.adaptation.loop import adapt
from sfda.adaptation.supervised import Supervised, SupervisedConfig
from sfda.loading.batches import TargetLoader
from sfda.loading.labelled_batches import LabelledLoader
from sfda.loading.scan import scan
from sfda.problems._labels import ImageTargets
from sfda.problems.classification.network import Classifier, build_from_spec, make_spec
from sfda.problems.registry import PROBLEMS
from sfda.refs import ModelRef
from sfda.types import TargetInfo
from sfda.weights.bundle import write_bundle

CLASSES = ("bar", "post", "cross")
SIZE = 16
SOURCE = {"train": 60, "val": 30}
TARGET = {"adapt": 48, "test": 30}
SPEC = make_spec("sfda:tiny", CLASSES)
FAST = {"lr": 0.03, "batch_size": 8, "decay": "none"}  # 48 images are few: larger, quicker steps


def patterns(labels: np.ndarray, *, seed: int, dull: bool = False) -> np.ndarray:
    """uint8 [N, 16, 16]: a bright bar, post or cross, moved a little, with noise.

    Dull ones are what another camera gives: paler, on a brighter ground, with more noise.
    """
    rng = np.random.default_rng(seed)
    images = np.zeros((len(labels), SIZE, SIZE))
    for image, label in zip(images, labels, strict=True):
        folder = int(rng.integers(6, 9))
        if label != 1:
            image[folder : folder + 2, 2:-2] = 1.0
        if label != 0:
            image[2:-2, folder : folder + 2] = 1.0
    noise = rng.normal(size=images.shape)
    result = 110 + 60 * images + 12 * noise if dull else 20 + 200 * images + 8 * noise
    return result.clip(0, 255).astype(np.uint8)


def arrays(sizes: dict[str, int], *, seed: int, dull: bool = False) -> dict[str, np.ndarray]:
    """Images `x`, labels `y` and the split of each row, `split`."""
    labels = np.arange(sum(sizes.values())) % len(CLASSES)
    split = np.repeat(np.arange(len(sizes)), list(sizes.values()))
    return {"x": patterns(labels, seed=seed, dull=dull), "y": labels, "split": split}


def source_arrays() -> dict[str, np.ndarray]:
    """The source domain."""
    return arrays(SOURCE, seed=1)


def target_arrays() -> dict[str, np.ndarray]:
    """The target domain: the source model is right in two fifths of it."""
    return arrays(TARGET, seed=2, dull=True)


def write(
    folder: Path, name: str, inputs: dict[str, np.ndarray], sizes: dict[str, int], **changes: Any
) -> Path:
    """An npz of these arrays and its manifest with some entries changed; None leaves one out."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{name}.npz", **inputs)
    names = {"image": "x", "label": "y", "split": "split"}
    document = {
        "name": f"toy/{name}",
        "problem": "classification",
        "origin": "made by a test",
        "root": ".",
        "classes": list(CLASSES),
        "archive": {"file": f"{name}.npz", "sha256": sha256(folder / f"{name}.npz")},
        "arrays": {what: array for what, array in names.items() if array in inputs},
        "splits": {
            split: {"equals": value, "count": count}
            for value, (split, count) in enumerate(sizes.items())
        },
    } | changes
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in document.items() if v is not None}))
    return path


def sha256(path: Path) -> str:
    """Digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def batches(images: np.ndarray, *, strong: bool = False, seed: int = 0) -> TargetLoader:
    """Images [N, 16, 16] in batches of 8."""
    return TargetLoader(
        images[..., None],
        SPEC.input,
        SPEC.views,
        strong=strong,
        batch_size=8,
        seed=seed,
        device="cpu",
    )


def look(images: np.ndarray) -> Any:
    """A scan of images [N, 16, 16]."""
    return scan(images[..., None], SPEC.input, device="cpu")


def info(size: int) -> TargetInfo:
    """What a method may know of so many rows."""
    return TargetInfo(size, tuple(f"row-{i}" for i in range(size)))


@cache
def _trained() -> Classifier:
    inputs = source_arrays()
    learnt = inputs["split"] == 0
    images, labels = inputs["x"][learnt], inputs["y"][learnt]
    torch.manual_seed(0)
    config = SupervisedConfig.from_settings(
        {"schedule": FAST | {"lr": 0.05, "epochs": 6}, "lr_scale": {"backbone": 1.0}}
    )
    method = Supervised(build_from_spec(SPEC), info(len(images)), config)
    loader = LabelledLoader(
        images[..., None],
        ImageTargets(labels),
        SPEC.input,
        SPEC.views,
        problem=PROBLEMS["classification"],
        batch_size=8,
        seed=0,
        device="cpu",
    )
    for _ in adapt(method, loader, look(images), config.schedule):
        pass
    trained: Classifier = method.student.eval()
    return trained


def source() -> Classifier:
    """A fresh copy of the source model, trained in half a second."""
    return copy.deepcopy(_trained())


def bundle(folder: Path) -> ModelRef:
    """The source model on disk."""
    digest = write_bundle(folder, source(), SPEC)
    return ModelRef(
        uri=str(folder), sha256=digest, problem="classification", arch=SPEC.arch, classes=CLASSES
    )


def accuracy(network: Classifier, inputs: dict[str, np.ndarray], split: int) -> float:
    """Share of correct answers on one split."""
    images, labels = inputs["x"][inputs["split"] == split], inputs["y"][inputs["split"] == split]
    result = torch.cat([seen.output.logits.argmax(1) for seen in look(images)(network)])
    return float((result.numpy() == labels).mean())
