"""Choice: the candidate with the best score, and nothing else."""

from __future__ import annotations

from prefect import task
from prefect.artifacts import create_table_artifact

from sfda.adaptation.run_folder import best_epoch
from sfda.refs import Adaptation, Candidate
from tasks import tracking
from tasks.prefect_runtime.retry import SERVERS
from tasks.tracking.watch import log_history


@task(name="choice", **SERVERS)
def select(adaptation: Adaptation, by: str, run_id: str) -> Candidate:
    """The epoch that `by` prefers: a score without labels, the earliest of equals, or "last".

    The run shows the whole history, also where the adaptation itself came from the cache.
    """
    history = log_history(adaptation, run_id)
    chosen = adaptation.candidates[best_epoch(history, by)]
    tracking.set_tags(run_id, {"selected_epoch": str(chosen.epoch + 1), "selected_by": by})
    create_table_artifact(
        [
            {"epoch": c.epoch + 1, **c.scores, "chosen": "yes" if c is chosen else ""}
            for c in adaptation.candidates
        ],
        key="choice",
        description=f"scores without labels; chosen by {by}",
    )
    return chosen
