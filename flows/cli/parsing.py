"""Words of a command line as values: settings, names, seeds, times."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfda.errors import BadInput


def read_settings(pairs: list[str] | None, option: str = "--set") -> dict[str, Any]:
    """`k=v` pairs as nested settings; values are YAML, `@FILE` what a YAML file holds, dots nest.
    Raises BadInput.

    >>> read_settings(["schedule.lr=0.1", "lr_scale.head=0"])
    {'schedule': {'lr': 0.1}, 'lr_scale': {'head': 0}}
    """
    settings: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            example = "schedule.lr=0.001" if option == "--set" else "depth=20"
            raise BadInput(f"{option} {pair}: write name=value, e.g. {option} {example}")
        group = settings
        *outer, last = name.split(".")
        for part in outer:
            group = group.setdefault(part, {})
            if not isinstance(group, dict):
                raise BadInput(f"{option} {pair}: '{part}' was given a value of its own before")
        group[last] = _value(text, f"{option} {pair}")
    return settings


def _value(text: str, pair: str) -> object:
    """What stands behind the `=` of a pair."""
    from sfda.bounds.files import Unreadable
    from sfda.config import read_yaml
    from sfda.documents import parse_yaml

    if text.startswith("@"):
        try:
            return read_yaml(Path(text[1:]), "@ takes a YAML file")
        except BadInput as error:
            raise BadInput(f"{pair}: {error}") from None
    try:
        value = parse_yaml(text)
    except Unreadable:
        raise BadInput(f"{pair}: the value cannot be read") from None
    return _number(text) if isinstance(value, str) else value


def _number(text: str) -> float | str:
    """YAML takes 1e-3 for text; a person means a number."""
    try:
        return float(text)
    except ValueError:
        return text


def pop_group(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """A group of settings, taken out of the others. Raises BadInput for a value in its place."""
    group = settings.pop(name, {})
    if not isinstance(group, dict):
        raise BadInput(f"{name} is a group of settings: give one of them, e.g. {name}.NAME=VALUE")
    return group


def settings_by_method(
    methods: list[str], preset: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Settings by method: those under a method's name are its own, the others everybody's.

    Raises BadInput for a method's name that is given a value instead of settings.
    """
    from sfda.config import merged

    for settings in (preset, overrides):
        for name in methods:
            if not isinstance(settings.get(name, {}), dict):
                raise BadInput(f"{name} is a method: give it settings, e.g. --set {name}.seed=1")
    shared = {k: v for k, v in overrides.items() if k not in methods}
    return {m: merged(merged(preset.get(m, {}), shared), overrides.get(m, {})) for m in methods}


def stated(**values: object) -> dict[str, Any]:
    """Those of the values that were stated: not None."""
    return {name: value for name, value in values.items() if value is not None}


def comma_list(text: str) -> list[str]:
    """The parts of `a,b,c`. Raises BadInput where there is none.

    >>> comma_list("aad, shot,")
    ['aad', 'shot']
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise BadInput(f"'{text}' names nothing; write names with commas: a,b,c")
    return parts


def class_names(text: str | None, file: Path | None = None) -> tuple[str, ...]:
    """Class names from `a,b,c` or from a file that lists them. Raises BadInput."""
    from sfda.authoring.conversion.class_files import read_class_file
    from sfda.refs import few_classes, printable_name

    if (text is None) == (file is None):
        raise BadInput("give the class names once: --classes a,b,c or --classes-file FILE")
    lines = str(text).split(",") if file is None else read_class_file(file)
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise BadInput("no class name was given")
    try:
        return tuple(map(printable_name, few_classes(names)))
    except ValueError as error:
        raise BadInput(f"a class cannot be called so: {error}") from None


def read_seeds(text: str) -> list[int]:
    """`0,1,2` as numbers. Raises BadInput."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"--seeds {text}: write whole numbers with commas, e.g. 0,1,2") from None


def stated_policy(file: Path | None) -> dict[str, Any] | None:
    """What a file of policy states, checked; None where there is none. Raises BadInput."""
    from sfda.policy import read_policy

    return read_policy(file).model_dump() if file else None


def stated_guide(
    uri: str | None, classes: Path | None, names: Path | None, pairs: list[str] | None
) -> dict[str, Any] | None:
    """The settings of a guide, by the options that state them; None where there is none. Raises
    BadInput.
    """
    own = read_settings(pairs, "--guide-set")
    own |= {n: str(file) for n, file in (("classes", classes), ("names", names)) if file}
    if uri is None and own:
        raise BadInput("--guide-classes, --guide-names and --guide-set go with --guide")
    return None if uri is None else {"uri": uri, **own}


def read_shares(pairs: list[str] | None) -> dict[str, float] | None:
    """`CLASS=0.2` pairs as shares; None where there are none. Raises BadInput.

    >>> read_shares(["a.b=0.2", "c=1"])
    {'a.b': 0.2, 'c': 1.0}
    """
    shares: dict[str, float] = {}
    for pair in pairs or []:
        name, _, text = pair.rpartition("=")
        try:
            share = float(text)
        except ValueError:
            share = -1.0
        if not name or not 0 <= share < float("inf"):
            raise BadInput(f"--prior {pair}: write a class and its share, e.g. --prior cat=0.2")
        if name in shares:
            raise BadInput(f"--prior {pair}: '{name}' has a share already")
        shares[name] = share
    return shares or None


def checked_duration(duration: str | None) -> str | None:
    """The same text, after it was found to be a time. Raises BadInput."""
    from sfda.settings import seconds_of

    seconds_of(duration)
    return duration
