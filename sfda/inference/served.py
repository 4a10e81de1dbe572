"""What a registered model is loaded by: `mlflow.pyfunc` calls `_load_pyfunc` with the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfda.building_blocks.rejection import UNKNOWN_NAME, predicted_labels
from sfda.images.crops import cut, square
from sfda.images.preprocess import centre_crop, prepare_image, standardise
from sfda.inference.detection import detect_all
from sfda.inference.forward import infer
from sfda.inference.pose import Pose, pose_all
from sfda.inference.segmentation import segment
from sfda.problems.registry import read_bundle
from sfda.weights.bundle import read_spec

IMAGES_AT_ONCE = 64


class ServedModel:
    """A network, on the GPU where there is one, with its own preprocessing."""

    def __init__(self, folder: Path) -> None:
        network, self.spec = read_bundle(folder)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.to(self.device)


class ClassifierModel(ServedModel):
    """Images in, classes out."""

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Labels for uint8 images [N, H, W, 3], or [N, H, W, 1], or a list of such of any size.

        `label` [N] names the class, or is "unknown" where the model rejects; `confidence` [N] is
        the likeliest class's probability, `probabilities` [N, C] are in the order of `classes` [C].
        ValueError for other types than uint8.
        """
        probs = [
            self._probabilities(images[i : i + IMAGES_AT_ONCE])
            for i in range(0, len(images), IMAGES_AT_ONCE)
        ]
        every = np.concatenate(probs) if probs else np.zeros((0, len(self.spec.classes)))
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

    def _probabilities(self, images: Any) -> np.ndarray:
        prepared = [prepare_image(_checked(image), self.spec.input) for image in images]
        batch = centre_crop(np.stack(prepared), self.spec.input.size)
        inputs = standardise(torch.from_numpy(np.array(batch)), self.spec.input, self.device)
        output = infer(self.network, inputs, self.device)
        probs: np.ndarray = output.logits.softmax(1).cpu().numpy()
        return probs


class SegmenterModel(ServedModel):
    """Images in, masks out."""

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Masks for uint8 images [N, H, W, 3], or [N, H, W, 1], or a list of such of any size.

        `mask` are uint8 indices into `classes` [C], of each image's own size: [N, H, W], or a list
        where images came as one; `confidence` [N] is the mean probability of what was predicted.
        ValueError for other types than uint8.
        """
        predicted = [self._mask(_checked(image)) for image in images]
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


class DetectorModel(ServedModel):
    """Images in, boxes out."""

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Boxes for uint8 images [N, H, W, 3], or [N, H, W, 1], or a list of such of any size.

        One dict an image: `boxes` [n, 4] as x1, y1, x2, y2 in its pixels, `labels` [n] by name,
        `scores` [n], the surest first. ValueError for other types than uint8.
        """
        return [self._boxes(_checked(image)) for image in images]

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


class PoseModel(ServedModel):
    """Crops of persons in, joints out."""

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Joints for uint8 images [N, H, W, 3], or a list of such of any size: a person each.

        `keypoints` [N, K, 2] as (x, y) in pixels of the images, `scores` [N, K], the heights of the
        heatmaps' peaks, `joints` [K] by name. An image that is not square is padded with black to
        one around its middle. ValueError for other types than uint8.
        """
        poses = [self._pose(_checked(image)) for image in images]
        count = len(self.spec.classes)
        return {
            "keypoints": np.stack([p.joints for p in poses]) if poses else np.zeros((0, count, 2)),
            "scores": np.stack([p.scores for p in poses]) if poses else np.zeros((0, count)),
            "joints": np.array(self.spec.classes),
        }

    def _pose(self, image: np.ndarray) -> Pose:
        crop = square((0.0, 0.0, float(image.shape[1]), float(image.shape[0])), 1.0)
        prepared = prepare_image(cut(image, crop), self.spec.input)
        poses = pose_all(self.network, prepared[None], self.spec.input, [crop], device=self.device)
        return next(iter(poses))[1]


SERVED_MODELS = {"segmentation": SegmenterModel, "detection": DetectorModel, "pose": PoseModel}


def _checked(image: Any) -> np.ndarray:
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise ValueError(f"images are uint8 [H, W, channels], not {pixels.dtype} {pixels.shape}")
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> ServedModel:
    """The model of a bundle; the name is MLflow's."""
    folder = Path(path)
    return SERVED_MODELS.get(read_spec(folder).problem, ClassifierModel)(folder)
