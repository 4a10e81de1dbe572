"""The profile of a target, before anything is adapted: as a stage of a flow, and for a command."""

from __future__ import annotations

import logging

from prefect import task
from prefect.cache_policies import NO_CACHE

from sfda.adaptation.plan import AdaptPlan, make_plan
from sfda.building_blocks.device import DeviceName, choose, to_device
from sfda.guides.origin import GuideOrigin
from sfda.loading.opened import manifest_ref, open_part, shift_of
from sfda.profiling import target as profiling
from sfda.profiling.findings import TargetProfile
from sfda.profiling.target import followed, profile_part, subject_of, usual_method
from sfda.refs import ManifestRef, ModelRef, PredictionsRef, SplitRef
from sfda.report.profile_text import target_profile_text
from sfda.settings import AUTO, AdaptSettings
from sfda.weights.source_card import read_card
from tasks import tracking
from tasks.prefect_runtime.retry import SERVERS
from tasks.prefect_runtime.tame_artifacts import create_markdown_artifact
from tasks.pseudo_label import pseudo_label
from tasks.readable import readable_target
from tasks.tracking.models import locate, model_ref, open_model

log = logging.getLogger("sfda")


@task(name="profile of the target", cache_policy=NO_CACHE, **SERVERS)
def profile_target(
    source: ModelRef,
    predictions: PredictionsRef,
    target: SplitRef,
    adaptation: AdaptSettings,
    device: DeviceName = "auto",
) -> TargetProfile:
    """What can be seen of a target, by a look at 512 images and what is kept of all of them."""
    network, spec = open_model(source)
    chosen = choose(device)
    opened, card = open_part(target, spec), read_card(locate(source.uri))
    to_device(network, chosen)
    subject = subject_of(network, spec, card, target, opened, predictions.profile)
    return profiling.profile_target(subject, adaptation, chosen)


def profile_once(
    source: str,
    target: str,
    adaptation: AdaptSettings,
    device: DeviceName = "auto",
    stated: str | None = None,
) -> tuple[TargetProfile, tuple[str, ...]]:
    """The same without a flow, of what `sfda adapt` would learn from; and what is wrong with each
    image that cannot be read. `stated` is the target as a person named it. Raises BadInput.
    """
    model = model_ref(source)
    manifest, skipped = readable_target(model, manifest_ref(target), adaptation, stated or target)
    part = _usual_plan(model, manifest, adaptation).on(manifest)
    network, spec = open_model(model)
    chosen = choose(device)
    card = read_card(locate(model.uri))
    return profile_part(to_device(network, chosen), spec, card, part, adaptation, chosen), skipped


def plan_by_profile(
    model: ModelRef,
    manifest: ManifestRef,
    adaptation: AdaptSettings,
    device: DeviceName,
    guide: GuideOrigin | None = None,
) -> tuple[AdaptPlan, TargetProfile | None]:
    """The plan of an adaptation; where its method is `auto`, the profile that it follows, too.

    Raises BadInput.
    """
    plan = _usual_plan(model, manifest, adaptation, guide)
    if adaptation.method != AUTO:
        return plan, None
    part = plan.on(manifest)
    predictions = pseudo_label(model, part, device)
    profile = profile_target(model, predictions, part, adaptation, device)
    advised = followed(adaptation, profile.recommendation)
    made = make_plan(model, manifest, advised, bundle=locate(model.uri), guide=guide)
    return made, profile


def _usual_plan(
    model: ModelRef,
    manifest: ManifestRef,
    adaptation: AdaptSettings,
    guide: GuideOrigin | None = None,
) -> AdaptPlan:
    """The plan with the method that `auto` takes where nothing speaks against it."""
    method = usual_method(model.problem, shift_of(manifest, model), adaptation.method)
    asked = adaptation.model_copy(update={"method": method})
    return make_plan(model, manifest, asked, bundle=locate(model.uri), guide=guide)


def log_profile(profile: TargetProfile, run_id: str, name: str) -> None:
    """The profile on the run's pages, in its tags, and what speaks against it in the log."""
    advice = profile.recommendation
    create_markdown_artifact(target_profile_text(name, profile), key="target-profile")
    tracking.log_json(run_id, "profile.json", profile.model_dump(mode="json"))
    tracking.set_tags(
        run_id,
        {"profile": advice.text, "profile.reasons": "; ".join(advice.reasons)[:5000]},
    )
    level = logging.INFO if advice.kind == "adapt" else logging.WARNING
    log.log(level, "%s: the profile says %s: %s", name, advice.text, "; ".join(advice.reasons))
