"""What a deployed classifier is loaded as."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfda.building_blocks.rejection import UNKNOWN_NAME, predicted_labels
from sfda.images.preprocess import centre_crop, prepare_image, standardise
from sfda.inference.forward import infer
from sfda.inference.served import IMAGES_AT_ONCE, ImageBatch, ServedModel, checked_image


class ClassesServed(ServedModel):
    """What deployed classifiers share: a probability a class of each image."""

    def activated(self, logits: Tensor) -> Tensor:
        """Probabilities [N, C] of logits."""
        raise NotImplementedError

    def probabilities(self, images: ImageBatch) -> np.ndarray:
        """[N, C] for images as `predict` takes them, in batches of `IMAGES_AT_ONCE`."""
        probs = [
            self._probabilities(images[i : i + IMAGES_AT_ONCE])
            for i in range(0, len(images), IMAGES_AT_ONCE)
        ]
        return np.concatenate(probs) if probs else np.zeros((0, len(self.spec.classes)))

    def _probabilities(self, images: ImageBatch) -> np.ndarray:
        prepared = [prepare_image(checked_image(image), self.spec.input) for image in images]
        batch = centre_crop(np.stack(prepared), self.spec.input.size)
        inputs = standardise(torch.from_numpy(np.array(batch)), self.spec.input, self.device)
        output = infer(self.network, inputs, self.device)
        probs: np.ndarray = self.activated(output.logits).cpu().numpy()
        return probs


class Served(ClassesServed):
    """Images in, classes out."""

    def activated(self, logits: Tensor) -> Tensor:
        """By softmax: they sum to 1."""
        return logits.softmax(1)

    def predict(self, images: ImageBatch, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Labels for uint8 images [N, H, W, 3], or [N, H, W, 1], or a list of such of any size.

        `label` [N] names the class, or is "unknown" where the model rejects; `confidence` [N] is
        the likeliest class's probability, `probabilities` [N, C] are in the order of `classes` [C].
        ValueError for other types than uint8.
        """
        every = self.probabilities(images)
        classes = np.array(self.spec.classes)
        labels = predicted_labels(torch.from_numpy(every), self.spec.reject).numpy()
        return {
            "label": np.array((*self.spec.classes, UNKNOWN_NAME))[
                labels
            ],  # UNKNOWN is -1, the last
            "confidence": every.max(1) if len(every) else every[:, 0],
            "probabilities": every,
            "classes": classes,
        }
