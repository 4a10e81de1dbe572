"""Where a network's features are: its last layer, and the parts that it falls into there.

Of somebody's own network nothing is known but what a pass of images shows: which layer gives the
output, and that what is before it, followed by it, answers as the whole does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from sfda.errors import BadInput, listed

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
PARTS = (("backbone", "decoder", "head"), ("backbone", "neck", "head"))  # that an adapter may have
TRIED_SIDES = (28, 32, 64, 96, 128, 224, 256, 299)  # of images that are tried
NEARLY = {"rtol": 1e-3, "atol": 1e-4}  # as equal as two orders of summing up


class Cut(nn.Identity):
    """Where the last layer was: what a checkpoint keeps under this name is not the backbone's."""


class Parts(NamedTuple):
    """A network cut before its last layer; the backbone gives maps if the head takes maps."""

    backbone: nn.Module
    head: nn.Module
    width: int  # channels of what goes into the head


class SegParts(NamedTuple):
    """A segmenter in three parts: head(decoder(backbone(x))) is what it gave before upsampling."""

    backbone: nn.Module
    decoder: nn.Module
    head: nn.Module
    width: int  # channels of what goes into the head
    multiple: int  # the images' sides must be multiples of it


def last_weighted(network: nn.Module) -> str:
    """Path of the last layer that is linear or a convolution."""
    layers = [k for k, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if not layers:
        raise BadInput(f"{type(network).__name__} has no layer that could give logits")
    return str(layers[-1])


def last_weighted_layer(network: nn.Module) -> str:
    """Path of the module that turns features into logits, such as `fc` or `classifier.6`."""
    path = last_weighted(network)
    if isinstance(network.get_submodule(path), nn.Conv2d):
        return path.rpartition(".")[0]  # squeezenet: convolve, rectify, average as one head
    return path


def cut_before(network: nn.Module, path: str) -> Parts:
    """Cut the network before the layer at `path`, in place: head(backbone(x)) is what it gave."""
    head = network.get_submodule(path)
    width = _width(head)
    if isinstance(head, nn.Sequential):
        features = [("features", network.get_submodule("features")), (path, Cut())]
        return Parts(
            nn.Sequential(OrderedDict(features)), nn.Sequential(*head, nn.Flatten()), width
        )
    network.set_submodule(path, Cut())
    return Parts(network, _as_linear(head) if isinstance(head, nn.Conv2d) else head, width)


def cut_layer(network: nn.Module, path: str) -> Parts:
    """Cut the network before any layer, in place; nothing is known of what lies around it."""
    head = network.get_submodule(path)
    network.set_submodule(path, Cut())
    return Parts(network, head, _width(head))


def map_parts(network: nn.Module, cut: Sequence[str]) -> SegParts:
    """The three parts that `cut` names, or a network of maps cut before the layer that it names."""
    if len(cut) == 3:
        backbone, middle, head = (network.get_submodule(path) for path in cut)
        return SegParts(backbone, middle, head, _width(head), int(getattr(network, "multiple", 1)))
    parts = cut_layer(network, cut[-1])
    multiple = int(getattr(network, "multiple", 1))
    return SegParts(parts.backbone, nn.Identity(), parts.head, parts.width, multiple)


def find_cut(
    network: nn.Module,
    images: torch.Tensor,
    arch: str,
    outputs: int,
    *,
    maps: bool,
    layer: str | None = None,
) -> tuple[str, ...]:
    """Where a network in eval mode falls into features and head: paths, as `map_parts` takes them.

    The last layer with weights that ran and at which the network can be cut without a change of its
    answer, or the one called `layer`. Raises BadInput where there is none. The network's head is
    not what it was afterwards: it gets random weights, so that what follows it shows.
    """
    answer, ran = _watched(network, images, arch)
    _check_answer(answer, arch, outputs, maps=maps)
    if maps and layer is None:
        for names in PARTS:
            has_all = all(isinstance(getattr(network, n, None), nn.Module) for n in names)
            if has_all and _is_whole(images, map_parts(network, names), answer):
                return names
    if layer is not None and layer not in dict(network.named_modules()):
        raise BadInput(f"--head {layer}: {arch} has no such layer; those that ran: {listed(ran)}")
    for path in [layer] if layer is not None else ran[:4]:
        if path and _can_be_cut(network, images, path, maps=maps):
            return (path,)
    where = f"before {layer}" if layer else "before its last layers"
    raise BadInput(
        f"{arch} cannot be cut {where}: what is before it, followed by it, is not the network "
        "(a softmax or a second branch after it does this); name the layer that gives the logits "
        f"with --head ({listed(ran)}), or write an adapter whose answer is what its head gives"
    )


def find_input(network: nn.Module) -> dict[str, Any]:
    """Channels of the images that a network takes, and their size where one alone of those tried
    is taken.
    """
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    depth = first.in_channels if first is not None else 3
    facts: dict[str, Any] = {"channels": "gray"} if depth == 1 else {"channels": "rgb"}
    sizes = [side for side in TRIED_SIDES if _takes(network, torch.zeros(1, depth, side, side))]
    if len(sizes) == 1:
        facts["size"] = (sizes[0], sizes[0])
    return facts


def _takes(network: nn.Module, images: torch.Tensor) -> bool:
    try:
        network(images)
    except Exception:  # whatever somebody's code raises for a size that it is not made for
        return False
    return True


def _watched(network: nn.Module, images: torch.Tensor, arch: str) -> tuple[torch.Tensor, list[str]]:
    """The answer, and the paths of the layers with weights that ran, the last one first."""
    ran: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, path=path: ran.insert(0, path))
        for path, module in network.named_modules()
        if isinstance(module, WEIGHTED)
    ]
    try:
        return network(images), list(dict.fromkeys(ran))
    except Exception as error:  # somebody else's code: it may raise anything
        size = "x".join(str(side) for side in images.shape[1:])
        first = " ".join(str(error).split())[:300]
        raise BadInput(f"{arch} cannot take images of {size}: {first}") from error
    finally:
        for hook in hooks:
            hook.remove()


