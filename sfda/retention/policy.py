"""The retention policy: for how long a home keeps what can be had again, or is superseded."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from sfda.config import Config
from sfda.settings import Duration, seconds_of

NotNegative = Annotated[int, Field(ge=0)]


class RetentionPolicy(Config):
    """What `sfda clean` may delete: what is older, and none of the newest so many.

    What a champion, one before it, an alias, a request, an audit, a monitor or an unfinished run
    needs stays in any case.
    """

    older_than: Duration = Field("30d", description="what was made or used since stays")
    keep: int = Field(
        10,
        ge=0,
        le=1_000_000,
        description="newest versions of a name, and runs and reports of a target, that stay",
    )

    def cutoff(self, now: float | None = None) -> float:
        """The time before which things are old, in seconds since the epoch. Raises BadInput."""
        seconds = seconds_of(self.older_than)
        assert seconds is not None
        return (time.time() if now is None else now) - seconds


class DiskUse(Config):
    """Bytes and files of one kind of things."""

    bytes: NotNegative = 0
    files: NotNegative = 0

    def plus(self, size: int, files: int = 1) -> DiskUse:
        """With so many more; less than nothing is nothing."""
        return DiskUse(bytes=max(0, self.bytes + size), files=max(0, self.files + files))


class CleanReport(Config):
    """What a home held, what was deleted (of a dry run: would be), and what it holds then."""

    home: str
    dry_run: bool
    policy: RetentionPolicy
    deleted: dict[str, NotNegative]  # versions, runs, files and folders, by kind
    before: dict[str, DiskUse]  # by kind
    after: dict[str, DiskUse]
    left: tuple[str, ...]  # what was old and stays, and why

    @property
    def freed(self) -> int:
        """Bytes."""
        return _sum(self.before.values()).bytes - _sum(self.after.values()).bytes

    def rows(self) -> list[tuple[str, float, int, float, int]]:
        """Kind, MB and files before, MB and files after; the sums last."""
        none = DiskUse()
        table = [
            (kind, self.before.get(kind, none), self.after.get(kind, none))
            for kind in sorted({*self.before, *self.after})
        ]
        table.append(("all", _sum(self.before.values()), _sum(self.after.values())))
        return [
            (kind, one.bytes / 1e6, one.files, two.bytes / 1e6, two.files)
            for kind, one, two in table
        ]


def _sum(sizes: Iterable[DiskUse]) -> DiskUse:
    total = DiskUse()
    for size in sizes:
        total = total.plus(size.bytes, size.files)
    return total
