"""The commands that adapt: one job, a comparison, a target that grows."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.model_input import model_views
from flows.cli.options import (
    AgainOption,
    DecisionOption,
    DeviceOption,
    EpochsOption,
    GrowingTargetArgument,
    GuideClassesOption,
    GuideNamesOption,
    GuideOption,
    GuideSettingsOption,
    JsonOption,
    MethodOption,
    NotifyOption,
    PolicyOption,
    PresetOption,
    PriorOption,
    PromoteOption,
    SeedOption,
    SelectByOption,
    SettingsOption,
    SkipUnreadableOption,
    SourceOption,
    SplitOption,
    TargetNameOption,
    TargetOption,
    TestLabelsOption,
    TestSplitOption,
    TimeBudgetOption,
    UnsetNameOption,
    UnsetSeedOption,
    UnsetSplitOption,
    WorkersOption,
)
from flows.cli.output import Output, adapt_result, adapt_text, skipped_lines
from flows.cli.parsing import (
    checked_duration,
    comma_list,
    pop_group,
    read_seeds,
    read_settings,
    read_shares,
    settings_by_method,
    stated,
    stated_guide,
    stated_policy,
)
from flows.cli.session import session


def adapt(
    source: SourceOption,
    target: TargetOption,
    method: MethodOption = None,
    settings: SettingsOption = None,
    preset: PresetOption = None,
    select_by: SelectByOption = None,
    epochs: EpochsOption = None,
    seed: UnsetSeedOption = None,
    name: UnsetNameOption = None,
    split: UnsetSplitOption = None,
    test_split: TestSplitOption = None,
    promote: PromoteOption = False,
    again: AgainOption = False,
    decision: DecisionOption = None,
    prior: PriorOption = None,
    guide: GuideOption = None,
    guide_classes: GuideClassesOption = None,
    guide_names: GuideNamesOption = None,
    guide_set: GuideSettingsOption = None,
    notify: NotifyOption = None,
    budget: TimeBudgetOption = None,
    skip_unreadable: SkipUnreadableOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = 0,
    json: JsonOption = False,
) -> None:
    """Adapt a model to unlabelled data, choose, judge, register."""
    with session(json, flow=True, adapts=True, models=[source], data=[target]) as out:
        from flows import adapt as flow
        from flows import presets
        from sfda.config import merged
        from sfda.settings import AdaptSettings

        shipped = presets.read(preset, allowed=presets.allowed_for(flow.adapt)) if preset else {}
        overrides = read_settings(settings)
        views = merged(pop_group(shipped, "views"), pop_group(overrides, "views"))
        options = stated(
            method=method,
            select_by=select_by,
            epochs=epochs,
            seed=seed,
            name=name,
            split=split,
            test_split=test_split,
            budget=checked_duration(budget),
            decision=stated_policy(decision),
            prior=read_shares(prior),
            notify=notify,
            guide=stated_guide(guide, guide_classes, guide_names, guide_set),
            skip_unreadable=skip_unreadable,
        )
        usual = {"promote": promote, "again": again, "device": device, "workers": workers}
        trained_with = merged(pop_group(shipped, "settings"), overrides)
        own = {"settings": trained_with, "views": model_views(source, views)}
        began, values = time.monotonic(), usual | shipped | options | own
        asked = AdaptSettings.from_settings(values, "options")
        result = adapt_result(flow.run_adapt(source, target, asked), time.monotonic() - began)
        out.show(result, adapt_text(result))


def compare(
    source: SourceOption,
    target: Annotated[Path, typer.Option(help="a manifest with a labelled test split")],
    methods: Annotated[str, typer.Option(help="a,b,c; 'supervised' is the bound")],
    seeds: Annotated[str | None, typer.Option(help="0,1,2; default 0")] = None,
    settings: SettingsOption = None,
    preset: PresetOption = None,
    select_by: SelectByOption = None,
    epochs: EpochsOption = None,
    split: UnsetSplitOption = None,
    test_split: TestSplitOption = None,
    guide: GuideOption = None,
    guide_classes: GuideClassesOption = None,
    guide_names: GuideNamesOption = None,
    guide_set: GuideSettingsOption = None,
    skip_unreadable: SkipUnreadableOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = 0,
    json: JsonOption = False,
) -> None:
    """One table of methods; settings: METHOD.k=v for one of them, k=v for all."""
    with session(json, flow=True, adapts=True, models=[source], data=[target]) as out:
        from flows import presets
        from flows.compare import compare as flow
        from sfda.config import merged

        shipped = presets.read(preset, allowed=presets.allowed_for(flow)) if preset else {}
        chosen, overrides = comma_list(methods), read_settings(settings)
        views = merged(pop_group(shipped, "views"), pop_group(overrides, "views"))
        own = settings_by_method(chosen, pop_group(shipped, "settings"), overrides)
        options = stated(
            select_by=select_by,
            epochs=epochs,
            split=split,
            test_split=test_split,
            seeds=read_seeds(seeds) if seeds else None,
            guide=stated_guide(guide, guide_classes, guide_names, guide_set),
            skip_unreadable=skip_unreadable,
        )
        usual = {"methods": chosen, "device": device, "workers": workers}
        options |= {"settings": own, "views": model_views(source, views)}
        addresses = {"source": source, "target": str(target)}
        compared = flow(**flow.grouped(addresses | usual | shipped | options))
        out.show(compared.model_dump(), f"{compared.table}\n\nreport {compared.report or 'none'}")


def refresh(
    target: GrowingTargetArgument,
    source: SourceOption,
    method: MethodOption = None,
    settings: SettingsOption = None,
    policy: PolicyOption = None,
    target_name: TargetNameOption = None,
    labels: TestLabelsOption = None,
    name: UnsetNameOption = None,
    select_by: SelectByOption = None,
    epochs: EpochsOption = None,
    seed: SeedOption = 0,
    split: SplitOption = "adapt",
    promote: PromoteOption = False,
    decision: DecisionOption = None,
    notify: NotifyOption = None,
    budget: TimeBudgetOption = None,
    skip_unreadable: SkipUnreadableOption = None,
    announce: Annotated[bool, typer.Option("--announce", help="only send the event")] = False,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Look once at a target that grows: adapt if enough of it changed, or new images drift."""
    with session(json, flow=True, adapts=True, models=[source]) as out:
        parameters = _refresh_parameters(target, labels, settings, policy, budget, decision)
        parameters |= {"source": source, "target_name": target_name, "name": name, "split": split}
        parameters |= {"method": method, "select_by": select_by, "epochs": epochs, "seed": seed}
        parameters |= {"promote": promote, "announce": announce, "device": device, "notify": notify}
        parameters |= {"skip_unreadable": skip_unreadable}
        refresh_once(out, parameters)


