"""How much of a file that somebody brings is read: one table of limits, each with its default.

Where a file is honest and larger, the variable that the message names raises the limit, in every
process: it is looked at when a file is read. Rules of a format (a mask has 8 bits) are no limits.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass

from sfda.errors import BadInput

VARIABLE_PREFIX = "SFDA_LIMIT_"
HIGHEST = 1 << 62  # what a variable may say


@dataclass(frozen=True)
class Limit:
    """The most of one kind that is read."""

    name: str
    default: int
    unit: str
    meaning: str

    @property
    def variable(self) -> str:
        """The variable of the environment that sets it."""
        return f"{VARIABLE_PREFIX}{self.name}"

    @property
    def most(self) -> int:
        """The limit in force. Raises BadInput where the variable holds no number above 0."""
        text = os.environ.get(self.variable, "").strip().replace("_", "")
        if not text:
            return self.default
        if text.isascii() and text.isdecimal() and len(text) < 20 and 0 < int(text) <= HIGHEST:
            return int(text)
        raise BadInput(
            f"{self.variable}={text[:40]} is no limit: write a whole number of {self.unit} above "
            f"0, or unset it for {self.default}"
        )

    def refusal(self, met: object) -> str:
        """What a message says of a value that was met: `300 bytes, more than 200 (...)`."""
        return f"{met} {self.unit}, more than {self.most} ({self.variable} raises that limit)"

    @property
    def beyond(self) -> str:
        """The same where nobody has counted to the end."""
        return f"more than {self.most} {self.unit} ({self.variable} raises that limit)"


LIMITS: dict[str, Limit] = {}


def _limit(name: str, default: int, unit: str, meaning: str) -> Limit:
    return LIMITS.setdefault(name, Limit(name, default, unit, meaning))


MIB, GIB = 1 << 20, 1 << 30

YAML_BYTES = _limit("YAML_BYTES", 4 * MIB, "bytes", "a YAML file: manifest, jobs, policy, preset")
YAML_VALUES = _limit(
    "YAML_VALUES", 100_000, "values", "what a YAML file stands for, aliases repeated"
)
JOB_COUNT = _limit("JOBS", 500, "jobs", "the jobs of one file, all read at every start")
DEPTH = _limit("DEPTH", 60, "levels", "lists and mappings of YAML, elements of XML in each other")
NUMBER_CHARACTERS = _limit("NUMBER_CHARACTERS", 100, "characters", "a number or a date in YAML")
LIST_BYTES = _limit("LIST_BYTES", 16 * MIB, "bytes", "a text with an image or a class a line")
CLASS_COUNT = _limit("CLASSES", 100_000, "classes", "the classes of a model or of a list")
NAME_CHARACTERS = _limit("NAME_CHARACTERS", 256, "characters", "a name of a class or a data set")
DURATION_DAYS = _limit("DURATION_DAYS", 3650, "days", "a time such as `every: 2h`")

TABLE_BYTES = _limit("TABLE_BYTES", 2 * GIB, "bytes", "a CSV")
TABLE_CELLS = _limit("TABLE_CELLS", 15_000_000, "cells", "a CSV: 1.1 GB of memory")
TABLE_COLUMNS = _limit("TABLE_COLUMNS", 10_000, "columns", "a CSV")
ROW_CHARACTERS = _limit("ROW_CHARACTERS", MIB, "characters", "a row of a CSV")
LABEL_FLAGS = _limit(
    "LABEL_FLAGS", 400_000_000, "labels", "rows times classes, where each says yes or no"
)
EXPORT_BYTES = _limit("EXPORT_BYTES", 128 * MIB, "bytes", "a JSON (COCO too) or an XML")
JSON_VALUES = _limit("JSON_VALUES", 12_000_000, "values", "a JSON: 1 GB of memory")
JSON_CONTAINERS = _limit(
    "JSON_CONTAINERS", 2_000_000, "lists and objects", "a JSON; they take most memory"
)
XML_ELEMENTS = _limit("XML_ELEMENTS", 5_000_000, "elements", "an XML, attributes counted as well")
REQUEST_BYTES = _limit(
    "REQUEST_BYTES", 64 * MIB, "bytes", "a request for labels, an audit, answers to one"
)

PICTURE_BYTES = _limit("PICTURE_BYTES", 512 * MIB, "bytes", "an image file or a member of a zip")
PICTURE_PIXELS = _limit(
    "PICTURE_PIXELS", 100_000_000, "pixels", "a picture, and what is drawn in one"
)
DRAWN_PIXELS = _limit(
    "DRAWN_PIXELS", 2_500_000_000, "pixels", "all masks and polygons of an export, drawn"
)
VOLUME_BYTES = _limit("VOLUME_BYTES", 640 * MIB, "bytes", "a volume, unpacked")
VOLUME_NOTE_BYTES = _limit(
    "VOLUME_NOTE_BYTES", MIB, "bytes of notes", "a volume, between its header and its voxels"
)
ZIP_DIRECTORY_BYTES = _limit(
    "ZIP_DIRECTORY_BYTES", 64 * MIB, "bytes", "the list of files in a zip: half a million of them"
)
JPEG_SCANS = _limit("JPEG_SCANS", 100, "scans", "a progressive JPEG; usual are 10")
JPEG_SEGMENTS = _limit("JPEG_SEGMENTS", 100_000, "segments", "a JPEG")
DICOM_READS = _limit(
    "DICOM_READS", 100_000, "reads", "the header of a DICOM, two to four an element"
)
DICOM_PARTS = _limit("DICOM_PARTS", 1000, "parts", "the run-length coded pixels of a DICOM")
EXIF_BYTES = _limit("EXIF_BYTES", MIB, "bytes of EXIF", "a picture")
TIFF_TAGS = _limit("TIFF_TAGS", 65_535, "tags", "a directory of a TIFF")
TIFF_NUMBERS = _limit("TIFF_NUMBERS", 500_000, "numbers", "the tags of a TIFF or of EXIF")
TIFF_FRACTIONS = _limit("TIFF_FRACTIONS", 10_000, "fractions", "those among them")
TIFF_PARTS = _limit("TIFF_PARTS", 1000, "strips or tiles", "a TIFF whose pixels do not need more")
TILE_BYTES = _limit("TILE_BYTES", 64 * MIB, "bytes", "a tile of a TIFF, or four of its pictures")

CHECKPOINT_TIMES = _limit(
    "CHECKPOINT_TIMES", 100, "times its bytes", "what a checkpoint unpacks to, beyond 64 MiB"
)
CHECKPOINT_LEVELS = _limit(
    "CHECKPOINT_LEVELS", 8, "levels", "dicts around the weights of a checkpoint"
)
PICKLE_STEPS = _limit("PICKLE_STEPS", 5_000_000, "steps", "a pickle of a checkpoint")
WEIGHTS_BYTES = _limit("WEIGHTS_BYTES", 64 * GIB, "bytes", "the weights of a bundle")
CARD_BYTES = _limit("CARD_BYTES", GIB, "bytes", "the card of a bundle")
SPEC_BYTES = _limit("SPEC_BYTES", 4 * MIB, "bytes", "the spec of a bundle")
CODE_BYTES = _limit("CODE_BYTES", MIB, "bytes", "a source file in a bundle")
HEADER_BYTES = _limit("HEADER_BYTES", 4 * MIB, "bytes", "the names and shapes of its tensors")
CARD_REHEARSALS = _limit("CARD_REHEARSALS", 1000, "rehearsals", "a card")
MMDET_LEVELS = _limit("MMDET_LEVELS", 32, "levels", "an mmdet configuration")
MMDET_VALUES = _limit("MMDET_VALUES", 20_000, "values", "an mmdet configuration")
MMDET_COUNT = _limit("MMDET_COUNT", 100_000, "layers, boxes or anchors", "a whole number in it")


def check_limits(environment: Mapping[str, str]) -> None:
    """Raise BadInput for a variable of a limit that there is not, or that holds no number."""
    for variable in sorted(name for name in environment if name.startswith(VARIABLE_PREFIX)):
        name = variable.removeprefix(VARIABLE_PREFIX)
        if name not in LIMITS:
            near = difflib.get_close_matches(name, LIMITS, n=1)
            hint = (
                f"did you mean {VARIABLE_PREFIX}{near[0]}?"
                if near
                else "docs/formats.md lists them"
            )
            raise BadInput(f"there is no limit {variable}; {hint}")
        _ = LIMITS[name].most
