"""Images as another camera might have given them: shifts of one kind and severity each.

Photometric ones leave every pixel where it is, so that masks, boxes and joints stay valid.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping

import numpy as np

from sfda.images.intensity_window import Picture

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network at import
import albumentations as A

PATCHES = 4  # along each side, of an image that is shuffled
_PARTS: Mapping[str, Callable[[int], A.BasicTransform]] = {
    "noise": lambda s: A.GaussNoise(std_range=(0.06 * s, 0.06 * s), p=1),
    "blur": lambda s: A.GaussianBlur(blur_limit=0, sigma_limit=(0.6 * s, 0.6 * s), p=1),
    "brightness": lambda s: A.RandomBrightnessContrast(
        brightness_limit=(-0.15 * s, -0.15 * s), contrast_limit=(0, 0), p=1
    ),
    "contrast": lambda s: A.RandomBrightnessContrast(
        brightness_limit=(0, 0), contrast_limit=(-0.25 * s, -0.25 * s), p=1
    ),
    "gamma": lambda s: A.RandomGamma(gamma_limit=(100 + 60 * s, 100 + 60 * s), p=1),
    "fog": lambda s: A.RandomFog(fog_coef_range=(0.4, 0.4), alpha_coef=0.06 * s, p=1),
    "jpeg": lambda s: A.ImageCompression(quality_range=(28 - 8 * s, 28 - 8 * s), p=1),
    "colour": lambda s: A.HueSaturationValue(
        hue_shift_limit=(12 * s, 12 * s),
        sat_shift_limit=(-30 * s, -30 * s),
        val_shift_limit=(0, 0),
        p=1,
    ),
    "negative": lambda _: A.InvertImg(p=1),
    "scale": lambda s: A.Affine(scale=(1 - 0.12 * s, 1 - 0.12 * s), border_mode=2, p=1),
    "turn": lambda s: A.Rotate(limit=(8 * s, 8 * s), border_mode=2, p=1),
}
MOVING = ("scale", "turn")  # those that are not photometric


def shifted(image: Picture, kind: str, severity: int, seed: int, *, bgr: bool = False) -> Picture:
    """One image uint8 [H, W, 1 or 3] after a shift of severity 1 to 3; the same seed gives the
    same image. Grey images have no colour to shift: they stay. Raises KeyError for no such kind.
    """
    depth = image.shape[2]
    colours = np.repeat(image, 3, axis=2) if depth == 1 else image[..., ::-1] if bgr else image
    compose = A.Compose([_PARTS[kind](severity)])
    compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
    made: Picture = compose(image=np.ascontiguousarray(colours))["image"]
    if depth == 1:
        grey: Picture = np.round(made.mean(2, keepdims=True)).astype(np.uint8)
        return grey
    return np.ascontiguousarray(made[..., ::-1] if bgr else made)


def shuffled_patches(image: Picture, seed: int) -> Picture:
    """An image of nothing: the same patches [H/4, W/4] in another order; what is left over at the
    right and below stays.
    """
    high, wide = image.shape[0] // PATCHES, image.shape[1] // PATCHES
    out, order = image.copy(), np.random.default_rng(seed).permutation(PATCHES**2)
    for to, of in enumerate(order.tolist()):
        (row, column), (old_row, old_column) = divmod(to, PATCHES), divmod(of, PATCHES)
        patch = image[
            old_row * high : (old_row + 1) * high, old_column * wide : (old_column + 1) * wide
        ]
        out[row * high : (row + 1) * high, column * wide : (column + 1) * wide] = patch
    return out
