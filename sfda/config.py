"""The base of every setting: frozen, and strict about names it does not know."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from sfda.bounds.files import Unreadable, read_bounded
from sfda.bounds.limits import YAML_BYTES
from sfda.documents import cut_off, parse_yaml
from sfda.errors import BadInput

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class Config(BaseModel):
    """Frozen settings; an unknown name is an error, so a typo ends the run at its first line."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @classmethod
    def from_settings(cls, settings: dict[str, Any], what: str = "settings") -> Self:
        """The defaults with these settings put over them, nested ones part by part.

        For classes whose every field has a default. Raises BadInput that names every unknown
        setting and every value refused.
        """
        try:
            return cls.model_validate(merged(cls().model_dump(), settings))
        except ValidationError as error:
            raise BadInput(say_faults(error, cls, what)) from None


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above` put over it, dictionary by dictionary.

    >>> merged({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}})
    {'a': {'x': 1, 'y': 3}}
    """
    result = dict(below)
    for name, value in above.items():
        old = result.get(name)
        both = isinstance(old, dict) and isinstance(value, dict)
        result[name] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def say_faults(error: ValidationError, kind: type[BaseModel], what: str) -> str:
    """Every fault of a refused model in one line."""
    return f"{what}: " + "; ".join(_say(fault, kind) for fault in error.errors())


def _say(fault: ErrorDetails, kind: type[BaseModel]) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        return f"{name} = {cut_off(repr(fault['input']), 300)} is refused: {fault['msg']}"
    for part in fault["loc"][:-1]:
        nested = kind.model_fields[part].annotation if part in kind.model_fields else None
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            kind = nested
    known = sorted(kind.model_fields)
    near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
    return f"there is no '{name}'; {hint}"


def read_yaml(file: Path, hint: str) -> Any:
    """What a YAML (or JSON) file says. Raises BadInput; `hint` tells what it should hold."""
    try:
        return parse_yaml(read_bounded(file, YAML_BYTES))
    except FileNotFoundError:
        raise BadInput(f"no file {file}; {hint}") from None
    except (OSError, Unreadable) as error:
        raise BadInput(f"{file} is not YAML: {error}") from None
