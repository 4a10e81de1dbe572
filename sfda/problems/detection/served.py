"""What a deployed detector is loaded as."""

from __future__ import annotations

from typing import Any

import numpy as np

from sfda.images.preprocess import prepare_image
from sfda.inference.served import ImageBatch, ServedModel, checked_image
from sfda.problems.detection.inference import detect_all


class Served(ServedModel):
    """Images in, boxes out."""

    def predict(
        self, images: ImageBatch, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Boxes for uint8 images [N, H, W, 3], or [N, H, W, 1], or a list of such of any size.

        One dict an image: `boxes` [n, 4] as x1, y1, x2, y2 in its pixels, `labels` [n] by name,
        `scores` [n], the surest first. ValueError for other types than uint8.
        """
        return [self._boxes(checked_image(image)) for image in images]

    def _boxes(self, image: np.ndarray) -> dict[str, Any]:
        prepared = prepare_image(image, self.spec.input)
        sizes = [(image.shape[0], image.shape[1])]
        detections = detect_all(
            self.network, prepared[None], self.spec.input, device=self.device, sizes=sizes
        )
        _, boxes = next(iter(detections))
        return {
            "boxes": boxes.boxes.numpy(),
            "labels": np.array(self.spec.classes)[boxes.labels.numpy()],
            "scores": boxes.scores.numpy(),
        }
