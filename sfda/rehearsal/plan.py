"""What is to be rehearsed, all choices made and checked before anything is loaded."""

from __future__ import annotations

from typing import Any

from sfda.adaptation.plan import AdaptPlan, default_choice, kind_of, settings_for
from sfda.bounds.limits import CARD_REHEARSALS
from sfda.config import Config
from sfda.errors import BadInput
from sfda.manifests.digests import key_of
from sfda.problems.registry import PROBLEMS
from sfda.settings import AUTO

USUAL_COUNT = 24
USUAL_EPOCHS = 15  # at most: with fewer than a job has, its scores lie beyond all rehearsals'


class RehearsalPlan(Config):
    """What fixes all rehearsals of a model, besides its data."""

    method: str
    config: dict[str, Any]
    select_by: str
    count: int
    seed: int


def plan_rehearsals(
    problem: str,
    *,
    count: int = USUAL_COUNT,
    method: str | None = None,
    settings: dict[str, Any] | None = None,
    epochs: int | None = None,
    seed: int = 0,
) -> RehearsalPlan:
    """All choices made and checked; method and settings as `sfda adapt` takes them. Raises
    BadInput.
    """
    if not 1 <= count <= CARD_REHEARSALS.most:
        hint = f" ({CARD_REHEARSALS.variable} raises that limit)" if count > 1 else ""
        most = CARD_REHEARSALS.most
        raise BadInput(f"--rehearse {count}: a card holds 1 to {most} rehearsals{hint}")
    method = method or PROBLEMS[problem].default_method
    if method == AUTO:
        raise BadInput("auto follows the profile of a target; name the method to rehearse")
    config = settings_for(method, problem, settings or {}, epochs)
    if kind_of(method).learns == "nothing":
        raise BadInput(f"{method} adapts nothing, so there is no gain to rehearse; name another")
    own = config.schedule
    if epochs is None and own.epochs > USUAL_EPOCHS:
        fewer = own.with_epochs(USUAL_EPOCHS)
        config = config.model_copy(update={"schedule": fewer})
    return RehearsalPlan(
        method=method,
        config=config.model_dump(mode="json"),
        select_by=default_choice(method, problem, "closed"),
        count=count,
        seed=seed,
    )


class AdaptedWith(Config):
    """The method of an adaptation, and the digest of its settings."""

    name: str
    settings_sha256: str


def adapted_with(plan: AdaptPlan) -> AdaptedWith:
    """What a plan adapts with, to be compared with rehearsals."""
    return AdaptedWith(name=plan.method, settings_sha256=method_digest(plan.method, plan.config))


def method_digest(method: str, config: dict[str, Any]) -> str:
    """sha256 of a method and its settings but for the number of epochs, which rehearsals have of
    their own.
    """
    schedule = {k: v for k, v in config.get("schedule", {}).items() if k != "epochs"}
    return key_of(method=method, config={**config, "schedule": schedule})
