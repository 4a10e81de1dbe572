"""What a deployed multi-label classifier is loaded as."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from sfda.inference.served import ImageBatch
from sfda.problems.classification.served import ClassesServed


class Served(ClassesServed):
    """Images in, several classes each out."""

    def activated(self, logits: Tensor) -> Tensor:
        """By sigmoid: each on its own."""
        return logits.sigmoid()

    def predict(self, images: ImageBatch, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Labels for uint8 images [N, H, W, 3], or [N, H, W, 1], or a list of such of any size.

        `labels` are N lists of names, the classes of 0.5 and above; `probabilities` [N, C] are
        independent, in the order of `classes` [C]. ValueError for other types than uint8.
        """
        every = self.probabilities(images)
        classes = np.array(self.spec.classes)
        return {
            "labels": [classes[row >= 0.5].tolist() for row in every],
            "probabilities": every,
            "classes": classes,
        }
