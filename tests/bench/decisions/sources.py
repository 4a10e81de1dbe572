"""Source models of `bench decide`: LeNet on digits, SHOT's head on features of ImageNet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from sfda.inputs import InputSpec, Views
from sfda.problems.classification.network import (
    Bottleneck,
    Classifier,
    build_from_spec,
    make_head,
    make_spec,
)
from sfda.refs import ModelSpec
from sfda.weights.bundle import read_verified, write_bundle
from sfda.weights.load import load_exactly
from tests.bench.decisions import images
from tests.bench.decisions.images import FEATURES, OBJECTS, Labelled

BATCH, STEPS, RATE = 64, 600, 0.03
SMOOTHING = (0.1, 0.0)  # of labels, by seed: models that doubt, and models that do not
LENET = make_spec("sfda:lenet", images.DIGITS)
SIX = make_spec("sfda:lenet", images.DIGITS[:6])
PROBE = ModelSpec(
    problem="classification",
    arch="bench:features",
    classes=OBJECTS,
    input=InputSpec(size=FEATURES, channels="gray", mean=(0.0,), std=(0.1,)),
    # an image of features has no sides: some are left out, others grow
    views=Views(crop=False, flip=False, jitter=0.2, grayscale=0.0, hue=0.0, blur=0.0),
)


def network_for(spec: ModelSpec) -> Classifier:
    """A network of this spec, with random weights."""
    if spec.arch != PROBE.arch:
        return build_from_spec(spec)
    width = FEATURES[0] * FEATURES[1]
    return Classifier(
        nn.Flatten(),
        Bottleneck(width, spec.bottleneck_dim),
        make_head(spec.bottleneck_dim, len(spec.classes)),
        feature_dim=spec.bottleneck_dim,
        num_classes=len(spec.classes),
    )


def read_network(folder: Path) -> tuple[Classifier, ModelSpec]:
    """The network of a bundle, of any of these specs."""
    tensors, spec = read_verified(folder)
    network = network_for(spec)
    load_exactly(network, tensors)
    return network.eval(), spec


def _six() -> Labelled:
    every = images.mnist(source=True)
    return every.take(every.labels < len(SIX.classes))


SOURCES: dict[str, tuple[ModelSpec, Callable[[], Labelled]]] = {
    "drawn": (LENET, lambda: images.drawn_digits(target=False, held_out=False)),
    "mnist": (LENET, lambda: images.mnist(source=True)),
    "mnist06": (SIX, _six),
    "usps": (LENET, lambda: images.usps()),
    "photo": (PROBE, lambda: images.objects("photo")),
    "art_painting": (PROBE, lambda: images.objects("art_painting")),
}


def source_bundle(name: str, seed: int, folder: Path) -> Path:
    """The bundle of a source model, trained where it is not there yet."""
    bundle = folder / "sources" / f"{name}-{seed}"
    if not bundle.is_dir():
        spec, data = SOURCES[name]
        write_bundle(bundle, trained(spec, data(), seed), spec)
    return bundle


def trained(spec: ModelSpec, data: Labelled, seed: int) -> Classifier:
    """A network trained on labels, all parts at one rate that falls as SHOT's does."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = network_for(spec).train()
        inputs = as_input(spec, data)
        labels = torch.from_numpy(data.labels)
        optimizer = torch.optim.SGD(
            network.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-3, nesterov=True
        )
        for step in range(STEPS):
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 + 10 * step / STEPS) ** -0.75
            rows = torch.randint(len(labels), (BATCH,))
            loss = F.cross_entropy(
                network(inputs[rows]).logits, labels[rows], label_smoothing=SMOOTHING[seed % 2]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def as_input(spec: ModelSpec, data: Labelled) -> torch.Tensor:
    """Images as the network sees them, which all have its size."""
    values = torch.from_numpy(data.images)[:, None].float() / spec.input.scale
    return (values - spec.input.mean[0]) / spec.input.std[0]


@torch.inference_mode()
def accuracy(network: Classifier, spec: ModelSpec, data: Labelled) -> float:
    """Share that is right, for a quick look."""
    logits = torch.cat([network(part).logits for part in as_input(spec, data).split(512)])
    return float(np.mean(logits.argmax(1).numpy() == data.labels))
