"""Adaptation: the loop over the target, one candidate an epoch, each scored without labels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from prefect import task
from torch import nn

from sfda import plugins
from sfda.config import Config, merged
from sfda.data.answered import beside
from sfda.data.cards import read_card
from sfda.data.loaders import TargetLoader, scan, scan_views
from sfda.data.manifest import Manifest, read_split
from sfda.data.predictions import replaying, verify_predictions
from sfda.errors import BadInput
from sfda.evaluate import Judged, judge
from sfda.methods._base import Method, MethodConfig
from sfda.refs import Adaptation, ManifestRef, ModelRef, PredictionsRef, Views
from sfda.types import Regime, SeenViews
from tasks import manifests, tracking
from tasks.answered import answered_rows
from tasks.cache import SameWork, code_digest, key_of
from tasks.device import DeviceName, choose, place
from tasks.home import home, one_at_a_time
from tasks.models import locate, open_model
from tasks.retry import SERVERS
from tasks.training import Training

log = logging.getLogger("sfda")
DEFAULT_METHODS = {
    "classification": "shot",
    "segmentation": "mean_teacher",
    "detection": "lpld",
    "pose": "post",
}
DEFAULT_VALIDATORS = {  # the first that may choose
    "classification": ("infomax", "agreement"),
    "segmentation": ("agreement", "infomax"),
    "detection": ("entropy", "agreement"),
    "pose": ("agreement", "entropy"),
}


def settings_for(
    method: str, problem: str, settings: dict[str, Any], epochs: int | None = None
) -> MethodConfig:
    """The method's settings, checked. Raises BadInput for an unknown method, setting or value."""
    kind: type[Method] = plugins.load("methods", method)
    if problem not in kind.problems:
        fit = [
            m for m in plugins.names("methods") if problem in plugins.load("methods", m).problems
        ]
        raise BadInput(f"{method} is not for {problem}; for that there are {', '.join(fit)}")
    config = kind.Config.from_settings(merged(kind.usual.get(problem, {}), settings))
    if epochs is None:
        return config
    schedule = config.schedule.model_copy(update={"epochs": epochs})
    return config.model_copy(update={"schedule": schedule})


def default_choice(method: str, problem: str, regime: Regime | None = None) -> str:
    """The validator where the user names none: one the method does not itself minimise."""
    if regime in ("open", "open-partial"):
        return "last"  # the validators reward certainty, and unknown samples should have none
    minimised = plugins.load("methods", method).minimises
    return next(v for v in DEFAULT_VALIDATORS[problem] if v not in minimised)


def validators_for(select_by: str, problem: str) -> list[str]:
    """All that cost no more than the one scan, and the one that chooses."""
    kinds = {name: plugins.load("validators", name) for name in plugins.names("validators")}
    if select_by != "last" and select_by not in kinds:
        raise BadInput(f"no '{select_by}' in sfda.validators; there are {', '.join(kinds)}, last")
    return [
        name
        for name, kind in kinds.items()
        if problem in kind.problems and (not kind.needs_views or name == select_by)
    ]


class AdaptPlan(Config):
    """What fixes the outcome of an adaptation, besides source and code."""

    seen: str  # digest of what can be seen of the target's split
    split: str
    method: str
    config: dict[str, Any]
    views: Views | None
    select_by: str
    regime: Regime | None
    answers: str | None = None  # digest of what people answered to rows of the split
    source_ratios: tuple[float, ...] | None = None  # of the card, which no model's digest covers
    seed: int


def make_plan(
    source: ModelRef,
    target: ManifestRef,
    split: str,
    method: str | None,
    settings: dict[str, Any],
    views: Views | None = None,
    select_by: str | None = None,
    epochs: int | None = None,
    seed: int = 0,
) -> AdaptPlan:
    """All choices made and checked, before anything is loaded. Raises BadInput."""
    method = method or DEFAULT_METHODS[source.problem]
    config = settings_for(method, source.problem, settings, epochs)
    manifest = manifests.open_ref(target)
    if manifest.problem != source.problem:
        raise BadInput(f"{target.path} is for {manifest.problem}, the model for {source.problem}")
    shift = manifests.class_shift(manifest.classes, source.classes, manifest.name)
    by = select_by or default_choice(method, source.problem, shift.regime)
    validators_for(by, source.problem)
    return AdaptPlan(
        seen=manifests.seen_digest(target, split),
        split=split,
        method=method,
        config=config.model_dump(mode="json"),
        views=views,
        select_by=by,
        regime=shift.regime,
        answers=_answers(manifest, split, kind_of(method).told),
        source_ratios=_ratios(source),
        seed=seed,
    )


