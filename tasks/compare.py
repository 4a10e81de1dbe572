"""Comparison of methods: metrics of every epoch, with labels; here alone, and after all choices."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from sfda.adaptation.run_folder import drop_weights, epoch_folder
from sfda.building_blocks.device import DeviceName
from sfda.problems.report_metrics import main_metric
from sfda.refs import SOURCE_EPOCH, Adaptation, LabelledSplit, ManifestRef, ModelRef, SplitRef
from sfda.report.comparison import (
    ORACLE_THRESHOLDS,
    SOURCE_THRESHOLD,
    EpochMetrics,
    SourceOnly,
    at_thresholds,
)
from tasks.change import change_between
from tasks.evaluate import evaluate_model, evaluate_thresholds
from tasks.prefect_runtime.cache import SameWork
from tasks.prefect_runtime.retry import SERVERS


class WeightsGone(Exception):
    """The weights of an earlier comparison were deleted and its metrics do not serve this one."""


@task(
    name="evaluation of all epochs",
    cache_policy=SameWork(),
    persist_result=True,
    result_serializer="json",
    **SERVERS,
)
def evaluate_epochs(
    source: ModelRef,
    adaptation: Adaptation,
    chosen: int,
    manifest: ManifestRef,
    split: LabelledSplit,
    device: DeviceName = "auto",
) -> EpochMetrics:
    """Metrics of every epoch on the labelled split; then all weights but the chosen are deleted.

    Raises WeightsGone where an earlier comparison has deleted them.
    """
    folder, every = Path(adaptation.folder), []
    for candidate in adaptation.candidates:
        weights = epoch_folder(folder, candidate.epoch)
        if not weights.is_dir():
            raise WeightsGone(str(weights))
        ref = source.model_copy(update={"uri": str(weights), "sha256": candidate.sha256})
        every.append(evaluate_model(ref, manifest, split.name, device).metrics)
    change = 0.0
    if chosen != SOURCE_EPOCH:
        best = adaptation.candidates[chosen]
        weights = epoch_folder(folder, best.epoch)
        ref = source.model_copy(update={"uri": str(weights), "sha256": best.sha256})
        target = SplitRef(manifest=manifest, split=split.name, seen=split.seen)
        change = change_between(source, ref, target, device).share
    drop_weights(folder, adaptation.candidates, but=chosen)
    return EpochMetrics(metrics=tuple(every), chosen=chosen, change=change)


@task(
    name="evaluation of the source",
    cache_policy=SameWork(),
    persist_result=True,
    result_serializer="json",
    **SERVERS,
)
def evaluate_source(
    source: ModelRef, manifest: ManifestRef, split: LabelledSplit, device: DeviceName = "auto"
) -> SourceOnly:
    """The floor of a comparison. Where there are unknown samples it rejects at 0.5, as GLC's does,
    and stands a second time with the fixed threshold that the target's labels like best.
    """
    report = evaluate_model(source, manifest, split.name, device)
    if main_metric(report.metrics) != "h_score":
        return SourceOnly(report=report)
    thresholds = (*ORACLE_THRESHOLDS, SOURCE_THRESHOLD)
    return at_thresholds(evaluate_thresholds(source, manifest, split.name, thresholds, device))
