"""What a registered model is loaded by: `mlflow.pyfunc` calls `_load_pyfunc` with the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfda.building_blocks.rejection import NAME, answers
from sfda.images.crops import cut, square
from sfda.images.preprocess import answer, centre_crop, prepare, standardise
from sfda.inference.detection import detect_all
from sfda.inference.pose import Pose, pose_all
from sfda.inference.segmentation import segment
from sfda.problems.registry import read_bundle
from sfda.weights.bundle import read_spec

BATCH = 64


class Model:
    """A network, on the GPU where there is one, with its own preprocessing."""

    def __init__(self, folder: Path) -> None:
        network, self.spec = read_bundle(folder)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.to(self.device)


class ClassifierModel(Model):
    """Images in, classes out."""

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


class SegmenterModel(Model):
    """Images in, masks out."""

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Masks for uint8 images [N, H, W, 3], or [N, H, W, 1], or a list of such of any size.

        `mask` are uint8 indices into `classes` [C], of each image's own size: [N, H, W], or a list
        where images came as one; `confidence` [N] is the mean probability of what was answered.
        ValueError for other types than uint8.
        """
        found = [self._mask(_checked(image)) for image in images]
        masks: Any = [mask for mask, _ in found]
        return {
            "mask": masks if isinstance(images, list) or not masks else np.stack(masks),
            "confidence": np.array([float(sure.mean()) / 255 for _, sure in found]),
            "classes": np.array(self.spec.classes),
        }

    def _mask(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        prepared = prepare(image, self.spec.input)
        size = (image.shape[0], image.shape[1])
        return segment(self.network, prepared, self.spec.input, device=self.device, out_size=size)


class DetectorModel(Model):
    """Images in, boxes out."""

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Boxes for uint8 images [N, H, W, 3], or [N, H, W, 1], or a list of such of any size.

        One dict an image: `boxes` [n, 4] as x1, y1, x2, y2 in its pixels, `labels` [n] by name,
        `scores` [n], the surest first. ValueError for other types than uint8.
        """
        return [self._found(_checked(image)) for image in images]

    def _found(self, image: np.ndarray) -> dict[str, Any]:
        prepared = prepare(image, self.spec.input)
        sizes = [(image.shape[0], image.shape[1])]
        look = detect_all(
            self.network, prepared[None], self.spec.input, device=self.device, sizes=sizes
        )
        _, found = next(iter(look))
        return {
            "boxes": found.boxes.numpy(),
            "labels": np.array(self.spec.classes)[found.labels.numpy()],
            "scores": found.scores.numpy(),
        }


class PoseModel(Model):
    """Crops of persons in, joints out."""

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Joints for uint8 images [N, H, W, 3], or a list of such of any size: a person each.

        `keypoints` [N, K, 2] as (x, y) in pixels of the images, `scores` [N, K], the heights of the
        heatmaps' peaks, `joints` [K] by name. An image that is not square is padded with black to
        one around its middle. ValueError for other types than uint8.
        """
        found = [self._found(_checked(image)) for image in images]
        count = len(self.spec.classes)
        return {
            "keypoints": np.stack([p.joints for p in found]) if found else np.zeros((0, count, 2)),
            "scores": np.stack([p.scores for p in found]) if found else np.zeros((0, count)),
            "joints": np.array(self.spec.classes),
        }

    def _found(self, image: np.ndarray) -> Pose:
        crop = square((0.0, 0.0, float(image.shape[1]), float(image.shape[0])), 1.0)
        prepared = prepare(cut(image, crop), self.spec.input)
        look = pose_all(self.network, prepared[None], self.spec.input, [crop], device=self.device)
        return next(iter(look))[1]


MODELS = {"segmentation": SegmenterModel, "detection": DetectorModel, "pose": PoseModel}


def _checked(image: Any) -> np.ndarray:
    found = np.asarray(image)
    if found.dtype != np.uint8 or found.ndim not in (2, 3):
        raise ValueError(f"images are uint8 [H, W, channels], not {found.dtype} {found.shape}")
    return found[..., 0] if found.ndim == 3 and found.shape[-1] == 1 else found


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> Model:
    """The model of a bundle; the name is MLflow's."""
    folder = Path(path)
    return MODELS.get(read_spec(folder).problem, ClassifierModel)(folder)
