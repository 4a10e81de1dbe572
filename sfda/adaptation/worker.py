"""The work of the adapting stage, with all that it needs in hand: it asks no server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from sfda import plugins
from sfda.adaptation.plan import AdaptPlan, settings_for, validators_for
from sfda.adaptation.run_folder import Training, Watch
from sfda.building_blocks.device import DeviceName, choose, place
from sfda.config import Config
from sfda.decision.evaluation import Judged, judge
from sfda.inference.predictions import replaying, verify_predictions
from sfda.loading import opened as manifests
from sfda.loading.batches import TargetLoader
from sfda.loading.labelled_batches import beside
from sfda.loading.labelled_rows import answered_rows
from sfda.loading.scan import scan, scan_views
from sfda.methods._base import Method
from sfda.problems.registry import read_bundle
from sfda.refs import Adaptation, ManifestRef, ModelRef, PredictionsRef, Views
from sfda.types import SeenViews


class Order(Config):
    """All that fixes one adaptation, by value or by local path."""

    source: ModelRef
    bundle: str  # the source's folder
    predictions: PredictionsRef
    target: ManifestRef
    plan: AdaptPlan
    keep: Literal["best", "all"]
    folder: str  # for state, history and weights
    title: str
    device: DeviceName
    workers: int
    budget: float | None
    threads: int  # of torch on the processor


def work(order: Order, watch: Watch) -> Adaptation:
    """Adapt, one candidate an epoch, each scored without labels. Raises BadInput."""
    torch.set_num_threads(order.threads)
    plan, problem, folder = order.plan, order.source.problem, Path(order.folder)
    chosen = choose(order.device)
    settings = settings_for(plan.method, problem, plan.config)
    network, spec = read_bundle(Path(order.bundle), sha256=order.source.sha256)
    verify_predictions(order.predictions)
    manifest = manifests.open_ref(order.target).unlabelled()
    opened = manifests.open_split(manifest, plan.split, spec.input)
    views = plan.views or spec.views
    kind: type[Method] = plugins.load("methods", plan.method)
    torch.manual_seed(plan.seed)
    info = opened.info(plan.regime, order.source, plan.source_ratios, whole=not spec.input.tiled)
    given = None
    if plan.answers:
        given = answered_rows(
            opened, spec, views, folder / "answers", seed=plan.seed, device=chosen
        )
    if given is not None:
        info = replace(info, labelled=torch.from_numpy(given.rows).to(chosen))
    algorithm = kind(network, info, settings)
    place(algorithm, chosen)
    look = scan(opened.images, spec.input, device=chosen)
    training = Training(
        folder=folder,
        method=algorithm,
        spec=spec,
        batches=beside(
            TargetLoader(
                opened.images,
                spec.input,
                views,
                strong=kind.views != "none",
                batch_size=settings.schedule.batch_size,
                drop_last=settings.schedule.drop_last,
                seed=plan.seed,
                device=chosen,
                workers=order.workers,
                smallest=1 if problem == "detection" else 2,  # its batch norm never learns
                geometric=problem == "pose" and kind.views != "none",
                shown=problem == "segmentation",
            ),
            given,
            algorithm,
            settings.schedule.batch_size,
        ),
        scan=replaying(look, order.predictions, spec) if problem == "classification" else look,
        schedule=settings.schedule,
        seed=plan.seed,
        judge=_judge(
            opened,
            spec.input,
            views,
            plan.select_by,
            algorithm,
            problem,
            chosen,
            order.predictions.profile,
        ),
        select_by=plan.select_by,
        keep=order.keep,
        watch=watch,
        title=order.title,
        budget=order.budget,
    )
    return training.run()


def _judge(
    opened: manifests.Opened,
    spec: Any,
    views: Views,
    select_by: str,
    method: Method,
    problem: str,
    device: torch.device,
    profile: dict[str, Any],
) -> Callable[[nn.Module], Judged]:
    names = validators_for(select_by, problem)
    look = scan(opened.images, spec, device=device)
    look_views = scan_views(opened.images, spec, views, seed=0, device=device)

    def judged(network: nn.Module) -> Judged:
        kinds = {name: plugins.load("validators", name) for name in names}
        prior = getattr(network, "prior", None)
        validators = {n: k() for n, k in kinds.items() if prior is not None or not k.needs_prior}
        for validator in validators.values():
            if validator.needs_source:
                validator.refer(profile)
        if any(v.needs_views for v in validators.values()):
            return judge(look_views(network), validators, method.rejection)
        return judge((SeenViews(*seen) for seen in look(network)), validators, method.rejection)

    return judged
