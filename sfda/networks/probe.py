"""Where a network's features are: its last layer, and the parts that it falls into there."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import nn

from sfda.errors import BadInput


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


def last_weighted_layer(network: nn.Module) -> str:
    """Path of the module that turns features into logits, such as `fc` or `classifier.6`."""
    layers = [k for k, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    path = str(layers[-1])
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


def _width(head: nn.Module) -> int:
    """Channels that go into the head."""
    for module in head.modules():
        if isinstance(module, nn.Linear):
            return module.in_features
        if isinstance(module, nn.Conv2d):
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
