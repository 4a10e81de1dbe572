"""Evaluation: source and adapted model, side by side, on a split that has labels."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from prefect import task
from prefect.artifacts import create_image_artifact, create_markdown_artifact

from sfda.building_blocks.device import DeviceName, choose, place
from sfda.decision.evaluation import report
from sfda.errors import BadInput
from sfda.loading import opened as manifests
from sfda.loading.opened import Opened
from sfda.loading.scan import labelled_scan
from sfda.manifests.digests import key_of
from sfda.problems.classification.metrics import score_of
from sfda.refs import (
    Candidate,
    LabelledSplit,
    ManifestRef,
    ModelRef,
    ModelSpec,
    Report,
    SideBySide,
)
from sfda.report.detection_panel import draw_box_panel
from sfda.report.pictures import side_by_side
from sfda.report.pose_panel import draw_pose_panel
from sfda.report.reports import make_reporter
from sfda.report.segmentation_panel import draw_panel
from sfda.state_folder import disk_errors, home
from sfda.weights.bundle import read_spec
from tasks import tracking
from tasks.prefect_runtime.cache import SameWork
from tasks.prefect_runtime.retry import SERVERS
from tasks.shards import looks
from tasks.tracking.models import locate, open_model

PANELS: Mapping[str, Callable[..., bytes]] = MappingProxyType(
    {"segmentation": draw_panel, "detection": draw_box_panel, "pose": draw_pose_panel}
)


def evaluate_model(
    model: ModelRef,
    manifest: ManifestRef,
    split: str,
    device: DeviceName,
    reject: float | None = None,
) -> Report:
    """Metrics of one model on one labelled split. Raises BadInput where there are no labels.

    `reject` is the uncertainty above which the model answers "unknown"; None is the model's own.
    """
    network, spec = open_model(model)
    opened = _open(manifest, split, spec)
    chosen = choose(device)
    with looks(model, manifest, opened, split, spec, device) as look:
        judged = make_reporter(opened, spec, chosen, look=look)
        return judged(place(network, chosen), spec.reject if reject is None else reject)


def _open(manifest: ManifestRef, split: str, spec: ModelSpec) -> Opened:
    found = manifests.open_ref(manifest)
    if found.problem != spec.problem:
        raise BadInput(f"{manifest.path} is for {found.problem}, the model for {spec.problem}")
    return manifests.open_split(found, split, spec.input)


def evaluate_thresholds(
    model: ModelRef,
    manifest: ManifestRef,
    split: str,
    thresholds: Sequence[float],
    device: DeviceName,
) -> dict[float, Report]:
    """The reports of one model at several thresholds of rejection, from one look at the split."""
    network, spec = open_model(model)
    opened = _open(manifest, split, spec)
    labels = manifests.labels_for(opened.split, model.classes, unknown=True)
    chosen = choose(device)
    look = labelled_scan(opened.images, labels, spec.input, device=chosen)
    outputs = list(look(place(network, chosen)))
    return {
        above: report(outputs, model.classes, split=split, reject=above) for above in thresholds
    }


def reference(candidate: Candidate, source: ModelRef) -> ModelRef:
    """A candidate's weights as a model."""
    return ModelRef(
        uri=str(candidate.weights),
        sha256=str(candidate.sha256),
        problem=source.problem,
        arch=source.arch,
        classes=source.classes,
    )


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
    manifest: ManifestRef,
    split: LabelledSplit | None,
    seen: tuple[str, str],
    title: str,
    device: DeviceName = "auto",
) -> SideBySide:
    """Both reports and their picture; no report where there are no labels.

    Where the adapted model rejects, the source is given the same threshold: what is compared is
    the adaptation. `seen` is the split that was adapted to and the digest of its images: without
    labels the panel of what changed most shows those.
    """
    name = key_of(
        source=source.sha256, adapted=adapted.sha256, manifest=manifest.sha256, split=split
    )
    panel = None
    if source.problem in PANELS:
        shown = split.name if split else seen[0]
        drawn = PANELS[source.problem](
            open_model(source)[0],
            *open_model(adapted),
            manifest,
            shown,
            title,
            device,
            labelled=split is not None,
        )
        panel = _keep_picture(f"{name[:24]}-panel", drawn)
    if split is None:
        return SideBySide(split=None, source=None, adapted=None, panel=panel)
    above = read_spec(locate(adapted.uri)).reject
    before = evaluate_model(source, manifest, split.name, device, above)
    after = evaluate_model(adapted, manifest, split.name, device)
    picture = _keep_picture(name[:24], side_by_side(before, after, title=title))
    return SideBySide(
        split=split.name, reject=above, source=before, adapted=after, picture=picture, panel=panel
    )


def _keep_picture(name: str, content: bytes) -> str:
    picture = home() / "pictures" / f"{name}.png"
    with disk_errors(str(picture)):
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(content)
    return str(picture)


def log_report(sides: SideBySide, run_id: str, title: str) -> None:
    """The reports as metrics and files of the run, and as artifacts of the flow run."""
    link = f"\n\nMLflow run `{run_id}`"
    for file in (sides.picture, sides.panel):
        if file:
            tracking.log_file(run_id, Path(file), "pictures")
    if shown := sides.panel or sides.picture:
        create_image_artifact(_address(Path(shown)), key="results", description=title)
    if sides.source is None or sides.adapted is None:
        text = f"### {title}\n\nThe target has no labels: no metric, and no evidence for promotion."
        create_markdown_artifact(text + link, key="adaptation-report")
        return
    points = [
        (f"{side}/{name}", value, 0)
        for side, found in (("source", sides.source), ("adapted", sides.adapted))
        for name, value in found.metrics.items()
    ]
    tracking.log_points(run_id, points)
    tracking.log_json(run_id, "report.json", sides.model_dump())
    create_markdown_artifact(report_text(sides, title) + link, key="adaptation-report")


def _address(picture: Path) -> str:
    """The picture itself as an address: whoever opens the page need not reach this disk."""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def report_text(sides: SideBySide, title: str) -> str:
    """The comparison as markdown: overall, then by class with counts."""
    assert sides.source is not None
    assert sides.adapted is not None
    rows = [
        f"| {name.replace('_', ' ')} | {before:.4f} | {sides.adapted.metrics[name]:.4f} |"
        for name, before in sides.source.metrics.items()
    ]
    after = sides.adapted.per_class
    unit, score = score_of(sides.source.metrics)
    classes = [
        f"| {name} | {int(row[unit])} | {_share(row, score)} | {_share(after[name], score)} |"
        for name, row in sides.source.per_class.items()
    ]
    above = (
        ""
        if sides.reject is None
        else (f' Both answer "unknown" where their uncertainty is above {sides.reject:.3f}.')
    )
    note = f" {sides.source.note}." if sides.source.note else ""
    counted = "persons" if score == "pck" else "images"
    return "\n".join(
        [
            f"### {title}",
            "",
            f"Split `{sides.split}`, {sides.source.count} {counted}.{above}{note}",
            "",
            "| metric | source | adapted |",
            "|---|---:|---:|",
            *rows,
            "",
            f"| class | {_named(unit)} | source {_named(score)} | adapted {_named(score)} |",
            "|---|---:|---:|---:|",
            *classes,
        ]
    )


def _named(word: str) -> str:
    return {"count": "images", "iou": "IoU"}.get(word, word)


def _share(found: dict[str, float], score: str) -> str:
    return f"{found[score]:.1%}" if score in found else "none"
