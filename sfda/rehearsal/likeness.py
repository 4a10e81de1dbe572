"""Where a candidate lies among the rehearsals: which of them had scores like its, and how many of
these had gained.

A rehearsal is a point: of each score without labels that all rehearsals and the candidate have, the
adapted model's less the source's, and the share of answers that changed. Each coordinate is divided
by its standard deviation over the rehearsals; those that never vary are left out. The distance is
the root mean square of the differences. *Like* it are all rehearsals within ALIKE_WITHIN = 1 of it,
if they are at least LEAST_ALIKE = 3. None are where it lies outside the range of all rehearsals in
any coordinate, by more than half a standard deviation. What they say is no proof: it overrides
neither a veto nor a label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from sfda.config import Config
from sfda.weights.rehearsals import Rehearsals, RehearsedPair

ALIKE_WITHIN = 1.0  # distance within which scores are alike
LEAST_ALIKE = 3  # rehearsals that tell something together
BEYOND = 0.5  # standard deviations that a range is widened by
NO_SPREAD = 1e-9
_Points = Float[np.ndarray, "N D"]


class Likeness(Config):
    """Of a candidate: how many rehearsals are like it, and how many of these had gained."""

    rehearsals: int
    gained: int  # of all
    like: int
    like_gained: int
    predicted: int  # left out one by one: those whose sign the others tell
    right: int  # of these: rightly
    outside: bool  # of the range of all rehearsals
    other_settings: bool  # of the method, than today's

    @property
    def text(self) -> str:
        """One sentence, with how far it can be relied on."""
        of = f"of {self.rehearsals} rehearsals at the source"
        if not self.like:
            where = ": they lie outside the range of all" if self.outside else ""
            first = f"none {of} had scores like these{where}"
        else:
            first = f"{of} {self.like} had scores like these, and {self.like_gained} had gained"
        rely = (
            f"left out one by one, {self.right} of {self.predicted} are told right by those like "
            f"them; {self.gained} of all {self.rehearsals} had gained"
        )
        other = "; they had other settings" if self.other_settings else ""
        return f"{first} ({rely}{other})"

    @property
    def stated(self) -> dict[str, Any]:
        """All of it, with the sentence, for output that programs read."""
        return {"text": self.text, **self.model_dump()}


def likeness_among(
    rehearsals: Rehearsals,
    change: float,
    before: Mapping[str, float],
    after: Mapping[str, float],
    *,
    settings_sha256: str,
) -> Likeness | None:
    """Where a candidate of the same problem and method lies; `change` is the share of answers in
    which it differs from the source, the scores are of both without labels. None where there are
    no rehearsals that have finished.
    """
    if not rehearsals.pairs:
        return None
    names = shared_scores(rehearsals.pairs, before.keys() & after.keys())
    points = score_points(rehearsals.pairs, names)
    own = np.array([change, *(after[name] - before[name] for name in names)])
    gains = np.array([pair.gain > 0 for pair in rehearsals.pairs])
    outside = is_outside(points, own)
    near = np.zeros(len(points), bool) if outside else are_near(points, own)
    return Likeness(
        rehearsals=len(gains),
        gained=int(gains.sum()),
        like=int(near.sum()),
        like_gained=int(gains[near].sum()),
        predicted=rehearsals.predicted,
        right=rehearsals.right,
        outside=outside,
        other_settings=settings_sha256 != rehearsals.settings_sha256,
    )


def leave_one_out(pairs: Sequence[RehearsedPair]) -> tuple[int, int]:
    """How many rehearsals' signs are told by the majority of those like them among the others, and
    how many of these rightly. Where none are like it, or as many gained as not, nothing is told.
    """
    points = score_points(pairs, shared_scores(pairs))
    gains = np.array([pair.gain > 0 for pair in pairs])
    predicted = right = 0
    for number in range(len(pairs)):
        others = np.arange(len(pairs)) != number
        if others.sum() < LEAST_ALIKE or is_outside(points[others], points[number]):
            continue
        near = are_near(points[others], points[number])
        balance = int(np.where(gains[others][near], 1, -1).sum())
        if balance:
            predicted += 1
            right += (balance > 0) == gains[number]
    return predicted, int(right)


def shared_scores(
    pairs: Sequence[RehearsedPair], names: frozenset[str] | set[str] | None = None
) -> list[str]:
    """Names of the scores that all of them have, and that are among `names` (None: all)."""
    shared = set.intersection(*(set(pair.before) for pair in pairs)) if pairs else set()
    return sorted(str(name) for name in shared if names is None or name in names)


def score_points(pairs: Sequence[RehearsedPair], names: Sequence[str]) -> _Points:
    """The change, and the differences of these scores."""
    rows = [
        [pair.change, *(dict(pair.after)[n] - dict(pair.before)[n] for n in names)]  # type: ignore[index]
        for pair in pairs
    ]
    return np.array(rows, dtype=float).reshape(len(pairs), 1 + len(names))


def is_outside(points: _Points, own: Float[np.ndarray, " D"]) -> bool:
    """Whether a point lies outside the range of these, widened by half a standard deviation."""
    margin = BEYOND * points.std(0) + NO_SPREAD
    return bool(((own < points.min(0) - margin) | (own > points.max(0) + margin)).any())


def are_near(points: _Points, own: Float[np.ndarray, " D"]) -> np.ndarray:
    """[N]: which points are like this one; none where they are fewer than LEAST_ALIKE."""
    spread = points.std(0)
    varied = spread > NO_SPREAD
    if not varied.any():
        near = np.ones(len(points), bool)  # all are the same, and it lies within their range
    else:
        steps = ((points - own)[:, varied] / spread[varied]) ** 2
        near = np.sqrt(steps.mean(1)) <= ALIKE_WITHIN
    return near if near.sum() >= LEAST_ALIKE else np.zeros(len(points), bool)
