"""What an adaptation is to do, all choices made and checked before anything is loaded."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from sfda import plugins
from sfda.config import Config, merged
from sfda.errors import BadInput
from sfda.loading.opened import open_ref, seen_digest
from sfda.manifests.class_matching import class_shift
from sfda.manifests.rows import read_split
from sfda.manifests.schema import Manifest
from sfda.methods._base import Method, MethodConfig
from sfda.problems.registry import PROBLEMS
from sfda.refs import ManifestRef, ModelRef, Views
from sfda.types import Regime
from sfda.weights.source_card import read_card

log = logging.getLogger("sfda")


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
    config = kind.Config.from_settings(merged(kind.defaults_for(problem), settings))
    if epochs is None:
        return config
    schedule = config.schedule.model_copy(update={"epochs": epochs})
    return config.model_copy(update={"schedule": schedule})


def default_choice(method: str, problem: str, regime: Regime | None = None) -> str:
    """The validator where the user names none: one the method does not itself minimise."""
    if regime in ("open", "open-partial"):
        return "last"  # the validators reward certainty, and unknown samples should have none
    minimised = plugins.load("methods", method).minimises
    return next(v for v in PROBLEMS[problem].default_validators if v not in minimised)


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
    answers: str | None = None  # digest of the annotations of single rows of the split
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
    *,
    bundle: Path,
) -> AdaptPlan:
    """All choices made and checked, before anything is loaded. Raises BadInput.

    `bundle` is the source's folder: a segmenter's card tells its class ratios.
    """
    problem = PROBLEMS[source.problem]
    method = method or problem.default_method
    config = settings_for(method, source.problem, settings, epochs)
    manifest = open_ref(target)
    if manifest.problem != source.problem:
        raise BadInput(f"{target.path} is for {manifest.problem}, the model for {source.problem}")
    shift = class_shift(manifest.classes, source.classes, manifest.name)
    by = select_by or default_choice(method, source.problem, shift.regime)
    validators_for(by, source.problem)
    return AdaptPlan(
        seen=seen_digest(target, split),
        split=split,
        method=method,
        config=config.model_dump(mode="json"),
        views=views,
        select_by=by,
        regime=shift.regime,
        answers=_annotations_digest(manifest, split, kind_of(method).labelled_rows),
        source_ratios=_class_ratios(bundle) if "class_ratio" in problem.card_parts else None,
        seed=seed,
    )


def kind_of(method: str) -> Any:
    """The class of a method."""
    return plugins.load("methods", method)


def _annotations_digest(manifest: Manifest, split: str, labelled_rows: str) -> str | None:
    """Digest of the annotated rows that a method will learn from."""
    annotations = read_split(manifest.unlabelled(), split).annotations
    if annotations is None:
        return None
    if labelled_rows == "none":
        count = len(annotations.rows)
        log.warning("this method trains nothing: the annotations of %s rows go unused", count)
        return None
    return annotations.sha256


def _class_ratios(bundle: Path) -> tuple[float, ...] | None:
    """Class ratios of pixels from the source's card, where it has one."""
    card = read_card(bundle)
    ratios = card.tensors.get("class_ratio") if card else None
    return None if ratios is None else tuple(ratios.tolist())
