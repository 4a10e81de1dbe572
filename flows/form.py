"""Types of flow parameters: Prefect's form offers what there is, and refuses the rest."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema

from sfda import plugins
from sfda.adaptation.supervised import BOUND
from sfda.errors import BadInput


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


def seconds_of(duration: str | None) -> float | None:
    """A time in seconds. Raises BadInput for what is none.

    >>> seconds_of("30m"), seconds_of("1.5h")
    (1800.0, 5400.0)
    """
    if duration is None:
        return None
    try:
        seconds = float(duration[:-1]) * UNITS[duration[-1:]]
    except (ValueError, KeyError):
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise BadInput(f"'{duration}' is no time; write a number above 0 and a unit: 90s, 30m, 2h")
    return seconds
