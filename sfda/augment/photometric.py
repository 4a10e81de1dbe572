"""Random weak and strong views of stored images, by albumentations."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sfda.building_blocks.boxes import Boxes
from sfda.formats.masks import IGNORE
from sfda.images.intensity_window import Picture
from sfda.images.preprocess import BatchRows, Stack, centre_crop
from sfda.refs import InputSpec, Views

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network at import
import albumentations as A

Several = Stack | Sequence[Picture]
MaskBatch = np.ndarray[Any, np.dtype[np.uint8]]  # [B, h, w]
WEAK, STRONG = 0, 1  # streams of random numbers
ERASED = (  # area and height by width of three rectangles, as in LPLD's release (and others before)
    ((0.05, 0.2), (0.3, 3.3)),
    ((0.02, 0.2), (0.1, 6.0)),
    ((0.02, 0.2), (0.05, 8.0)),
)
LARGEST_BLUR = 2.0 / 224  # largest sigma by image side, as SimCLR at 224 pixels


class ViewMaker:
    """Random views, each a function of (seed, epoch, row) alone.

    Neither the batch a row is in, nor its order, nor the worker that makes it has a part in it.
    """

    def __init__(self, spec: InputSpec, views: Views, *, seed: int) -> None:
        self.spec = spec
        self.seed = seed
        self.trivial_weak = not _moves(spec, views)
        self._padded = views.rotate > 0 or (views.crop and views.pad > 0)
        self._geometry = A.Compose(_geometry(spec, views))
        self._boxed = A.Compose(
            _geometry(spec, views),
            bbox_params=A.BboxParams(
                format="pascal_voc", label_fields=["labels"], min_visibility=0.1, clip=True
            ),
        )
        self._photometry = A.Compose(_photometry(spec, views))

    def weak(self, images: Several, epoch: int, rows: BatchRows) -> Stack:
        """Geometry only: uint8 [B, H, W, C] of stored size, or a list of [H, W, C] of any size, to
        [B, h, w, C] of the model's size.
        """
        if self.trivial_weak:
            return centre_crop(np.asarray(images), self.spec.size)
        return self._each(self._geometry, images, seeds(self.seed, epoch, rows, WEAK))

    def shown(self, images: Several, epoch: int, rows: BatchRows) -> MaskBatch | None:
        """Where the weak view shows the image: 1, and 0 where it was padded; None: everywhere."""
        smaller = any(np.less(image.shape[:2], self.spec.size).any() for image in images)
        if not (self._padded or smaller):
            return None
        masks = [np.zeros(image.shape[:2], np.uint8) for image in images]
        moved = self.weak_with_masks(images, masks, epoch, rows)[1]
        return np.asarray(moved != IGNORE, np.uint8)

    def weak_with_masks(
        self, images: Several, masks: Several, epoch: int, rows: BatchRows
    ) -> tuple[Stack, MaskBatch]:
        """The weak view, and each mask [H, W] or [H, W, 1] moved exactly as its image was.

        Masks keep their values; where a view shows nothing of the image, 255: it does not count.
        """
        views = np.empty((len(images), *self.spec.size, self.spec.depth), np.uint8)
        moved = np.empty((len(images), *self.spec.size), np.uint8)
        for i, number in enumerate(seeds(self.seed, epoch, rows, WEAK)):
            mask = masks[i].reshape(masks[i].shape[:2])
            made = self._made(self._geometry, images[i], number, mask=mask)
            views[i], moved[i] = made["image"], made["mask"]
        return views, moved

    def weak_with_boxes(
        self, images: Several, boxes: Sequence[Boxes], epoch: int, rows: BatchRows
    ) -> tuple[Stack, list[Boxes]]:
        """The weak view, and the boxes of each image moved with it, clipped to what is shown.

        A box of which less than a tenth is left is dropped.
        """
        views = np.empty((len(images), *self.spec.size, self.spec.depth), np.uint8)
        moved = []
        for i, number in enumerate(seeds(self.seed, epoch, rows, WEAK)):
            made = self._made(
                self._boxed,
                images[i],
                number,
                bboxes=boxes[i].boxes.numpy(),
                labels=boxes[i].labels.numpy(),
            )
            views[i] = made["image"]
            corners = torch.as_tensor(np.array(made["bboxes"], np.float32)).reshape(-1, 4)
            labels = torch.as_tensor(np.array(made["labels"], np.int64)).reshape(-1)
            moved.append(Boxes(corners, labels, torch.ones(len(labels))))
        return views, moved

    def pair(self, images: Several, epoch: int, rows: BatchRows) -> tuple[Stack, Stack]:
        """The weak view, and the strong one: the weak view with its colours changed."""
        weak = self.weak(images, epoch, rows)
        return weak, self.coloured(weak, epoch, rows, STRONG)

    def coloured(self, images: Stack, epoch: int, rows: BatchRows, stream: int) -> Stack:
        """Images of the model's size with their colours changed."""
        return self._each(self._photometry, images, seeds(self.seed, epoch, rows, stream))

    def _each(self, compose: A.Compose, images: Several, numbers: BatchRows) -> Stack:
        out = np.empty((len(images), *self.spec.size, self.spec.depth), np.uint8)
        for i, number in enumerate(numbers):
            out[i] = self._made(compose, images[i], number)["image"]
        return out

    def _made(
        self, compose: A.Compose, image: Picture, number: int, **more: np.ndarray[Any, Any]
    ) -> dict[str, Picture]:
        """What the transforms make of one image, with random numbers that begin at `number`."""
        # its `set_random_seed` would give every transform the same numbers: whatever is flipped
        # would be cropped at the top, whatever is blurred also erased
        compose.set_random_state(np.random.default_rng(number), random.Random(int(number)))
        swap = self.spec.channels == "bgr"  # hue and grey take RGB for granted
        image = image[..., ::-1] if swap else image
        made: dict[str, Picture] = compose(image=np.ascontiguousarray(image), **more)
        return made | {"image": made["image"][..., ::-1]} if swap else made