def kind_of(method: str) -> Any:
    """The class of a method."""
    return plugins.load("methods", method)


def _answers(manifest: Manifest, split: str, told: str) -> str | None:
    """Digest of the answers that a method will learn from."""
    found = read_split(manifest.unlabelled(), split).answers
    if found and told == "none":
        log.warning("this method trains nothing: the answers to %s rows go unused", len(found.rows))
    return found.sha256 if found and told != "none" else None


def _ratios(source: ModelRef) -> tuple[float, ...] | None:
    """Class ratios of pixels from the source's card, where it has one."""
    card = read_card(locate(source.uri)) if source.problem == "segmentation" else None
    found = card.tensors.get("class_ratio") if card else None
    return None if found is None else tuple(found.tolist())


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
    target: ManifestRef,
    plan: AdaptPlan,
    keep: Literal["best", "all"],
    run_id: str,
    title: str,
    device: DeviceName = "auto",
    workers: int = 0,
    budget: float | None = None,
) -> Adaptation:
    """Candidates of one run, in order. The target is opened without its labels.

    `budget` is the time in seconds that the epochs may take together.
    """
    chosen = choose(device)
    settings = settings_for(plan.method, source.problem, plan.config)
    network, spec = open_model(source)
    verify_predictions(predictions)
    manifest = manifests.open_ref(target).unlabelled()
    opened = manifests.open_split(manifest, plan.split, spec.input)
    views = plan.views or spec.views
    kind: type[Method] = plugins.load("methods", plan.method)
    torch.manual_seed(plan.seed)
    info = opened.info(plan.regime, source, plan.source_ratios)
    given = (
        answered_rows(opened, spec, views, seed=plan.seed, device=chosen) if plan.answers else None
    )
    if given is not None:
        info = replace(info, labelled=torch.from_numpy(given.rows).to(chosen))
    algorithm = kind(network, info, settings)
    place(algorithm, chosen)
    look = scan(opened.images, spec.input, device=chosen)
    work = key_of(
        source=source.sha256, plan=plan, keep=keep, device=chosen.type, code=code_digest()
    )
    training = Training(
        folder=home() / "runs" / work[:24],
        method=algorithm,
        spec=spec,
        batches=beside(
            TargetLoader(
                opened.images,
                spec.input,
                views,
                strong=kind.views != "none",
                batch_size=settings.schedule.batch_size,
                drop_last=settings.schedule.drop_last,
                seed=plan.seed,
                device=chosen,
                workers=workers,
                smallest=1 if source.problem == "detection" else 2,  # its batch norm never learns
                geometric=source.problem == "pose" and kind.views != "none",
            ),
            given,
            algorithm,
            settings.schedule.batch_size,
        ),
        scan=replaying(look, predictions, spec) if spec.problem == "classification" else look,
        schedule=settings.schedule,
        seed=plan.seed,
        judge=_judge(
            opened,
            spec.input,
            views,
            plan.select_by,
            algorithm,
            source.problem,
            chosen,
            predictions.profile,
        ),
        select_by=plan.select_by,
        keep=keep,
        run_id=run_id,
        title=title,
        budget=budget,
    )
    with one_at_a_time(training.folder), tracking.system_metrics(run_id):
        return training.run()


def _judge(
    opened: manifests.Opened,
    spec: Any,
    views: Views,
    select_by: str,
    method: Method,
    problem: str,
    device: torch.device,
    profile: dict[str, Any],
) -> Callable[[nn.Module], Judged]:
    names = validators_for(select_by, problem)
    look = scan(opened.images, spec, device=device)
    look_views = scan_views(opened.images, spec, views, seed=0, device=device)

    def judged(network: nn.Module) -> Judged:
        kinds = {name: plugins.load("validators", name) for name in names}
        prior = getattr(network, "prior", None)
        validators = {n: k() for n, k in kinds.items() if prior is not None or not k.needs_prior}
        for validator in validators.values():
            if validator.needs_source:
                validator.refer(profile)
        if any(v.needs_views for v in validators.values()):
            return judge(look_views(network), validators, method.rejection)
        return judge((SeenViews(*seen) for seen in look(network)), validators, method.rejection)

    return judged
