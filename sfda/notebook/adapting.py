"""Adaptation in a notebook: one call, one result, in this process and without any server."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sfda.adaptation.plan import make_plan
from sfda.adaptation.run_folder import Epoch, best_epoch, read_history
from sfda.adaptation.worker import Order, adapt_network
from sfda.building_blocks.device import choose, resolve, to_device
from sfda.inference.over_split import infer_split
from sfda.inference.pseudo_labels import keep_pseudo_labels
from sfda.loading.opened import Opened, manifest_ref, open_unlabelled
from sfda.notebook.images import ImagesLike, load_for, manifest_of
from sfda.notebook.judging import share_changed
from sfda.notebook.models import LoadedModel, ModelLike
from sfda.refs import (
    Candidate,
    InputSpec,
    ManifestRef,
    MetricPoint,
    ModelRef,
    PredictionsRef,
    Scores,
    Views,
)
from sfda.settings import AdaptSettings, DeviceName, Schedule, seconds_of
from sfda.state_folder import temporary_state
from sfda.weights.bundle import read_verified, write_bundle
from sfda.weights.load import load_exactly


@dataclass(frozen=True)
class Adapted:
    """What an adaptation came to: the epoch that was chosen without labels, and how it went."""

    model: LoadedModel  # adapted; all functions for a notebook take it
    method: str
    epoch: int  # the chosen one, from 1
    selected_by: str  # the score that chose it, or "last"
    scores: Scores  # of the chosen epoch, without labels
    history: tuple[Epoch, ...]  # losses and scores of every epoch
    change: float  # share of the images whose answer differs from the source model's
    cut: str | None = None  # what a budget of time left out

    @property
    def network(self) -> nn.Module:
        """A copy of the adapted network, in the form in which the source was handed in."""
        return self.model.module

    def save(self, folder: str | Path) -> str:
        """Write a bundle, which `sfda` opens by its path; its digest. Raises BadInput."""
        return self.model.save(folder)


def adapt_model(
    model: ModelLike,
    images: ImagesLike,
    *,
    method: str | None = None,
    epochs: int | None = None,
    settings: Mapping[str, Any] | None = None,
    schedule: Schedule | None = None,
    views: Views | None = None,
    select_by: str | None = None,
    seed: int = 0,
    split: str = "adapt",
    device: DeviceName = "auto",
    workers: int = 0,
    budget: str | None = None,
    head: str | None = None,
    classes: Sequence[str] | None = None,
    input: InputSpec | None = None,
) -> Adapted:
    """Adapt a model to images without labels; the model itself stays as it is.

    The settings mean what they mean to `sfda adapt`: see `AdaptSettings`. `head`, `classes` and
    `input` are of a bare module, see `load_model`; without `input` it sees the images as they are,
    in [0, 1]. Labels that a data set or a manifest has are not looked at. The same seed gives the
    same numbers as `sfda adapt` on the same model and data. Raises BadInput.
    """
    asked = AdaptSettings.from_settings(
        {
            "method": method,
            "epochs": epochs,
            "settings": dict(settings) if settings else None,
            "schedule": schedule,
            "views": views,
            "select_by": select_by,
            "seed": seed,
            "split": split,
            "device": device,
            "workers": workers,
            "budget": budget,
        },
        "options",
    )
    loaded = load_for(model, images, head, classes, input)
    with temporary_state(), tempfile.TemporaryDirectory(prefix="sfda-") as scratch:
        target = manifest_ref(manifest_of(images, loaded, Path(scratch, "images")))
        with torch.random.fork_rng():
            return _adapt(loaded, target, asked, Path(scratch))


def compare_methods(
    model: ModelLike,
    images: ImagesLike,
    methods: Sequence[str],
    *,
    epochs: int | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    select_by: str | None = None,
    seed: int = 0,
    split: str = "adapt",
    device: DeviceName = "auto",
    head: str | None = None,
    classes: Sequence[str] | None = None,
    input: InputSpec | None = None,
) -> dict[str, Adapted]:
    """The same model adapted by several methods, by their names; `settings` are each one's own.

    What is worth most is for labels to tell, where there are some: see `evaluate_images`. Raises
    BadInput.
    """
    loaded = load_for(model, images, head, classes, input)
    with temporary_state():  # images are decoded once for all
        return {
            method: adapt_model(
                loaded,
                images,
                method=method,
                epochs=epochs,
                settings=(settings or {}).get(method),
                select_by=select_by,
                seed=seed,
                split=split,
                device=device,
            )
            for method in methods
        }


class _Silent:
    """The watch of a run that nobody else follows."""

    def shown(self) -> int:
        return -1

    def points(self, points: list[MetricPoint]) -> None:
        return

    def share(self, done: float) -> None:
        return


def _adapt(
    source: LoadedModel, target: ManifestRef, asked: AdaptSettings, scratch: Path
) -> Adapted:
    """The stages of `sfda adapt` up to the choice, one after the other."""
    bundle = source.folder or scratch / "source"
    if source.folder is None:
        write_bundle(bundle, source.network, source.spec)
    ref = ModelRef(
        uri=str(bundle),
        sha256=source.sha256,
        problem=source.spec.problem,
        arch=source.spec.arch,
        classes=source.spec.classes,
    )
    plan = make_plan(ref, target, asked, bundle=bundle)
    opened = open_unlabelled(target, plan.split, source.spec, seen=plan.seen)
    order = Order(
        source=ref,
        bundle=str(bundle),
        predictions=_predictions(source, opened, scratch / "predictions", asked.device),
        target=plan.on(target),
        stamps="",
        plan=plan,
        keep="best",
        folder=str(scratch / "run"),
        title=f"adapt with {plan.method}",
        device=resolve(asked.device),
        workers=asked.workers,
        budget=seconds_of(asked.budget),
        threads=torch.get_num_threads(),
    )
    result = adapt_network(copy.deepcopy(source.network), source.spec, opened, order, _Silent())
    history = read_history(Path(result.folder), result.history_sha256)
    chosen = result.candidates[best_epoch(history, plan.select_by)]
    adapted = _taken(source, chosen)
    return Adapted(
        model=adapted,
        method=plan.method,
        epoch=chosen.epoch + 1,
        selected_by=plan.select_by,
        scores=chosen.scores,
        history=tuple(epoch.model_copy(update={"weights": None}) for epoch in history),
        change=share_changed(source, adapted, opened.split, asked.device),
        cut=result.cut,
    )


def _predictions(
    source: LoadedModel, opened: Opened, folder: Path, device: DeviceName
) -> PredictionsRef:
    """What the source model says of all images."""
    chosen = choose(device)
    infer = partial(infer_split, opened=opened, spec=source.spec, device=chosen)
    return keep_pseudo_labels(
        infer,
        to_device(copy.deepcopy(source.network), chosen),
        source.spec,
        folder,
        size=len(opened.images),
        source_sha256=source.sha256,
    )


def _taken(source: LoadedModel, chosen: Candidate) -> LoadedModel:
    """The chosen epoch's weights in a network like the source."""
    tensors, spec = read_verified(Path(str(chosen.weights)), sha256=chosen.sha256)
    network = copy.deepcopy(source.network)
    load_exactly(network, tensors)
    return source.with_network(network.eval(), spec)
