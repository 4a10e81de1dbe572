"""The contract of networks that methods adapt, as functions that say what is broken."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from sfda import plugins
from sfda.methods._base import Method
from sfda.problems._base import AnyProblem
from sfda.problems.registry import PROBLEMS, problem_of
from sfda.testing.trial import MOMENT, require, require_same, run_checks
from sfda.types import TargetBatch, TargetInfo

OUTPUT_NOISE = 1e-3  # of outputs, relative to their size: another batch size takes other kernels
SERVES_ALL = "mean_teacher"  # the method that serves every problem


def check_network(network: nn.Module, images: Tensor, problem: str | None = None) -> None:
    """Try a network on a batch [B, C, H, W] of images as it wants them, B at least 4.

    The network stays as it is. Raises AssertionError that says what is broken.
    """
    name = type(network).__name__
    try:
        own = problem_of(network)
    except TypeError as error:
        raise AssertionError(f"{name}: {error}; set its class attribute `problem`") from None
    require(problem in (None, own.name), f"{name} is for {own.name}, not for {problem}")
    base = PROBLEMS[own.name].network
    require(isinstance(network, base), f"{name} does not derive from {base.__name__}")
    require(images.ndim == 4 and len(images) >= 4, f"give 4 images or more, not {images.shape}")
    run_checks(name, NETWORK_CHECKS, Fitting(copy.deepcopy(network).eval(), images, own))


@dataclass(frozen=True)
class Fitting:
    """A copy of a network in eval mode, images for it, and the problem that it is for."""

    network: nn.Module
    images: Tensor
    problem: AnyProblem

    def outputs(self, network: nn.Module | None = None, count: int | None = None) -> dict[str, Any]:
        """Tensors by name of what it makes of the first `count` images."""
        with torch.no_grad():
            output = (network or self.network)(self.images[:count])
        return dict(tensors_of(output))

    def method(self) -> Method:
        """A method over the network, that labels whatever it sees."""
        kind: type[Method] = plugins.load("methods", SERVES_ALL)
        size = len(self.images)
        classes = tuple(f"class-{i}" for i in range(int(cast(int, self.network.num_classes))))
        info = TargetInfo(size, tuple(f"row-{i}" for i in range(size)), classes=classes)
        defaults = kind.defaults_for(self.problem.name)
        return kind(self.network, info, kind.Config.from_settings({**defaults, "threshold": 0.0}))


def tensors_of(output: object) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an output that have a row an image."""
    for name in ("features", "logits", "heatmaps"):
        part = getattr(output, name, None)
        if isinstance(part, Tensor):
            yield name, part


def it_has_what_methods_ask_for(fitting: Fitting) -> None:
    """Parts that are named, numbers of classes, and outputs that fit them."""
    network, outputs = fitting.network, fitting.outputs()
    require(bool(list(network.named_children())), "it has no parts: methods address them by name")
    count = getattr(network, "num_classes", None)
    require(isinstance(count, int) and count > 0, f"`num_classes` is {count}")
    require("logits" in outputs, "its output has no `logits`")
    for name, value in outputs.items():
        require(bool(value.isfinite().all()), f"`{name}` of its output is not finite")
        require(value.dtype == torch.float32, f"`{name}` of its output is {value.dtype}")
    if "boxes" in dir(network(fitting.images[:1])):
        return
    logits = outputs["logits"]
    require(len(logits) == len(fitting.images), f"{len(logits)} rows of logits: one an image")
    require(logits.shape[1] == count, f"{logits.shape[1]} logits, and `num_classes` is {count}")
    width = getattr(network, "feature_dim", None)
    if "features" in outputs and width is not None:
        wide = outputs["features"].shape[1]
        require(wide == width, f"features have {wide} columns, and `feature_dim` is {width}")


def in_eval_mode_an_image_is_seen_as_it_is_alone(fitting: Fitting) -> None:
    """No randomness, no look at the rest of the batch, and nothing that moves."""
    before = copy.deepcopy(fitting.network.state_dict())
    one, other = fitting.outputs(), fitting.outputs()
    require_same(one, other, "the same images twice in eval mode", 0.0)
    require_same(before, fitting.network.state_dict(), "state before and after eval mode", 0.0)
    if "boxes" in dir(fitting.network(fitting.images[:1])):
        return
    for name, alone in fitting.outputs(count=1).items():
        gap = float((alone[0] - one[name][0]).abs().max())
        scale = float(one[name].abs().max()) or 1.0
        require(
            gap <= OUTPUT_NOISE * scale,
            f"`{name}` of an image alone and in a batch differ by {gap:g}",
        )


def a_saved_network_is_the_same_one(fitting: Fitting) -> None:
    """What it holds is in `state_dict()`, as tensors; a copy is independent."""
    state = fitting.network.state_dict()
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    require(not odd, f"`state_dict()` holds what is no tensor: {', '.join(odd[:3])}")
    before = fitting.outputs()
    other = copy.deepcopy(fitting.network)
    for parameter in other.parameters():
        parameter.data.mul_(0.5).add_(0.01)
    require_same(before, fitting.outputs(), "before and after a copy was changed", 0.0)
    other.load_state_dict(copy.deepcopy(state))
    require_same(before, fitting.outputs(other), "a network and its state loaded into a copy", 0.0)


def a_method_can_adapt_it(fitting: Fitting) -> None:
    """A step of mean teacher: losses are finite, and gradient reaches the network."""
    method = fitting.method()
    method.train()
    rows = torch.arange(len(fitting.images))
    losses = method.losses(TargetBatch(rows, fitting.images, strong=fitting.images), MOMENT)
    total = torch.stack(list(losses.values())).sum()
    require(bool(total.isfinite()), f"losses of a step are {losses}")
    total.backward()
    trained = [p for p in method.student.parameters() if p.requires_grad]
    require(bool(trained), "none of its parameters takes gradient")
    reached = [p for p in trained if p.grad is not None]
    require(bool(reached), "gradient reaches none of its parameters")
    finite = all(bool(p.grad.isfinite().all()) for p in reached if p.grad is not None)
    require(finite, "gradients of a step are not finite")


NETWORK_CHECKS: tuple[Callable[[Fitting], None], ...] = (
    it_has_what_methods_ask_for,
    in_eval_mode_an_image_is_seen_as_it_is_alone,
    a_saved_network_is_the_same_one,
    a_method_can_adapt_it,
)
