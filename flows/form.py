"""Types of flow parameters: Prefect's form offers what there is, and refuses the rest."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, WithJsonSchema

from sfda import plugins
from sfda.adaptation.supervised import BOUND
from sfda.config import Config, merged, read_yaml, say_faults
from sfda.errors import BadInput
from sfda.refs import InputSpec, SideBySide, Version


def one_of(folder: str, *more: str) -> Any:
    """The type of a name in an open folder: Prefect's form lists what there is."""

    def check(name: str) -> str:
        if name not in more:
            plugins.load(folder, name)
        return name

    schema = {"type": "string", "enum": [*plugins.names(folder), *more]}
    return Annotated[str, AfterValidator(check), WithJsonSchema(schema)]


MethodName = one_of("methods")
QueryName = one_of("queries")
ComparedName = one_of("methods", BOUND)
ValidatorName = one_of("validators", "last")
Epochs = Annotated[int, Field(ge=1, description="overrides the method's own number of epochs")]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Duration = Annotated[
    str, Field(pattern=r"^\d+(\.\d+)?[smhd]$", description="a time, as 90s, 30m, 2h, 1d")
]
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class AdaptResult(Config):
    """What `adapt` tells at its end."""

    flow_run_id: str
    mlflow_run_id: str
    version: Version
    selected_epoch: int
    selected_by: str
    scores: dict[str, float]
    sides: SideBySide
    promoted: bool
    cut: str | None = None  # what the budget of time left out
    images_per_second: float
    peak_memory_mb: float


def short(path: str) -> str:
    """A manifest's or model's address, short enough for a run's name.

    >>> short("data_manifests/digits/usps.yaml"), short("models:/digits@source")
    ('digits/usps', 'digits@source')
    """
    if ":/" in path:
        return path.partition(":/")[2]
    found = Path(path)
    return "/".join([*found.parent.parts[-1:], found.stem])


def seconds_of(duration: str | None) -> float | None:
    """A time in seconds. Raises BadInput for what is none.

    >>> seconds_of("30m"), seconds_of("1.5h")
    (1800.0, 5400.0)
    """
    if duration is None:
        return None
    try:
        found = float(duration[:-1]) * UNITS[duration[-1:]]
    except (ValueError, KeyError):
        found = -1.0
    if not 0 < found < float("inf"):
        raise BadInput(f"'{duration}' is no time; write a number above 0 and a unit: 90s, 30m, 2h")
    return found


def checked_duration(duration: str | None) -> str | None:
    """The same text, after it was found to be a time. Raises BadInput."""
    seconds_of(duration)
    return duration


def flow_parameters(flow: Any) -> set[str]:
    """Names that a preset of this flow may give."""
    return set(flow.parameters.properties) - {"source", "target"}


def per_method(
    methods: list[str], preset: dict[str, Any], given: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Settings by method: those under a method's name are its own, the others everybody's.

    Raises BadInput for a method's name that is given a value instead of settings.
    """
    for place in (preset, given):
        for name in methods:
            if not isinstance(place.get(name, {}), dict):
                raise BadInput(f"{name} is a method: give it settings, e.g. --set {name}.seed=1")
    shared = {k: v for k, v in given.items() if k not in methods}
    return {m: merged(merged(preset.get(m, {}), shared), given.get(m, {})) for m in methods}


def read_seeds(text: str) -> list[int]:
    """`0,1,2` as numbers. Raises BadInput."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"--seeds {text}: write whole numbers with commas, e.g. 0,1,2") from None


def read_input(
    arch: str,
    file: Path | None,
    given: dict[str, Any],
    problem: str = "classification",
    usual: Mapping[str, Any] = MappingProxyType({}),
) -> InputSpec | None:
    """An input spec from a YAML file or from single values, over what the architecture states.

    None where nothing is given. `usual` stands in for what no architecture states. Raises
    BadInput for what does not make one.
    """
    if file is None and not given:
        return None
    stated = problem_module(problem).defaults(arch)[0]
    values: dict[str, Any] = stated.model_dump() if stated else dict(usual)
    if file is not None:
        if not file.is_file():
            raise BadInput(f"no file {file}; it should say size, mean, std and channels as YAML")
        values |= _mapping(file)
    for name in ("size", "resize"):
        if isinstance(given.get(name), str):
            given[name] = _sides(name, given[name])
    for name in ("mean", "std"):
        if isinstance(given.get(name), str):
            given[name] = _numbers(name, given[name])
    if "size" in given and "resize" not in given:
        values["resize"] = None
    if given.get("channels") == "gray" and values.get("channels", "rgb") != "gray":
        values |= {name: values[name][:1] for name in ("mean", "std") if name in values}
    try:
        return InputSpec.model_validate({**values, **given})
    except ValidationError as error:
        raise BadInput(say_faults(error, InputSpec, "input")) from None


def _mapping(file: Path) -> dict[str, Any]:
    found = read_yaml(file, "it should say size, mean, std and channels")
    if not isinstance(found, dict):
        raise BadInput(f"{file} should say size, mean, std and channels as `name: value` lines")
    return found


def problem_module(problem: str) -> Any:
    """The module of a problem. Raises BadInput for one that is not built yet."""
    from sfda.problems.registry import PROBLEMS

    if problem not in PROBLEMS:
        raise BadInput(f"there are no networks for {problem} yet; there are {', '.join(PROBLEMS)}")
    return PROBLEMS[problem]


def _sides(name: str, text: str) -> tuple[int, int]:
    """Height and width.

    >>> _sides("size", "224"), _sides("size", "120x160")
    ((224, 224), (120, 160))
    """
    try:
        sides = [int(part) for part in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise BadInput(f"--{name} {text}: write pixels, 224, or height and width, 120x160")
    return sides[0], sides[-1]


def _numbers(name: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"--{name} {text}: write numbers with commas, e.g. 0.5,0.5,0.5") from None


def describe_methods() -> list[dict[str, Any]]:
    """Every method with its problems, its setting, its paper and one sentence."""
    rows = []
    for name in plugins.names("methods"):
        kind = plugins.load("methods", name)
        said = (inspect.getmodule(kind).__doc__ or "").strip()
        paper = re.search(r"arXiv:(\d{4}\.\d{4,5})", said)
        rows.append(
            {
                "name": name,
                "problems": sorted(kind.problems),
                "setting": kind.setting,
                "paper": f"arXiv:{paper[1]}" if paper else "",
                "says": said.partition("\n")[0],
            }
        )
    return rows


def name_of(source: str) -> str:
    """The registered name in a model's address, or the last part of a path."""
    if source.startswith("models:/"):
        return source.removeprefix("models:/").partition("@")[0].partition("/")[0]
    return source.rstrip("/").rpartition("/")[2] or "adapted"
