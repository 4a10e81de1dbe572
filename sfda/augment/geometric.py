"""Views that are turned, sheared, moved, scaled and mirrored, and how each was."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch

from sfda.augment.photometric import STRONG, WEAK, ViewMaker, seeds
from sfda.building_blocks.heatmaps import PoseTargets
from sfda.building_blocks.warps import Pairs, linear, swapped
from sfda.images.preprocess import BatchRows, Stack
from sfda.refs import InputSpec, Views
from sfda.types import Warp

GEOMETRY = 16  # streams of random numbers: those of colours lie below


class Moved(NamedTuple):
    """Views uint8 [B, H, W, C]; affine maps [B, 2, 3] from the view to the image in coordinates of
    -1 to 1 over its sides; which are mirrored [B].
    """

    views: Stack
    matrices: np.ndarray
    flipped: np.ndarray


class WarpMaker:
    """Random geometric views, each a function of (seed, epoch, row, stream) alone.

    Both views of a pair are moved and coloured on their own. What a view shows beyond the image is
    black.
    """

    def __init__(self, spec: InputSpec, views: Views, *, seed: int) -> None:
        self.spec, self.settings, self.seed = spec, views, seed
        still = views.model_copy(update={"rotate": 0.0, "flip": False, "crop": False})
        self._colours = ViewMaker(spec, still, seed=seed)

    def pair(self, images: Stack, epoch: int, rows: BatchRows) -> tuple[Moved, Moved]:
        """Two views of each image."""
        one, other = (self.moved(images, epoch, rows, stream) for stream in (WEAK, STRONG))
        return one, other

    def moved(self, images: Stack, epoch: int, rows: BatchRows, stream: int) -> Moved:
        """One view of each image."""
        out = np.empty((len(images), *self.spec.size, self.spec.depth), np.uint8)
        matrices = np.empty((len(images), 2, 3), np.float32)
        flipped = np.empty(len(images), bool)
        for i, number in enumerate(seeds(self.seed, epoch, rows, GEOMETRY + stream)):
            forward, flipped[i] = self._drawn(np.random.default_rng(number))
            out[i] = self._warped(images[i], forward)
            back = np.linalg.inv(np.vstack([forward, [0, 0, 1]]))
            matrices[i] = back[:2]
        return Moved(self._colours.coloured(out, epoch, rows, stream), matrices, flipped)

    def _drawn(self, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
        """An affine map from the image to the view in coordinates of -1 to 1, and if it mirrors."""
        s = self.settings
        angle = rng.uniform(-s.rotate, s.rotate)
        shear = rng.uniform(-s.shear, s.shear)
        moves = 2 * rng.uniform(-s.move, s.move, 2)
        part = linear(angle, (shear, 0.0), rng.uniform(*s.zoom))
        flip = bool(s.flip and rng.random() < 0.5)
        if flip:
            part = part @ np.diag([-1.0, 1.0])
        return np.column_stack([part, moves]), flip

    def _warped(self, image: np.ndarray, forward: np.ndarray) -> np.ndarray:
        """The image moved; pixels are squares, so the side's middle is at (W - 1) / 2."""
        height, width = image.shape[:2]
        half = np.array([width / 2, height / 2])
        scaled = np.diag(half) @ forward[:, :2] @ np.diag(1 / half)
        shift = half * forward[:, 2] + half - 0.5 - scaled @ (half - 0.5)
        matrix = np.column_stack([scaled, shift])
        warped = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
        return np.asarray(warped.reshape(image.shape), np.uint8)


def targets_in_view(
    targets: PoseTargets, moved: Moved, size: tuple[int, int], pairs: Pairs
) -> PoseTargets:
    """Joints of images as they lie in their views, left and right by name in a mirrored one too."""
    joints = torch.from_numpy(joints_in_view(targets.joints.numpy(), moved, size)).float()
    warp = Warp(torch.from_numpy(moved.matrices), torch.from_numpy(moved.flipped))
    return PoseTargets(*(swapped(part, warp, pairs) for part in (joints, targets.visible)))


def joints_in_view(joints: np.ndarray, moved: Moved, size: tuple[int, int]) -> np.ndarray:
    """Joints [B, K, 2] in pixels (x, y) of the images as they lie in their views."""
    half = np.array([size[1] / 2, size[0] / 2])
    unit = (joints + 0.5) / half - 1
    placed = np.empty_like(joints)
    for i, back in enumerate(moved.matrices):
        forward = np.linalg.inv(np.vstack([back, [0, 0, 1]]))[:2]
        placed[i] = unit[i] @ forward[:, :2].T + forward[:, 2]
    return np.asarray((placed + 1) * half - 0.5)
