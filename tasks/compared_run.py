"""One run of a comparison: a method, or the bound, with one seed, in an MLflow run of its own."""

from __future__ import annotations

from sfda.adaptation.plan import AdaptPlan
from sfda.adaptation.supervised import BOUND
from sfda.adaptation.training_plan import TrainPlan
from sfda.building_blocks.device import DeviceName
from sfda.config import Config
from sfda.guides.table import GuideRef
from sfda.refs import (
    Adaptation,
    LabelledSplit,
    ManifestRef,
    Metrics,
    ModelRef,
    PredictionsRef,
)
from sfda.report.comparison import EpochMetrics
from tasks import tracking
from tasks.adapt import adapt_to_target
from tasks.compare import WeightsGone, evaluate_epochs
from tasks.guides import GuideAlone
from tasks.select import select
from tasks.train_source import train


class Comparison(Config):
    """What all runs of a comparison share."""

    source: ModelRef
    target: ManifestRef
    predictions: PredictionsRef
    title: str
    test: LabelledSplit
    parent: str
    device: DeviceName
    workers: int
    guide: GuideRef | None = None  # its table of what is learnt from
    guide_alone: GuideAlone | None = None  # what that is worth


def compared_run(
    comparison: Comparison, plan: AdaptPlan | TrainPlan, floor: Metrics
) -> tuple[Adaptation, EpochMetrics]:
    """One method, or the bound, with one seed, in an MLflow run of its own."""
    method = BOUND if isinstance(plan, TrainPlan) else plan.method
    title = f"{comparison.title} with {method}, seed {plan.seed}"
    key = tracking.run_key(comparison.parent, plan)
    tags = {"mlflow.parentRunId": comparison.parent}
    params = {"method": method, **plan.model_dump(mode="json")}
    with tracking.run(title, key=key, tags=tags, params=params) as run_id:
        if isinstance(plan, TrainPlan):
            return _bound(comparison, plan, run_id, title)
        return _method(comparison, plan, run_id, title, floor)


def _method(
    comparison: Comparison, plan: AdaptPlan, run_id: str, title: str, floor: Metrics
) -> tuple[Adaptation, EpochMetrics]:
    """Adapted, chosen without labels, and only then scored with them."""
    stage = adapt_to_target
    source, target, device = comparison.source, comparison.target, comparison.device
    predictions = comparison.predictions
    while True:
        adaptation = stage(
            source,
            predictions,
            plan.on(target),
            plan,
            "all",
            run_id,
            title,
            device,
            comparison.workers,
            guide=comparison.guide,
        )
        chosen = select(adaptation, plan.select_by, run_id, source)
        try:
            scored = evaluate_epochs(
                source, adaptation, chosen.epoch, target, comparison.test, device
            )
        except WeightsGone:
            stage = adapt_to_target.with_options(refresh_cache=True)
            continue
        _log_oracle(run_id, scored, floor)
        return adaptation, scored


def _bound(
    comparison: Comparison, plan: TrainPlan, run_id: str, title: str
) -> tuple[Adaptation, EpochMetrics]:
    """The supervised bound. It learns from the target's labels, and its name says so."""
    training = train(comparison.target, plan, run_id, title, comparison.device, comparison.workers)
    metrics = tuple(candidate.scores for candidate in training.candidates)
    return training, EpochMetrics(metrics=metrics, chosen=len(metrics) - 1)


def _log_oracle(run_id: str, scored: EpochMetrics, source: Metrics) -> None:
    points = [
        (f"target/{name}", value, epoch)
        for epoch, metrics in enumerate(scored.metrics, start=1)  # as scores count them
        for name, value in metrics.items()
    ]
    points += [(f"selected/{name}", value, 0) for name, value in scored.selected(source).items()]
    tracking.log_points(run_id, points)
