"""A request for labels: what was asked, of which target, and what the model says of it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pydantic import ConfigDict, Field, ValidationError

from sfda.building_blocks.boxes import Boxes
from sfda.config import Config
from sfda.errors import BadInput
from sfda.formats.masks import Mask
from sfda.inference.pose import Pose
from sfda.refs import Problem

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
    problem: Problem
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
    requested: tuple[RequestedRow, ...] = Field(alias="wanted")  # as the file calls them


class Guess(NamedTuple):
    """What the model says of a wanted row, in pixels of its picture and classes of the request."""

    mask: Mask | None = None
    boxes: Boxes | None = None
    pose: Pose | None = None


def read_request(folder: Path) -> Request:
    """The request in a folder. Raises BadInput."""
    try:
        return Request.model_validate_json((folder / REQUEST_FILE).read_bytes())
    except OSError:
        raise BadInput(
            f"{folder} holds no request ({REQUEST_FILE}); `sfda query ... --out DIR` writes one"
        ) from None
    except ValidationError as error:
        raise BadInput(
            f"{folder / REQUEST_FILE} is no request: {error.error_count()} faults"
        ) from None


def image_name(row: str) -> str:
    """Where a copied image lies in a request.

    >>> image_name("23d7db97a075553d")
    'images/23d7db97a075553d.png'
    """
    return str(PurePosixPath("images", f"{row}.png"))
