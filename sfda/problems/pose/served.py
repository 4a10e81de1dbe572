"""What a deployed pose network is loaded as."""

from __future__ import annotations

from typing import Any

import numpy as np

from sfda.images.crops import cut, square
from sfda.images.preprocess import prepare_image
from sfda.inference.served import ImageBatch, ServedModel, checked_image
from sfda.problems.pose.inference import Joints, pose_all


class Served(ServedModel):
    """Crops of persons in, joints out."""

    def predict(self, images: ImageBatch, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Joints for uint8 images [N, H, W, 3], or a list of such of any size: a person each.

        `keypoints` [N, K, 2] as (x, y) in pixels of the images, `scores` [N, K], the heights of the
        heatmaps' peaks, `joints` [K] by name. An image that is not square is padded with black to
        one around its middle. ValueError for other types than uint8.
        """
        poses = [self._pose(checked_image(image)) for image in images]
        count = len(self.spec.classes)
        return {
            "keypoints": np.stack([p.joints for p in poses]) if poses else np.zeros((0, count, 2)),
            "scores": np.stack([p.scores for p in poses]) if poses else np.zeros((0, count)),
            "joints": np.array(self.spec.classes),
        }

    def _pose(self, image: np.ndarray) -> Joints:
        crop = square((0.0, 0.0, float(image.shape[1]), float(image.shape[0])), 1.0)
        prepared = prepare_image(cut(image, crop), self.spec.input)
        poses = pose_all(self.network, prepared[None], self.spec.input, [crop], device=self.device)
        return next(iter(poses))[1]
