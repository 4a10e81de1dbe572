"""What every problem asks of a new model's spec: an input, and classes named once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sfda.errors import BadInput
from sfda.networks.foreign import build as foreign
from sfda.networks.foreign.code import code_of, named_by_person
from sfda.networks.grammar import is_foreign
from sfda.problems.registry import PROBLEMS
from sfda.refs import InputSpec, ModelSpec


def chosen_input(arch: str, input: InputSpec | None, stated: InputSpec | None) -> InputSpec:
    """The input that was asked for, else the one the architecture states; BadInput for neither."""
    chosen = input or stated
    if chosen is None:
        raise BadInput(f"{arch} does not state its input: give its size, mean, std and channels")
    return chosen


def named_twice(classes: tuple[str, ...]) -> list[str]:
    """Classes that stand in the list more than once, in order of the alphabet.

    >>> named_twice(("cat", "dog", "cat"))
    ['cat']
    """
    return sorted({c for c in classes if classes.count(c) > 1})


def refuse_doubles(classes: tuple[str, ...]) -> None:
    """BadInput that names the classes which stand in the list more than once."""
    if twice := named_twice(classes):
        raise BadInput(f"classes named twice: {', '.join(twice)}")


def foreign_spec(
    spec: ModelSpec,
    outputs: int,
    arch_settings: Mapping[str, Any] | None = None,
    head_layer: str | None = None,
) -> ModelSpec:
    """The spec of a network of somebody's own class, with its code and where it is cut.

    The arch is what a person gives: its code is imported, since it is named for that, and a probe
    pass finds the head, or sees that `head_layer` is one. `arch_settings` are what the class is
    made with. The spec of a library's network stays as it is. Raises BadInput.
    """
    if not is_foreign(spec.arch):
        if arch_settings or head_layer:
            what = "--arch-set" if arch_settings else "--head LAYER"
            raise BadInput(f"{what} is for classes of your own, and {spec.arch} is of a library")
        return spec
    arch, code = code_of(spec.arch)
    try:
        plain = json.loads(json.dumps(dict(arch_settings or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BadInput(f"--arch-set takes numbers, words, lists and groups: {error}") from None
    facts = {"arch": arch, "code": code, "arch_settings": plain}
    with named_by_person(code):
        answer = PROBLEMS[spec.problem].answer
        return foreign.probed(spec.model_copy(update=facts), outputs, answer, head_layer)
