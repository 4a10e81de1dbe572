"""What a deployed multi-label classifier is loaded as."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sfda.images.preprocess import centre_crop, prepare_image, standardise
from sfda.inference.forward import infer
from sfda.inference.served import IMAGES_AT_ONCE, ServedModel, checked_image


class Served(ServedModel):
    """Images in, several classes each out."""

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Labels for uint8 images [N, H, W, 3], or [N, H, W, 1], or a list of such of any size.

        `labels` are N lists of names, the classes of 0.5 and above; `probabilities` [N, C] are
        independent, in the order of `classes` [C]. ValueError for other types than uint8.
        """
        probs = [
            self._probabilities(images[i : i + IMAGES_AT_ONCE])
            for i in range(0, len(images), IMAGES_AT_ONCE)
        ]
        every = np.concatenate(probs) if probs else np.zeros((0, len(self.spec.classes)))
        classes = np.array(self.spec.classes)
        return {
            "labels": [classes[row >= 0.5].tolist() for row in every],
            "probabilities": every,
            "classes": classes,
        }

    def _probabilities(self, images: Any) -> np.ndarray:
        prepared = [prepare_image(checked_image(image), self.spec.input) for image in images]
        batch = centre_crop(np.stack(prepared), self.spec.input.size)
        inputs = standardise(torch.from_numpy(np.array(batch)), self.spec.input, self.device)
        output = infer(self.network, inputs, self.device)
        probs: np.ndarray = output.logits.sigmoid().cpu().numpy()
        return probs
