"""Weights from elsewhere into our networks, as a classifier's."""

from __future__ import annotations

from typing import Any

from torch import nn

from sfda.problems.classification import weights as classification
from sfda.problems.multilabel.network import MultilabelClassifier, as_multilabel, of_parts
from sfda.refs import ModelSpec
from sfda.weights.load import Weights


def load_network(weights: Weights, **how: Any) -> tuple[MultilabelClassifier, ModelSpec]:
    """A network in eval mode that holds exactly `weights`, and its spec."""
    network, spec = classification.load_network(weights, **how)
    return of_parts(network).eval(), as_multilabel(spec)


def load_backbone(network: nn.Module, weights: Weights) -> int:
    """Fill the backbone alone, in place; what the weights hold of a last layer is left out."""
    parts: Any = network  # it asks for the backbone alone, which both have
    return classification.load_backbone(parts, weights)
