"""The work of the adapting stage, with all that it needs in hand: it asks no server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from sfda import plugins
from sfda.adaptation.plan import AdaptPlan, settings_for
from sfda.adaptation.scoring import make_scorer
from sfda.adaptation.training import Training, Watch
from sfda.building_blocks.device import DeviceName, choose, to_device
from sfda.config import Config
from sfda.inference.predictions import replaying, verify_predictions
from sfda.loading.annotated_rows import annotated_rows, with_annotated
from sfda.loading.batches import TargetLoader
from sfda.loading.opened import open_ref, open_split
from sfda.loading.scan import scan
from sfda.methods._base import Method
from sfda.problems.registry import read_bundle
from sfda.refs import Adaptation, ManifestRef, ModelRef, PredictionsRef


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
    manifest = open_ref(order.target).unlabelled()
    opened = open_split(manifest, plan.split, spec.input)
    views = plan.views or spec.views
    kind: type[Method] = plugins.load("methods", plan.method)
    torch.manual_seed(plan.seed)
    info = opened.info(plan.regime, order.source, plan.source_ratios, whole=not spec.input.tiled)
    annotated = None
    if plan.answers:
        annotated = annotated_rows(
            opened, spec, views, folder / "answers", seed=plan.seed, device=chosen
        )
    if annotated is not None:
        info = replace(info, labelled=torch.from_numpy(annotated.rows).to(chosen))
    algorithm = kind(network, info, settings)
    to_device(algorithm, chosen)
    scan_target = scan(opened.images, spec.input, device=chosen)
    training = Training(
        folder=folder,
        method=algorithm,
        spec=spec,
        batches=with_annotated(
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
            annotated,
            algorithm,
            settings.schedule.batch_size,
        ),
        scan=(
            replaying(scan_target, order.predictions, spec)
            if problem == "classification"
            else scan_target
        ),
        schedule=settings.schedule,
        seed=plan.seed,
        scorer=make_scorer(
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
