"""Scans of a whole set: eval mode, no gradient, test transform, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from sfda.augment.geometric import Moved, WarpMaker
from sfda.augment.photometric import ViewMaker
from sfda.building_blocks.warps import maps_back
from sfda.errors import BadInput
from sfda.images.preprocess import BatchRows, Stack, centre_crop, padded, standardise
from sfda.images.store import Pictures, Ragged
from sfda.inference.forward import images_at_once, infer
from sfda.loading.tiles import tiles
from sfda.networks.detector import Detector
from sfda.problems.pose.network import PoseNet, PoseOutput
from sfda.problems.segmentation.network import Segmenter
from sfda.refs import InputSpec, Views
from sfda.types import Images, Scan, Seen, SeenViews, Warp

SCAN_EPOCH = -1  # views of a scan are no epoch's views, and the same at every scan


def scan(
    images: Pictures, spec: InputSpec, *, device: torch.device | str, batch_size: int = 256
) -> Scan:
    """A scan of all of `images`, batch by batch; floating-point outputs come as float32.

    A segmenter's and a detector's batches are smaller: 2^19 pixels. Images of a tiled input come
    tile by tile, those of one image one after the other; the last tiles of a row or column may
    overlap.
    """
    device = torch.device(device)

    def scan_images(network: nn.Module, rows: Int[Tensor, " R"] | None = None) -> Iterator[Seen]:
        some = None if rows is None else rows.cpu().numpy()
        for rows_, stored in _stacks(
            images, scan_batch_size(network, spec, batch_size), spec, some
        ):
            seen = infer(network, _tested(network, stored, spec, device), device)
            yield Seen(_index(rows_, device), seen)

    return scan_images


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

    Of a tiled input the weak view, a random crop, also stands for the image.
    """
    device = torch.device(device)
    maker = ViewMaker(spec, views, seed=seed)
    warper = WarpMaker(spec, views, seed=seed)

    def scan_pairs(network: nn.Module) -> Iterator[SeenViews]:
        size = scan_batch_size(network, spec, batch_size)
        for start in range(0, len(images), size):
            rows = np.arange(start, min(start + size, len(images)))
            stored = images[start : start + size]
            if isinstance(network, PoseNet):
                whole = infer(network, _tested(network, np.asarray(stored), spec, device), device)
                moved = warper.pair(np.asarray(stored), SCAN_EPOCH, rows)
                brought = (_brought_back(network, view, spec, device) for view in moved)
                yield SeenViews(_index(rows, device), whole, *brought)
                continue
            pair = (
                torch.from_numpy(np.ascontiguousarray(view))
                for view in maker.pair(stored, SCAN_EPOCH, rows)
            )
            weak, strong = (infer(network, standardise(v, spec, device), device) for v in pair)
            untouched = weak
            if not spec.tiled:
                untouched = infer(
                    network, _tested(network, np.asarray(stored), spec, device), device
                )
            yield SeenViews(_index(rows, device), untouched, weak, strong)

    return scan_pairs


def _brought_back(
    network: PoseNet, view: Moved, spec: InputSpec, device: torch.device
) -> PoseOutput:
    """What a pose network says of moved images, its heatmaps in the frame of the images."""
    inputs = standardise(torch.from_numpy(view.views), spec, device)
    out: PoseOutput = infer(network, inputs, device)
    warp = Warp(*(torch.from_numpy(part).to(device) for part in (view.matrices, view.flipped)))
    maps = maps_back(out.heatmaps, warp, image=spec.size, pairs=network.pairs)
    return out._replace(heatmaps=maps)


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


def scan_batch_size(network: nn.Module, spec: InputSpec, batch_size: int = 256) -> int:
    """Images of a scan's batch."""
    if not isinstance(network, Segmenter | Detector):
        return batch_size
    return min(batch_size, images_at_once(spec.size))


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
    images: Ragged, batch_size: int, spec: InputSpec, rows: Any
) -> Iterator[tuple[BatchRows, Stack]]:
    """Every image in tiles without overlap; a smaller image repeats its border."""
    for row in map(int, rows):
        image = padded(images[row], spec.size)
        slices = tiles(image.shape[0], image.shape[1], spec.size, overlap=(0, 0))
        for start in range(0, len(slices), batch_size):
            cut = [image[p] for p in slices[start : start + batch_size]]
            yield np.full(len(cut), row), np.stack(cut)


def _tested(network: nn.Module, stored: Stack, spec: InputSpec, device: torch.device) -> Images:
    """The middle of the images; a segmenter sees whole frames, as every pixel has a prediction."""
    middle = stored if isinstance(network, Segmenter) else centre_crop(stored, spec.size)
    crop = np.array(middle)  # a copy: the file is read-only
    return standardise(torch.from_numpy(crop), spec, device)


def _index(rows: BatchRows, device: torch.device) -> Int[Tensor, " B"]:
    return torch.from_numpy(rows).to(device)
