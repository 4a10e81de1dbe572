"""The command that looks at a target before anything is adapted to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from flows.cli.model_input import problem_of_model
from flows.cli.options import (
    DeviceOption,
    JsonOption,
    MethodOption,
    PriorOption,
    SeedOption,
    SettingsOption,
    SkipUnreadableOption,
    SourceOption,
    SplitOption,
    TargetOption,
    TestSplitOption,
)
from flows.cli.output import skipped_lines
from flows.cli.parsing import pop_group, read_settings, read_shares
from flows.cli.session import session

if TYPE_CHECKING:  # this imports torch
    from sfda.profiling.findings import TargetProfile


def profile(
    source: SourceOption,
    target: TargetOption,
    method: MethodOption = None,
    settings: SettingsOption = None,
    prior: PriorOption = None,
    split: SplitOption = "adapt",
    test_split: TestSplitOption = None,
    skip_unreadable: SkipUnreadableOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """What can be seen of a target before it is adapted to, and what to do with it."""
    with session(json, models=[source], data=[target]) as out:
        from sfda.adaptation.target import as_manifest
        from sfda.settings import AdaptSettings
        from tasks.profile import profile_once

        overrides = read_settings(settings)
        pop_group(overrides, "views")  # nothing is augmented here
        options: dict[str, Any] = {
            "method": method,
            "prior": read_shares(prior),
            "settings": overrides or None,
        }
        options |= {"split": split, "test_split": test_split, "seed": seed, "device": device}
        options |= {"skip_unreadable": skip_unreadable}
        asked = AdaptSettings.from_settings(options, "options")
        manifest = as_manifest(target, lambda: problem_of_model(source))
        profiled, skipped = profile_once(source, manifest, asked, device, target)
        more = {"recommended": profiled.recommendation.text, "skipped": list(skipped)}
        text = "\n".join([_text(profiled), *skipped_lines(skipped)])
        out.show(profiled.model_dump() | more, text)


def _text(profiled: TargetProfile) -> str:
    """The recommendation, why, and all that was looked at, for a person."""
    advice = profiled.recommendation
    lines = [f"{advice.text}: {'; '.join(advice.reasons)}", ""]
    for one in profiled.findings:
        lines.append(f"{one.name:<16}{one.standing:<11}{one.sentence}")
        lines += [f"{'':<27}{one.remedy}"] if one.remedy else []
    return "\n".join(lines)


def register(app: typer.Typer) -> None:
    """Put this command on the command line."""
    app.command()(profile)
