"""What a deployed segmenter is loaded as."""

from __future__ import annotations

from typing import Any

import numpy as np

from sfda.images.preprocess import prepare_image
from sfda.inference.served import ImageBatch, ServedModel, checked_image
from sfda.problems.segmentation.segment import segment


class Served(ServedModel):
    """Images in, masks out."""

    def predict(self, images: ImageBatch, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Masks for uint8 images [N, H, W, 3], or [N, H, W, 1], or a list of such of any size.

        `mask` are uint8 indices into `classes` [C], of each image's own size: [N, H, W], or a list
        where images came as one; `confidence` [N] is the mean probability of what was predicted.
        ValueError for other types than uint8.
        """
        predicted = [self._mask(checked_image(image)) for image in images]
        masks: Any = [mask for mask, _ in predicted]
        return {
            "mask": masks if isinstance(images, list) or not masks else np.stack(masks),
            "confidence": np.array([float(sure.mean()) / 255 for _, sure in predicted]),
            "classes": np.array(self.spec.classes),
        }

    def _mask(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        prepared = prepare_image(image, self.spec.input)
        size = (image.shape[0], image.shape[1])
        return segment(self.network, prepared, self.spec.input, device=self.device, out_size=size)
