"""Weights from elsewhere into a segmenter: whose names they carry, and how they do not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sfda.networks import registry
from sfda.networks.foreign.code import named_by_person
from sfda.networks.grammar import is_foreign, parse
from sfda.problems.segmentation.network import (
    Segmenter,
    build_from_spec,
    from_parts,
    make_spec,
    native,
)
from sfda.refs import InputSpec, ModelSpec, Views
from sfda.weights.load import CLASSIFIER_HEADS, Weights, load_exactly, try_input

AUXILIARY_HEADS = ("aux_classifier.", "classification_head.")  # they serve training alone
WRAPPED = re.compile(  # a trainer's name for the network, before that of a part
    r"^(?:(?:model|net|network|module)\.)+"
    r"(?=(?:backbone|encoder|decoder|head|segmentation_head|(?:aux_)?classifier"
    r"|classification_head)\.)"
)
ASPP = {"0": "aspp", "1": "conv", "2": "bn"}  # of DeepLabV3 in smp: from what to what


def load_network(
    weights: Weights,
    *,
    arch: str,
    classes: tuple[str, ...],
    input: InputSpec | None = None,
    views: Views | None = None,
    arch_settings: Mapping[str, Any] | None = None,
    head_layer: str | None = None,
) -> tuple[Segmenter, ModelSpec]:
    """A segmenter in eval mode that holds exactly `weights`, and its spec.

    The names decide: ours, or the library's own. A head with one output stands for two classes;
    a class of one's own states it by its settings. `arch_settings` and `head_layer` are of such a
    class, see `foreign_spec`. Raises BadInput that names every key which does not fit.
    """
    foreign = is_foreign(arch)
    named = dict(weights) if foreign else unwrapped(weights)
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
        ours = any(k.startswith("head.") for k in named)
        if foreign:
            ours = not registry.names_fit(spec, len(classes), "masks", named)
        elif parse(arch, "masks").library == "sfda":
            ours = True
        head = "head" if ours else registry.head_path(spec, native(spec), "masks")
        if not foreign and len(classes) == 2 and _outputs(named, head) == 1:
            spec = spec.model_copy(update={"binary_logit": True})
        network = _filled(spec, named) if ours else _native_filled(spec, named, head)
    network.eval()
    try_input(network, spec)
    return network, spec


def load_backbone(network: Segmenter, weights: Weights) -> int:
    """Fill the backbone alone, in place, from a whole segmenter's weights or an encoder's own."""
    named = unwrapped(weights)
    for prefix in ("backbone.", "encoder."):
        if any(k.startswith(prefix) for k in named):
            named = {k.removeprefix(prefix): v for k, v in named.items() if k.startswith(prefix)}
            break
    named = {k: v for k, v in named.items() if not k.startswith(CLASSIFIER_HEADS)}
    return load_exactly(network.backbone, _inside_timm(network.backbone, named, ""))


def unwrapped(weights: Weights) -> Weights:
    """The weights without what a trainer put before every name, and without auxiliary heads."""
    named = {WRAPPED.sub("", k): v for k, v in weights.items()}
    return {k: v for k, v in named.items() if not k.startswith(AUXILIARY_HEADS)}


def _outputs(weights: Weights, head: str) -> int | None:
    """Outputs of the head's last layer, or None where the weights do not hold it."""
    layers = [k for k in weights if k.startswith(f"{head}.") and k.endswith("weight")]
    last = weights[max(layers)] if layers else None
    return len(last) if last is not None and last.ndim else None


def _filled(spec: ModelSpec, weights: Weights) -> Segmenter:
    network = build_from_spec(spec)
    load_exactly(network, weights)
    return network


def _native_filled(spec: ModelSpec, weights: Weights, head: str) -> Segmenter:
    """Filled before it is cut, so that a fault is told in the names that the user knows."""
    network = native(spec)
    modern = weights if spec.code else _modern(spec.arch, network, weights)
    load_exactly(network, modern, head=head)
    return from_parts(registry.cut_map(spec, network), len(spec.classes))


def _modern(arch: str, network: nn.Module, weights: Weights) -> Weights:
    """The names that smp has now: of DeepLabV3's decoder, and of encoders once its own."""
    library, name = parse(arch, "masks")
    if library != "smp":
        return weights
    if name.startswith("deeplabv3/"):
        weights = {
            re.sub(r"^decoder\.([012])\.", lambda match: f"decoder.{ASPP[match[1]]}.", k): v
            for k, v in weights.items()
        }
    return _inside_timm(network, weights, "encoder.")


def _inside_timm(network: nn.Module, weights: Weights, encoder: str) -> Weights:
    """Names of an encoder as they are where smp holds timm's network in one called `model`."""
    inside = f"{encoder}model."
    expected = [k for k in network.state_dict() if k.startswith(encoder)]
    if not all(k.startswith(inside) for k in expected):
        return weights
    moved = {
        inside + k.removeprefix(encoder)
        if k.startswith(encoder) and not k.startswith(inside)
        else k: v
        for k, v in weights.items()
    }
    if any(".stages." in k for k in expected):
        return moved
    # timm names the levels anew where it hands out their maps, as it does for GENet
    return {k.replace(".stages.", ".stages_"): v for k, v in moved.items()}
