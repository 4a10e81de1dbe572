"""Rehearsals at the source site, kept in the model's card."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from sfda.adaptation.source_card import copy_with_card
from sfda.building_blocks.device import DeviceName, choose
from sfda.errors import BadInput
from sfda.loading.labels import labels_in
from sfda.loading.opened import open_labelled
from sfda.manifests.digests import key_of
from sfda.problems.registry import PROBLEMS
from sfda.refs import ManifestRef, ModelRef
from sfda.rehearsal.plan import RehearsalPlan
from sfda.rehearsal.rehearse import Rehearser
from sfda.state_folder import home
from sfda.weights.rehearsals import Rehearsals
from sfda.weights.source_card import Card, read_card
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
    """Adapt a model that has a card to synthetic shifts of its own data. Raises BadInput."""
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
def keep_rehearsals(model: ModelRef, rehearsals: Rehearsals) -> ModelRef:
    """A copy of the model whose card has the rehearsals, too."""
    bundle = locate(model.uri)
    card = read_card(bundle)
    assert card is not None  # `refuse_without_card` has seen to that
    facts = card.facts.model_copy(update={"rehearsals": rehearsals})
    folder = home() / "cards" / key_of(model=model.sha256, facts=facts)[:24]
    digest = copy_with_card(bundle, Card(facts, card.tensors), folder)
    return model.model_copy(update={"uri": str(folder), "sha256": digest})


def refuse_without_card(problem: str) -> None:
    """Raise BadInput for a problem whose sources have no card to keep rehearsals in."""
    if not PROBLEMS[problem].card_parts:
        raise BadInput(
            f"a source of {problem} has no card, so there is nothing to keep rehearsals in; leave "
            "--rehearse out"
        )
