"""Which rows of a new manifest are held out for its test split."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from sfda.manifests.digests import row_id


def stratify(names: Sequence[str], labels: Sequence[str], fraction: float) -> tuple[bool, ...]:
    """Whether each row is held out: `fraction` of every class, at least one where it has two.

    The order of the rows has no part in it: those of the lowest digests are taken, so that most
    rows keep their side as a class grows, and all rows of the other classes do.

    >>> sum(stratify([str(i) for i in range(10)], ["a"] * 10, 0.2))
    2
    """
    classes: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        classes.setdefault(label, []).append(i)
    held: set[int] = set()
    for own in classes.values():
        size = min(max(1, math.floor(fraction * len(own) + 0.5)), len(own) - 1)
        own.sort(key=lambda i: hashlib.sha256(f"split 0 {row_id(names[i])}".encode()).digest())
        held.update(own[:size])
    return tuple(i in held for i in range(len(names)))
