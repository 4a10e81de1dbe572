"""Evaluation: source and adapted model, side by side, on a split that has labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact

from sfda.data.bundle import read_spec
from sfda.data.loaders import labelled_scan
from sfda.evaluate import report
from sfda.pictures import side_by_side
from sfda.refs import Candidate, LabelledSplit, ManifestRef, ModelRef, Report, SideBySide
from tasks import manifests, tracking
from tasks.cache import SameWork, key_of
from tasks.device import DeviceName, choose, place
from tasks.home import disk_errors, home
from tasks.models import locate, open_model


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
    opened = manifests.open_split(manifests.open_ref(manifest), split, spec.input)
    labels = manifests.labels_for(opened.split, model.classes, unknown=True)
    chosen = choose(device)
    outputs = labelled_scan(opened.images, labels, spec.input, device=chosen)
    above = spec.reject if reject is None else reject
    return report(outputs(place(network, chosen)), model.classes, split=split, reject=above)


def evaluate_thresholds(
    model: ModelRef,
    manifest: ManifestRef,
    split: str,
    thresholds: Sequence[float],
    device: DeviceName,
) -> dict[float, Report]:
    """The reports of one model at several thresholds of rejection, from one look at the split."""
    network, spec = open_model(model)
    opened = manifests.open_split(manifests.open_ref(manifest), split, spec.input)
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
)
def evaluate(
    source: ModelRef,
    adapted: ModelRef,
    manifest: ManifestRef,
    split: LabelledSplit | None,
    title: str,
    device: DeviceName = "auto",
) -> SideBySide:
    """Both reports and their picture; nothing but the split's absence where there are no labels.

    Where the adapted model rejects, the source is given the same threshold: what is compared is
    the adaptation.
    """
    if split is None:
        return SideBySide(split=None, source=None, adapted=None)
    above = read_spec(locate(adapted.uri)).reject
    sides = SideBySide(
        split=split.name,
        reject=above,
        source=evaluate_model(source, manifest, split.name, device, above),
        adapted=evaluate_model(adapted, manifest, split.name, device),
    )
    assert sides.source is not None
    assert sides.adapted is not None
    name = key_of(
        source=source.sha256, adapted=adapted.sha256, manifest=manifest.sha256, split=split
    )
    picture = home() / "pictures" / f"{name[:24]}.png"
    with disk_errors(str(picture)):
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(side_by_side(sides.source, sides.adapted, title=title))
    return sides.model_copy(update={"picture": str(picture)})


def log_report(sides: SideBySide, run_id: str, title: str) -> None:
    """The reports as metrics and files of the run, and as an artifact of the flow run."""
    link = f"\n\nMLflow run `{run_id}`"
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
    if sides.picture:
        tracking.log_file(run_id, Path(sides.picture), "pictures")
    create_markdown_artifact(report_text(sides, title) + link, key="adaptation-report")


def report_text(sides: SideBySide, title: str) -> str:
    """The comparison as markdown: overall, then by class with counts."""
    assert sides.source is not None
    assert sides.adapted is not None
    rows = [
        f"| {name.replace('_', ' ')} | {before:.4f} | {sides.adapted.metrics[name]:.4f} |"
        for name, before in sides.source.metrics.items()
    ]
    after = sides.adapted.per_class
    classes = [
        f"| {name} | {int(row['count'])} | {_share(row)} | {_share(after[name])} |"
        for name, row in sides.source.per_class.items()
    ]
    above = (
        ""
        if sides.reject is None
        else (f' Both answer "unknown" where their uncertainty is above {sides.reject:.3f}.')
    )
    return "\n".join(
        [
            f"### {title}",
            "",
            f"Split `{sides.split}`, {sides.source.count} images.{above}",
            "",
            "| metric | source | adapted |",
            "|---|---:|---:|",
            *rows,
            "",
            "| class | images | source accuracy | adapted accuracy |",
            "|---|---:|---:|---:|",
            *classes,
        ]
    )


def _share(found: dict[str, float]) -> str:
    return f"{found['accuracy']:.1%}" if "accuracy" in found else "none"
