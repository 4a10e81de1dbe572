"""Images for a notebook: a tensor, a folder, a data set or a manifest, all as a manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from sfda.adaptation.target import as_manifest
from sfda.errors import BadInput
from sfda.loading.opened import manifest_ref, open_ref
from sfda.loading.unreadable import ReadableRows, leave_unreadable
from sfda.notebook.models import LoadedModel, ModelLike, load_model
from sfda.refs import InputSpec

Pixels8 = np.ndarray[Any, np.dtype[np.uint8]]
ImagesLike = torch.Tensor | Dataset[Any] | np.ndarray[Any, Any] | str | Path
"""Images [N, C, H, W], float in [0, 1] or uint8; a data set; a folder; or a manifest."""
_MANIFESTS = (".yaml", ".yml")


def manifest_of(
    images: ImagesLike, model: LoadedModel, folder: Path, labels: Iterable[int] | None = None
) -> str:
    """The path of a manifest of these images, whose files lie in `folder` where there are none yet.

    Of what a data set yields the image alone is looked at: it stands first in a tuple or list.
    `labels` are numbers of the model's classes, for an evaluation. Raises BadInput.
    """
    if isinstance(images, str | Path):
        path = Path(images)
        if not path.exists() or not (path.is_dir() or path.suffix.lower() in _MANIFESTS):
            raise BadInput(f"{path} is neither a folder of images nor a manifest (.yaml)")
        if labels is not None:
            raise BadInput("labels of a folder or manifest stand in the manifest itself")
        return as_manifest(str(path), lambda: model.spec.problem)
    pixels = list(_each(images))
    if not pixels:
        raise BadInput("there is no image to look at")
    if len({image.shape for image in pixels}) > 1:
        if labels is not None:
            raise BadInput("images of several sizes and their labels need a manifest")
        return as_manifest(str(_as_files(pixels, folder)), lambda: model.spec.problem)
    return str(_as_array(np.stack(pixels), model, folder, labels))


def readable_images(
    images: ImagesLike,
    model: LoadedModel,
    folder: Path,
    splits: Sequence[str],
    share: float | None,
    labels: Iterable[int] | None = None,
) -> ReadableRows:
    """The same without what cannot be read of these splits, at most a `share` of a split; by
    default as `sfda adapt` does. Raises BadInput.
    """
    ref = manifest_ref(manifest_of(images, model, folder, labels))
    if open_ref(ref).problem != model.spec.problem:  # told where the images are opened
        return ReadableRows(ref, ())
    stated = str(images) if isinstance(images, str | Path) else None
    return leave_unreadable(
        ref, splits, model.spec.input, share=share, stated=stated, option="skip_unreadable="
    )


def load_for(
    model: ModelLike,
    images: ImagesLike,
    head: str | None,
    classes: Sequence[str] | None,
    input: InputSpec | None,
) -> LoadedModel:
    """A model, of which the images tell the input where nothing else does."""
    if isinstance(model, nn.Module) and input is None:
        input = usual_input(images)
    return load_model(model, head=head, classes=classes, input=input)


def usual_input(images: ImagesLike) -> InputSpec | None:
    """Images as they are, in [0, 1]: what is meant where nothing is stated of a module's input.

    None where the first image does not tell it for all.
    """
    if isinstance(images, str | Path):
        return None
    first = next(_each(images), None)
    if first is None:
        raise BadInput("there is no image to look at")
    depth = 1 if first.ndim == 2 else 3
    return InputSpec(
        size=(first.shape[0], first.shape[1]),
        channels="gray" if depth == 1 else "rgb",
        mean=(0.0,) * depth,
        std=(1.0,) * depth,
    )


def _each(images: torch.Tensor | Dataset[Any] | np.ndarray[Any, Any]) -> Iterator[Pixels8]:
    """Each image, uint8 [H, W, 3] or [H, W]."""
    if isinstance(images, torch.Tensor | np.ndarray):
        if images.ndim != 4:
            raise BadInput(f"images are [N, channels, height, width], not {tuple(images.shape)}")
        yield from (_pixels(image) for image in images)
        return
    if not isinstance(images, Dataset):
        raise BadInput(
            f"{type(images).__name__} is no set of images; hand a tensor [N, C, H, W], a "
            "torch.utils.data.Dataset, a folder or a manifest"
        )
    for item in _items(images):
        # what follows the image, a label most of all, is not even looked at
        yield _pixels(item[0] if isinstance(item, tuple | list) else item)


def _items(images: Any) -> Iterator[Any]:
    """What a data set yields, in order: by its numbers, or one after the other."""
    if hasattr(images, "__len__"):
        return (images[number] for number in range(len(images)))
    return iter(images)


def _pixels(image: object) -> Pixels8:
    """One image as uint8 [H, W, 3] or [H, W]. Raises BadInput."""
    if isinstance(image, Image.Image):
        return np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    values = torch.as_tensor(image).detach().cpu()
    if values.ndim != 3 or values.shape[0] not in (1, 3):
        raise BadInput(
            f"an image is [channels, height, width] with 1 or 3 channels, not {tuple(values.shape)}"
        )
    if values.is_floating_point():
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise BadInput(
                "float images lie in [0, 1]; leave out their standardisation and state it by "
                "input=sfda.InputSpec(mean=..., std=...)"
            )
        values = (values.float() * 255).round().to(torch.uint8)
    if values.dtype != torch.uint8:
        raise BadInput(f"images are float in [0, 1] or uint8, not {values.dtype}")
    pixels: Pixels8 = values.permute(1, 2, 0).contiguous().numpy()
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def _as_files(pixels: list[Pixels8], folder: Path) -> Path:
    """A folder of image files, in the order of their names."""
    folder.mkdir(parents=True)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number:08d}.png")
    return folder


def _as_array(
    pixels: Pixels8, model: LoadedModel, folder: Path, labels: Iterable[int] | None
) -> Path:
    """One file of all images, and the manifest beside it."""
    folder.mkdir(parents=True)
    arrays: dict[str, Any] = {"x": pixels}
    names = {"image": "x"}
    if labels is not None:
        arrays["y"], names["label"] = _numbers(labels, len(pixels), model.spec.classes), "y"
    np.savez(folder / "images.npz", **arrays)
    digest = hashlib.sha256((folder / "images.npz").read_bytes()).hexdigest()
    document: dict[str, Any] = {
        "name": "images",
        "problem": model.spec.problem,
        "origin": "handed over in memory",
        "root": ".",
        "archive": {"file": "images.npz", "sha256": digest},
        "arrays": names,
        "splits": {"test" if labels is not None else "adapt": {"count": len(pixels)}},
    }
    if labels is not None:
        document["classes"] = list(model.spec.classes)
    (folder / "images.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return folder / "images.yaml"


def _numbers(
    labels: Iterable[int], size: int, classes: tuple[str, ...]
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Labels as numbers of the model's classes. Raises BadInput."""
    numbers = np.array([int(label) for label in labels], dtype=np.int64)
    if len(numbers) != size:
        raise BadInput(f"{size} images but {len(numbers)} labels")
    if numbers.min() < 0 or numbers.max() >= len(classes):
        raise BadInput(f"labels are numbers of the model's classes, 0 to {len(classes) - 1}")
    return numbers
