"""What an adaptation is to do, all choices made and checked before anything is loaded."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from sfda import plugins
from sfda.config import Config, merged
from sfda.decision.vetoes import Expected, effective
from sfda.errors import BadInput, listed
from sfda.guides.origin import GuideOrigin, refuse_lacking
from sfda.loading.opened import open_ref
from sfda.loading.pool import learning_part
from sfda.manifests.class_matching import ClassShift, class_shift
from sfda.manifests.rows import read_split
from sfda.manifests.schema import Manifest
from sfda.methods._base import Method, MethodConfig
from sfda.policy import VetoLimits
from sfda.problems.registry import PROBLEMS
from sfda.refs import Digest, ManifestRef, ModelRef, SplitRef, Views
from sfda.settings import AUTO, AdaptSettings, Prior
from sfda.types import Regime
from sfda.validators._base import Validator
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
    if config.reject not in (None, "never") and not PROBLEMS[problem].rejects:
        raise BadInput(f"reject: no prediction of {problem} is 'unknown'; leave it out")
    if epochs is None:
        return config
    schedule = config.schedule.with_epochs(epochs)
    return config.model_copy(update={"schedule": schedule})


def default_choice(method: str, problem: str, regime: Regime | None = None) -> str:
    """The validator where the user names none: one the method does not itself minimise."""
    if regime in ("open", "open-partial"):
        return "last"  # the validators reward certainty, and unknown samples should have none
    minimised = plugins.load("methods", method).minimises
    return next(v for v in PROBLEMS[problem].default_validators if v not in minimised)


def validators_for(select_by: str, problem: str, asked: Collection[str] = ()) -> list[str]:
    """All that may choose and cost no more than the one scan, the one that chooses, and those that
    are asked for. Raises BadInput where that one is not there, or cannot choose here.
    """
    kinds: dict[str, type[Validator]] = {
        name: plugins.load("validators", name) for name in plugins.names("validators")
    }
    if select_by != "last":
        _refuse_choice(select_by, problem, kinds)
    usual = {name for name, kind in kinds.items() if kind.chooses and not kind.costs_more()}
    names = usual | {select_by, *asked}
    return [name for name, kind in kinds.items() if problem in kind.problems and name in names]


def _refuse_choice(name: str, problem: str, kinds: Mapping[str, type[Validator]]) -> None:
    """Raise BadInput unless a validator may choose in a problem."""
    if name not in kinds:
        raise BadInput(f"no '{name}' in sfda.validators; there are {', '.join(kinds)}, last")
    can = [n for n, kind in kinds.items() if kind.chooses and problem in kind.problems]
    if not kinds[name].chooses:
        raise BadInput(
            f"{name} tells how good one model is, not which of two is better; choose by one of "
            f"{', '.join(can)}, last"
        )
    if name not in can:
        raise BadInput(f"{name} is not for {problem}; for that there are {', '.join(can)}, last")


class AdaptPlan(Config):
    """What fixes the outcome of an adaptation, besides source and code."""

    seen: str  # digest of what can be seen of the target's split
    split: str
    rows: str | None = None  # digest of the rows of it that are learnt from; None: all
    method: str
    config: dict[str, Any]
    views: Views | None
    select_by: str
    regime: Regime | None
    answers: str | None = None  # digest of the annotations of single rows of the split
    guide: Digest | None = None  # of the guide that it learns from, and how its answers are taken
    source_ratios: tuple[float, ...] | None = None  # of the card, which no model's digest covers
    validators: dict[str, dict[str, Any]] = {}  # settings by name, of those that are stated
    limits: VetoLimits = VetoLimits()
    expected: Expected = Expected()  # how many classes the target should show
    seed: int

    def on(self, manifest: ManifestRef) -> SplitRef:
        """What the plan is for, the rows that are not held out, which lies in this manifest."""
        return SplitRef(manifest=manifest, split=self.split, seen=self.seen, rows=self.rows)


def make_plan(
    source: ModelRef,
    target: ManifestRef,
    adaptation: AdaptSettings,
    *,
    bundle: Path,
    guide: GuideOrigin | None = None,
) -> AdaptPlan:
    """All choices made and checked, before anything is loaded. Raises BadInput.

    `bundle` is the source's folder: a segmenter's card tells its class ratios. Which images are
    held out (`sfda.loading.pool`) is remembered from now on. `guide` is the origin of the
    settings' guide.
    """
    problem, split = PROBLEMS[source.problem], adaptation.split
    method = adaptation.method or problem.default_method
    if method == AUTO:
        raise BadInput(
            "method auto follows a profile, which `sfda adapt` makes; name a method here"
        )
    overrides = dict(adaptation.overrides)
    stated = overrides.pop("validators", {})
    config = settings_for(method, source.problem, overrides, adaptation.epochs)
    manifest = open_ref(target)
    if manifest.problem != source.problem:
        raise BadInput(f"{target.path} is for {manifest.problem}, the model for {source.problem}")
    shift = class_shift(manifest.classes, source.classes, manifest.name)
    by = adaptation.select_by or default_choice(method, source.problem, shift.regime)
    asked = stated if isinstance(stated, dict) else {}
    scores = validators_for(by, source.problem, asked)
    part = learning_part(target, split, adaptation.test_split)
    return AdaptPlan(
        seen=part.seen,
        split=split,
        rows=part.rows,
        method=method,
        config=config.model_dump(mode="json"),
        views=adaptation.views,
        select_by=by,
        regime=shift.regime,
        answers=_annotations_digest(manifest, split, kind_of(method).labelled_rows),
        guide=_guide_digest(method, adaptation, guide),
        source_ratios=_class_ratios(bundle) if "class_ratio" in problem.card_parts else None,
        validators=_validator_settings(stated, scores, source.problem),
        limits=adaptation.decision.vetoes,
        expected=expected_classes(source, shift, adaptation.prior),
        seed=adaptation.seed,
    )


def expected_classes(source: ModelRef, shift: ClassShift, prior: Prior | None) -> Expected:
    """How many classes a target should show: by the declared shares, else those that it shares
    with the model, where every image has one. Raises BadInput for shares of other classes.
    """
    if prior is not None:
        if unknown := sorted(set(prior) - set(source.classes)):
            raise BadInput(
                f"the prior names {listed(unknown)}; the model has {listed(source.classes)}"
            )
        if (number := effective(torch.tensor(list(prior.values())))) is None:
            raise BadInput("the shares of the prior add up to 0")
        return Expected(effective=number)
    if not PROBLEMS[source.problem].one_class_an_image:
        return Expected()
    return Expected(effective=float(len(source.classes) - len(shift.missing)))


def _validator_settings(
    stated: object, names: list[str], problem: str
) -> dict[str, dict[str, Any]]:
    """What `validators.NAME.k=v` says, checked. Raises BadInput."""
    if not isinstance(stated, dict) or not all(isinstance(own, dict) for own in stated.values()):
        raise BadInput("validators is a group of settings: write --set validators.NAME.k=VALUE")
    if unknown := sorted(set(stated) - set(names)):
        raise BadInput(f"no validator '{unknown[0]}' scores here; there are {', '.join(names)}")
    for name, own in stated.items():
        kind: type[Validator] = plugins.load("validators", name)
        kind.Config.from_settings(merged(kind.defaults_for(problem), own), f"validators.{name}")
    return stated


def fits(method: str, problem: str) -> bool:
    """Whether a method serves a problem."""
    return problem in kind_of(method).problems


def kind_of(method: str) -> type[Method]:
    """The class of a method."""
    kind: type[Method] = plugins.load("methods", method)
    return kind


def _guide_digest(method: str, adaptation: AdaptSettings, guide: GuideOrigin | None) -> str | None:
    """Digest of the guide that a method takes. Raises BadInput where it lacks what that needs."""
    kind = kind_of(method)
    if adaptation.guide is not None and guide is None:
        raise BadInput(
            "`sfda adapt`, `refresh` and `compare` alone take a guide; leave it out here"
        )
    refuse_lacking(kind.needs_guide, guide, method)
    return guide.digest if guide and (kind.needs_guide or kind.takes_guide) else None


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
