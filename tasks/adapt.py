"""Adaptation: the loop over the target, one candidate an epoch, each scored without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from prefect import task

from sfda.adaptation.plan import AdaptPlan
from sfda.adaptation.sandboxed import adapt_in_sandbox
from sfda.adaptation.worker import Order
from sfda.building_blocks.device import DeviceName, choose
from sfda.guides.table import GuideRef
from sfda.loading.opened import open_unlabelled, stamps_of
from sfda.manifests.digests import key_of
from sfda.refs import Adaptation, Attestation, ModelRef, PredictionsRef, SplitRef
from sfda.state_folder import home, if_nobody_works, one_at_a_time
from sfda.weights.bundle import read_spec
from tasks import tracking
from tasks.prefect_runtime.cache import SameWork, code_digest
from tasks.prefect_runtime.retry import SERVERS
from tasks.tracking.models import locate
from tasks.tracking.watch import RunWatch


@task(
    name="adaptation",
    cache_policy=SameWork(ignore=("target", "run_id", "workers", "title")),
    persist_result=True,
    result_serializer="json",
    **SERVERS,
)
def adapt_to_target(
    source: ModelRef,
    predictions: PredictionsRef,
    target: SplitRef,
    plan: AdaptPlan,
    keep: Literal["best", "all"],
    run_id: str,
    title: str,
    device: DeviceName = "auto",
    workers: int = 0,
    budget: float | None = None,
    guide: GuideRef | None = None,
) -> Adaptation:
    """Candidates of one run, in order. The target is opened without its labels.

    The work is done in a process of its own that can read the target, the source model and its own
    state, and nothing else, where the kernel offers that. `budget` is the time in seconds that the
    epochs may take together, `guide` the table that the plan's guide has of the target.
    """
    chosen = choose(device)
    bundle = locate(source.uri)
    # decodes what is not decoded yet, before access is limited
    opened = open_unlabelled(target.manifest, target.split, read_spec(bundle), seen=target.seen)
    code = code_digest()  # reads every source file
    own = {} if guide is None else {"guide": guide.sha256}
    work = key_of(source=source.sha256, plan=plan, keep=keep, device=chosen.type, code=code, **own)
    order = Order(
        source=source,
        bundle=str(bundle),
        predictions=predictions,
        target=target,
        stamps=stamps_of(target, opened.split),
        plan=plan,
        keep=keep,
        folder=str(home() / "runs" / work[:24]),
        title=title,
        device="cuda" if chosen.type == "cuda" else "cpu",
        workers=workers,
        budget=budget,
        threads=torch.get_num_threads(),
        guide=guide,
    )
    if chosen.type == "cuda":
        torch.cuda.empty_cache()  # the other process needs it
    with one_at_a_time(Path(order.folder)), tracking.system_metrics(run_id):
        adaptation, attestation = adapt_in_sandbox(order, RunWatch(run_id, title))
    digests = {
        "source_sha256": source.sha256,
        "manifest_sha256": target.manifest.sha256,
        "code_sha256": code,
    }
    return adaptation.model_copy(update={"confinement": attestation.model_copy(update=digests)})


def log_attestation(attestation: Attestation | None, run_id: str) -> None:
    """Attest in the run what the adapting process could reach."""
    if attestation is None:
        return
    tracking.log_json(run_id, "attestation.json", attestation.model_dump(mode="json"))
    tracking.set_tags(run_id, {"source_free": attestation.says})


def drop_state(adaptation: Adaptation) -> None:
    """Delete what a run would be resumed from that has gone through all its epochs and registered
    its choice. Where it was cut the state stays: with a larger budget the run goes on.
    """
    folder = Path(adaptation.folder)
    with if_nobody_works(folder) as free:
        if free and adaptation.cut is None:
            (folder / "state.pt").unlink(missing_ok=True)
