"""What every problem asks of a new model's spec: an input, and classes named once."""

from __future__ import annotations

from sfda.errors import BadInput
from sfda.refs import InputSpec


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
