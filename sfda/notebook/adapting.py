"""Adaptation in a notebook: one call, one result, in this process and without any server."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from sfda.adaptation.plan import AdaptPlan, make_plan
from sfda.adaptation.run_folder import Epoch, best_epoch, read_history
from sfda.adaptation.worker import Order, Unwatched, adapt_network
from sfda.building_blocks.device import choose, resolve, to_device
from sfda.inference.over_split import infer_split, read_parts, write_part
from sfda.inference.pseudo_labels import keep_pseudo_labels
from sfda.loading.opened import Opened, open_part
from sfda.loading.pool import HeldOut, pool_of
from sfda.notebook.images import ImagesLike, load_for, readable_images
from sfda.notebook.judging import share_changed
from sfda.notebook.models import LoadedModel, ModelLike, bundle_ref
from sfda.notebook.profiling import profile_of_opened, usual_settings
from sfda.profiling.findings import TargetProfile
from sfda.profiling.target import followed
from sfda.refs import (
    Candidate,
    InputSpec,
    ManifestRef,
    ModelRef,
    PredictionsRef,
    Scores,
    Views,
)
from sfda.settings import AdaptSettings, DeviceName, Prior, Schedule, seconds_of
from sfda.state_folder import temporary_state
from sfda.weights.bundle import read_verified
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
    change: float  # share of the answers to the pool that differ from the source model's
    cut: str | None = None  # what a budget of time left out
    pool: str = ""  # what the pool is, where the adaptation has seen it
    profile: TargetProfile | None = None  # of the images, before; "auto" follows it
    skipped: tuple[str, ...] = ()  # images that cannot be read and were left out, each with why

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
    prior: Prior | None = None,
    seed: int = 0,
    split: str = "adapt",
    device: DeviceName = "auto",
    workers: int = 0,
    budget: str | None = None,
    skip_unreadable: float | None = None,
    head: str | None = None,
    classes: Sequence[str] | None = None,
    input: InputSpec | None = None,
) -> Adapted:
    """Adapt a model to images without labels; the model itself stays as it is.

    The settings mean what they mean to `sfda adapt`: see `AdaptSettings`. `head`, `classes` and
    `input` are of a bare module, see `load_model`; without `input` it sees the images as they are,
    in [0, 1]. Labels that a data set or a manifest has are not looked at. The same seed gives the
    same numbers as `sfda adapt` on the same model and data. The method "auto" follows the profile
    of the images, see `profile_images`. Raises BadInput.
    """
    asked = AdaptSettings.from_settings(
        {
            "method": method,
            "epochs": epochs,
            "settings": dict(settings) if settings else None,
            "schedule": schedule,
            "views": views,
            "select_by": select_by,
            "prior": prior,
            "seed": seed,
            "split": split,
            "device": device,
            "workers": workers,
            "budget": budget,
            "skip_unreadable": skip_unreadable,
        },
        "options",
    )
    loaded = load_for(model, images, head, classes, input)
    return _adapt_by_each(loaded, images, [asked])[0]


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
    skip_unreadable: float | None = None,
    head: str | None = None,
    classes: Sequence[str] | None = None,
    input: InputSpec | None = None,
) -> dict[str, Adapted]:
    """The same model adapted by several methods, by their names; `settings` are each one's own.

    What is worth most is for labels to tell, where there are some: see `evaluate_images`. Raises
    BadInput.
    """
    asked = {
        method: AdaptSettings.from_settings(
            {
                "method": method,
                "epochs": epochs,
                "settings": dict(own) if (own := (settings or {}).get(method)) else None,
                "select_by": select_by,
                "seed": seed,
                "split": split,
                "device": device,
                "skip_unreadable": skip_unreadable,
            },
            "options",
        )
        for method in methods
    }
    loaded = load_for(model, images, head, classes, input)
    results = _adapt_by_each(loaded, images, list(asked.values())) if asked else []
    return dict(zip(asked, results, strict=True))


class _Prepared(NamedTuple):
    """A source and a target that are ready for any method."""

    source: LoadedModel
    ref: ModelRef
    target: ManifestRef
    opened: Opened  # what is learnt from
    predictions: PredictionsRef
    pool: HeldOut
    judged: Opened  # the pool
    outputs: Path  # file of what the source makes of the pool
    folder: Path
    skipped: tuple[str, ...]  # images that cannot be read


def _adapt_by_each(
    source: LoadedModel, images: ImagesLike, asked: Sequence[AdaptSettings]
) -> list[Adapted]:
    """What each of these comes to, all of one split on one device. Images are decoded, and the
    source looks at them, once; before that it is seen that all can be done.
    """
    split, device = asked[0].split, asked[0].device
    with (
        temporary_state(),
        tempfile.TemporaryDirectory(prefix="sfda-") as folder,
        torch.random.fork_rng(),
    ):
        scratch = Path(folder)
        target, skipped = readable_images(
            images, source, scratch / "images", (split, "test"), asked[0].skip_unreadable
        )
        ref = bundle_ref(source, scratch / "source")
        usual = [usual_settings(ref, target, one) for one in asked]
        plans = [make_plan(ref, target, one, bundle=Path(ref.uri)) for one in usual]
        part, pool = plans[0].on(target), pool_of(target, split)
        opened, outputs = open_part(part, source.spec), scratch / "outputs.npz"
        predictions = _predictions(source, ref, opened, outputs, device)
        judged = opened
        if pool.part != part:
            judged, outputs = open_part(pool.part, source.spec), scratch / "pool.npz"
            _keep_outputs(source, judged, outputs, device)
        ready = _Prepared(
            source, ref, target, opened, predictions, pool, judged, outputs, scratch, skipped
        )
        return [_profiled(ready, one, plan) for one, plan in zip(asked, plans, strict=True)]


def _profiled(ready: _Prepared, asked: AdaptSettings, plan: AdaptPlan) -> Adapted:
    """The target's profile first; what is asked for as `auto` follows it."""
    profile = profile_of_opened(
        ready.source, plan.on(ready.target), ready.opened, ready.predictions.profile, asked
    )
    advised = followed(asked, profile.recommendation)
    if advised is not asked:
        plan = make_plan(ready.ref, ready.target, advised, bundle=Path(ready.ref.uri))
    return replace(_adapt(ready, advised, plan), profile=profile)


