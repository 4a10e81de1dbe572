"""A search over methods and settings: trials within a budget, and the best of all their epochs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from prefect import task

from sfda.adaptation.plan import AdaptPlan, kind_of
from sfda.adaptation.run_folder import best_epoch, drop_weights, epoch_folder
from sfda.building_blocks.device import DeviceName, choose
from sfda.config import Config
from sfda.decision.evidence import SOURCE_NAME
from sfda.decision.judge import figures_over
from sfda.decision.ranking import Contender, Ranked, Ranking, look_at_all, rank
from sfda.decision.vetoes import Expected, has_collapsed
from sfda.policy import DecisionPolicy
from sfda.profiling.trials import SearchTrial
from sfda.refs import (
    SOURCE_EPOCH,
    Adaptation,
    ManifestRef,
    ModelRef,
    PredictionsRef,
    SplitRef,
    candidate_model,
)
from sfda.sandbox.leftovers import remove_tree
from tasks import tracking
from tasks.adapt import adapt_to_target
from tasks.change import open_side
from tasks.ladder import rung
from tasks.prefect_runtime.tame_artifacts import create_table_artifact
from tasks.tracking.watch import log_history

MOST_EPOCHS = 4  # of one trial that take part in the ranking: the chosen one, and others
HALFWAY = 0.5


class PlannedTrial(NamedTuple):
    """A trial with every choice made."""

    trial: SearchTrial
    plan: AdaptPlan


class TriedModel(Config):
    """A model that a trial made, and where it comes from."""

    name: str  # as the ranking calls it
    trial: str
    epoch: int  # 0 for the first
    step: float  # of the way from the source to that epoch's weights
    model: ModelRef


class TrialRecord(Config):
    """What became of one trial."""

    trial: str
    method: str
    chosen_epoch: int | None  # by the method's own validator; None: every epoch met a veto
    vetoes: tuple[str, ...] = ()
    adaptation: Adaptation


class SearchedModels(Config):
    """All trials that the budget allowed, and those that it left out."""

    records: tuple[TrialRecord, ...]
    models: tuple[TriedModel, ...]
    left_out: tuple[str, ...]


def try_all(
    planned: list[PlannedTrial],
    source: ModelRef,
    target: ManifestRef,
    predictions: PredictionsRef,
    parent: str,
    title: str,
    budget: float,
    device: DeviceName = "auto",
    workers: int = 0,
) -> SearchedModels:
    """Work through trials in order, each in a run of its own below `parent`.

    `budget` is the time in seconds for all: each trial's epochs may take an equal share of it, and
    once it is over no further trial begins.
    """
    began, share = time.monotonic(), budget / len(planned)
    records: list[TrialRecord] = []
    models: list[TriedModel] = []
    for number, (trial, plan) in enumerate(planned):
        if number and time.monotonic() - began > budget:
            left = tuple(one.trial.name for one in planned[number:])
            return SearchedModels(records=tuple(records), models=tuple(models), left_out=left)
        named = f"{title}: {trial.name}"
        part = plan.on(target)
        tags = {"mlflow.parentRunId": parent}
        params = {"method": plan.method, **plan.model_dump(mode="json")}
        with tracking.run(
            named, key=tracking.run_key(parent, plan), tags=tags, params=params
        ) as run:
            record, own = _try(
                trial, plan, source, part, predictions, run, named, share, device, workers
            )
        records.append(record)
        models += own
    return SearchedModels(records=tuple(records), models=tuple(models), left_out=())


def _try(
    trial: SearchTrial,
    plan: AdaptPlan,
    source: ModelRef,
    part: SplitRef,
    predictions: PredictionsRef,
    run_id: str,
    title: str,
    share: float,
    device: DeviceName,
    workers: int,
) -> tuple[TrialRecord, list[TriedModel]]:
    """One adaptation; its epochs without a veto, and half the way to the chosen one."""
    stage = adapt_to_target
    while True:
        adapted = stage(
            source, predictions, part, plan, "all", run_id, title, device, workers, share
        )
        folders = [epoch_folder(Path(adapted.folder), c.epoch) for c in adapted.candidates]
        if all(folder.is_dir() for folder in folders):
            break
        stage = adapt_to_target.with_options(refresh_cache=True)  # an earlier search deleted them
    history = log_history(adapted, run_id)
    chosen = best_epoch(history, plan.select_by)
    clean = [epoch.epoch for epoch in history if not epoch.vetoes]
    record = TrialRecord(
        trial=trial.name,
        method=trial.method,
        chosen_epoch=chosen,
        vetoes=tuple(dict.fromkeys(text for epoch in history for text in epoch.vetoes)),
        adaptation=adapted,
    )
    models = []
    for epoch in taking_part(clean, chosen):
        weights = str(epoch_folder(Path(adapted.folder), epoch))
        made = adapted.candidates[epoch].model_copy(update={"weights": weights})
        model = candidate_model(made, source)
        steps = [(1.0, model)]
        if epoch == chosen:
            steps.append((HALFWAY, rung(source, model, HALFWAY)))
        models += [
            TriedModel(
                name=f"{trial.name}, epoch {epoch + 1}" + ("" if step == 1 else ", half the way"),
                trial=trial.name,
                epoch=epoch,
                step=step,
                model=one,
            )
            for step, one in steps
        ]
    return record, models


def taking_part(clean: list[int], chosen: int | None) -> list[int]:
    """Of epochs without a veto the chosen one, the last, and others at equal distances.

    >>> taking_part([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 4)
    [0, 4, 6, 9]
    >>> taking_part([0, 2], 2)
    [0, 2]
    """
    if chosen is None:
        return []
    picked = {chosen, clean[-1]}
    spread = [round(n * (len(clean) - 1) / (MOST_EPOCHS - 1)) for n in range(MOST_EPOCHS)]
    for position in [spread[0], spread[2], spread[1]]:
        if len(picked) < MOST_EPOCHS:
            picked.add(clean[position])
    return sorted(picked)


@task(name="ranking of the trials")
def rank_trials(
    source: ModelRef,
    tried: SearchedModels,
    pool: SplitRef,
    policy: DecisionPolicy,
    expected: Expected,
    device: DeviceName = "auto",
) -> Ranking:
    """All models that were tried, and the source, in order without labels.

    Scores that one of the methods itself minimises have no vote. Where the source itself answers
    far fewer classes than are expected no score tells help from harm, and it stays.
    """
    side = open_side(source, pool, device)
    if has_collapsed(figures_over(side, choose(device)), policy.vetoes, expected):
        against = ("the source answers too few classes: no score tells help from harm",)
        out = [Ranked(name=one.name, vetoes=against) for one in tried.models]
        return Ranking(candidates=(Ranked(name=SOURCE_NAME, mean_rank=1.0), *out))
    named = {SOURCE_NAME: source} | {one.name: one.model for one in tried.models}
    methods = {record.method for record in tried.records}
    minimised = frozenset[str]().union(*(kind_of(name).minimises for name in methods))

    def contenders() -> Iterator[tuple[str, Contender]]:
        for name, model in named.items():
            side = open_side(model, pool, device)
            yield name, Contender(side.network, side.spec, side.opened)

    looks, vetoes = look_at_all(contenders(), choose(device))
    ranking = rank(looks, vetoes, minimised)
    rows = [
        {"candidate": one.name, "mean rank": one.mean_rank, **one.scores}
        | {"vetoes": "; ".join(one.vetoes)}
        for one in ranking.candidates
    ]
    about = "ranking without labels; the source takes part"
    create_table_artifact(rows, key="ranking", description=about)
    return ranking


def drop_trials(tried: SearchedModels, but: str) -> None:
    """Delete the weights of all that was tried, but those of the model of that name."""
    winner = {one.trial: one.epoch for one in tried.models if one.name == but}
    for record in tried.records:
        adapted, epoch = record.adaptation, winner.get(record.trial, SOURCE_EPOCH)
        drop_weights(Path(adapted.folder), adapted.candidates, but=epoch)
    for one in tried.models:
        if one.step < 1 and one.name != but:
            remove_tree(Path(one.model.uri))
