"""DICOM files in series: the slices of a volume, in their order along its axis."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from sfda.authoring.listing import Listing
from sfda.errors import BadInput
from sfda.formats.readers import BROKEN
from sfda.images.dicom import DICOM_SUFFIXES, PlacedSlice, placed_slice, series_axis


@dataclass(frozen=True)
class Series:
    """Of every DICOM file the volume that it is a slice of, and its spacing as text, if known."""

    groups: dict[str, str] = field(default_factory=dict)
    spacings: dict[str, str] = field(default_factory=dict)


def in_series(listing: Listing) -> tuple[Listing, Series]:
    """The listing with the slices of each series in their order, and the series.

    A series is called after its folder, and after its identity too where a folder has several.
    Raises BadInput naming a file that cannot be read.
    """
    keys = [key for key in listing.keys if key.lower().endswith(DICOM_SUFFIXES)]
    if listing.image or not keys:
        return listing, Series()
    members: dict[tuple[str, str], list[tuple[PlacedSlice, str]]] = defaultdict(list)
    for key in keys:
        one = _placed(listing, key)
        members[str(PurePosixPath(key).parent), one.series].append((one, key))
    in_folder: dict[str, int] = defaultdict(int)
    for folder, _ in members:
        in_folder[folder] += 1
    series, order = Series(), list[str]()
    for (folder, identity), slices in members.items():
        slices.sort(key=lambda pair: (pair[0].position, pair[1]))
        name = folder if in_folder[folder] == 1 else f"{folder}:{identity}"
        gap = series_axis([one.position for one, _ in slices]) or slices[0][0].thickness
        for one, key in slices:
            series.groups[key] = name
            if gap and one.spacing:
                series.spacings[key] = "x".join(f"{side:.6g}" for side in (gap, *one.spacing))
        order += [key for _, key in slices]
    others = [key for key in listing.keys if key not in series.groups]
    return dataclasses.replace(listing, keys=(*others, *order)), series


def _placed(listing: Listing, key: str) -> PlacedSlice:
    files = listing.reader([key]).files
    try:
        return placed_slice(files.read(key))
    except BROKEN as error:
        raise BadInput(f"{files.address(key)} cannot be read: {error}; move it away") from None
