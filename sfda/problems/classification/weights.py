"""Weights from elsewhere into our networks: whose names they carry, and how they do not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sfda.errors import BadInput
from sfda.networks import registry
from sfda.networks.foreign.code import named_by_person
from sfda.networks.probe import Cut
from sfda.problems.classification.network import (
    Classifier,
    Head,
    build_from_spec,
    from_parts,
    make_spec,
)
from sfda.refs import InputSpec, ModelSpec, Views
from sfda.weights.load import Weights, load_exactly, try_input

# names of heads of torchvision's that only training uses
AUXILIARY_CLASSIFIERS = ("aux1.", "aux2.", "AuxLogits.")
OUR_PARTS = ("backbone.", "bottleneck.", "head.")
SHOT = ("F.", "B.", "C.")  # backbone, bottleneck and classifier: one file each


def load_network(
    weights: Weights,
    *,
    arch: str,
    classes: tuple[str, ...],
    head: Head | None = None,
    input: InputSpec | None = None,
    views: Views | None = None,
    arch_settings: Mapping[str, Any] | None = None,
    head_layer: str | None = None,
) -> tuple[Classifier, ModelSpec]:
    """A classifier in eval mode that holds exactly `weights`, and its spec.

    The names decide: ours, SHOT's three parts (`F.`, `B.`, `C.`), or the library's own. `head`
    None takes what the weights hold; another choice than that is refused. `arch_settings` and
    `head_layer` are of somebody's own class, see `foreign_spec`.
    """
    named = from_shot(weights) if _all_begin(weights, SHOT) else dict(weights)
    ours = _all_begin(named, OUR_PARTS) and any(k.startswith("head.") for k in named)
    bottleneck = ours and any(k.startswith("bottleneck.") for k in named)
    held: Head = "bottleneck" if bottleneck else "plain"
    if head is not None and head != held:
        raise BadInput(f"these weights have a {held} head, not a {head} one")
    linear = named.get("bottleneck.linear.weight") if bottleneck else None
    width = len(linear) if linear is not None and linear.ndim else 256
    spec = make_spec(
        arch,
        classes,
        head=held,
        bottleneck_dim=width,
        input=input,
        views=views,
        arch_settings=arch_settings,
        head_layer=head_layer,
    )
    # the random weights are overwritten at once
    with torch.random.fork_rng(devices=[]), named_by_person(spec.code):
        if ours and bottleneck is False and spec.code is not None:
            ours = not registry.names_fit(spec, len(classes), "classes", named)
        network = _filled(spec, named) if ours else _native_filled(spec, named)
    network.eval()
    try_input(network, spec)
    return network, spec


def load_backbone(classifier: Classifier, weights: Weights) -> int:
    """Fill the backbone alone, in place; what the weights hold of a last layer is left out."""
    named = from_shot(weights) if _all_begin(weights, SHOT) else dict(weights)
    if _all_begin(named, OUR_PARTS):
        named = {
            k.removeprefix("backbone."): v for k, v in named.items() if k.startswith("backbone.")
        }
    else:
        modules = classifier.backbone.named_modules()
        cut = tuple(f"{path}." for path, module in modules if isinstance(module, Cut))
        named = {k: v for k, v in _modern(named).items() if not k.startswith(cut)}
    return load_exactly(classifier.backbone, named)


def from_shot(weights: Weights) -> dict[str, Tensor]:
    """SHOT's three parts under our names, from both of torch's ways to store a weight norm."""
    out = {_renamed(key): value for key, value in weights.items()}
    if "head.weight" in out and out["head.weight"].ndim == 2:  # their plain linear classifier
        weight = out.pop("head.weight")
        out["head.parametrizations.weight.original0"] = weight.norm(dim=1, keepdim=True)
        out["head.parametrizations.weight.original1"] = weight
    return out


def _renamed(key: str) -> str:
    """Our name for one of SHOT's, the part's letter first.

    >>> _renamed("C.fc.weight_g")
    'head.parametrizations.weight.original0'
    """
    part, _, rest = key.partition(".")
    if part == "F":  # the authors' VGG counts its last layers as classifier0, classifier1 ...
        return "backbone." + re.sub(r"^classifier\.classifier(\d)", r"classifier.\1", rest)
    if part == "B":
        return "bottleneck." + re.sub(r"^bottleneck\.", "linear.", rest)
    name = rest.removeprefix("fc.")
    name = re.sub(r"^weight_g$", "parametrizations.weight.original0", name)
    return "head." + re.sub(r"^weight_v$", "parametrizations.weight.original1", name)


def _filled(spec: ModelSpec, weights: Weights) -> Classifier:
    network = build_from_spec(spec)
    load_exactly(network, weights)
    return network


def _native_filled(spec: ModelSpec, weights: Weights) -> Classifier:
    """Filled before it is cut, so that a fault is told in the names that the user knows."""
    classes = len(spec.classes)
    network = registry.native_network(spec, classes, "classes")
    load_exactly(network, _modern(weights), head=registry.head_path(spec, network, "classes"))
    return from_parts(registry.cut_classifier(spec, network), classes)


def _modern(weights: Weights) -> dict[str, Tensor]:
    """Without auxiliary classifiers, and with the names that torchvision's DenseNet has now."""
    old = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
    return {
        old.sub(r"\1\2", key): value
        for key, value in weights.items()
        if not key.startswith(AUXILIARY_CLASSIFIERS)
    }


def _all_begin(weights: Weights, prefixes: tuple[str, ...]) -> bool:
    """Whether every name has one of the prefixes, and some name the first of them."""
    return all(k.startswith(prefixes) for k in weights) and any(
        k.startswith(prefixes[0]) for k in weights
    )