def seeds(seed: int, epoch: int, rows: BatchRows, stream: int) -> BatchRows:
    """One number below 2**32 for each row, by splitmix64 (Steele et al., OOPSLA 2014).

    >>> seeds(0, 0, np.array([0, 1]), 0).tolist() == seeds(0, 0, np.array([1, 0]), 0).tolist()[::-1]
    True
    """
    state = np.zeros(len(rows), np.uint64)
    for part in (np.array([seed]), np.array([epoch]), rows, np.array([stream])):
        state = state + part.astype(np.int64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return (state >> np.uint64(32)).astype(np.int64)


def _moves(spec: InputSpec, views: Views) -> bool:
    """Whether the weak view has anything random in it."""
    room = views.crop and (views.pad > 0 or spec.stored != spec.size)
    return spec.tiled or room or views.flip or views.rotate > 0


def _geometry(spec: InputSpec, views: Views) -> list[A.BasicTransform]:
    steps: list[A.BasicTransform] = []
    if views.rotate:
        limit = (-views.rotate, views.rotate)
        steps.append(A.Rotate(limit=limit, border_mode=0, fill=0, fill_mask=IGNORE, p=1))
    if views.crop and views.pad:
        steps.append(A.Pad(views.pad, border_mode=0, fill=0, fill_mask=IGNORE, p=1))
    if spec.tiled:  # some images may be smaller than a tile
        steps.append(A.PadIfNeeded(*spec.size, border_mode=0, fill=0, fill_mask=IGNORE, p=1))
    crop = A.RandomCrop if views.crop else A.CenterCrop
    steps.append(crop(*spec.size, p=1))
    if views.flip:
        steps.append(A.HorizontalFlip(p=0.5))
    return steps


class _Noise(A.Erasing):  # type: ignore[misc]
    """A rectangle of noise as torchvision draws it: the logarithm of height by width is uniform,
    and what does not fit is drawn again, ten times at most. (albumentations keeps to areas at which
    every shape fits, so of long ones to small areas.)
    """

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        height, width = params["shape"][:2]
        for _ in range(10):
            area = self.py_random.uniform(*self.scale) * height * width
            shape = math.exp(self.py_random.uniform(*map(math.log, self.ratio)))
            high, wide = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < high < height and 0 < wide < width:
                top = self.py_random.randint(0, height - high)
                left = self.py_random.randint(0, width - wide)
                holes = np.array([[left, top, left + wide, top + high]], np.int32)
                return {"holes": holes, "seed": self.random_generator.integers(0, 2**32 - 1)}
        return {"holes": np.empty((0, 4), np.int32)}


def _photometry(spec: InputSpec, views: Views) -> list[A.BasicTransform]:
    around = (1 - views.jitter, 1 + views.jitter)
    colour = spec.depth == 3
    steps: list[A.BasicTransform] = []
    if views.jitter or (colour and views.hue):
        steps.append(
            A.ColorJitter(
                brightness=around,
                contrast=around,
                saturation=around if colour else (1, 1),
                hue=(-views.hue, views.hue) if colour else (0, 0),
                p=views.jittered,
            )
        )
    if views.grayscale and colour:
        steps.append(A.ToGray(p=views.grayscale))
    if views.blur:
        most = views.blur_sigma or max(0.5, LARGEST_BLUR * min(spec.size))
        sigma = (0.1, most)
        steps.append(A.GaussianBlur(blur_limit=0, sigma_limit=sigma, p=views.blur))
    if isinstance(views.erase, tuple):
        for share, (scale, ratio) in zip(views.erase, ERASED, strict=True):
            steps.append(_Noise(scale=scale, ratio=ratio, fill="random", p=share))
    elif views.erase:
        steps.append(A.Erasing(scale=(0.02, 0.33), fill="random_uniform", p=views.erase))
    return steps
