"""Which rows of a new manifest are held out for its test split: by what its folders or a column
say of splits, or else by their digests. And a smaller part of a big set, of all its kinds.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from sfda.authoring.listing import Listing
from sfda.errors import BadInput, listed
from sfda.manifests.digests import row_id

log = logging.getLogger("sfda")
USUAL_SPLITS = {
    **dict.fromkeys(("adapt", "train", "training", "train_set", "trainset"), "adapt"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing", "test_set", "testset"), "test"),
}  # what people call splits, and what they are here


def usual_split(name: str) -> str | None:
    """The split that a name stands for; None where it stands for none.

    >>> usual_split("Training"), usual_split("validation"), usual_split("cats")
    ('adapt', 'val', None)
    """
    return USUAL_SPLITS.get(name.strip().lower())


def folder_splits(keys: Sequence[str], classes: Sequence[str] = ()) -> tuple[str, ...]:
    """The split of each image by a folder that is called train, val or test; () without such.

    It is the folder that they first differ in, or one below it (`images/train`). An image that
    lies in none is `adapt`. A class of that name is none.
    """
    if any(usual_split(name) for name in classes):
        return ()
    parts = [key.split("/")[:-1] for key in keys]
    shared = 0
    while parts and all(len(own) > shared and own[shared] == parts[0][shared] for own in parts):
        shared += 1
    for depth in (shared, shared + 1):
        named = [usual_split(own[depth]) if len(own) > depth else None for own in parts]
        if len({name for name in named if name}) > 1:
            return _logged([name or "adapt" for name in named], "folders")
    return ()


def stated_splits(values: Sequence[str], where: str) -> tuple[str, ...]:
    """Splits as a column or an array states them, in our words: an empty cell is `adapt`.

    () where they are all one. Raises BadInput for names that no split can have.
    """
    odd = sorted({name for name in values if not name.isprintable() or len(name) > 64})
    if odd:
        raise BadInput(f"{where} names splits that cannot be called so: {listed(odd)}")
    numbers = sorted({name.strip() for name in values if name.strip().lstrip("-").isdecimal()})
    if numbers:
        raise BadInput(
            f"{where} names splits {listed(numbers)}, and nobody knows which is train and which "
            "is test; write train, val and test instead of numbers, or leave it out"
        )
    named = [usual_split(name) or name.strip() or "adapt" for name in values]
    return _logged(named, where) if len(set(named)) > 1 else ()


def _logged(named: list[str], where: str) -> tuple[str, ...]:
    """The splits, `val` as `test` where there is no other to test on; said in the log."""
    if "test" not in named:
        named = ["test" if name == "val" else name for name in named]
    counts = {name: named.count(name) for name in dict.fromkeys(named)}
    text = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    log.warning("splits are those of the %s: %s", where, text)
    return tuple(named)


def listing_splits(
    listing: Listing, keys: Sequence[str], classes: Sequence[str] = ()
) -> tuple[str, ...]:
    """The split of some images of a listing by its array of splits or its folders; () without."""
    if listing.splits:
        stated = dict(zip(listing.keys, listing.splits, strict=True))
        own = [stated.get(key, "") for key in keys]
        return stated_splits(own, f"array 'split' of {listing.path}")
    return () if listing.image else folder_splits(keys, classes)


@dataclass(frozen=True)
class Portion:
    """How much of a big set is taken: at most `limit` rows, or a `share` of each kind of them."""

    limit: int | None = None
    share: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise BadInput(f"--limit {self.limit} leaves no image; give a number above 0")
        if self.share is not None and not 0 < self.share <= 1:
            raise BadInput(f"--share {self.share} is no share; give a number above 0, at most 1")
        if self.limit is not None and self.share is not None:
            raise BadInput("give --limit or --share, not both")

    def of(self, names: Sequence[str], kinds: Sequence[str]) -> tuple[bool, ...]:
        """Which rows stay, of each kind its part, and at least one as far as the limit goes.

        The same seed takes the same rows, and with a larger limit those and more.

        >>> sum(Portion(4).of([str(i) for i in range(10)], ["a"] * 5 + ["b"] * 5))
        4
        """
        if self.limit is None and self.share is None:
            return (True,) * len(names)
        members: dict[str, list[int]] = {}
        for row, kind in enumerate(kinds):
            members.setdefault(kind, []).append(row)
        for own in members.values():
            own.sort(key=lambda row: self._digest(names[row]))
        order = sorted(  # the kinds fill evenly
            (at > 0, (at + 0.5) / len(own), kind, row)
            for kind, own in members.items()
            for at, row in enumerate(own)
        )
        most = self.limit or max(1, math.floor((self.share or 1.0) * len(names) + 0.5))
        chosen = {row for *_, row in order[:most]}
        return tuple(row in chosen for row in range(len(names)))

    def _digest(self, name: str) -> bytes:
        return hashlib.sha256(f"part {self.seed} {row_id(name)}".encode()).digest()


ALL_IMAGES = Portion()


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