def watch(
    target: GrowingTargetArgument,
    source: SourceOption,
    every: Annotated[str, typer.Option(help="time between two looks: 30s, 5m, 1h")] = "5m",
    method: MethodOption = None,
    settings: SettingsOption = None,
    policy: PolicyOption = None,
    target_name: TargetNameOption = None,
    labels: TestLabelsOption = None,
    name: UnsetNameOption = None,
    select_by: SelectByOption = None,
    epochs: EpochsOption = None,
    seed: SeedOption = 0,
    split: SplitOption = "adapt",
    promote: PromoteOption = False,
    decision: DecisionOption = None,
    notify: NotifyOption = None,
    budget: TimeBudgetOption = None,
    skip_unreadable: SkipUnreadableOption = None,
    device: DeviceOption = "auto",
    looks: Annotated[int | None, typer.Option(min=1, help="end after so many looks")] = None,
    json: JsonOption = False,
) -> None:
    """Look again and again, on one machine, until Ctrl-C; a look that fails ends nothing."""
    with session(json, flow=True, adapts=True) as out:
        from sfda.settings import seconds_of

        pause = seconds_of(every) or 0.0
        parameters = _refresh_parameters(target, labels, settings, policy, budget, decision)
        parameters |= {"source": source, "target_name": target_name, "name": name, "split": split}
        parameters |= {"method": method, "select_by": select_by, "epochs": epochs, "seed": seed}
        parameters |= {"promote": promote, "device": device, "notify": notify}
        parameters |= {"skip_unreadable": skip_unreadable}
        for look in itertools.count(1):
            try:
                refresh_once(out, parameters)
            except Exception as error:
                if look == 1:
                    raise  # a wrong call; later it is the target or a server that has gone wrong
                logging.getLogger("sfda").error("%s; the next look is in %s", error, every)
            if look == looks:
                return
            threading.Event().wait(pause)


def _refresh_parameters(
    target: Path,
    labels: Path | None,
    settings: list[str] | None,
    policy: list[str] | None,
    budget: str | None,
    decision: Path | None,
) -> dict[str, Any]:
    """Those of the flow's parameters that options do not state as they are. Raises BadInput."""
    from sfda.adaptation.target_versions import RefreshPolicy

    return {
        "target": str(target.absolute()),
        "labels": str(labels.absolute()) if labels else None,
        "settings": read_settings(settings),
        "policy": RefreshPolicy.from_settings(read_settings(policy), "policy"),
        "budget": checked_duration(budget),
        "decision": stated_policy(decision),
    }


def refresh_once(out: Output, parameters: dict[str, Any]) -> None:
    """One look at a target that grows, and what came of it."""
    from flows.refresh_target import refresh_target

    look: Any = refresh_target(**parameters)
    adapted = look.adapted
    result = look.model_dump() | {"adapted": adapt_result(adapted, 0.0) if adapted else None}
    lines = skipped_lines(look.skipped)
    lines += [f"  {command}" for command in adapted.next] if adapted else []
    lines += [look.passed_over] if look.passed_over else []
    out.show(result, "\n".join([f"{look.outcome}: {look.says}", *lines]))


def register(app: typer.Typer) -> None:
    """Put these commands on the command line."""
    for command in (adapt, compare, refresh, watch):
        app.command()(command)
