"""What of a target can be read: the rest is left out, listed, and tried again at the next look."""

from __future__ import annotations

from collections.abc import Sequence

from sfda.loading.opened import open_ref, shift_of
from sfda.loading.progress import warn_once
from sfda.loading.unreadable import ReadableRows, leave_unreadable
from sfda.problems.registry import PROBLEMS
from sfda.refs import ManifestRef, ModelRef
from sfda.settings import RunSettings
from tasks import tracking
from tasks.prefect_runtime.tame_artifacts import create_markdown_artifact
from tasks.tracking.models import open_spec


def readable_target(
    model: ModelRef, manifest: ManifestRef, run: RunSettings, stated: str
) -> ReadableRows:
    """The manifest of a run less the images of its splits that this model cannot be shown; `stated`
    is the target as a person named it. Raises BadInput as `leave_unreadable`, and where the classes
    do not fit the model's, which is told before images are read.
    """
    if open_ref(manifest).problem == model.problem:
        shift_of(manifest, model)
    splits = (run.split, run.test_split or "test")
    return readable_splits(model, manifest, splits, run.skip_unreadable, stated)


def readable_splits(
    model: ModelRef,
    manifest: ManifestRef,
    splits: Sequence[str],
    share: float | None,
    stated: str,
) -> ReadableRows:
    """The same of splits, at most a `share` of whose images is left out. What the manifest has
    that the model was not trained on is said in the log.
    """
    opened = open_ref(manifest)
    if opened.problem != model.problem:  # told where the images are opened
        return ReadableRows(manifest, ())
    spec = open_spec(model.uri)
    warn_once(PROBLEMS[model.problem].manifest_concern(opened, spec))
    return leave_unreadable(manifest, splits, spec.input, share=share, stated=stated)


def list_skipped(skipped: Sequence[str], run_id: str | None = None) -> None:
    """Name the images that were left out, on the flow run's page and with an MLflow run."""
    if skipped:
        lines = "\n".join(f"- `{message}`" for message in skipped)
        create_markdown_artifact(
            f"### {len(skipped)} images left out\n\n{lines}", key="images-left-out"
        )
        if run_id is not None:
            tracking.log_json(run_id, "images_left_out.json", {"images": list(skipped)})
