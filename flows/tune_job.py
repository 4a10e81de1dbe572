"""What one search is about: every choice made and checked, before anything is loaded."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from flows.addresses import registered_name, short_address
from sfda.adaptation import target as adaptation_target
from sfda.adaptation.plan import AdaptPlan, make_plan
from sfda.building_blocks.device import resolve
from sfda.decision.ranking import Ranking
from sfda.errors import BadInput
from sfda.loading import opened as manifests
from sfda.profiling.trials import trials, usual_methods
from sfda.refs import ManifestRef, ModelRef
from sfda.report.search_page import trials_text
from sfda.settings import AdaptSettings, DeviceName, RunSettings
from tasks import tracking
from tasks.decide import DecisionPool, pool_for
from tasks.readable import readable_target
from tasks.tracking.models import locate, model_ref
from tasks.tune import PlannedTrial, SearchedModels, TriedModel

log = logging.getLogger("sfda")


@dataclass(frozen=True)
class TuneJob:
    """All that one search is about, every choice made and checked."""

    model: ModelRef
    manifest: ManifestRef
    address: str  # of the target, in short
    planned: list[PlannedTrial]
    name: str  # to register under
    pool: DecisionPool
    device: DeviceName
    adaptation: RunSettings
    stated: tuple[str, str]  # source and target, as they were stated

    @property
    def plans(self) -> list[AdaptPlan]:
        """Those of the trials."""
        return [one.plan for one in self.planned]


@dataclass(frozen=True)
class Search:
    """What was tried, and its order."""

    tried: SearchedModels
    ranking: Ranking

    @property
    def text(self) -> str:
        """A table of both."""
        return trials_text(self.ranking, self.tried.left_out)

    @property
    def best(self) -> TriedModel | None:
        """None: the source."""
        return next((one for one in self.tried.models if one.name == self.ranking.best), None)


def make_job(
    source: str,
    target: str,
    methods: list[str] | None,
    grid: dict[str, dict[str, list[Any]]] | None,
    seed: int,
    name: str | None,
    adaptation: RunSettings,
) -> TuneJob:
    """Choices made and checked before anything is loaded. Raises BadInput."""
    model, stated = model_ref(source), (source, target)
    target = adaptation_target.as_manifest(target, lambda: model.problem)
    manifest = manifests.manifest_ref(target)
    manifest, _ = readable_target(model, manifest, adaptation, stated[1])
    tracking.check_name(called := name or registered_name(source))
    test = manifests.evaluation_split(manifest, adaptation.test_split)
    planned = _planned(model, manifest, methods, grid or {}, adaptation, seed)
    return TuneJob(
        model=model,
        manifest=manifest,
        address=short_address(target),
        planned=planned,
        name=called,
        pool=pool_for(manifest, adaptation.split, test),
        device=resolve(adaptation.device),
        adaptation=adaptation,
        stated=stated,
    )


def _planned(
    model: ModelRef,
    target: ManifestRef,
    methods: list[str] | None,
    grid: dict[str, dict[str, list[Any]]],
    adaptation: RunSettings,
    seed: int,
) -> list[PlannedTrial]:
    """Every trial with its choices, each once; of methods that nobody named those that can be used
    here."""
    bundle = locate(model.uri)
    planned: list[PlannedTrial] = []
    for trial in trials(model.problem, methods or usual_methods(model.problem), grid):
        asked = AdaptSettings(
            **dict(adaptation), method=trial.method, settings=trial.settings, seed=seed
        )
        try:
            plan = make_plan(model, target, asked, bundle=bundle)
        except BadInput as error:
            if methods:
                raise
            log.info("%s is left out: %s", trial.name, error)
            continue
        same = next((one.trial.name for one in planned if one.plan == plan), None)
        if same:  # a value of the grid that is the default; both would work in one folder
            log.info("%s is left out: it is %s", trial.name, same)
        else:
            planned.append(PlannedTrial(trial, plan))
    if not planned:
        raise BadInput("no method can be tried here; name some with --methods")
    return planned
