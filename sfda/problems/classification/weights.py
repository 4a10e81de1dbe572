"""Weights from elsewhere into our networks: whose names they carry, and how they do not fit."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sfda.errors import BadInput
from sfda.networks import classifiers as networks
from sfda.problems.classification.network import (
    Classifier,
    Head,
    build_from_spec,
    from_native,
    make_spec,
)
from sfda.refs import InputSpec, ModelSpec, Views

Weights = Mapping[str, Tensor]

OURS = ("backbone.", "bottleneck.", "head.")
SHOT = ("F.", "B.", "C.")  # backbone, bottleneck and classifier: one file each
SHOWN = 20  # names of one kind of fault that a message lists


def load_classifier(
    weights: Weights,
    *,
    arch: str,
    classes: tuple[str, ...],
    head: Head | None = None,
    input: InputSpec | None = None,
    views: Views | None = None,
) -> tuple[Classifier, ModelSpec]:
    """A classifier in eval mode that holds exactly `weights`, and its spec.

    The names decide: ours, SHOT's three parts (`F.`, `B.`, `C.`), or the library's own. `head`
    None takes what the weights hold; another choice than that is refused.
    """
    named = from_shot(weights) if _all_begin(weights, SHOT) else dict(weights)
    ours = _all_begin(named, OURS)
    bottleneck = ours and any(k.startswith("bottleneck.") for k in named)
    found: Head = "bottleneck" if bottleneck else "plain"
    if head is not None and head != found:
        raise BadInput(f"these weights have a {found} head, not a {head} one")
    linear = named.get("bottleneck.linear.weight") if bottleneck else None
    width = len(linear) if linear is not None and linear.ndim else 256
    spec = make_spec(arch, classes, head=found, bottleneck_dim=width, input=input, views=views)
    with torch.random.fork_rng(devices=[]):  # the random weights that are overwritten at once
        network = _filled(spec, named) if ours else _native_filled(spec, named)
    network.eval()
    try_input(network, spec)
    return network, spec


def load_backbone(classifier: Classifier, weights: Weights) -> None:
    """Fill the backbone alone, in place; what the weights hold of a last layer is left out."""
    named = from_shot(weights) if _all_begin(weights, SHOT) else dict(weights)
    if _all_begin(named, OURS):
        named = {
            k.removeprefix("backbone."): v for k, v in named.items() if k.startswith("backbone.")
        }
    else:
        modules = classifier.backbone.named_modules()
        cut = tuple(f"{path}." for path, module in modules if isinstance(module, networks.Cut))
        named = {k: v for k, v in _modern(named).items() if not k.startswith(cut)}
    load_exactly(classifier.backbone, named)


def load_exactly(network: nn.Module, weights: Weights, *, head: str = "head") -> None:
    """Fill the network, or raise BadInput that names what is missing, unexpected or misshapen.

    `head` is the path of the last layer, whose count of classes gets a sentence of its own.
    """
    expected = network.state_dict()
    wrong = {k for k, v in weights.items() if k in expected and v.shape != expected[k].shape}
    counts = _class_counts({k: weights[k] for k in wrong if k.startswith(f"{head}.")}, expected)
    state = OrderedDict((k, v) for k, v in weights.items() if k not in wrong)
    # torchvision's MNASNet refuses weights of an unstated layout; the second is the present one
    state._metadata = {"": {"version": 2}, "backbone": {"version": 2}}  # type: ignore[attr-defined]
    faults = [
        f"the checkpoint's head has {given} outputs but {wanted} classes were named"
        for given, wanted in sorted(counts)
    ]
    try:
        # smp's encoders have a method of their own, which does not tell what is missing
        result = nn.Module.load_state_dict(network, state, strict=False)
    except RuntimeError as error:  # misshapen under an old name that the library still knows
        raise BadInput(f"the weights do not fit: {error}") from error
    faults += _listed("missing", set(result.missing_keys) - wrong)
    faults += _listed("unexpected", result.unexpected_keys)
    shapes = {
        f"{k} is {tuple(weights[k].shape)} where the network has {tuple(expected[k].shape)}"
        for k in wrong
        if not (counts and k.startswith(f"{head}."))
    }
    faults += _listed("of another shape", shapes)
    kinds = {
        f"{k} is of {str(v.dtype).removeprefix('torch.')}"
        for k, v in weights.items()
        if k in expected and expected[k].is_floating_point() and not v.is_floating_point()
    }
    faults += _listed("no floating-point numbers", kinds)
    if faults:
        raise BadInput("the weights do not fit: " + "; ".join(faults))


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


def try_input(network: nn.Module, spec: ModelSpec) -> None:
    """Run one black image of the stated size, so that a wrong size or depth shows at import."""
    image = torch.zeros(1, spec.input.depth, *spec.input.size)
    try:
        with torch.no_grad():
            found: Any = network(image)
    except (RuntimeError, AssertionError, ValueError) as error:
        size = "x".join(str(side) for side in spec.input.size)
        message = f"{spec.arch} cannot take {spec.input.channels} images of {size}: {error}"
        raise BadInput(message) from error
    if not network.training and not found.logits.isfinite().all():
        raise BadInput(
            f"with these weights {spec.arch} answers NaN or infinity to a black image: they are "
            "damaged (a negative variance of batch norm does this), or of another network"
        )


def _filled(spec: ModelSpec, weights: Weights) -> Classifier:
    network = build_from_spec(spec)
    load_exactly(network, weights)
    return network


def _native_filled(spec: ModelSpec, weights: Weights) -> Classifier:
    """Filled before it is cut, so that a fault is told in the names that the user knows."""
    classes = len(spec.classes)
    network = networks.native(spec.arch, classes)
    load_exactly(network, _modern(weights), head=networks.last_layer(spec.arch, network))
    return from_native(spec.arch, network, classes)


def _modern(weights: Weights) -> dict[str, Tensor]:
    """Without auxiliary classifiers, and with the names that torchvision's DenseNet has now."""
    old = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
    return {
        old.sub(r"\1\2", key): value
        for key, value in weights.items()
        if not key.startswith(networks.AUXILIARY)
    }


def _all_begin(weights: Weights, prefixes: tuple[str, ...]) -> bool:
    """Whether every name has one of the prefixes, and some name the first of them."""
    return all(k.startswith(prefixes) for k in weights) and any(
        k.startswith(prefixes[0]) for k in weights
    )


def _class_counts(wrong: Weights, expected: Weights) -> set[tuple[int, int]]:
    """(given, wanted) outputs of a head that differs in nothing but their number."""
    pairs = [(value, expected[key]) for key, value in wrong.items()]
    if any(not a.ndim or not b.ndim or a.shape[1:] != b.shape[1:] for a, b in pairs):
        return set()
    return {(len(a), len(b)) for a, b in pairs}


def _listed(kind: str, names: Iterable[str]) -> list[str]:
    """One fault that lists the first names of its kind, or none."""
    found = sorted(names)
    if not found:
        return []
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return [f"{len(found)} {kind}: {', '.join(found[:SHOWN])}{more}"]
