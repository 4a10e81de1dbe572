"""timm's networks, with random weights, and where each one's last layer sits.

timm is imported when it is asked for: that takes seconds, and most runs never need it.
"""

from __future__ import annotations

import difflib
import re

from torch import nn

from sfda.errors import BadInput


def is_timm(name: str) -> bool:
    """Whether timm itself has a network of this name: none of a hub, none in a folder."""
    import timm

    return re.fullmatch(r"\w[\w.-]*", name) is not None and bool(timm.is_model(name))


def like_timm(name: str) -> list[str]:
    """Names that timm has and that look like this one."""
    import timm

    return difflib.get_close_matches(name, timm.list_models(), n=5)


def timm_classifier(name: str, classes: int) -> nn.Module:
    """A classifier with its own last layer for `classes` classes. Raises BadInput."""
    import timm

    try:
        network = timm.create_model(name, pretrained=False, num_classes=classes)
    except (RuntimeError, TypeError, AssertionError) as error:  # an unknown tag, or no plain head
        raise BadInput(f"timm cannot build '{name}': {error}") from error
    assert isinstance(network, nn.Module)
    return network


def timm_last_layer(arch: str, network: nn.Module) -> str:
    """Path of the module that turns features into logits. Raises BadInput where there are two."""
    get_classifier = getattr(network, "get_classifier", lambda: None)
    # a tuple or a list where there are two, as in distilled networks; volo adds up two as well
    head = get_classifier() if getattr(network, "aux_head", None) is None else None
    for path, module in network.named_modules():
        if module is head and path and not isinstance(head, nn.ModuleList | nn.Identity):
            # some name the whole head, pooling included
            return f"{path}.fc" if hasattr(head, "global_pool") else str(path)
    raise BadInput(f"{arch} has no single last layer, so it cannot be used as a classifier here")


def timm_map(name: str) -> nn.Module:
    """A network without its head, which gives its last map of features. Raises BadInput."""
    import timm

    if not is_timm(name):
        near = ", ".join(f"timm:{other}" for other in like_timm(name))
        raise BadInput(f"timm has no network {name}" + (f"; {near}" if near else ""))
    try:
        network: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=0, global_pool=""
        )
    except (RuntimeError, TypeError, AssertionError) as error:
        raise BadInput(f"timm cannot build timm:{name}: {error}") from error
    return network
