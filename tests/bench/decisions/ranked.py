"""What rankings choose among the epochs of a run, and of all runs of a target; what that costs.

Regret: points of accuracy below the best that there was, the source among what there was.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sfda.adaptation.plan import kind_of
from sfda.decision.evidence import SOURCE_NAME, Look
from sfda.decision.ranking import rank
from tests.bench.decisions.runs import Run, run_folder

SINGLE = ("ensv", "nuclear_norm", "agreement", "infomax", "entropy", "mano", "aetta")
Choice = dict[str, str]  # by what chooses, the candidate's name


def choices_of_run(row: Mapping[str, Any], folder: Path) -> Choice:
    """What each way to choose takes of the source and a run's epochs."""
    looks, clean = _clean_looks(row, folder)
    minimised = kind_of(row["run"]["method"]).minimises
    own = {name: row["scores"][name] for name in looks}
    return _choices(looks, clean, minimised, own) | {
        "last epoch": list(row["accuracy"])[-1],
        "as `sfda adapt` does": row["chosen"]["epoch"],
    }


def choices_of_target(rows: Sequence[Mapping[str, Any]], folder: Path) -> Choice:
    """The same of all runs of one target."""
    looks: dict[str, Look] = {}
    clean: list[str] = []
    scores: dict[str, Any] = {}
    for row in rows:
        own, fine = _clean_looks(row, folder)
        for name, look in own.items():
            full = full_name(row, name)
            looks.setdefault(full, look)
            scores[full] = row["scores"][name]
            if name in fine and full not in clean:
                clean.append(full)
    minimised = frozenset().union(*(kind_of(row["run"]["method"]).minimises for row in rows))
    return _choices(looks, clean, minimised, scores)


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


def _choices(
    looks: Mapping[str, Look],
    clean: Sequence[str],
    minimised: Iterable[str],
    scores: Mapping[str, Mapping[str, float]],
) -> Choice:
    """By the ranking, and by each score alone; all after the vetoes."""
    against = {name: ("veto",) for name in looks if name not in clean}
    ranking = rank(looks, against, tuple(minimised))
    full = rank(looks, against)
    table = {one.name: dict(one.scores) for one in full.candidates if not one.vetoes}
    choice = {"ranking": ranking.best, "ranking, every score votes": full.best}
    for score in SINGLE:
        values = {name: {**scores[name], **table[name]}.get(score) for name in clean}
        if all(value is not None for value in values.values()):
            choice[f"`{score}`"] = max(values, key=lambda name: values[name])
    return choice


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
