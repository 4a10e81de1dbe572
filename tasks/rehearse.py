"""Rehearsals at the source site, kept in the model's card."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from sfda.adaptation.source_card import copy_with_card
from sfda.building_blocks.device import DeviceName, choose
from sfda.loading.labels import labels_in
from sfda.loading.opened import open_labelled, open_ref
from sfda.manifests.digests import key_of
from sfda.refs import ManifestRef, ModelRef, Report
from sfda.rehearsal.plan import RehearsalPlan
from sfda.rehearsal.rehearse import Rehearser
from sfda.state_folder import home
from sfda.weights.rehearsals import Rehearsals
from sfda.weights.source_card import Card, CardFacts, read_card
from tasks.prefect_runtime.retry import SERVERS
from tasks.tracking.models import locate, open_model


@task(name="rehearsals", cache_policy=NO_CACHE, **SERVERS)
def rehearse(
    model: ModelRef,
    data: ManifestRef,
    split: str,
    plan: RehearsalPlan,
    device: DeviceName = "auto",
    budget: float | None = None,
) -> Rehearsals:
    """Adapt a model to synthetic shifts of its own data. Raises BadInput."""
    network, spec = open_model(model)
    opened = open_labelled(data, split, spec)
    labels_in(opened.split, spec.classes)  # or BadInput, before anything is rehearsed
    card = read_card(locate(model.uri))
    ratios = card.tensors.get("class_ratio") if card else None
    rehearser = Rehearser(
        network=network,
        spec=spec,
        ref=model,
        opened=opened,
        plan=plan,
        device=choose(device),
        ratios=None if ratios is None else tuple(ratios.tolist()),
        budget=budget,
    )
    return rehearser.run()


@task(name="rehearsals into the card", **SERVERS)
def keep_rehearsals(
    model: ModelRef, rehearsals: Rehearsals, data: ManifestRef, split: str, report: Report
) -> ModelRef:
    """A copy of the model whose card has the rehearsals, too. Sources of poses and of several
    labels an image have no other card: theirs holds the rehearsals alone, beside the facts.
    """
    bundle = locate(model.uri)
    card = read_card(bundle) or Card(_facts_alone(model, data, split, report), {})
    facts = card.facts.model_copy(update={"rehearsals": rehearsals})
    folder = home() / "cards" / key_of(model=model.sha256, facts=facts)[:24]
    digest = copy_with_card(bundle, Card(facts, card.tensors), folder)
    return model.model_copy(update={"uri": str(folder), "sha256": digest})


def _facts_alone(model: ModelRef, data: ManifestRef, split: str, report: Report) -> CardFacts:
    return CardFacts(
        classes=model.classes,
        source_sha256=model.sha256,
        manifest=open_ref(data).name,
        manifest_sha256=data.sha256,
        split=split,
        count=report.count,
        metrics=report.metrics,
        temperature=1.0,  # confidences are taken as they are
    )
