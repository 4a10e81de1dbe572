"""The source card: what may leave the source site instead of data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sfda.loading.labels import labels_in
from sfda.loading.opened import Opened
from sfda.loading.scan import labelled_scan
from sfda.problems.classification.metrics import BINS, ClassificationMetric
from sfda.refs import ModelSpec, Report
from sfda.weights.source_card import Card, CardFacts

CONFIDENCE_BINS = 20


def make_source_card(
    network: nn.Module,
    opened: Opened,
    spec: ModelSpec,
    facts: dict[str, Any],
    report: Report,
    device: torch.device,
) -> Card:
    """The card of a classifier from its own labelled split."""
    labels = labels_in(opened.split, spec.classes).index
    outputs = labelled_scan(opened.images, labels, spec.input, device=device)(network)
    return make_classification_card(network, outputs, facts, spec.classes)


def make_classification_card(
    network: nn.Module,
    outputs: Iterable[tuple[Any, Int[Tensor, " B"]]],
    facts: dict[str, Any],
    classes: tuple[str, ...],
) -> Card:
    """The card from one look at labelled source data; `facts` are the addresses and digests."""
    metric = ClassificationMetric(classes)
    moments = _Moments(len(classes))
    for output, labels in outputs:
        metric.update(output.logits, labels)
        moments.update(output.features, output.logits, labels)
    tensors = {**moments.compute(), "calibration": metric.bins.float(), **norm_statistics(network)}
    return Card(
        facts=CardFacts(
            classes=classes,
            count=metric.count,
            metrics=metric.compute(),
            temperature=moments.temperature(),
            **facts,
        ),
        tensors=tensors,
    )


class _Moments:
    """Sums over a set, in double precision."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.count = 0
        self.first: Tensor | None = None
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []

    def update(
        self,
        features: Float[Tensor, "B D"],
        logits: Float[Tensor, "B C"],
        labels: Int[Tensor, " B"],
    ) -> None:
        x, y = features.double().cpu(), labels.cpu()
        if self.first is None:
            self.first = torch.zeros(x.shape[1], dtype=torch.double)
            self.second = torch.zeros(x.shape[1], x.shape[1], dtype=torch.double)
            self.by_class = torch.zeros(self.classes, x.shape[1], dtype=torch.double)
        self.count += len(x)
        self.first += x.sum(0)
        self.second += x.T @ x
        self.by_class.index_add_(0, y, x)
        self.logits.append(logits.float().cpu())
        self.labels.append(y)

    def compute(self) -> dict[str, Tensor]:
        if self.first is None:
            raise ValueError("a card of no samples")
        labels = torch.cat(self.labels)
        counts = labels.bincount(minlength=self.classes).double()
        mean = self.first / self.count
        confidence = torch.cat(self.logits).softmax(1).amax(1)
        return {
            "class_prior": (counts / self.count).float(),
            "feature_mean": mean.float(),
            "feature_covariance": (self.second / self.count - torch.outer(mean, mean)).float(),
            "class_feature_mean": (self.by_class / counts.clamp(min=1)[:, None]).float(),
            "confidence_histogram": confidence.histc(CONFIDENCE_BINS, 0, 1),
        }

    def temperature(self) -> float:
        """The temperature with the least log loss (Guo et al., arXiv:1706.04599), in [0.05, 20]."""
        logits, labels = torch.cat(self.logits).double(), torch.cat(self.labels)
        grid = torch.logspace(-1.3, 1.3, 131, dtype=torch.double)
        loss = [nn.functional.cross_entropy(logits / t, labels) for t in grid]
        return float(grid[torch.stack(loss).argmin()])


def norm_statistics(network: nn.Module) -> dict[str, Tensor]:
    """Running mean and variance of every batch norm, by the layer's name."""
    statistics: dict[str, Tensor] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
            assert layer.running_var is not None
            statistics[f"norm.{name}.mean"] = layer.running_mean.detach().float().cpu().clone()
            statistics[f"norm.{name}.var"] = layer.running_var.detach().float().cpu().clone()
    return statistics


assert BINS == 15, "the shape of `calibration` is part of the card's format"
