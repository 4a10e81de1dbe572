"""Evaluation: source and adapted model, side by side, on a split that has labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect import task

from sfda.building_blocks.device import DeviceName, choose, to_device
from sfda.decision.evaluation import make_evaluator
from sfda.loading.opened import open_labelled
from sfda.manifests.digests import key_of
from sfda.problems.classification.evaluation import threshold_reports
from sfda.refs import LabelledSplit, ManifestRef, ModelRef, Report, SideBySide, SplitRef
from sfda.report.panels import draw_panel
from sfda.report.pictures import data_address, keep_picture, side_by_side
from sfda.report.report_text import report_text
from sfda.weights.bundle import read_spec
from tasks import tracking
from tasks.prefect_runtime.cache import SameWork
from tasks.prefect_runtime.retry import SERVERS
from tasks.prefect_runtime.tame_artifacts import create_image_artifact, create_markdown_artifact
from tasks.shards import inference_over
from tasks.tracking.models import locate, open_model


def evaluate_model(
    model: ModelRef,
    manifest: ManifestRef,
    split: str,
    device: DeviceName,
    reject: float | None = None,
) -> Report:
    """Metrics of one model on one labelled split. Raises BadInput where there are no labels.

    `reject` is the uncertainty above which the model says "unknown"; None is the model's own.
    """
    network, spec = open_model(model)
    opened = open_labelled(manifest, split, spec)
    chosen = choose(device)
    with inference_over(model, manifest, opened, spec, device) as infer:
        report_of = make_evaluator(opened, spec, chosen, infer=infer)
        return report_of(to_device(network, chosen), spec.reject if reject is None else reject)


def evaluate_thresholds(
    model: ModelRef,
    manifest: ManifestRef,
    split: str,
    thresholds: Sequence[float],
    device: DeviceName,
) -> dict[float, Report]:
    """The reports of one model at several thresholds of rejection, from one scan of the split."""
    network, spec = open_model(model)
    opened = open_labelled(manifest, split, spec)
    chosen = choose(device)
    return threshold_reports(to_device(network, chosen), opened, spec, thresholds, chosen)


@task(
    name="evaluation",
    cache_policy=SameWork(ignore=("title",)),
    persist_result=True,
    result_serializer="json",
    **SERVERS,
)
def evaluate(
    source: ModelRef,
    adapted: ModelRef,
    target: SplitRef,
    split: LabelledSplit | None,
    title: str,
    device: DeviceName = "auto",
) -> SideBySide:
    """Both reports and their picture; no report where there are no labels.

    Where the adapted model rejects, the source gets the same threshold: what is compared is
    the adaptation. `target` is what was adapted to: without labels the panel of what changed most
    shows that, and with them the labelled `split` of the same manifest.
    """
    manifest = target.manifest
    name = key_of(
        source=source.sha256, adapted=adapted.sha256, manifest=manifest.sha256, split=split
    )
    drawn = draw_panel(
        open_model(source)[0],
        *open_model(adapted),
        SplitRef(manifest=manifest, split=split.name, seen=split.seen) if split else target,
        title,
        device,
        labelled=split is not None,
    )
    panel = keep_picture(f"{name[:24]}-panel", drawn) if drawn else None
    if split is None:
        return SideBySide(split=None, source=None, adapted=None, panel=panel)
    above = read_spec(locate(adapted.uri)).reject
    before = evaluate_model(source, manifest, split.name, device, above)
    after = evaluate_model(adapted, manifest, split.name, device)
    picture = keep_picture(name[:24], side_by_side(before, after, title=title))
    return SideBySide(
        split=split.name, reject=above, source=before, adapted=after, picture=picture, panel=panel
    )


def log_report(sides: SideBySide, run_id: str, title: str) -> None:
    """The reports as metrics and files of the run, and as artifacts of the flow run."""
    link = f"\n\nMLflow run `{run_id}`"
    for file in (sides.picture, sides.panel):
        if file:
            tracking.log_file(run_id, Path(file), "pictures")
    if shown := sides.panel or sides.picture:
        create_image_artifact(data_address(Path(shown)), key="results", description=title)
    if sides.source is None or sides.adapted is None:
        text = f"### {title}\n\nThe target has no labels: no metric, and no evidence for promotion."
        create_markdown_artifact(text + link, key="adaptation-report")
        return
    points = [
        (f"{side}/{name}", value, 0)
        for side, report in (("source", sides.source), ("adapted", sides.adapted))
        for name, value in report.metrics.items()
    ]
    tracking.log_points(run_id, points)
    tracking.log_json(run_id, "report.json", sides.model_dump())
    create_markdown_artifact(report_text(sides, title) + link, key="adaptation-report")
