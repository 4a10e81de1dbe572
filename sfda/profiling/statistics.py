"""One look at some images of a target with its source model: what its layers and answers say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfda.building_blocks.norm import Norm, norms
from sfda.images.store import Pictures, images_at
from sfda.inference.forward import refuse_not_finite
from sfda.loading.opened import Opened
from sfda.loading.scan import scan
from sfda.problems.registry import PROBLEMS
from sfda.refs import ModelSpec

MOST_IMAGES = 512  # images of a target at most


class Channels(NamedTuple):
    """Means of a layer's channels, image by image, and the mean and variance that it learnt."""

    means: Float[np.ndarray, "N C"]
    source_mean: Float[np.ndarray, " C"]
    source_var: Float[np.ndarray, " C"]


class TargetStatistics(NamedTuple):
    """What a source model makes of some images. Of a tiled input every tile counts as one."""

    norms: tuple[Channels, ...]  # of the inputs of its batch norms; empty where it has none
    features: Float[np.ndarray, "N D"]
    certainty: Float[np.ndarray, " N"]


def some_images(images: Pictures, seed: int, at_most: int = MOST_IMAGES) -> Pictures:
    """So many of the images, drawn at random; all where there are no more."""
    if len(images) <= at_most:
        return images
    rows = np.random.default_rng(seed).permutation(len(images))[:at_most]
    return images_at(images, np.sort(rows))


def statistics_of_target(
    network: nn.Module, spec: ModelSpec, opened: Opened, device: torch.device, seed: int = 0
) -> TargetStatistics:
    """What a network, which is on `device`, makes of at most 512 images. Raises NotFinite."""
    images = some_images(opened.images, seed)
    return statistics_of_images(network, spec, images, device)


def statistics_of_images(
    network: nn.Module, spec: ModelSpec, images: Pictures, device: torch.device
) -> TargetStatistics:
    """The same of all these images."""
    problem = PROBLEMS[spec.problem]
    features, certainty = [], []
    with watch_norms(network) as watched:
        looks = scan(images, spec.input, device=device)(problem.summarised(network))
        for _, output in looks:
            summary = problem.summarise(output)
            refuse_not_finite(summary.probs)
            features.append(summary.features.float().cpu().numpy())
            certainty.append(problem.certainty(summary.probs.float().cpu().numpy()))
    count = sum(map(len, certainty))
    return TargetStatistics(
        tuple(_channels(layer, parts) for layer, parts in watched if _rows(parts) == count),
        np.concatenate(features),
        np.concatenate(certainty),
    )


_WatchedNorms = list[tuple[Norm, list[Tensor]]]


@contextmanager
def watch_norms(network: nn.Module) -> Iterator[_WatchedNorms]:
    """Inside, the mean of each channel of each image that goes into a batch norm is noted."""
    watched: _WatchedNorms = [(layer, []) for layer in norms(network)]

    def noting(parts: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0].detach().float()
            parts.append(values.flatten(2).mean(2).cpu() if values.ndim > 2 else values.cpu())

        return note

    hooks = [layer.register_forward_pre_hook(noting(parts)) for layer, parts in watched]
    try:
        yield watched
    finally:
        for hook in hooks:
            hook.remove()


def _rows(parts: list[Tensor]) -> int:
    """How many inputs a layer had: of a detector's head they are regions, not images."""
    return sum(map(len, parts))


def _channels(layer: Norm, parts: list[Tensor]) -> Channels:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return Channels(
        torch.cat(parts).numpy(),
        layer.running_mean.float().cpu().numpy(),
        layer.running_var.float().cpu().numpy() + layer.eps,
    )
