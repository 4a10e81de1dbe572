"""Where a candidate lies among the rehearsals: which of them had scores like its, and how many of
these had gained.

A rehearsal is a point: of each score without labels that all rehearsals and the candidate have, the
adapted model's less the source's, and the share of answers that changed. Each coordinate is divided
by its standard deviation over the rehearsals; those that never vary are left out. *Like* a
candidate are the K = 5 rehearsals of the least distance, the root mean square of the differences.
None are where it lies outside the range of all rehearsals in any coordinate, by more than half a
standard deviation, or where there are fewer than five. What they say is no proof: it overrides
neither a veto nor a label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sfda.config import Config
from sfda.weights.rehearsals import Rehearsals, RehearsedPair

LIKE_IT = 5  # K; odd, so that there is a majority
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
        if self.like:
            first = (
                f"of the {self.like} rehearsals with scores most like these, out of "
                f"{self.rehearsals} at the source, {self.like_gained} had gained"
            )
        elif self.outside:
            first = (
                f"none of {self.rehearsals} rehearsals at the source had scores like these: they "
                "lie outside the range of all"
            )
        else:
            first = f"{self.rehearsals} rehearsals at the source are too few to be compared with"
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
    near = nearest(points, own)
    predicted, right = leave_one_out(rehearsals.pairs)  # whatever a stranger's card says of it
    return Likeness(
        rehearsals=len(gains),
        gained=int(gains.sum()),
        like=len(near),
        like_gained=int(gains[near].sum()),
        predicted=predicted,
        right=right,
        outside=is_outside(points, own),
        other_settings=settings_sha256 != rehearsals.settings_sha256,
    )


def leave_one_out(pairs: Sequence[RehearsedPair]) -> tuple[int, int]:
    """How many rehearsals' signs are told by the majority of those like them among the others, and
    how many of these rightly. Where none are like it, nothing is told.
    """
    points = score_points(pairs, shared_scores(pairs))
    gains = np.array([pair.gain > 0 for pair in pairs])
    predicted = right = 0
    for number in range(len(pairs)):
        others = np.flatnonzero(np.arange(len(pairs)) != number)
        near = others[nearest(points[others], points[number])]
        if len(near):
            predicted += 1
            right += int((2 * gains[near].sum() > len(near)) == gains[number])
    return predicted, right


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


def nearest(points: _Points, own: Float[np.ndarray, " D"]) -> Int[np.ndarray, " K"]:
    """The numbers of those that are like this one, the nearest first; none where they are fewer
    than K, or it lies outside their range. Of equally near ones the first.
    """
    if len(points) < LIKE_IT or is_outside(points, own):
        return np.zeros(0, np.int64)
    spread = points.std(0)
    varied = spread > NO_SPREAD
    steps = ((points - own)[:, varied] / spread[varied]) ** 2
    return np.argsort(steps.sum(1), kind="stable")[:LIKE_IT]
