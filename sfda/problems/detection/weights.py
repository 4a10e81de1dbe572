"""Weights from elsewhere into a detector: whose names they carry, and how they do not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sfda.errors import BadInput
from sfda.networks.detector import Detector
from sfda.networks.foreign.code import named_by_person
from sfda.networks.grammar import is_foreign
from sfda.problems.detection.network import build_from_spec, make_spec
from sfda.refs import InputSpec, ModelSpec, Views
from sfda.weights.load import CLASSIFIER_HEADS, Weights, load_exactly, try_input

HEADS = ("roi_heads.box_predictor.cls_score.weight", "roi_head.bbox_head.fc_cls.weight")
WRAPPED = re.compile(r"^(?:(?:model|net|network|module|student|teacher)\.)+(?=backbone\.)")


def load_network(
    weights: Weights,
    *,
    arch: str,
    classes: tuple[str, ...],
    input: InputSpec | None = None,
    views: Views | None = None,
    arch_settings: Mapping[str, Any] | None = None,
    head_layer: str | None = None,
) -> tuple[Detector, ModelSpec]:
    """A detector in eval mode that holds exactly `weights`, under their library's own names.

    Raises BadInput that names every key which does not fit, and where the number of classes
    differs: detectors have one output more than classes. `arch_settings` are of somebody's own
    class, see `foreign_spec`.
    """
    named = dict(weights) if is_foreign(arch) else unwrapped(weights)
    _check_count(named, classes)
    spec = make_spec(
        arch,
        classes,
        input=input,
        views=views,
        arch_settings=arch_settings,
        head_layer=head_layer,
    )
    # the random weights are overwritten at once
    with torch.random.fork_rng(devices=[]), named_by_person(spec.code):
        network = build_from_spec(spec)
    load_exactly(network, with_counters(named, network))
    network.eval()
    try_input(network, spec)
    return network, spec


def unwrapped(weights: Weights) -> dict[str, Tensor]:
    """Without a trainer's name before all others, and without a data preprocessor's constants."""
    prefix = next((match[0] for k in weights if (match := WRAPPED.match(k))), "")
    return {
        k.removeprefix(prefix): v
        for k, v in weights.items()
        if not k.removeprefix(prefix).startswith("data_preprocessor.")
    }


def with_counters(weights: Weights, network: nn.Module) -> dict[str, Tensor]:
    """The weights with the batch counters that frozen batch norm does not keep."""
    lacking = {
        k: v
        for k, v in network.state_dict().items()
        if k.endswith("num_batches_tracked") and k not in weights
    }
    return {**weights, **lacking}


def load_backbone(network: Detector, weights: Weights) -> int:
    """Fill the backbone's body alone, in place, from an image classifier's or a detector's weights.

    A pyramid on top of it stays as it is.
    """
    named = unwrapped(weights)
    if any(k.startswith("backbone.") for k in named):
        named = {k.removeprefix("backbone."): v for k, v in named.items() if k[:9] == "backbone."}
    named = {
        k.removeprefix("body."): v for k, v in named.items() if not k.startswith(CLASSIFIER_HEADS)
    }
    named = {k.removeprefix("features."): v for k, v in named.items() if not k.startswith("fpn.")}
    backbone = getattr(network, "backbone", None)
    body = getattr(backbone, "body", backbone)
    if not isinstance(body, nn.Module):
        raise BadInput("this detector has no part called backbone to fill")
    load_exactly(body, with_counters(named, body))
    return len(named)


def _check_count(weights: Weights, classes: tuple[str, ...]) -> None:
    for name in HEADS:
        if name in weights and weights[name].ndim and len(weights[name]) != len(classes) + 1:
            raise BadInput(
                f"the checkpoint's head tells {len(weights[name]) - 1} classes and the background "
                f"apart, but {len(classes)} classes were named ({', '.join(classes[:10])})"
            )
