"""The command that does a run again, from the settings that it was asked for."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from sfda.adaptation.plan import AdaptPlan
from sfda.policy import DecisionPolicy
from sfda.settings import AdaptSettings, RunSettings

POLICY_FILE, GRID_FILE = "policy.yaml", "grid.yaml"
OPTIONS = ("epochs", "name", "split", "test_split", "budget", "notify", "skip_unreadable")


def adapt_command(source: str, target: str, plan: AdaptPlan, asked: AdaptSettings) -> str:
    """The command, for a shell: without what is usual, with what was chosen for the user."""
    words = ["sfda", "adapt", "--source", source, "--target", target, "--method", plan.method]
    words += ["--select-by", plan.select_by, "--seed", str(plan.seed)]
    usual = AdaptSettings()
    for name in OPTIONS:
        value = getattr(asked, name)
        if value != getattr(usual, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    for name, value in setting_lines(asked.overrides):
        words += ["--set", f"{name}={value}"]
    words += _views(asked) + _guide(asked)
    for name, share in (asked.prior or {}).items():
        words += ["--prior", f"{name}={share!r}"]
    if asked.decision != DecisionPolicy():
        words += ["--decision", POLICY_FILE]
    if asked.promote:
        words.append("--promote")
    return shlex.join(words)


def compare_command(
    source: str,
    target: str,
    methods: Sequence[str],
    seeds: Sequence[int],
    settings: Mapping[str, Mapping[str, Any]],
    asked: RunSettings,
) -> str:
    """The command of a comparison, for a shell."""
    words = ["sfda", "compare", "--source", source, "--target", target]
    words += ["--methods", ",".join(methods), "--seeds", ",".join(map(str, seeds))]
    words += _shared(asked)
    for name, value in setting_lines(settings):
        words += ["--set", f"{name}={value}"]
    return shlex.join([*words, *_views(asked), *_guide(asked)])


def tune_command(
    source: str,
    target: str,
    methods: Sequence[str] | None,
    grid: Mapping[str, Mapping[str, Sequence[Any]]] | None,
    budget: str,
    own: Mapping[str, Any],
    asked: RunSettings,
) -> str:
    """The command of a search, for a shell; `own`: its seed, its name, and whether it promotes."""
    words = ["sfda", "tune", "--source", source, "--target", target, "--budget", budget]
    words += ["--methods", ",".join(methods)] if methods else []
    words += ["--grid", GRID_FILE] if grid else []
    words += ["--seed", str(own["seed"])] + (["--name", own["name"]] if own["name"] else [])
    words += _shared(asked)
    for name, share in (asked.prior or {}).items():
        words += ["--prior", f"{name}={share!r}"]
    words += ["--decision", POLICY_FILE] if asked.decision != DecisionPolicy() else []
    return shlex.join([*words, *(["--promote"] if own["promote"] else [])])


def _shared(asked: RunSettings) -> list[str]:
    """What every kind of run can be asked for, where it is not the usual."""
    words, usual = [], RunSettings()
    for name in ("select_by", "epochs", "split", "test_split", "skip_unreadable"):
        value = getattr(asked, name)
        if value != getattr(usual, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def _guide(asked: RunSettings) -> list[str]:
    if asked.guide is None:
        return []
    own = asked.guide.model_dump(mode="json", exclude_none=True)
    words = ["--guide", str(own.pop("uri"))]
    for name in ("classes", "names"):
        words += [f"--guide-{name}", str(own.pop(name))] if name in own else []
    return words + [word for n, v in setting_lines(own) for word in ("--guide-set", f"{n}={v}")]


def _views(asked: RunSettings) -> list[str]:
    stated = asked.views.model_dump() if asked.views else {}  # over the model's own, not ours
    return [word for n, v in setting_lines(stated) for word in ("--set", f"views.{n}={v}")]


def files_beside(
    asked: RunSettings, grid: Mapping[str, Mapping[str, Sequence[Any]]] | None = None
) -> dict[str, str]:
    """Content of the files that the command names besides model and target."""
    files = {GRID_FILE: _yaml({name: dict(own) for name, own in grid.items()})} if grid else {}
    if asked.decision != DecisionPolicy():
        files[POLICY_FILE] = _yaml(asked.decision.model_dump(mode="json", exclude_defaults=True))
    return files


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False)


def setting_lines(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names and values as they are typed.

    >>> list(setting_lines({"schedule": {"lr": 0.1}, "k": None, "sides": [1, 2]}))
    [('schedule.lr', '0.1'), ('k', 'null'), ('sides', '[1, 2]')]
    """
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from setting_lines(value, f"{prefix}{name}.")
            continue
        text = yaml.safe_dump(
            list(value) if isinstance(value, tuple) else value,
            default_flow_style=True,
            allow_unicode=True,
            width=10**9,
        )
        yield prefix + name, text.removesuffix("\n").removesuffix("\n...")
