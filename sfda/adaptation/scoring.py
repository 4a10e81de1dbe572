"""Scores of a network without labels: what its validators say of it after an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from sfda import plugins
from sfda.adaptation.plan import validators_for
from sfda.building_blocks.rejection import TwoClusters
from sfda.decision.vetoes import Expected, FigureCounter, Figures, vetoes
from sfda.inference.forward import refuse_not_finite
from sfda.loading.opened import Opened
from sfda.loading.scan import scan, scan_views
from sfda.methods._base import Method
from sfda.policy import VetoLimits
from sfda.problems.registry import problem_of
from sfda.refs import InputSpec, Profile, Scores, Views
from sfda.types import SeenViews
from sfda.validators._base import Validator


class EpochScores(NamedTuple):
    """What one scan of the target without labels tells of a network."""

    scores: Scores
    reject: float | None  # above which uncertainty its prediction should be "unknown"
    vetoes: tuple[str, ...] = ()  # what speaks against it, whatever its scores


@dataclass(frozen=True)
class Watched:
    """What the answers of an adapted network are held against, after every epoch."""

    before: Figures  # of the source model, on the same images
    limits: VetoLimits = field(default_factory=VetoLimits)
    expected: Expected = field(default_factory=Expected)
    surest: Mapping[int, int] = field(default_factory=dict)  # row -> the source's class
    classes: Sequence[str] = ()


def score_unlabelled(
    seen: Iterable[SeenViews],
    validators: dict[str, Validator],
    rejection: float | Literal["auto"] | None = None,
    watched: Watched | None = None,
    pseudo_labels: float | None = None,
) -> EpochScores:
    """Every validator's score, the threshold of rejection, and the vetoes where they are watched;
    `pseudo_labels` are those left of the first epoch's. Raises NotFinite.
    """
    clusters = TwoClusters()
    counter = FigureCounter(watched.surest if watched else None)
    for batch in seen:
        refuse_not_finite(batch.output.logits)
        for validator in validators.values():
            validator.update(batch)
        if rejection is not None:
            clusters.update(batch.output)
        if watched:
            _count(counter, batch)
    scores = {name: validator.compute() for name, validator in validators.items()}
    reject = clusters.compute() if rejection == "auto" else rejection
    if watched is None:
        return EpochScores(scores, reject)
    unknown = None if reject is None else clusters.share_above(reject)
    figures = counter.compute(unknown_share=unknown, pseudo_labels=pseudo_labels)
    against = vetoes(figures, watched.before, watched.limits, watched.expected, watched.classes)
    return EpochScores(scores, reject, against)


def _count(counter: FigureCounter, batch: SeenViews) -> None:
    """Add the answers of a batch to the figures."""
    problem = problem_of(batch.output)
    if counter.surest:
        answers = problem.answered_classes(batch.output)
        counter.update(problem.tally(batch.output), batch.rows.tolist(), answers)
    else:
        counter.update(problem.tally(batch.output))


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
    watched: Watched | None = None,
) -> Callable[[nn.Module], EpochScores]:
    """How to score a network on a target: by the validators that cost no more than its scan, and
    by the one that chooses. `profile` is what the source model said of the target, `settings` are
    those of validators by name, `watched` is what its answers are held against.
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
        seen: Iterable[SeenViews]
        if any(v.needs_views for v in validators.values()):
            seen = scan_target_views(network)
        else:
            seen = (SeenViews(*one) for one in scan_target(network))
        left = method.pseudo_labels_left() if watched else None
        return score_unlabelled(seen, validators, method.rejection, watched, left)

    return score
