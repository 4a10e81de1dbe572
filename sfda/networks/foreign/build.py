"""A network of somebody's own class, and the cut that a probe pass finds in it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from sfda.errors import BadInput, listed
from sfda.networks import probe
from sfda.networks.detector import as_detector
from sfda.networks.families._base import Answer
from sfda.networks.foreign.code import belongs, module_of, reason
from sfda.refs import ModelSpec, NetworkCode

# what constructors call the number of their outputs, and of their input's channels
OUTPUTS = ("num_classes", "n_classes", "nclass", "classes", "num_joints", "num_keypoints")
CHANNELS = ("in_channels", "in_chans", "input_channels")


def build_foreign(spec: ModelSpec, outputs: int, answer: Answer) -> nn.Module:
    """The network that a spec's class makes. Raises BadInput, also for code that is not trusted."""
    assert spec.code is not None
    return make(spec.arch, spec.code, answer, spec.arch_settings, outputs, spec.input.depth)


def make(
    arch: str,
    code: NetworkCode,
    answer: Answer,
    settings: Mapping[str, Any],
    outputs: int,
    depth: int | None = None,
) -> nn.Module:
    """What the class or function that `arch` names makes of its settings.

    The number of outputs and of channels go to the parameters that are usually called so, if there
    are such and the settings do not state them. Raises BadInput.
    """
    module, name = module_of(arch, code)
    maker: Any = getattr(module, name, None)
    is_class = isinstance(maker, type) and issubclass(maker, nn.Module)
    if not (is_class or inspect.isfunction(maker)) or not belongs(maker, code):
        own = [n for n, v in vars(module).items() if callable(v) and belongs(v, code)]
        raise BadInput(
            f"{arch} is no class of networks of {code.name}, nor a function of it that makes one; "
            f"there are {listed(own) or 'none'}"
        )
    try:
        network = maker(**_arguments(arch, maker, settings, outputs, depth))
    except BadInput:
        raise
    except (Exception, SystemExit) as error:  # somebody else's code: it may raise anything
        raise BadInput(f"{arch} cannot be made ({reason(error)}); see --arch-set") from error
    if not isinstance(network, nn.Module):
        raise BadInput(f"{arch} makes a {type(network).__name__}, which is no torch.nn.Module")
    if answer == "boxes":
        _check_detector(arch, network, outputs)
    return network


def probed(spec: ModelSpec, outputs: int, answer: Answer, layer: str | None = None) -> ModelSpec:
    """The spec with the cut that a probe pass finds, or that `layer` names. Raises BadInput."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = build_foreign(spec, outputs, answer).eval()
        if answer == "boxes":
            return spec
        images = torch.rand(2, spec.input.depth, *spec.input.size)
        maps = answer != "classes"
        cut = probe.find_cut(network, images, spec.arch, outputs, maps=maps, layer=layer)
    return spec.model_copy(update={"cut": cut})


def usable_input(
    arch: str, code: NetworkCode, answer: Answer, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What a probe pass tells of a network's input: channels, and the size if one alone fits.

    Raises BadInput where the network cannot be made. Of detectors it tells nothing.
    """
    if answer == "boxes":
        return {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        return probe.find_input(make(arch, code, answer, settings, outputs=2).eval())


def needed_input(arch: str, facts: Mapping[str, Any]) -> BadInput:
    """Somebody's own network was given no input, and a probe pass tells no more than this."""
    seen = ", ".join(f"{name} {value}" for name, value in facts.items()) or "nothing"
    return BadInput(
        f"{arch} does not state its input: give --size, --mean and --std (a probe pass tells: "
        f"{seen})"
    )


def _arguments(
    arch: str,
    maker: Callable[..., Any],
    settings: Mapping[str, Any],
    outputs: int,
    depth: int | None,
) -> dict[str, Any]:
    try:
        parameters = inspect.signature(maker).parameters
    except (TypeError, ValueError):
        return dict(settings)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if not open_ended and (odd := sorted(set(settings) - set(parameters))):
        raise BadInput(
            f"--arch-set {odd[0]}: {arch} has no such parameter; there are {listed([*parameters])}"
        )
    counts = [name for name in OUTPUTS if name in parameters]
    if counts and not set(counts) & set(settings):
        settings = {**settings, counts[0]: outputs}
    channels = [name for name in CHANNELS if name in parameters]
    if depth and channels and not set(channels) & set(settings):
        settings = {**settings, channels[0]: depth}
    return dict(settings)


def _check_detector(arch: str, network: nn.Module, classes: int) -> None:
    as_detector(network, arch)
    if not isinstance(getattr(network, "backbone", None), nn.Module):
        raise BadInput(f"{arch} has no part `backbone`, which methods teach at a rate of its own")
    if getattr(network, "num_classes", None) != classes:
        held = getattr(network, "num_classes", "nothing")
        raise BadInput(f"{arch} has num_classes {held}, but {classes} classes were named")