def _adapt(ready: _Prepared, asked: AdaptSettings, plan: AdaptPlan) -> Adapted:
    """The stages of `sfda adapt` from the loop up to the choice, one after the other."""
    source, opened = ready.source, ready.opened
    with tempfile.TemporaryDirectory(dir=ready.folder) as folder:
        order = Order(
            source=ready.ref,
            bundle=ready.ref.uri,
            predictions=ready.predictions,
            target=plan.on(ready.target),
            stamps="",
            plan=plan,
            keep="best",
            folder=folder,
            title=f"adapt with {plan.method}",
            device=resolve(asked.device),
            workers=asked.workers,
            budget=seconds_of(asked.budget),
            threads=torch.get_num_threads(),
        )
        result = adapt_network(
            copy.deepcopy(source.network), source.spec, opened, order, Unwatched()
        )
        history = read_history(Path(result.folder), result.history_sha256)
        best = best_epoch(history, plan.select_by)
        chosen = None if best is None else result.candidates[best]
        adapted = source if chosen is None else _taken(source, chosen)
    return Adapted(
        model=adapted,
        method=plan.method,
        epoch=0 if chosen is None else chosen.epoch + 1,
        selected_by=plan.select_by,
        scores={} if chosen is None else chosen.scores,
        history=tuple(epoch.model_copy(update={"weights": None}) for epoch in history),
        change=share_changed(source, ready.outputs, adapted, ready.judged, asked.device),
        cut=result.warning,
        pool=ready.pool.says,
        skipped=ready.skipped,
    )


def _predictions(
    source: LoadedModel, ref: ModelRef, opened: Opened, outputs: Path, device: DeviceName
) -> PredictionsRef:
    """What the source model says of all images; its outputs go into the file `outputs`."""
    chosen, spec = choose(device), source.spec
    network = _keep_outputs(source, opened, outputs, device)
    return keep_pseudo_labels(
        lambda network: read_parts([outputs], spec.problem, chosen),
        network,
        spec,
        outputs.with_name("predictions"),
        size=len(opened.images),
        source_sha256=ref.sha256,
    )


def _keep_outputs(source: LoadedModel, opened: Opened, file: Path, device: DeviceName) -> nn.Module:
    """Keep what the source makes of images in a file; its network, on the device."""
    chosen, spec = choose(device), source.spec
    network = to_device(copy.deepcopy(source.network), chosen)
    write_part(file, infer_split(network, opened, spec, chosen), spec.problem)
    return network


def _taken(source: LoadedModel, chosen: Candidate) -> LoadedModel:
    """The chosen epoch's weights in a network like the source."""
    tensors, spec = read_verified(Path(str(chosen.weights)), sha256=chosen.sha256)
    network = source.problem.in_form_of(copy.deepcopy(source.network), spec)
    load_exactly(network, tensors)
    return source.with_network(network.eval(), spec)
