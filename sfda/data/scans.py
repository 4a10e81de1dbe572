"""Looks at a whole set: eval mode, no gradient, test transform, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from sfda.data.inputs import Rows, Stack, answer, centre_crop, standardise
from sfda.data.views import ViewMaker
from sfda.errors import BadInput
from sfda.refs import InputSpec, Views
from sfda.types import Images, Scan, Seen, SeenViews

SCAN_EPOCH = -1  # views of a scan are no epoch's views, and the same at every scan


def scan(
    images: Stack, spec: InputSpec, *, device: torch.device | str, batch_size: int = 256
) -> Scan:
    """A look at all of `images`, batch by batch; floating-point outputs come as float32."""
    device = torch.device(device)

    def look(network: nn.Module) -> Iterator[Seen]:
        for rows, stored in _stacks(images, batch_size):
            seen = answer(network, _tested(stored, spec, device), device)
            yield Seen(_index(rows, device), seen)

    return look


def scan_views(
    images: Stack,
    spec: InputSpec,
    views: Views,
    *,
    seed: int,
    device: torch.device | str,
    batch_size: int = 256,
) -> Callable[[nn.Module], Iterator[SeenViews]]:
    """The same with a weak and a strong view of each image beside it, alike at every call."""
    device = torch.device(device)
    maker = ViewMaker(spec, views, seed=seed)

    def look(network: nn.Module) -> Iterator[SeenViews]:
        for rows, stored in _stacks(images, batch_size):
            pair = (
                torch.from_numpy(np.ascontiguousarray(view))
                for view in maker.pair(stored, SCAN_EPOCH, rows)
            )
            weak, strong = (answer(network, standardise(v, spec, device), device) for v in pair)
            untouched = answer(network, _tested(stored, spec, device), device)
            yield SeenViews(_index(rows, device), untouched, weak, strong)

    return look


def labelled_scan(
    images: Stack,
    labels: np.ndarray,
    spec: InputSpec,
    *,
    device: torch.device | str,
    batch_size: int = 256,
) -> Callable[[nn.Module], Iterator[tuple[Any, Int[Tensor, " B"]]]]:
    """Outputs and labels of all of `images`; evaluation alone has labels to give."""
    if len(labels) != len(images):
        raise BadInput(f"{len(images)} images but {len(labels)} labels")
    given = torch.from_numpy(np.array(labels, dtype=np.int64)).to(device)
    look = scan(images, spec, device=device, batch_size=batch_size)

    def look_at_both(network: nn.Module) -> Iterator[tuple[Any, Int[Tensor, " B"]]]:
        for index, output in look(network):
            yield output, given[index]

    return look_at_both


def _stacks(images: Stack, batch_size: int) -> Iterator[tuple[Rows, Stack]]:
    for start in range(0, len(images), batch_size):
        stored = images[start : start + batch_size]
        yield np.arange(start, start + len(stored)), stored


def _tested(stored: Stack, spec: InputSpec, device: torch.device) -> Images:
    crop = np.array(centre_crop(stored, spec.size))  # a copy: the file is read-only
    return standardise(torch.from_numpy(crop), spec, device)


def _index(rows: Rows, device: torch.device) -> Int[Tensor, " B"]:
    return torch.from_numpy(rows).to(device)
