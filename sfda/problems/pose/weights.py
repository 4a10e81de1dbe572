"""Weights from elsewhere into a pose network: ours, or a published PoseResNet's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sfda.errors import BadInput
from sfda.networks import registry
from sfda.networks.foreign.code import named_by_person
from sfda.networks.grammar import is_foreign
from sfda.problems.pose.network import PoseNet, build_from_spec, from_parts, make_spec
from sfda.refs import InputSpec, ModelSpec, Skeleton, Views
from sfda.weights.load import CLASSIFIER_HEADS, Weights, load_exactly, try_input

WRAPPED = re.compile(
    r"^(?:(?:model|net|network|module)\.)+(?=(?:backbone|conv1|upsampling|head)\b)"
)
OUR_NAMES = {  # of the code that POST is built on, and of SimpleBaseline's own
    "upsampling.": "neck.",
    "deconv_layers.": "neck.",
    "final_layer.": "head.",
}


def load_network(
    weights: Weights,
    *,
    arch: str,
    classes: tuple[str, ...],
    input: InputSpec | None = None,
    views: Views | None = None,
    skeleton: Skeleton | None = None,
    padding: float | None = None,
    arch_settings: Mapping[str, Any] | None = None,
    head_layer: str | None = None,
) -> tuple[PoseNet, ModelSpec]:
    """A pose network in eval mode that holds exactly `weights`, and its spec.

    The names may be ours, those of Transfer-Learning-Library's PoseResNet (`backbone.`,
    `upsampling.`, `head.`) or SimpleBaseline's (`deconv_layers.`, `final_layer.`). Raises BadInput
    naming every key which does not fit. `arch_settings` and `head_layer` are of somebody's own
    class, see `foreign_spec`, and its names are its own.
    """
    foreign = is_foreign(arch)
    named = dict(weights) if foreign else renamed(weights)
    head = named.get("head.weight")
    if head is not None and head.ndim and len(head) != len(classes):
        raise BadInput(
            f"the checkpoint has {len(head)} heatmaps, but {len(classes)} joints were named"
        )
    spec = make_spec(
        arch,
        classes,
        input=input,
        views=views,
        skeleton=skeleton,
        padding=padding,
        arch_settings=arch_settings,
        head_layer=head_layer,
    )
    with torch.random.fork_rng(devices=[]), named_by_person(spec.code):
        if foreign and registry.names_fit(spec, len(classes), "joints", named):
            network = _native_filled(spec, named)
        else:
            network = build_from_spec(spec)
            load_exactly(network, named)
    network.eval()
    try_input(network, spec)
    return network, spec


def _native_filled(spec: ModelSpec, weights: Weights) -> PoseNet:
    """Somebody's own network, filled under its own names before it is cut."""
    network = registry.native_network(spec, len(spec.classes), "joints")
    load_exactly(network, weights, head=spec.cut[-1])
    return from_parts(registry.cut_map(spec, network), len(spec.classes), spec.joint_pairs, None)


def renamed(weights: Weights) -> dict[str, Tensor]:
    """Under our names; what only a classifier needs is left out."""
    named = {}
    for name, value in weights.items():
        plain = WRAPPED.sub("", name)
        for theirs, ours in OUR_NAMES.items():
            if plain.startswith(theirs):
                plain = ours + plain.removeprefix(theirs)
        if not plain.startswith(("backbone.", "neck.", "head.")):
            plain = f"backbone.{plain}"  # SimpleBaseline's network is its own backbone
        if not plain.startswith(("backbone.fc.", "backbone.avgpool.")):
            named[plain] = value
    return named


def load_backbone(network: PoseNet, weights: Weights) -> int:
    """Fill the backbone alone, in place, from a classifier's weights or a pose network's."""
    named = dict(weights)
    if any(k.startswith("backbone.") for k in named):
        named = {k.removeprefix("backbone."): v for k, v in named.items() if k[:9] == "backbone."}
    named = {k: v for k, v in named.items() if not k.startswith((*CLASSIFIER_HEADS, "avgpool."))}
    own = network.backbone.state_dict()
    if not any(k.startswith("features.") for k in own):
        named = {k.removeprefix("features."): v for k, v in named.items()}
    return load_exactly(network.backbone, named)
