"""A guide's answers made elsewhere: a CSV of labels or probabilities (`csv:FILE`)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sfda.errors import BadInput, listed
from sfda.formats.table import Table, read_csv
from sfda.guides.table import GuideTable

CONFIDENCE = 0.9  # of a label without one
SPREAD_OF_VOTES = 0.05  # of the share of votes, spread over all classes
FLOOR = 1e-8  # of probabilities
SILENT = ("", "unknown")


def csv_table(
    path: Path,
    classes: Sequence[str],
    names: Sequence[str],
    row_ids: Sequence[str],
    others: Collection[str] = (),
) -> GuideTable:
    """What a CSV says of the images of these names (as in the manifest) or row ids, in any order:
    `label` (with `confidence` in (0, 1], else 0.9), or `label_1` to `label_k` of several
    annotators, or a column of probabilities for each class. `others` are images of the manifest
    that the target does not hold: what is said of those is not looked at.

    Raises BadInput that names file and line.
    """
    table, header = read_csv(path)
    if "image" not in header:
        raise BadInput(f"{path} has no column 'image'; its columns are {listed(header)}")
    index = {name: row for row, name in enumerate(names)} | {i: r for r, i in enumerate(row_ids)}
    logits = torch.zeros(len(names), len(classes))
    answered = torch.zeros(len(names), dtype=torch.bool)
    seen: dict[int, int] = {}
    read = _reader(path, table, header, classes)
    for line, (image, probs) in enumerate(zip(table.columns["image"], read, strict=True), 2):
        if image not in index:
            if image in others:
                continue
            raise BadInput(
                f"{path}, line {line}: no image '{image[:80]}' in the target; images are named as "
                "in its manifest, or by their row ids"
            )
        row = index[image]
        if row in seen:
            raise BadInput(f"{path}, line {line}: '{image[:80]}' stands in line {seen[row]} too")
        seen[row] = line
        if probs is not None:
            answered[row] = True
            logits[row] = probs.clamp_min(FLOOR).log()
    return GuideTable(answered, torch.ones(len(classes), dtype=torch.bool), logits)


def _reader(
    path: Path, table: Table, header: list[str], classes: Sequence[str]
) -> Iterator[Tensor | None]:
    """Probabilities of the classes line by line; None for silence."""
    votes = [name for name in header if name.startswith("label_")]
    if "label" in header:
        return _labels(path, table, classes)
    if votes:
        return _votes(path, table, votes, classes)
    if lacking := [name for name in classes if name not in header]:
        raise BadInput(
            f"{path} has neither 'label' nor 'label_1' nor a column for every class: it lacks "
            f"{listed(lacking)}"
        )
    return _probabilities(path, table, classes)


def _labels(path: Path, table: Table, classes: Sequence[str]) -> Iterator[Tensor | None]:
    stated = table.columns.get("confidence", [""] * len(table))
    rows = zip(table.columns["label"], stated, strict=True)
    for line, (label, confidence) in enumerate(rows, start=2):
        if label in SILENT and label not in classes:
            yield None
            continue
        sure = _number(path, line, confidence) if confidence else CONFIDENCE
        if not 0 < sure <= 1:
            raise BadInput(f"{path}, line {line}: the confidence {sure:g} is not in (0, 1]")
        probs = torch.full((len(classes),), (1 - sure) / max(1, len(classes) - 1))
        probs[_class(path, line, label, classes)] = sure
        yield probs


def _votes(
    path: Path, table: Table, columns: list[str], classes: Sequence[str]
) -> Iterator[Tensor | None]:
    rows = zip(*(table.columns[name] for name in columns), strict=True)
    for line, labels in enumerate(rows, start=2):
        stated = [label for label in labels if label not in SILENT or label in classes]
        numbers = torch.tensor([_class(path, line, label, classes) for label in stated])
        if not stated:
            yield None
            continue
        share = torch.bincount(numbers, minlength=len(classes)) / len(stated)
        yield (1 - SPREAD_OF_VOTES) * share + SPREAD_OF_VOTES / len(classes)


def _probabilities(path: Path, table: Table, classes: Sequence[str]) -> Iterator[Tensor | None]:
    rows = zip(*(table.columns[name] for name in classes), strict=True)
    for line, cells in enumerate(rows, start=2):
        if not any(cells):
            yield None
            continue
        values = torch.tensor([_number(path, line, cell) for cell in cells])
        if (values < 0).any() or float(values.sum()) <= 0:
            raise BadInput(f"{path}, line {line}: probabilities are negative, or add up to 0")
        yield values / values.sum()


def _class(path: Path, line: int, label: str, classes: Sequence[str]) -> int:
    if label not in classes:
        raise BadInput(
            f"{path}, line {line}: '{label[:80]}' is no class of the model; it has "
            f"{listed(list(classes))}"
        )
    return classes.index(label)


def _number(path: Path, line: int, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(f"{path}, line {line}: '{cell[:40]}' is no finite number")
    return value
