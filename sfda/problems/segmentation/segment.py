"""Whole images to masks: one image of any size, or all of a set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from sfda.images.preprocess import Stack, padded, refuse_cut, standardise
from sfda.images.store import Pictures, Ragged
from sfda.inference.forward import Size, images_at_once, infer, refuse_not_finite
from sfda.loading.tiles import blending, positions
from sfda.refs import InputSpec

ENLARGED = 2**24  # logits that are enlarged at once


class PredictedMask(NamedTuple):
    """A mask of class indices, and the probability of each times 255."""

    mask: UInt8[np.ndarray, "H W"]
    confidence: UInt8[np.ndarray, "H W"]


def segment(
    network: nn.Module,
    image: UInt8[np.ndarray, "h w C"],
    spec: InputSpec,
    *,
    device: torch.device | str,
    out_size: Size,
) -> PredictedMask:
    """The mask of one prepared image, `out_size` (height, width) large.

    Of a tiled input tiles overlap by a quarter and are blended by their probabilities: memory is
    that of one row of tiles, whatever the image's height. Else the network sees the whole frame and
    its logits are resized (bilinear) before the choice of a class, some rows at a time.

    Raises BadInput for an input that cuts the image's sides off: they would have no prediction.
    """
    device = torch.device(device)
    refuse_cut(spec)
    if not spec.tiled:
        return next(iter(_resized(network, image[None], spec, device, [out_size])))
    tiled = _tiled(network, image, spec, device)
    if tiled.mask.shape == out_size:
        return tiled
    parts = (torch.from_numpy(part)[None, None] for part in tiled)
    return PredictedMask(*(F.interpolate(p, out_size, mode="nearest")[0, 0].numpy() for p in parts))


def segment_all(
    network: nn.Module,
    images: Pictures,
    spec: InputSpec,
    *,
    device: torch.device | str,
    sizes: Sequence[Size],
) -> Iterator[tuple[int, UInt8[np.ndarray, "H W"], UInt8[np.ndarray, "H W"]]]:
    """(row, mask, confidence) of all images in order, as `segment` gives them; `sizes` are those of
    the masks. Frames go through the network several at once.
    """
    device = torch.device(device)
    refuse_cut(spec)
    if spec.tiled or isinstance(images, Ragged):
        for row in range(len(images)):
            yield row, *segment(network, images[row], spec, device=device, out_size=sizes[row])
        return
    at_once = images_at_once((images.shape[1], images.shape[2]))
    for start in range(0, len(images), at_once):
        stored = images[start : start + at_once]
        out_sizes = [sizes[start + n] for n in range(len(stored))]
        for n, predicted in enumerate(_resized(network, stored, spec, device, out_sizes)):
            yield start + n, *predicted


def _resized(
    network: nn.Module, stored: Stack, spec: InputSpec, device: torch.device, sizes: Sequence[Size]
) -> Iterator[PredictedMask]:
    """Whole frames at once."""
    inputs = standardise(torch.from_numpy(np.array(stored)), spec, device)
    output = infer(network, inputs, device)
    refuse_not_finite(output.logits)
    for logits, size in zip(output.logits, sizes, strict=True):
        bands = [_predicted(band.softmax(0)) for band in enlarged(logits, size)]
        yield (
            bands[0]
            if len(bands) == 1
            else PredictedMask(*map(np.concatenate, zip(*bands, strict=True)))
        )


def enlarged(logits: Float[Tensor, "C h w"], size: Size) -> Iterator[Float[Tensor, "C rows W"]]:
    """The logits resized to (height, width) = `size`, some rows at a time: all at once, those of a
    large image would fill the memory. As torch's bilinear `interpolate` without aligned corners.
    """
    if logits.shape[-2:] == size:
        yield logits
        return
    classes, height, _ = logits.shape
    position = (torch.arange(size[0], device=logits.device) + 0.5) * (height / size[0]) - 0.5
    position = position.clamp(0, height - 1)
    above = position.floor().long()
    below, part = (above + 1).clamp(max=height - 1), (position - above)[:, None]
    at_once = max(1, ENLARGED // (classes * size[1]))
    for start in range(0, size[0], at_once):
        rows = slice(start, start + at_once)
        band = torch.lerp(logits[:, above[rows]], logits[:, below[rows]], part[rows])
        wide = (band.shape[1], size[1])
        yield F.interpolate(band[None], wide, mode="bilinear", align_corners=False)[0]


def _predicted(
    probs: Float[Tensor, "C H W"], total: Float[Tensor, "H W"] | float = 1.0
) -> PredictedMask:
    """The likeliest classes; `total` is what the probabilities add up to."""
    top = probs.max(0)
    sure = (top.values / total * 255).round().to(torch.uint8)
    return PredictedMask(top.indices.to(torch.uint8).cpu().numpy(), sure.cpu().numpy())


def _tiled(
    network: nn.Module, image: UInt8[np.ndarray, "h w C"], spec: InputSpec, device: torch.device
) -> PredictedMask:
    height, width = image.shape[:2]
    image = padded(image, spec.size)  # what is added is cut off again
    overlap = (spec.size[0] // 4, spec.size[1] // 4)
    tops = positions(image.shape[0], spec.size[0], overlap[0])
    lefts = positions(image.shape[1], spec.size[1], overlap[1])
    weight = blending(spec.size, overlap).to(device)
    whole = PredictedMask(*(np.empty(image.shape[:2], np.uint8) for _ in range(2)))
    band: Band | None = None
    for top, following in zip(tops, [*tops[1:], image.shape[0]], strict=True):
        rows = image[top : top + spec.size[0]]
        for left, probs in _row_of_tiles(network, rows, lefts, spec, device):
            band = band or Band(probs.shape[0], spec.size[0], image.shape[1], device)
            band.add(probs, weight, left)
        assert band is not None
        done = band.take(following - top)
        for out, part in zip(whole, done, strict=True):
            out[top:following] = part
    return PredictedMask(*(part[:height, :width] for part in whole))


def _row_of_tiles(
    network: nn.Module,
    rows: UInt8[np.ndarray, "h w C"],
    lefts: list[int],
    spec: InputSpec,
    device: torch.device,
) -> Iterator[tuple[int, Float[Tensor, "C h w"]]]:
    """Probabilities of each tile of one row, and where it begins."""
    at_once, width = images_at_once(spec.size), spec.size[1]
    for start in range(0, len(lefts), at_once):
        some = lefts[start : start + at_once]
        cut = np.stack([rows[:, left : left + width] for left in some])
        output = infer(network, standardise(torch.from_numpy(cut), spec, device), device)
        refuse_not_finite(output.logits)
        yield from zip(some, output.logits.softmax(1), strict=True)


class Band:
    """Weighted probabilities of the rows that tiles still touch: [C, tile height, image width]."""

    def __init__(self, classes: int, height: int, width: int, device: torch.device) -> None:
        self.sum = torch.zeros(classes, height, width, device=device)

    def add(self, probs: Float[Tensor, "C h w"], weight: Float[Tensor, "h w"], left: int) -> None:
        """Add a tile. The weights need not be kept: the classes' sum gives them back."""
        self.sum[..., left : left + probs.shape[-1]] += probs * weight

    def take(self, rows: int) -> PredictedMask:
        """The mask of the first rows, which no later tile touches; the others move up."""
        done = self.sum[:, :rows]
        predicted = _predicted(done, done.sum(0))
        rest = self.sum[:, rows:].clone()
        self.sum[:, : rest.shape[1]] = rest
        self.sum[:, rest.shape[1] :] = 0
        return predicted
