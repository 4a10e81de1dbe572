"""Scores of a network without labels: what its validators say of it after an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from sfda import plugins
from sfda.adaptation.plan import validators_for
from sfda.building_blocks.rejection import TwoClusters
from sfda.inference.forward import refuse_not_finite
from sfda.loading.opened import Opened
from sfda.loading.scan import scan, scan_views
from sfda.methods._base import Method
from sfda.refs import InputSpec, Profile, Scores, Views
from sfda.types import SeenViews
from sfda.validators._base import Validator


class EpochScores(NamedTuple):
    """What one scan of the target without labels tells of a network."""

    scores: Scores
    reject: float | None  # above which uncertainty its prediction should be "unknown"


def score_unlabelled(
    seen: Iterable[SeenViews],
    validators: dict[str, Validator],
    rejection: float | Literal["auto"] | None = None,
) -> EpochScores:
    """Every validator's score, and the threshold of rejection. Raises NotFinite."""
    clusters = TwoClusters()
    for batch in seen:
        refuse_not_finite(batch.output.logits)
        for validator in validators.values():
            validator.update(batch)
        if rejection == "auto":
            clusters.update(batch.output)
    scores = {name: validator.compute() for name, validator in validators.items()}
    return EpochScores(scores, clusters.compute() if rejection == "auto" else rejection)


def make_scorer(
    opened: Opened,
    spec: InputSpec,
    views: Views,
    select_by: str,
    method: Method,
    problem: str,
    device: torch.device,
    profile: Profile,
    settings: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Callable[[nn.Module], EpochScores]:
    """How to score a network on a target: by the validators that cost no more than its scan, and
    by the one that chooses. `profile` is what the source model said of the target, `settings` are
    those of validators by name.
    """
    names = validators_for(select_by, problem)
    scan_target = scan(opened.images, spec, device=device)
    scan_target_views = scan_views(opened.images, spec, views, seed=0, device=device)

    def score(network: nn.Module) -> EpochScores:
        kinds = {name: plugins.load("validators", name) for name in names}
        prior = getattr(network, "prior", None)
        validators: dict[str, Validator] = {
            name: kind.with_settings(problem, settings.get(name, {}))
            for name, kind in kinds.items()
            if prior is not None or not kind.needs_prior
        }
        for validator in validators.values():
            if validator.needs_source:
                validator.refer(profile)
        if any(v.needs_views for v in validators.values()):
            return score_unlabelled(scan_target_views(network), validators, method.rejection)
        return score_unlabelled(
            (SeenViews(*seen) for seen in scan_target(network)), validators, method.rejection
        )

    return score
