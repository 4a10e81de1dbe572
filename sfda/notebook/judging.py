"""Predictions and evaluations in a notebook, and how many answers an adaptation has changed."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sfda.building_blocks.device import choose, to_device
from sfda.decision.change import scan_change
from sfda.decision.evaluation import make_evaluator
from sfda.images.intensity_window import Picture
from sfda.inference.over_split import read_parts
from sfda.inference.served import ServedModel
from sfda.loading.opened import Opened, manifest_ref, open_labelled, open_ref
from sfda.manifests.rows import Split, read_split
from sfda.notebook.images import ImagesLike, load_for, manifest_of, readable_images
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
    `classes` [C]; of the other problems what their pages say. There is an answer for every image,
    in order, so one that cannot be read ends the call. Raises BadInput.
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
    skip_unreadable: float | None = None,
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
        folder = Path(scratch, "images")
        target, _ = readable_images(images, loaded, folder, [split], skip_unreadable, labels)
        opened = open_labelled(target, split, loaded.spec)
        chosen = choose(device)
        evaluate = make_evaluator(opened, loaded.spec, chosen)
        return evaluate(to_device(copy.deepcopy(loaded.network), chosen), loaded.spec.reject)


def share_changed(
    source: LoadedModel, outputs: Path, adapted: LoadedModel, opened: Opened, device: DeviceName
) -> float:
    """Share of the answers in which two models differ, as a report counts them: images, pixels,
    boxes ... `outputs` is a file that `write_part` wrote of the source's outputs for all images.
    """
    chosen = choose(device)
    change = scan_change(
        source.network,
        to_device(copy.deepcopy(adapted.network), chosen),
        opened,
        source.spec,
        adapted.spec,
        chosen,
        infer_a=lambda network: read_parts([outputs], source.spec.problem, chosen),
    )
    return change.report.share


def _served(model: LoadedModel, device: DeviceName) -> ServedModel:
    """The model as it would be served, on a device of this machine."""
    return model.problem.served.of(copy.deepcopy(model.network), model.spec, choose(device))


def _images(rows: Split, model: LoadedModel) -> Iterator[Picture]:
    """The images of a split as they came, 8 bits each."""
    window = model.spec.input.window
    for row in range(len(rows)):
        yield rows.image(row, window) if window else rows.image(row)