def _check_answer(answer: object, arch: str, outputs: int, *, maps: bool) -> None:
    if not isinstance(answer, torch.Tensor):
        raise BadInput(
            f"{arch} answers a {type(answer).__name__}, where a tensor is needed: write an adapter "
            "class whose forward returns the logits alone"
        )
    if answer.ndim != (4 if maps else 2):
        shape = tuple(answer.shape)
        needed = "[images, outputs, height, width]" if maps else "[images, classes]"
        raise BadInput(f"{arch} answers {shape} to two images, where {needed} is needed")
    if answer.shape[1] != outputs:
        raise BadInput(
            f"{arch} has {answer.shape[1]} outputs but {outputs} were named; state the number by "
            "the parameter that it has for it, --arch-set NAME=NUMBER"
        )


def _can_be_cut(network: nn.Module, images: torch.Tensor, path: str, *, maps: bool) -> bool:
    head = network.get_submodule(path)
    for value in head.parameters():
        value.normal_(std=0.5)
    answer = network(images)
    try:
        parts = map_parts(network, (path,)) if maps else cut_layer(network, path)
        return _is_whole(images, parts, answer)
    except BadInput:  # a layer without a width
        return False
    finally:
        network.set_submodule(path, head)


def _is_whole(images: torch.Tensor, parts: Parts | SegParts, answer: torch.Tensor) -> bool:
    """Whether the parts, one after the other, answer as the network did."""
    try:
        features = parts.backbone(images)
        if isinstance(parts, SegParts):
            features = parts.decoder(features)
        again = parts.head(features)
    except Exception:  # whatever the parts raise that do not fit each other
        return False
    fits = isinstance(features, torch.Tensor) and features.ndim == answer.ndim
    same = fits and isinstance(again, torch.Tensor) and again.shape == answer.shape
    return bool(same and torch.allclose(again, answer, equal_nan=True, **NEARLY))


def _width(head: nn.Module) -> int:
    """Channels that go into the head."""
    for module in head.modules():
        if isinstance(module, nn.Linear):
            return module.in_features
        if isinstance(module, nn.Conv2d | nn.Conv1d | nn.ConvTranspose2d):
            return module.in_channels
    raise BadInput(f"cannot tell how many features go into {type(head).__name__}")


def _as_linear(conv: nn.Conv2d) -> nn.Linear:
    """The linear layer that does to a pooled vector what a 1x1 convolution does to a 1x1 map."""
    linear = nn.Linear(conv.in_channels, conv.out_channels, bias=conv.bias is not None)
    with torch.no_grad():
        linear.weight.copy_(conv.weight.flatten(1))
        if conv.bias is not None:
            linear.bias.copy_(conv.bias)
    return linear
