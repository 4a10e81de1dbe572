"""Networks by name, as their library builds them, and where each one's last layer sits.

Names are `torchvision:resnet50`, `timm:convnext_tiny`, `sfda:lenet`, `sfda:tiny`. Nothing here
fetches weights: every network starts with random ones.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import nn
from torchvision import models

from sfda.errors import BadInput

# torchvision's own auxiliary classifiers serve training from scratch alone
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


class Cut(nn.Identity):
    """Where the last layer was: what a checkpoint keeps under this name is not the backbone's."""


class Parts(NamedTuple):
    """A network cut before its last layer; the backbone gives maps if the head takes maps."""

    backbone: nn.Module
    head: nn.Module
    width: int  # channels of what goes into the head


def lenet(classes: int) -> nn.Module:
    """SHOT's digit network for gray 28x28 images: 800 features."""
    body = nn.Sequential(
        nn.Conv2d(1, 20, kernel_size=5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(20, 50, kernel_size=5),
        nn.Dropout2d(0.5),
        nn.MaxPool2d(2),
        nn.ReLU(),
    )
    # the name is the authors', so that their checkpoints fit as they are
    parts = [("conv_params", body), ("flatten", nn.Flatten()), ("fc", nn.Linear(800, classes))]
    return nn.Sequential(OrderedDict(parts))


def tiny(classes: int) -> nn.Module:
    """A network for tests: gray images of about 16x16, batch norm, 32 features, 4k parameters."""
    body = nn.Sequential(
        nn.Conv2d(1, 8, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d((1, 2)),  # left and right half apart, so that a mirror image differs
    )
    parts = [("body", body), ("flatten", nn.Flatten()), ("fc", nn.Linear(32, classes))]
    return nn.Sequential(OrderedDict(parts))


OWN: Mapping[str, Callable[[int], nn.Module]] = MappingProxyType({"lenet": lenet, "tiny": tiny})


def parse(arch: str) -> tuple[str, str]:
    """Library and name of a known architecture.

    >>> parse("torchvision:resnet50")
    ('torchvision', 'resnet50')
    """
    library, _, name = arch.partition(":")
    if library == "sfda" and name in OWN:
        return library, name
    if library == "torchvision" and name in _torchvision_names():
        return library, name
    if library == "timm" and _is_timm(name):
        return library, name
    raise BadInput(_unknown(arch))


def native(arch: str, classes: int) -> nn.Module:
    """The network as its library builds it, with its own last layer for `classes` classes."""
    library, name = parse(arch)
    if classes < 2:
        raise BadInput(f"a classifier needs at least 2 classes, not {classes}")
    if library == "sfda":
        return OWN[name](classes)
    if library == "torchvision":
        return _from_torchvision(name, classes)
    return _from_timm(name, classes)


def last_layer(arch: str, network: nn.Module) -> str:
    """Path of the module that turns features into logits, such as `fc` or `classifier.6`."""
    if parse(arch)[0] == "timm":
        return _timm_classifier(arch, network)
    layers = [k for k, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    path = str(layers[-1])
    if isinstance(network.get_submodule(path), nn.Conv2d):
        return path.rpartition(".")[0]  # squeezenet: convolve, rectify, average as one head
    return path


def split(arch: str, network: nn.Module) -> Parts:
    """Cut the network before its last layer, in place: head(backbone(x)) is what it gave before."""
    path = last_layer(arch, network)
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


def _torchvision_names() -> list[str]:
    return [str(name) for name in models.list_models(module=models)]


def _from_torchvision(name: str, classes: int) -> nn.Module:
    if name in ("googlenet", "inception_v3"):
        network = models.get_model(
            name, weights=None, num_classes=classes, aux_logits=False, init_weights=True
        )
    else:
        network = models.get_model(name, weights=None, num_classes=classes)
    assert isinstance(network, nn.Module)
    return network


def _is_timm(name: str) -> bool:
    import timm  # takes seconds, and most runs never need it

    return bool(timm.is_model(name))


def _from_timm(name: str, classes: int) -> nn.Module:
    import timm

    try:
        network = timm.create_model(name, pretrained=False, num_classes=classes)
    except (RuntimeError, TypeError, AssertionError) as error:  # an unknown tag, or no plain head
        raise BadInput(f"timm cannot build '{name}': {error}") from error
    assert isinstance(network, nn.Module)
    return network


def _timm_classifier(arch: str, network: nn.Module) -> str:
    get_classifier = getattr(network, "get_classifier", lambda: None)
    # a tuple or a list where there are two, as in distilled networks; volo adds up two as well
    head = get_classifier() if getattr(network, "aux_head", None) is None else None
    for path, module in network.named_modules():
        if module is head and path and not isinstance(head, nn.ModuleList | nn.Identity):
            # some name the whole head, pooling included
            return f"{path}.fc" if hasattr(head, "global_pool") else str(path)
    raise BadInput(f"{arch} has no single last layer, so it cannot be used as a classifier here")


def _unknown(arch: str) -> str:
    """What to say of a name that no library has."""
    library, colon, name = arch.partition(":")
    wanted = name if colon else arch
    near = [f"sfda:{n}" for n in difflib.get_close_matches(wanted, OWN)]
    near += [
        f"torchvision:{n}" for n in difflib.get_close_matches(wanted, _torchvision_names(), n=4)
    ]
    if library == "timm":
        import timm

        near = [f"timm:{n}" for n in difflib.get_close_matches(wanted, timm.list_models(), n=5)]
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    libraries = "torchvision:<name>, timm:<name>, sfda:lenet or sfda:tiny"
    return f"no architecture '{arch}': it is written {libraries}{hint}"
