"""Accuracy by disagreement with dropouts (Lee et al., CVPR 2024, arXiv:2404.01351)."""

from __future__ import annotations

import math
from typing import ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from sfda.inference.forward import evaluating, infer
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
    of labels counts as an error. Of classifiers; where the head takes maps whole channels are
    dropped, and the network looks at every image once more.
    """

    idea = "answers stay under dropout before the head"
    Config = AettaConfig
    networks: ClassVar[tuple[type[nn.Module], ...]] = (Classifier,)
    needs_network: ClassVar[bool] = True
    tells_level: ClassVar[bool] = True
    config: AettaConfig

    def __init__(self, config: AettaConfig | None = None) -> None:
        super().__init__(config)
        self.network: Classifier | None = None
        self.takes_vectors = True
        self.same, self.count = 0.0, 0
        self.sum: Tensor | None = None

    def take_network(self, network: nn.Module) -> None:
        """Its head says what it makes of features under dropout."""
        self.network = cast("Classifier", network)
        self.takes_vectors = takes_vectors(self.network)

    @torch.no_grad()
    def update(self, seen: SeenViews) -> None:
        """Take in one batch; a row's dropouts are the same in whatever batch it comes."""
        if self.network is None:
            raise ValueError("aetta needs the network")
        answers, classes = seen.output.logits.argmax(1), seen.output.logits.shape[1]
        features = self._before_head(self.network, seen)
        rate = self.config.rate or usual_rate(classes)
        keep = dropouts(seen.rows, features.shape[1], self.config.passes, rate).to(features)
        keep = keep.view(*keep.shape, *[1] * (features.ndim - 2))
        mean = torch.zeros(len(features), classes, dtype=torch.double, device=features.device)
        with evaluating(self.network):
            for one in keep.unbind(1):
                probs = self.network.head(features * one / (1 - rate)).double().softmax(1)
                self.same += float((probs.argmax(1) == answers).sum()) / self.config.passes
                mean += probs / self.config.passes
        self.sum = mean.sum(0) if self.sum is None else self.sum + mean.sum(0)
        self.count += len(features)

    def _before_head(self, network: Classifier, seen: SeenViews) -> Tensor:
        """What goes into the head."""
        if self.takes_vectors:
            features: Tensor = seen.output.features
            return features.float()
        if seen.images is None:
            raise ValueError("aetta needs the images, as the head takes maps")
        inputs: list[Tensor] = []
        hook = network.head.register_forward_pre_hook(lambda _, z: inputs.append(z[0]))
        try:
            infer(network, seen.images, seen.images.device)
        finally:
            hook.remove()
        return inputs[0].float()

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


@torch.no_grad()
def takes_vectors(network: Classifier) -> bool:
    """Whether the head takes vectors of features, and not maps."""
    weight = next(network.head.parameters())
    try:
        with evaluating(network):
            logits = network.head(weight.new_zeros(1, network.feature_dim))
    except RuntimeError:
        return False
    return tuple(logits.shape) == (1, network.num_classes)


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
