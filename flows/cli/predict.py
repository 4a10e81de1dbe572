"""The commands that ask one model: its predictions, and its metrics where there are labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.model_input import problem_of_model
from flows.cli.options import (
    DeviceOption,
    JsonOption,
    LabelledOption,
    ModelOption,
    SkipUnreadableOption,
    SplitOption,
    TargetOption,
)
from flows.cli.output import evaluate_text, skipped_lines
from flows.cli.session import session


def predict(
    model: ModelOption,
    data: TargetOption,
    out: Annotated[Path, typer.Option(help="a folder for predictions.csv")],
    split: SplitOption = "adapt",
    skip_unreadable: SkipUnreadableOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Predictions of a model for every image, as CSV."""
    with session(json) as output:
        from sfda.adaptation.target import as_manifest
        from sfda.inference.prediction_files import write_predictions as write_predictions
        from sfda.loading.opened import manifest_ref
        from tasks.readable import readable_splits
        from tasks.tracking.models import model_ref, open_model

        manifest = manifest_ref(as_manifest(data, lambda: problem_of_model(model)))
        ref = model_ref(model)
        target, skipped = readable_splits(ref, manifest, [split], skip_unreadable, data)
        count, file = write_predictions(*open_model(ref), target, split, out, device)
        result = {"count": count, "file": str(file), "model": ref.uri, "sha256": ref.sha256}
        lines = [f"{file}: {count} images, by {ref.uri}", *skipped_lines(skipped)]
        output.show(result | {"skipped": list(skipped)}, "\n".join(lines))


def evaluate(
    model: ModelOption,
    data: LabelledOption,
    split: SplitOption = "test",
    skip_unreadable: SkipUnreadableOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Metrics of one model on one labelled split."""
    with session(json) as out:
        from sfda.loading import opened as manifests
        from tasks.evaluate import evaluate_model
        from tasks.readable import readable_splits
        from tasks.tracking.models import model_ref

        ref, manifest = model_ref(model), manifests.manifest_ref(data)
        target, skipped = readable_splits(ref, manifest, [split], skip_unreadable, str(data))
        report = evaluate_model(ref, target, split, device)
        result = {"metrics": report.metrics, **report.model_dump(), "skipped": list(skipped)}
        out.show(result, "\n".join([evaluate_text(report), *skipped_lines(skipped)]))


def register(app: typer.Typer) -> None:
    """Put these commands on the command line."""
    for command in (predict, evaluate):
        app.command()(command)
