"""Which pictures of a request an export means: tools drop folders, or put some in front."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from sfda.annotation.request import RequestedRow


class RequestedNames:
    """Wanted rows by the names of their pictures. `others` are names of pictures that nobody asked
    about: they mean themselves.
    """

    def __init__(self, requested: Iterable[RequestedRow], others: Iterable[str] = ()) -> None:
        self._exact: dict[str, list[RequestedRow]] = {}
        self._last: dict[str, list[tuple[tuple[str, ...], RequestedRow]]] = {}
        for row in requested:
            for name in dict.fromkeys((row.key, row.file)):
                self._exact.setdefault(name, []).append(row)
                parts = PurePosixPath(name).parts
                self._last.setdefault(parts[-1], []).append((parts, row))
        self._others = set(others) - self._exact.keys()

    def rows(self, name: str | None) -> list[RequestedRow]:
        """The rows whose picture has this name, or shares the longest end of its path with it: one
        of the two must be an end of the other. Of a picture with several persons all rows; several
        pictures where the name does not say which.
        """
        if not name or name in self._others:
            return []
        if name in self._exact:
            return self._exact[name]
        parts_of_name = PurePosixPath(name).parts
        by_length: dict[int, dict[str, RequestedRow]] = {}
        for parts, row in self._last.get(parts_of_name[-1], ()) if parts_of_name else ():
            shared = min(len(parts), len(parts_of_name))
            if parts[-shared:] == parts_of_name[-shared:]:
                by_length.setdefault(shared, {})[row.row] = row
        return list(by_length[max(by_length)].values()) if by_length else []
