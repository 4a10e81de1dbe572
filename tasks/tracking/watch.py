"""What MLflow and Prefect show of a run of the loop."""

from __future__ import annotations

from pathlib import Path

from sfda.adaptation.run_folder import History, points_of, read_history
from sfda.refs import Adaptation, MetricPoint
from tasks import tracking
from tasks.prefect_runtime.artifacts import RunPage
from tasks.tracking.runs import RUN_FOLDER


class RunWatch:
    """Curves in an MLflow run, and a progress bar on the page of the flow run."""

    def __init__(self, run_id: str, title: str) -> None:
        self.run_id, self.page = run_id, RunPage(title)

    def shown(self) -> int:
        """How many epochs the run shows; -1 if none."""
        return tracking.last_step(self.run_id, "epoch")

    def points(self, points: list[MetricPoint]) -> None:
        """Log metrics to the run."""
        tracking.log_points(self.run_id, points)

    def share(self, done: float) -> None:
        """So much of the work is done, 0 to 1."""
        self.page.show(done)


def log_history(adaptation: Adaptation, run_id: str) -> History:
    """The history of an adaptation, after making sure that the run shows it.

    It does not yet where the adaptation came from the cache.
    """
    history = read_history(Path(adaptation.folder), adaptation.history_sha256)
    if adaptation.parts > 1:
        tracking.client().log_param(run_id, "batch_parts", adaptation.parts)
    tracking.set_tags(run_id, {RUN_FOLDER: Path(adaptation.folder).name})
    logged = tracking.last_step(run_id, "epoch")
    for epoch in history:
        if epoch.epoch + 1 > logged:
            tracking.log_points(run_id, points_of(epoch))
    return history
