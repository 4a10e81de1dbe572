"""Which pictures of a request an export means: tools drop folders, or put some in front."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from sfda.annotation.request import WantedRow


class AskedNames:
    """Wanted rows by the names of their pictures. `others` are names of pictures that nobody asked
    about: they mean themselves.
    """

    def __init__(self, wanted: Iterable[WantedRow], others: Iterable[str] = ()) -> None:
        self._exact: dict[str, list[WantedRow]] = {}
        self._last: dict[str, list[tuple[tuple[str, ...], WantedRow]]] = {}
        for row in wanted:
            for name in dict.fromkeys((row.key, row.file)):
                self._exact.setdefault(name, []).append(row)
                parts = PurePosixPath(name).parts
                self._last.setdefault(parts[-1], []).append((parts, row))
        self._others = set(others) - self._exact.keys()

    def rows(self, name: str | None) -> list[WantedRow]:
        """The rows whose picture has this name, or shares the longest end of its path with it: one
        of the two must be an end of the other. Of a picture with several persons all rows; several
        pictures where the name does not say which.
        """
        if not name or name in self._others:
            return []
        if name in self._exact:
            return self._exact[name]
        given = PurePosixPath(name).parts
        found: dict[int, dict[str, WantedRow]] = {}
        for parts, row in self._last.get(given[-1], ()) if given else ():
            shared = min(len(parts), len(given))
            if parts[-shared:] == given[-shared:]:
                found.setdefault(shared, {})[row.row] = row
        return list(found[max(found)].values()) if found else []
