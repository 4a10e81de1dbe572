"""From images to what a network is given, and to what it answers; all that serving needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from sfda.errors import BadInput
from sfda.images.intensity_window import Picture
from sfda.refs import InputSpec

Stack = np.ndarray[Any, np.dtype[np.uint8]]  # [B, H, W, C]
BatchRows = np.ndarray[Any, np.dtype[np.int64]]  # [B]
CACHE = 2**18  # pixels that are standardised at once on a CPU


def prepare_image(image: Picture, spec: InputSpec) -> Picture:
    """One image, uint8 [H, W, 3] RGB or [H, W], as [h, w, C] of `spec.stored` size, not cropped.

    For a tiled input it keeps its size.
    """
    grey = spec.channels == "gray"
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    fits = spec.tiled or image.shape[:2] == spec.stored
    if fits and (image.ndim == 2) == grey:
        done = image
    else:
        picture = Image.fromarray(np.ascontiguousarray(image)).convert("L" if grey else "RGB")
        done = np.asarray(picture if fits else _resize(picture, spec))
    if spec.channels == "bgr":
        done = done[..., ::-1]
    return np.ascontiguousarray(done[..., None] if grey else done)


def _resize(picture: Image.Image, spec: InputSpec) -> Image.Image:
    height, width = spec.stored
    how = Image.Resampling.BICUBIC if spec.interpolation == "bicubic" else Image.Resampling.BILINEAR
    if spec.letterbox:
        inner = fitted((picture.height, picture.width), spec)
        filled = tuple(round(m * spec.scale) for m in spec.mean)
        if spec.channels == "bgr":
            filled = filled[::-1]  # of the picture, which is RGB until the end
        frame = Image.new(picture.mode, (width, height), filled if len(filled) > 1 else filled[0])
        frame.paste(picture.resize((inner[1], inner[0]), how))
        return frame
    if not spec.keep_ratio:
        return picture.resize((width, height), how)
    ratio = max(height / picture.height, width / picture.width)
    size = (max(width, int(picture.width * ratio)), max(height, int(picture.height * ratio)))
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    return picture.resize(size, how).crop((left, top, left + width, top + height))


def fitted(size: tuple[int, int], spec: InputSpec) -> tuple[int, int]:
    """(height, width) that an image of `size` takes of the frame: all, or what its ratio leaves.

    >>> fitted((480, 640), InputSpec(size=(320, 320), letterbox=True, mean=(0,) * 3, std=(1,) * 3))
    (240, 320)
    """
    if not spec.letterbox:
        return spec.size
    ratio = min(want / have for want, have in zip(spec.size, size, strict=True))
    height, width = (max(1, min(w, round(h * ratio))) for w, h in zip(spec.size, size, strict=True))
    return height, width


def standardise(
    images: UInt8[Tensor, "B H W C"], spec: InputSpec, device: torch.device | str
) -> Float[Tensor, "B C H W"]:
    """Divide by `spec.scale`, then standardise with mean and std, in float32 on `device`.

    The result has its channels last in memory, as images come and as convolutions are fastest.
    """
    device = torch.device(device)
    count, height, width, channels = images.shape
    std = torch.tensor(spec.std, device=device)
    # by rows of pixels: an inner loop over three channels alone would be slow
    factor = (1 / (spec.scale * std)).repeat(width)
    offset = (torch.tensor(spec.mean, device=device) / std).repeat(width)
    rows = images.to(device, non_blocking=True).reshape(count, height, width * channels)
    out = torch.empty(rows.shape, dtype=torch.float32, device=device)
    few = max(1, CACHE // max(1, rows[:1].numel())) if device.type == "cpu" else max(1, count)
    for part, into in zip(rows.split(few), out.split(few), strict=True):  # stays in the cache
        into.copy_(part).mul_(factor).sub_(offset)
    return out.view(count, height, width, channels).permute(0, 3, 1, 2)


def centre_crop(images: Stack, size: tuple[int, int]) -> Stack:
    """The middle of each image, (height, width) = `size`; a view, not a copy."""
    top = round((images.shape[-3] - size[0]) / 2)
    left = round((images.shape[-2] - size[1]) / 2)
    return images[..., top : top + size[0], left : left + size[1], :]


def padded(image: Stack, size: tuple[int, int]) -> Stack:
    """An image [H, W, C] made at least (height, width) = `size` by repeating its last row and
    column.
    """
    below, right = (max(0, want - have) for want, have in zip(size, image.shape, strict=False))
    if not below and not right:
        return image
    return np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge")


def refuse_cut(spec: InputSpec) -> None:
    """BadInput if an image's sides are cut off before the network sees it."""
    if spec.keep_ratio and not spec.tiled:
        raise BadInput(
            "every pixel of an image needs an answer, but this input keeps the ratio and cuts the "
            "sides off; set keep_ratio to false"
        )
