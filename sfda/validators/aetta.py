"""Accuracy by disagreement with dropouts (Lee et al., CVPR 2024, arXiv:2404.01351)."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from sfda.problems.classification.network import Classifier
from sfda.types import SeenViews
from sfda.validators._base import Validator, ValidatorConfig

LEAST_ENTROPY = 1e-6  # of log C, below which everything is one class


class AettaConfig(ValidatorConfig):
    """The paper's values: rates of 0.4, 0.3 and 0.2 for 10, 100 and 1,000 classes."""

    passes: PositiveInt = 10
    rate: float | None = Field(None, gt=0, lt=1)  # None: by the number of classes
    power: float = 3.0  # alpha, of the entropy


class Aetta(Validator):
    """1 - e, with e = (1 - mean agreement with dropouts) / H^3, in [1/C, 1].

    Dropouts act on what goes into the head, and e is at most 1 - 1/C. H is the entropy of the mean
    prediction under dropout as a share of log C, so that few classes weigh an error more. The
    authors' code averages e over successive batches; here all images are one.

    It assumes a linear head, and a target in which all classes are about as frequent: a true shift
    of labels counts as an error. Of classifiers whose head takes vectors.
    """

    Config = AettaConfig
    networks: ClassVar[tuple[type[nn.Module], ...]] = (Classifier,)
    needs_network: ClassVar[bool] = True
    tells_level: ClassVar[bool] = True
    config: AettaConfig

    def __init__(self, config: AettaConfig | None = None) -> None:
        super().__init__(config)
        self.head: nn.Module | None = None
        self.same, self.count = 0.0, 0
        self.sum: Tensor | None = None

    @classmethod
    @torch.no_grad()
    def serves(cls, network: nn.Module) -> bool:
        """Those whose head takes vectors of features, and not maps."""
        assert isinstance(network, Classifier)
        weight = next(network.head.parameters(), None)
        if weight is None:
            return False
        try:
            logits = network.head(weight.new_zeros(1, network.feature_dim))
        except RuntimeError:
            return False
        return tuple(logits.shape) == (1, network.num_classes)

    def take_network(self, network: nn.Module) -> None:
        """Its head, which says what it makes of features under dropout."""
        assert isinstance(network, Classifier)
        self.head = network.head

    @torch.no_grad()
    def update(self, seen: SeenViews) -> None:
        """Take in one batch; a row's dropouts are the same in whatever batch it comes."""
        if self.head is None:
            raise ValueError("aetta needs the network")
        features, logits = seen.output.features.float(), seen.output.logits
        rate = self.config.rate or usual_rate(logits.shape[1])
        keep = dropouts(seen.rows, features.shape[1], self.config.passes, rate).to(features)
        dropped = (features[:, None] * keep / (1 - rate)).flatten(0, 1)
        probs = self.head(dropped).double().softmax(1)
        probs = probs.view(len(features), self.config.passes, -1)
        self.same += float((probs.argmax(2) == logits.argmax(1)[:, None]).double().mean(1).sum())
        total = probs.mean(1).sum(0)
        self.sum = total if self.sum is None else self.sum + total
        self.count += len(features)

    def compute(self) -> float:
        """The estimate of the accuracy."""
        if self.sum is None:
            raise ValueError("aetta of no predictions")
        mean, classes = self.sum / self.count, len(self.sum)
        entropy = float(-torch.xlogy(mean, mean).sum()) / math.log(classes)
        largest = 1 - 1 / classes
        if entropy < LEAST_ENTROPY:
            return 1 - largest
        error = (1 - self.same / self.count) / entropy**self.config.power
        return float(1 - min(largest, max(0.0, error)))


def usual_rate(classes: int) -> float:
    """Dropout rate for a number of classes: the paper's three, and between them by logarithm.

    >>> [round(usual_rate(classes), 2) for classes in (2, 10, 31, 100, 1000)]
    [0.4, 0.4, 0.35, 0.3, 0.2]
    """
    return min(0.4, max(0.2, 0.5 - 0.1 * math.log10(classes)))


def dropouts(
    rows: Int[Tensor, " B"], width: int, passes: int, rate: float
) -> Float[Tensor, "B passes D"]:
    """1 for what stays and 0 for what is dropped, a function of the row alone."""
    drawn = [
        np.random.Generator(np.random.Philox(key=row)).random((passes, width), dtype=np.float32)
        for row in rows.tolist()
    ]
    return torch.from_numpy((np.stack(drawn) >= rate).astype(np.float32))


EXPORT = Aetta
