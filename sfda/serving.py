"""What a registered model is loaded by: `mlflow.pyfunc` calls `_load_pyfunc` with the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfda.data.bundle import read_bundle
from sfda.data.decode import prepare
from sfda.data.inputs import answer, centre_crop, standardise
from sfda.rejection import NAME, answers

BATCH = 64


class ClassifierModel:
    """Images in, classes out; the preprocessing is the model's own."""

    def __init__(self, folder: Path) -> None:
        network, self.spec = read_bundle(folder)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.to(self.device)

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Answers for uint8 images [N, H, W, 3], or [N, H, W, 1], or a list of such of any size.

        `label` [N] names the class, or is "unknown" where the model rejects; `confidence` [N] is
        the likeliest class's probability, `probabilities` [N, C] are in the order of `classes` [C].
        ValueError for other types than uint8.
        """
        probs = [self._probabilities(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        found = np.concatenate(probs) if probs else np.zeros((0, len(self.spec.classes)))
        classes = np.array(self.spec.classes)
        given = answers(torch.from_numpy(found), self.spec.reject).numpy()
        return {
            "label": np.array((*self.spec.classes, NAME))[given],  # UNKNOWN is -1, the last
            "confidence": found.max(1) if len(found) else found[:, 0],
            "probabilities": found,
            "classes": classes,
        }

    def _probabilities(self, images: Any) -> np.ndarray:
        prepared = [prepare(_checked(image), self.spec.input) for image in images]
        batch = centre_crop(np.stack(prepared), self.spec.input.size)
        inputs = standardise(torch.from_numpy(np.array(batch)), self.spec.input, self.device)
        output = answer(self.network, inputs, self.device)
        found: np.ndarray = output.logits.softmax(1).cpu().numpy()
        return found


def _checked(image: Any) -> np.ndarray:
    found = np.asarray(image)
    if found.dtype != np.uint8 or found.ndim not in (2, 3):
        raise ValueError(f"images are uint8 [H, W, channels], not {found.dtype} {found.shape}")
    return found[..., 0] if found.ndim == 3 and found.shape[-1] == 1 else found


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> ClassifierModel:
    """The model of a bundle; the name is MLflow's."""
    return ClassifierModel(Path(path))
