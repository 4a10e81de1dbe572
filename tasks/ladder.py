"""The ladder: smaller steps towards a candidate, where the whole step is not promoted."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from sfda.building_blocks.device import DeviceName
from sfda.decision.gate import decide
from sfda.manifests.digests import key_of
from sfda.problems.registry import read_bundle
from sfda.refs import ModelRef, Version
from sfda.settings import AdaptSettings
from sfda.state_folder import home, one_at_a_time
from sfda.weights.bundle import read_verified, write_bundle
from sfda.weights.interpolate import RUNGS, between
from sfda.weights.load import load_exactly
from sfda.weights.shapes import bundle_shapes
from tasks.decide import Contest, Decision, gather_evidence, settle
from tasks.prefect_runtime.retry import SERVERS
from tasks.register import register_model
from tasks.tracking.models import locate, model_ref


def settle_by_steps(
    version: Version,
    contest: Contest,
    tags: dict[str, str],
    asked: AdaptSettings,
    run_id: str,
    device: DeviceName = "auto",
) -> tuple[Version, Decision]:
    """The verdict on a version; where a policy asks for the ladder and that is held or rejected,
    the first smaller step that is promoted, if there is one.

    Rungs are weights at three quarters, half and a quarter of the way from the champion (or the
    source) to the candidate. Each has half of the alpha of the one before it, the candidate itself
    the whole: so many are tried, and so much less may each err.
    """
    decision = settle(version, contest, asked.promote, run_id, device)
    policy = contest.policy
    if not policy.ladder or decision.verdict.kind not in ("hold", "reject"):
        return version, decision
    if not _of_one_form(model_ref(decision.champion), contest.candidate):
        return version, decision  # no weights lie between networks of other parts
    for number, step in enumerate(RUNGS, start=1):
        model = rung(model_ref(decision.champion), contest.candidate, step)
        stricter = policy.model_copy(update={"alpha": policy.alpha / 2**number})
        lower = contest.model_copy(update={"candidate": model, "policy": stricter})
        evidence = gather_evidence(model_ref(decision.champion), lower, device)
        if decide(evidence, stricter).kind != "promote":
            continue
        more = {"step": f"{step:g} of the way from {decision.champion} to {version.uri}"}
        made = register_model(
            model, version.name, run_id, tags | more, "candidate", source=contest.source
        )
        return made, settle(made, lower, asked.promote, run_id, device)
    return version, decision


def _of_one_form(first: ModelRef, second: ModelRef) -> bool:
    """Whether two models have the same tensors."""
    one, other = (bundle_shapes(Path(locate(ref.uri)).resolve(), ".") for ref in (first, second))
    return one == other


@task(name="smaller step", **SERVERS)
def rung(first: ModelRef, second: ModelRef, step: float) -> ModelRef:
    """The model at `step` of the way from one to the other."""
    key = key_of(first=first.sha256, second=second.sha256, step=step)
    folder = home() / "rungs" / key[:24]
    with one_at_a_time(folder):
        network, spec = read_bundle(locate(second.uri), sha256=second.sha256)
        before, _ = read_verified(Path(locate(first.uri)), sha256=first.sha256)
        after, _ = read_verified(Path(locate(second.uri)), sha256=second.sha256)
        load_exactly(network, between(before, after, step))
        digest = write_bundle(folder, network, spec)
    return second.model_copy(update={"uri": str(folder), "sha256": digest})
