"""Tensors into a network, exactly: what is missing, unexpected or misshapen is named."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sfda.errors import BadInput
from sfda.refs import ModelSpec

Weights = Mapping[str, Tensor]

LISTED_NAMES = 20  # of one kind of fault, in a message
# how the names of an image classifier's last layer begin, whoever trained it
CLASSIFIER_HEADS = ("fc.", "classifier.", "head.", "last_linear.")


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
        f"the checkpoint's head has {held} outputs but {named} classes were named"
        for held, named in sorted(counts)
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


def try_input(network: nn.Module, spec: ModelSpec) -> None:
    """Run one black image of the stated size, so that a wrong size or depth shows at import."""
    image = torch.zeros(1, spec.input.depth, *spec.input.size)
    try:
        with torch.no_grad():
            output: Any = network(image)
    except (RuntimeError, AssertionError, ValueError) as error:
        size = "x".join(str(side) for side in spec.input.size)
        message = f"{spec.arch} cannot take {spec.input.channels} images of {size}: {error}"
        raise BadInput(message) from error
    if not network.training and not output.logits.isfinite().all():
        raise BadInput(
            f"with these weights {spec.arch} answers NaN or infinity to a black image: they are "
            "damaged (a negative variance of batch norm does this), or of another network"
        )


def _class_counts(wrong: Weights, expected: Weights) -> set[tuple[int, int]]:
    """(held, named) outputs of a head that differs in nothing but their number."""
    pairs = [(value, expected[key]) for key, value in wrong.items()]
    if any(not a.ndim or not b.ndim or a.shape[1:] != b.shape[1:] for a, b in pairs):
        return set()
    return {(len(a), len(b)) for a, b in pairs}


def _listed(kind: str, names: Iterable[str]) -> list[str]:
    """One fault that lists the first names of its kind, or none."""
    ordered = sorted(names)
    if not ordered:
        return []
    more = f" and {len(ordered) - LISTED_NAMES} more" if len(ordered) > LISTED_NAMES else ""
    return [f"{len(ordered)} {kind}: {', '.join(ordered[:LISTED_NAMES])}{more}"]
