"""How much two persons agree beyond chance."""

from __future__ import annotations

from collections.abc import Sequence


def cohens_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Agreement of two persons' answers to the same units, beyond what chance gives: 1 is full, 0
    is chance. None where both gave one and the same answer throughout, or none.

    >>> cohens_kappa([("a", "a"), ("b", "b"), ("a", "b"), ("b", "b")])
    0.5
    """
    from sklearn.metrics import cohen_kappa_score  # half a second, which only answers need

    one, other = ([pair[n] for pair in pairs] for n in (0, 1))
    if len({*one, *other}) < 2:
        return None
    return float(cohen_kappa_score(one, other))
