"""Scans of a whole set: eval mode, no gradient, test transform, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from sfda.errors import BadInput
from sfda.images.preprocess import BatchRows, Stack, padded, standardise
from sfda.images.store import Pictures, Ragged
from sfda.inference.forward import infer
from sfda.loading.tiles import tiles
from sfda.problems.registry import problem_of
from sfda.refs import InputSpec, Views
from sfda.types import Images, Scan, Seen, SeenViews

SCAN_EPOCH = -1  # views of a scan are no epoch's views, and the same at every scan


def scan(
    images: Pictures, spec: InputSpec, *, device: torch.device | str, batch_size: int = 256
) -> Scan:
    """A scan of all of `images`, batch by batch; floating-point outputs come as float32.

    Where features are as large as images, batches are smaller. Images of a tiled input come tile by
    tile, those of one image one after the other; the last tiles of a row or column may
    overlap.
    """
    device = torch.device(device)

    def scan_images(network: nn.Module, rows: Int[Tensor, " R"] | None = None) -> Iterator[Seen]:
        some = None if rows is None else rows.cpu().numpy()
        for rows_, stored in _stacks(
            images, problem_of(network).scan_batch(spec, batch_size), spec, some
        ):
            seen = infer(network, _tested(network, stored, spec, device), device)
            yield Seen(_index(rows_, device), seen)

    return scan_images


def scan_shown(
    images: Pictures, spec: InputSpec, *, device: torch.device | str, batch_size: int = 256
) -> Callable[[nn.Module], Iterator[SeenViews]]:
    """A scan that tells the images too, as the network saw them."""
    device = torch.device(device)

    def scan_and_show(network: nn.Module) -> Iterator[SeenViews]:
        size = problem_of(network).scan_batch(spec, batch_size)
        for rows, stored in _stacks(images, size, spec, None):
            shown = _tested(network, stored, spec, device)
            yield SeenViews(_index(rows, device), infer(network, shown, device), images=shown)

    return scan_and_show


def scan_views(
    images: Pictures,
    spec: InputSpec,
    views: Views,
    *,
    seed: int,
    device: torch.device | str,
    batch_size: int = 256,
) -> Callable[[nn.Module], Iterator[SeenViews]]:
    """The same with a weak and a strong view of each image beside it, alike at every call.

    Of a tiled input the weak view, a random crop, also stands for the image, which is not told.
    """
    device = torch.device(device)

    def scan_pairs(network: nn.Module) -> Iterator[SeenViews]:
        problem = problem_of(network)
        maker = problem.view_maker(spec, views, seed=seed)
        size = problem.scan_batch(spec, batch_size)
        for start in range(0, len(images), size):
            rows = np.arange(start, min(start + size, len(images)))
            stored = images[start : start + size]
            weak, strong = problem.outputs_on_views(
                network, maker, stored, SCAN_EPOCH, rows, spec, device
            )
            untouched, shown = weak, None
            if not spec.tiled:
                shown = _tested(network, np.asarray(stored), spec, device)
                untouched = infer(network, shown, device)
            yield SeenViews(_index(rows, device), untouched, weak, strong, shown)

    return scan_pairs


def labelled_scan(
    images: Pictures,
    labels: np.ndarray,
    spec: InputSpec,
    *,
    device: torch.device | str,
    batch_size: int = 256,
) -> Callable[[nn.Module], Iterator[tuple[Any, Int[Tensor, " B"]]]]:
    """Outputs and labels of all of `images`; evaluation alone has labels to give."""
    if len(labels) != len(images):
        raise BadInput(f"{len(images)} images but {len(labels)} labels")
    targets = torch.from_numpy(np.array(labels, dtype=np.int64)).to(device)
    scan_images = scan(images, spec, device=device, batch_size=batch_size)

    def scan_both(network: nn.Module) -> Iterator[tuple[Any, Int[Tensor, " B"]]]:
        for index, output in scan_images(network):
            yield output, targets[index]

    return scan_both


def _stacks(
    images: Pictures, batch_size: int, spec: InputSpec, some: BatchRows | None
) -> Iterator[tuple[BatchRows, Stack]]:
    """All images in order, or those of some rows."""
    if isinstance(images, Ragged):
        yield from _tiles(images, batch_size, spec, range(len(images)) if some is None else some)
        return
    if some is not None:
        for start in range(0, len(some), batch_size):
            yield some[start : start + batch_size], images[some[start : start + batch_size]]
        return
    for start in range(0, len(images), batch_size):
        stored = images[start : start + batch_size]
        yield np.arange(start, start + len(stored)), stored


def _tiles(
    images: Ragged, batch_size: int, spec: InputSpec, rows: Iterable[int]
) -> Iterator[tuple[BatchRows, Stack]]:
    """Every image in tiles without overlap; a smaller image repeats its border."""
    for row in map(int, rows):
        image = padded(images[row], spec.size)
        slices = tiles(image.shape[0], image.shape[1], spec.size, overlap=(0, 0))
        for start in range(0, len(slices), batch_size):
            cut = [image[p] for p in slices[start : start + batch_size]]
            yield np.full(len(cut), row), np.stack(cut)


def _tested(network: nn.Module, stored: Stack, spec: InputSpec, device: torch.device) -> Images:
    """What the network's problem shows it in a test."""
    view = np.array(problem_of(network).test_view(stored, spec))  # a copy: the file is read-only
    return standardise(torch.from_numpy(view), spec, device)


def _index(rows: BatchRows, device: torch.device) -> Int[Tensor, " B"]:
    return torch.from_numpy(rows).to(device)
