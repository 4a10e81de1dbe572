"""What rankings choose among the epochs of a run, and of all runs of a target; what that costs.

Regret: points of accuracy below the best that there was, the source among what there was. "Silent":
where the source answers few classes, scores have no say and the source stays. "With the true
prior": what answers classes in shares farther from the true ones than the source takes no part.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sfda.adaptation.plan import kind_of
from sfda.decision.evidence import SOURCE_NAME, Look
from sfda.decision.ranking import Ranking, rank
from tests.bench.decisions.runs import Run, run_folder

SINGLE = ("ensv", "nuclear_norm", "agreement", "infomax", "entropy", "mano", "aetta")
MOST_UNKNOWN = 0.1  # of the answers, where "few unknown"
Choice = dict[str, str]  # by what chooses, the candidate's name


class Field(NamedTuple):
    """What there is to choose from: looks, scores and figures by the candidate's name."""

    looks: dict[str, Look]
    clean: list[str]  # those without a veto, the source among them
    minimised: frozenset[str]
    scores: dict[str, dict[str, float]]
    unknown: dict[str, float]  # share of answers "unknown"
    off_prior: dict[str, float]  # distance of the answers' shares from the true ones
    collapsed: bool  # whether the source answers few classes


def choices_of_run(row: Mapping[str, Any], folder: Path) -> Choice:
    """What each way to choose takes of the source and a run's epochs."""
    return _choices(_field([row], folder, lambda row, name: name)) | {
        "last epoch": list(row["accuracy"])[-1],
        "as `sfda adapt` does": row["chosen"]["epoch"],
    }


def choices_of_target(rows: Sequence[Mapping[str, Any]], folder: Path) -> Choice:
    """The same of all runs of one target."""
    return _choices(_field(rows, folder, full_name))


def _field(
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    called: Callable[[Mapping[str, Any], str], str],
) -> Field:
    minimised = frozenset().union(*(kind_of(row["run"]["method"]).minimises for row in rows))
    field = Field({}, [], minimised, {}, {}, {}, rows[0]["source"]["collapsed"])
    for row in rows:
        looks, clean = _clean_looks(row, folder)
        for name, look in looks.items():
            own = called(row, name)
            if own in field.looks:
                continue  # the source again
            field.looks[own] = look
            field.scores[own] = row["scores"][name]
            field.unknown[own] = row["unknown"][name]
            field.off_prior[own] = row["off prior"][name]
            if name in clean:
                field.clean.append(own)
    return field


def choices_of_targets(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Of each target: what is chosen of all its runs, and the gain of each candidate."""
    targets: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("accuracy"):
            targets.setdefault((row["run"]["kind"], row["run"]["seed"]), []).append(row)
    return [
        {
            "target": f"{kind}, {seed}",
            "choice": choices_of_target(own, folder),
            "gains": {
                full_name(row, name): gain for row in own for name, gain in gains_of(row).items()
            },
        }
        for (kind, seed), own in targets.items()
    ]


def gains_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Of a run's candidates over the source, on all rows that adaptation has not seen."""
    return {
        name: after[1] - row["accuracy"][SOURCE_NAME][1] for name, after in row["accuracy"].items()
    }


def full_name(row: Mapping[str, Any], name: str) -> str:
    """Of a run's candidate among those of its target."""
    return SOURCE_NAME if name == SOURCE_NAME else f"{row['run']['method']} {name}"


def _clean_looks(row: Mapping[str, Any], folder: Path) -> tuple[dict[str, Look], list[str]]:
    file = run_folder(Run(**row["run"]), folder) / "looks.pickle"
    with file.open("rb") as content:
        looks, vetoes = pickle.load(content)
    met = {name for name, texts in row["run_vetoes"].items() if texts}
    clean = [name for name in looks if name == SOURCE_NAME or not (name in met or vetoes[name])]
    return looks, clean


def _choices(field: Field) -> Choice:
    """By the ranking, by what it might be, and by each score alone; all after the vetoes."""
    full = _rank(field, field.clean, frozenset())
    table = {one.name: dict(one.scores) for one in full.candidates if not one.vetoes}
    few = [name for name in field.clean if field.unknown[name] <= MOST_UNKNOWN]
    near = [name for name in field.clean if field.off_prior[name] <= field.off_prior[SOURCE_NAME]]
    ranking = _rank(field, field.clean, field.minimised).best
    choice = {
        "ranking": ranking,
        "ranking, every score votes": full.best,
        "ranking, silent": SOURCE_NAME if field.collapsed else ranking,
        "ranking, silent, few unknown": SOURCE_NAME
        if field.collapsed
        else _rank(field, few, field.minimised).best,
        "ranking, with the true prior": _rank(field, near, field.minimised).best,
    }
    for score in SINGLE:
        values = {name: {**field.scores[name], **table[name]}.get(score) for name in field.clean}
        if all(value is not None for value in values.values()):
            choice[f"`{score}`"] = max(values, key=lambda name: values[name] or 0.0)
    return choice


def _rank(field: Field, some: Collection[str], minimised: frozenset[str]) -> Ranking:
    against = {name: ("veto",) for name in field.looks if name not in some}
    return rank(field.looks, against, minimised)


def summary(rows: Sequence[tuple[str, Choice, Mapping[str, float]]]) -> list[dict[str, Any]]:
    """By what chooses: mean and worst regret, harmful choices by name, and choices of the source.

    A row is what is chosen for, its choices, and the gain of each candidate over the source.
    """
    lines = []
    for by in dict.fromkeys(by for _, choice, _ in rows for by in choice):
        own = [(what, choice[by], gains) for what, choice, gains in rows if by in choice]
        regret = [100 * (max(gains.values()) - gains[name]) for _, name, gains in own]
        harmful = [
            f"{what}: {name} ({100 * gains[name]:+.1f})"
            for what, name, gains in own
            if gains[name] < -0.01
        ]
        lines.append(
            {
                "by": by,
                "count": len(own),
                "regret": float(np.mean(regret)),
                "worst": float(np.max(regret)),
                "harmful": harmful,
                "source": sum(name == SOURCE_NAME for _, name, _ in own),
                "gain": float(np.mean([100 * gains[name] for _, name, gains in own])),
            }
        )
    return lines
