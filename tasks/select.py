"""Choice: the candidate with the best score, and nothing else."""

from __future__ import annotations

from prefect import task

from sfda.adaptation.run_folder import best_epoch
from sfda.refs import SOURCE_EPOCH, Adaptation, Candidate, ModelRef
from tasks import tracking
from tasks.prefect_runtime.retry import SERVERS
from tasks.prefect_runtime.tame_artifacts import create_table_artifact
from tasks.tracking.models import locate
from tasks.tracking.watch import log_history


@task(name="choice", **SERVERS)
def select(adaptation: Adaptation, by: str, run_id: str, source: ModelRef) -> Candidate:
    """The epoch that `by` prefers: a score without labels, the earliest of equals, or "last".

    Epochs that met a veto are left out; where that are all, the source itself is chosen, as epoch
    0. The run shows the whole history, also where the adaptation itself came from the cache.
    """
    history = log_history(adaptation, run_id)
    best = best_epoch(history, by)
    chosen = adaptation.candidates[best] if best is not None else the_source(source)
    tracking.set_tags(run_id, {"selected_epoch": str(chosen.epoch + 1), "selected_by": by})
    create_table_artifact(
        [
            {
                "epoch": c.epoch + 1,
                **c.scores,
                "chosen": "yes" if c is chosen else "",
                "vetoes": "; ".join(epoch.vetoes),
            }
            for c, epoch in zip(adaptation.candidates, history, strict=True)
        ],
        key="choice",
        description=f"scores without labels; chosen by {by}",
    )
    return chosen


def the_source(source: ModelRef) -> Candidate:
    """The model as it was before any epoch."""
    return Candidate(
        epoch=SOURCE_EPOCH, scores={}, weights=str(locate(source.uri)), sha256=source.sha256
    )
