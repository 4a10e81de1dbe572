"""Random weak and strong views of stored images; the only code that uses albumentations."""

from __future__ import annotations

import os
import random

import numpy as np

from sfda.data.inputs import Rows, Stack, centre_crop
from sfda.refs import InputSpec, Views

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network at import
import albumentations as A

WEAK, STRONG = 0, 1  # streams of random numbers
BLUR = 2.0 / 224  # largest sigma by image side, as SimCLR at 224 pixels


class ViewMaker:
    """Random views, each a function of (seed, epoch, row) alone.

    Neither the batch a row is in, nor its order, nor the worker that makes it has a part in it.
    """

    def __init__(self, spec: InputSpec, views: Views, *, seed: int) -> None:
        self.spec = spec
        self.seed = seed
        self.trivial_weak = not _moves(spec, views)
        self._geometry = A.Compose(_geometry(spec, views))
        self._photometry = A.Compose(_photometry(spec, views))

    def weak(self, images: Stack, epoch: int, rows: Rows) -> Stack:
        """Geometry only: uint8 [B, H, W, C] of stored size to [B, h, w, C] of the model's size."""
        if self.trivial_weak:
            return centre_crop(images, self.spec.size)
        return self._each(self._geometry, images, seeds(self.seed, epoch, rows, WEAK))

    def pair(self, images: Stack, epoch: int, rows: Rows) -> tuple[Stack, Stack]:
        """The weak view, and the strong one: the weak view with its colours changed."""
        weak = self.weak(images, epoch, rows)
        return weak, self._each(self._photometry, weak, seeds(self.seed, epoch, rows, STRONG))

    def _each(self, compose: A.Compose, images: Stack, numbers: Rows) -> Stack:
        out = np.empty((len(images), *self.spec.size, self.spec.depth), np.uint8)
        swap = self.spec.channels == "bgr"  # hue and grey take RGB for granted
        for i, number in enumerate(numbers):
            # its `set_random_seed` would give every transform the same numbers: whatever is flipped
            # would be cropped at the top, whatever is blurred also erased
            compose.set_random_state(np.random.default_rng(number), random.Random(int(number)))
            image = images[i, ..., ::-1] if swap else images[i]
            made = compose(image=np.ascontiguousarray(image))["image"]
            out[i] = made[..., ::-1] if swap else made
        return out


def seeds(seed: int, epoch: int, rows: Rows, stream: int) -> Rows:
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
    return room or views.flip or views.rotate > 0


def _geometry(spec: InputSpec, views: Views) -> list[A.BasicTransform]:
    steps: list[A.BasicTransform] = []
    if views.rotate:
        steps.append(A.Rotate(limit=(-views.rotate, views.rotate), border_mode=0, fill=0, p=1))
    if views.crop and views.pad:
        steps.append(A.Pad(views.pad, border_mode=0, fill=0, p=1))
    crop = A.RandomCrop if views.crop else A.CenterCrop
    steps.append(crop(*spec.size, p=1))
    if views.flip:
        steps.append(A.HorizontalFlip(p=0.5))
    return steps


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
                p=1,
            )
        )
    if views.grayscale and colour:
        steps.append(A.ToGray(p=views.grayscale))
    if views.blur:
        sigma = (0.1, max(0.5, BLUR * min(spec.size)))
        steps.append(A.GaussianBlur(blur_limit=0, sigma_limit=sigma, p=views.blur))
    if views.erase:
        steps.append(A.Erasing(scale=(0.02, 0.33), fill="random_uniform", p=views.erase))
    return steps
