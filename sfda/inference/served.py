"""What a registered model is loaded by: `mlflow.pyfunc` calls `_load_pyfunc` with the bundle."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from sfda.problems.registry import PROBLEMS, read_bundle
from sfda.refs import ModelSpec
from sfda.weights.bundle import read_spec

IMAGES_AT_ONCE = 64
ImageBatch = np.ndarray[Any, Any] | Sequence[np.ndarray[Any, Any]]
ServedAnswers = dict[str, Any] | list[dict[str, Any]]
"""Arrays and lists by name: of all images together, or of each."""


class ServedModel(ABC):
    """A network, on the GPU where there is one, with its own preprocessing."""

    def __init__(self, folder: Path) -> None:
        network, self.spec = read_bundle(folder)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.to(self.device)

    @classmethod
    def of(cls, network: nn.Module, spec: ModelSpec, device: torch.device) -> Self:
        """The same of a network in memory, which is put on the device in eval mode."""
        served = cls.__new__(cls)
        served.spec, served.device = spec, device
        served.network = network.to(device).eval()
        return served

    @abstractmethod
    def predict(self, images: ImageBatch, params: dict[str, Any] | None = None) -> ServedAnswers:
        """Answers for uint8 images [N, H, W, 3], or [N, H, W, 1], or a list of such of any size.

        ValueError for other types than uint8.
        """


def checked_image(image: object) -> np.ndarray:
    """One image, uint8 [H, W, 3] or [H, W]; ValueError for anything else."""
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise ValueError(f"images are uint8 [H, W, channels], not {pixels.dtype} {pixels.shape}")
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> ServedModel:
    """The model of a bundle; the name is MLflow's."""
    folder = Path(path)
    return PROBLEMS[read_spec(folder).problem].served(folder)
