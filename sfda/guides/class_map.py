"""Which of a guide's classes are which of the model's (`--guide-classes`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sfda.config import read_yaml
from sfda.errors import BadInput, listed

LEAST_MASS = 0.05  # of the guide's probability on listed classes, below which it is silent
FLOOR_OF_MEAN = 1e-8
RANGE = re.compile(r"(\d+)-(\d+)")
EXAMPLE = "a line a class, such as `dog: [151-268]` or `house: []`"


class MappedAnswers(NamedTuple):
    """What a guide of other classes says of ours."""

    answered: Bool[Tensor, " N"]
    covers: Bool[Tensor, " C"]
    logits: Float[Tensor, "N C"]


def read_class_map(
    path: Path, classes: Sequence[str], guide_classes: Sequence[str]
) -> list[list[int]]:
    """For each of our classes the numbers of the guide's: names, numbers, or ranges `151-268`, both
    ends among them; none for a class that the guide cannot name. Raises BadInput.
    """
    content = read_yaml(path, EXAMPLE)
    if not isinstance(content, dict):
        raise BadInput(f"{path} names no classes; it should hold {EXAMPLE}")
    stated = {str(name): value for name, value in content.items()}
    if unknown := sorted(set(stated) - set(classes)):
        raise BadInput(
            f"{path} names {listed(unknown)}, which the model lacks; it has {listed(list(classes))}"
        )
    own: dict[int, str] = {}
    lists = []
    for name in classes:
        value = stated.get(name)
        entries = value if isinstance(value, list) else [] if value is None else [value]
        numbers = [n for entry in entries for n in _numbers(path, entry, guide_classes)]
        for number in numbers:
            if own.setdefault(number, name) != name:
                raise BadInput(f"{path}: class {number} of the guide is {own[number]} and {name}")
        lists.append(sorted(set(numbers)))
    if not any(lists):
        raise BadInput(f"{path} names no class of the guide; it should hold {EXAMPLE}")
    return lists


def _numbers(path: Path, entry: object, guide_classes: Sequence[str]) -> list[int]:
    text = str(entry)
    if text in guide_classes:
        return [guide_classes.index(text)]
    count = len(guide_classes)
    first, last = (text, text)
    if match := RANGE.fullmatch(text):
        first, last = match.groups()
    if not (first.isascii() and first.isdigit() and len(first) < 10 and len(last) < 10):
        raise BadInput(f"{path}: the guide has no class '{text[:80]}'; name it, or by its number")
    if not int(first) <= int(last) < count:
        raise BadInput(
            f"{path}: '{text}' is not within the guide's {count} classes, 0 to {count - 1}"
        )
    return list(range(int(first), int(last) + 1))


def map_answers(probs: Float[Tensor, "N K"], lists: Sequence[Sequence[int]]) -> MappedAnswers:
    """The mean over each of our classes' list (a class with many breeds would swallow the rest of a
    sum), as logits; silent where the guide's mass on all lists is below 0.05.
    """
    covers = torch.tensor([bool(numbers) for numbers in lists])
    means = torch.zeros(len(probs), len(lists))
    for n, numbers in enumerate(lists):
        if numbers:
            means[:, n] = probs[:, list(numbers)].mean(1)
    mass = probs[:, [number for numbers in lists for number in numbers]].sum(1)
    total = means.sum(1, keepdim=True).clamp_min(FLOOR_OF_MEAN)
    logits = (means.clamp_min(FLOOR_OF_MEAN) / total).log()
    return MappedAnswers(mass >= LEAST_MASS, covers, logits)


def name_answers(
    logits: Float[Tensor, "N K"], guide_classes: Sequence[str], classes: Sequence[str]
) -> Float[Tensor, "N C"]:
    """A guide's logits in the order of the model's classes, by name. Raises BadInput."""
    if lacking := [name for name in classes if name not in guide_classes]:
        raise BadInput(
            f"the guide has {listed(list(guide_classes))}, the model {listed(list(classes))}: it "
            f"lacks {listed(lacking)}; say which are which with --guide-classes FILE"
        )
    return logits[:, [guide_classes.index(name) for name in classes]]
