"""Predictions and evaluations in a notebook, and how many answers an adaptation has changed."""

from __future__ import annotations

import copy
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sfda.building_blocks.device import choose, to_device
from sfda.decision.evaluation import make_evaluator
from sfda.images.intensity_window import Picture
from sfda.inference.served import IMAGES_AT_ONCE, ServedModel
from sfda.loading.opened import manifest_ref, open_labelled, open_ref
from sfda.manifests.rows import Split, read_split
from sfda.notebook.images import ImagesLike, load_for, manifest_of
from sfda.notebook.models import LoadedModel, ModelLike
from sfda.refs import InputSpec, Report
from sfda.settings import DeviceName
from sfda.state_folder import temporary_state


def predict_images(
    model: ModelLike,
    images: ImagesLike,
    *,
    split: str = "adapt",
    device: DeviceName = "auto",
    head: str | None = None,
    classes: Sequence[str] | None = None,
    input: InputSpec | None = None,
) -> Any:
    """What a model says of images, as a registered version of it answers.

    Of classifiers a dict with `label` [N] by name, `confidence` [N], `probabilities` [N, C] and
    `classes` [C]; of the other problems what their pages say. Raises BadInput.
    """
    loaded = load_for(model, images, head, classes, input)
    with temporary_state(), tempfile.TemporaryDirectory(prefix="sfda-") as scratch:
        path = manifest_of(images, loaded, Path(scratch, "images"))
        rows = read_split(open_ref(manifest_ref(path)).unlabelled(), split)
        return _served(loaded, device).predict(list(_images(rows, loaded)))


def evaluate_images(
    model: ModelLike,
    images: ImagesLike,
    labels: Iterable[int] | None = None,
    *,
    split: str = "test",
    device: DeviceName = "auto",
    head: str | None = None,
    classes: Sequence[str] | None = None,
    input: InputSpec | None = None,
) -> Report:
    """Metrics of a model on labelled images: a manifest's split, or images with `labels`.

    Labels are numbers of the model's classes, one an image. Nothing else here sees labels. Raises
    BadInput.
    """
    loaded = load_for(model, images, head, classes, input)
    with temporary_state(), tempfile.TemporaryDirectory(prefix="sfda-") as scratch:
        path = manifest_of(images, loaded, Path(scratch, "images"), labels)
        opened = open_labelled(manifest_ref(path), split, loaded.spec)
        chosen = choose(device)
        evaluate = make_evaluator(opened, loaded.spec, chosen)
        return evaluate(to_device(copy.deepcopy(loaded.network), chosen), loaded.spec.reject)


def answer_digests(model: LoadedModel, rows: Split, device: DeviceName) -> list[bytes]:
    """A digest an image of what a model says of it.

    It is the same where labels and masks are equal and points lie in the same pixel; how sure the
    model is does not count.
    """
    return [hashlib.sha256(answer).digest() for answer in _every_answer(model, rows, device)]


def share_changed(before: Sequence[bytes], after: Sequence[bytes]) -> float:
    """Share of the images of which two models do not say the same, by their `answer_digests`."""
    different = [one != other for one, other in zip(before, after, strict=True)]
    return sum(different) / max(1, len(different))


def _every_answer(model: LoadedModel, rows: Split, device: DeviceName) -> Iterator[bytes]:
    """What a model says of each image, without how sure it is."""
    served, images, chunk = _served(model, device), _images(rows, model), list[Picture]()
    for image in images:
        chunk.append(image)
        if len(chunk) == IMAGES_AT_ONCE:
            yield from _answers(served.predict(chunk), len(chunk))
            chunk = []
    if chunk:
        yield from _answers(served.predict(chunk), len(chunk))


def _answers(predictions: Any, count: int) -> Iterator[bytes]:
    """The answers in what a served model gives for so many images."""
    for row in range(count):
        if isinstance(predictions, list):
            yield b"".join(sorted(_content(one) for one in predictions[row]["labels"]))
            continue
        names = [n for n in ("label", "labels", "mask", "keypoints") if n in predictions]
        if not names:
            raise TypeError(f"no answer among {sorted(predictions)}")
        yield b"".join(_content(predictions[name][row]) for name in names)


def _content(value: Any) -> bytes:
    """A value that is equal where the answer is the same."""
    array = np.asarray(value)
    if array.dtype.kind == "f":
        array = array.round().astype(np.int64)
    return f"{array.shape} {array.tolist()}".encode()


def _served(model: LoadedModel, device: DeviceName) -> ServedModel:
    """The model as it would be served, on a device of this machine."""
    return model.problem.served.of(copy.deepcopy(model.network), model.spec, choose(device))


def _images(rows: Split, model: LoadedModel) -> Iterator[Picture]:
    """The images of a split as they came, 8 bits each."""
    window = model.spec.input.window
    for row in range(len(rows)):
        yield rows.image(row, window) if window else rows.image(row)
