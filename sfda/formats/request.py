"""A request for labels: what was asked, of which target, and what the model says of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import ConfigDict, FailFast, Field, ValidationError

from sfda.bounds.files import Unreadable, read_bounded
from sfda.bounds.limits import REQUEST_BYTES
from sfda.config import Config
from sfda.documents import parse_json
from sfda.errors import BadInput
from sfda.refs import ProblemName

REQUEST_FILE = "request.json"


class RequestedRow(Config):
    """One row that a person is asked about. `file`, the picture to look at, is below the
    manifest's folder of images, or below the request. Of poses the picture is the whole image with
    several persons in it, or, copied, the person's crop.
    """

    row: str  # its opaque id
    key: str  # path or index in the manifest
    file: str
    height: int  # of the picture
    width: int
    label: str | None = None  # the model's answer
    confidence: float
    corner: tuple[int, int] = (0, 0)  # x, y of the picture's corner in the image
    box: tuple[float, float, float, float] | None = None  # the person: x, y, width, height


class Request(Config):
    """`request.json`: what was asked, of which target, and in whose eyes."""

    model_config = ConfigDict(populate_by_name=True)

    format: int = 1
    problem: ProblemName
    manifest: str  # its name
    manifest_sha256: str
    split: str
    column: str  # file or index
    classes: tuple[str, ...]  # what an answer may be; of poses the joints
    edges: tuple[tuple[str, str], ...] = ()  # between joints
    by: str
    seed: int
    model: str
    model_sha256: str
    copied: bool  # whether the images lie below the request
    # as the file calls them; of many wrong ones the first is told
    requested: Annotated[tuple[RequestedRow, ...], FailFast()] = Field(alias="wanted")


Guess = Any
"""What the model says of a requested row, in pixels of its picture and classes of the request: the
problem's own output; None where it says nothing but `RequestedRow.label`."""


def read_request(folder: Path) -> Request:
    """The request in a folder. Raises BadInput."""
    try:
        content = read_bounded(folder / REQUEST_FILE, REQUEST_BYTES)
        return Request.model_validate(parse_json(content))
    except OSError:
        raise BadInput(
            f"{folder} holds no request ({REQUEST_FILE}); `sfda query ... --out DIR` writes one"
        ) from None
    except ValidationError as error:
        raise BadInput(
            f"{folder / REQUEST_FILE} is no request: {error.error_count()} faults"
        ) from None
    except Unreadable as error:
        raise BadInput(f"{folder / REQUEST_FILE} is no request: {error}") from None


def image_name(row: str) -> str:
    """Where a copied image lies in a request.

    >>> image_name("23d7db97a075553d")
    'images/23d7db97a075553d.png'
    """
    return str(PurePosixPath("images", f"{row}.png"))


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
                parts = PurePosixPath(name).parts or (name,)
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
        if "\\" in name:  # a path of Windows
            return self.rows(name.replace("\\", "/"))
        parts_of_name = PurePosixPath(name).parts
        by_length: dict[int, dict[str, RequestedRow]] = {}
        for parts, row in self._last.get(parts_of_name[-1], ()) if parts_of_name else ():
            shared = min(len(parts), len(parts_of_name))
            if parts[-shared:] == parts_of_name[-shared:]:
                by_length.setdefault(shared, {})[row.row] = row
        return list(by_length[max(by_length)].values()) if by_length else []
