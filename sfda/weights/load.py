"""Tensors into a network, exactly: what is missing, unexpected or misshapen is named."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sfda.errors import BadInput
from sfda.refs import ModelSpec

Weights = Mapping[str, Tensor]

LISTED_NAMES = 10  # in a message, of all kinds of fault together
# how the names of an image classifier's last layer begin, whoever trained it
CLASSIFIER_HEADS = ("fc.", "classifier.", "head.", "last_linear.")


def load_exactly(network: nn.Module, weights: Weights, *, head: str = "head") -> int:
    """Fill the network with so many tensors, or raise BadInput that names what is missing,
    unexpected or misshapen.

    `head` is the path of the last layer, whose count of classes gets a sentence of its own.
    """
    expected = network.state_dict()
    weights = with_prefix_of(weights, expected)
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
    shapes = {
        k: f"{k} is {tuple(weights[k].shape)} where the network has {tuple(expected[k].shape)}"
        for k in expected
        if k in wrong and not (counts and k.startswith(f"{head}."))
    }
    kinds = {
        k: f"{k} is of {str(v.dtype).removeprefix('torch.')}"
        for k, v in weights.items()
        if k in expected and expected[k].is_floating_point() and not v.is_floating_point()
    }
    faults += _listed(
        {
            "missing": {k: k for k in result.missing_keys if k not in wrong},
            "unexpected": {k: k for k in result.unexpected_keys},
            "of another shape": shapes,
            "no floating-point numbers": kinds,
        }
    )
    fitting = sum(k in expected and k not in wrong for k in weights)
    if faults and fitting < len(expected) / 2:
        faults.append(
            f"{fitting} of the network's {len(expected)} tensors fit: is this the architecture "
            "that was trained?"
        )
    if faults:
        raise BadInput("the weights do not fit: " + "; ".join(faults))
    return len(state)


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


def with_prefix_of(weights: Weights, expected: Iterable[str]) -> Weights:
    """The weights by the names that a network expects, where one word before all of them (of
    somebody's class that holds the whole network, or of a trainer's) is the only difference.
    """
    names = set(expected)
    if not weights or not names or names & set(weights):
        return weights
    word = next(iter(names)).partition(".")[0] + "."
    if all(name.startswith(word) for name in names):
        longer = {word + k: v for k, v in weights.items()}
        if names & set(longer):
            return longer
    word = next(iter(weights)).partition(".")[0] + "."
    shorter = {k.removeprefix(word): v for k, v in weights.items()}
    return shorter if all(k.startswith(word) for k in weights) and names & set(shorter) else weights


def _listed(faults: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Faults by their kind, each with the names that tell most: of layers that repeat, one."""
    kinds = {kind: texts for kind, texts in faults.items() if texts}
    each = max(2, LISTED_NAMES // max(1, len(kinds)))
    out = []
    for kind, texts in kinds.items():
        telling: dict[str, str] = {}
        for name, text in texts.items():
            telling.setdefault(re.sub(r"\d+", "0", name), text)
        shown = list(telling.values())[:each]
        if len(texts) <= each:
            shown = sorted(texts.values())
        more = f" and {len(texts) - len(shown)} more" if len(texts) > len(shown) else ""
        out.append(f"{len(texts)} {kind}: {', '.join(shown)}{more}")
    return out
