"""Columns of a row file besides images and labels: groups, spacings, class ratios."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sfda.errors import BadInput, listed
from sfda.formats.readers import BROKEN, Folder, Zip, npz_array
from sfda.formats.volumes import grid, is_volume, slice_of
from sfda.manifests.labels import Columns, SplitContent
from sfda.manifests.schema import Manifest

CsvRows = Sequence[Mapping[str, str]]
PRIOR = "prior:"  # prefix of a column with the share of one class


def read_more_columns(
    manifest: Manifest, content: SplitContent, rows: CsvRows | None, header: Sequence[str]
) -> None:
    """Put what the rows say besides images and labels into `content`; what does not fit is a fault.

    `rows` are those of the row file, None where there is none.
    """
    content.more = Columns(
        read_groups(manifest, content, rows if "group" in header else None),
        _spacings(manifest, content, rows if "spacing" in header else None),
        _priors(manifest, content, rows or (), header),
    )
    _check_groups(content)


def bad_paths(names: Sequence[str]) -> list[str]:
    """Those that are no paths below the root."""
    return [
        name
        for name in names
        if not name or name[0] == "/" or (".." in name and ".." in name.split("/"))
    ]


def read_groups(
    manifest: Manifest, content: SplitContent, rows: CsvRows | None
) -> tuple[str, ...] | None:
    """The group of every row, by a column `group` of the rows or an array; a slice's is its volume,
    that of a row without any is itself. None where no row has one.
    """
    if rows is not None:
        named = [row["group"] for row in rows]
    elif manifest.arrays and manifest.arrays.group and manifest.archive_path:
        array = npz_array(manifest.archive_path, manifest.arrays.group)
        if array.ndim != 1 or array.dtype.kind not in "iuU":
            raise BadInput(f"group array is {array.dtype} {list(array.shape)}, not one name a row")
        if any(int(key) >= len(array) for key in content.keys):
            raise BadInput(f"group array holds {len(array)} groups, too few for its rows")
        named = [str(array[int(key)]) for key in content.keys]
    else:
        named = [""] * len(content.keys)
    whole = [_volume(key) for key in content.keys]
    if not any(named) and not any(whole):
        return None
    every = zip(named, whole, content.keys, strict=True)
    return tuple(name or file or key for name, file, key in every)


def _volume(key: str) -> str:
    """The volume that a slice belongs to; '' for a picture, or a name that is a fault anyway."""
    file = key.rpartition("#")[0]
    return file if file and is_volume(file) else ""


def _spacings(
    manifest: Manifest, content: SplitContent, rows: CsvRows | None
) -> tuple[tuple[float, ...], ...] | None:
    if rows is None or not any(row["spacing"] for row in rows):
        return _volume_spacings(manifest, content)
    spacings = [parse_spacing(row["spacing"]) for row in rows]
    odd = [
        f"{key} ({row['spacing'] or 'none'})"
        for key, row, spacing in zip(content.keys, rows, spacings, strict=True)
        if not spacing
    ]
    if odd:
        content.faults.append(
            f"spacing is not millimetres such as 0.5x0.5 (row x column) or 2x0.5x0.5 "
            f"(slice x row x column): {listed(odd)}"
        )
        return None
    return tuple(spacings)


def parse_spacing(text: str) -> tuple[float, ...]:
    """Two or three numbers above 0; () if it says anything else.

    >>> parse_spacing("2x0.5x0.5")
    (2.0, 0.5, 0.5)
    """
    try:
        sizes = tuple(float(part) for part in text.split("x"))
    except ValueError:
        return ()
    fits = len(sizes) in (2, 3) and all(size > 0 and math.isfinite(size) for size in sizes)
    return sizes if fits else ()


def _volume_spacings(
    manifest: Manifest, content: SplitContent
) -> tuple[tuple[float, ...], ...] | None:
    """Those in the headers, where all rows are slices."""
    files = [_volume(key) for key in content.keys]
    if not files or not all(files) or manifest.arrays:
        return None
    path = manifest.archive_path
    where = Zip(path) if path else Folder(manifest.location)
    sizes: dict[str, tuple[float, ...]] = {}
    for file in dict.fromkeys(files):
        try:
            sizes[file] = grid(where.checked(file)).spacing
        except (KeyError, *BROKEN):
            return None  # its images cannot be read either, which is said of them
        if not all(size > 0 and math.isfinite(size) for size in sizes[file]):
            content.faults.append(f"{file} says its spacing is {sizes[file]}; add a column spacing")
            return None
    return tuple(sizes[file] for file in files)


def _priors(
    manifest: Manifest, content: SplitContent, rows: CsvRows, header: Sequence[str]
) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    """The user's shares of classes [N, C], in the order of the manifest's classes."""
    single = [name for name in header if name.startswith(PRIOR)]
    if "priors" in header and any(row["priors"] for row in rows):
        texts = [row["priors"].replace(";", " ").split() for row in rows]
    elif any(row[name] for row in rows for name in single):
        names = _prior_names(manifest, content, single)
        texts = [[row[PRIOR + name] for name in names] for row in rows]
    else:
        return None
    odd = [
        f"{key} ({' '.join(text).strip() or 'none'})"
        for key, text in zip(content.keys, texts, strict=True)
        if not _shares(text, manifest.num_classes or 0)
    ]
    if odd:
        content.faults.append(
            f"priors must be {manifest.num_classes} shares, one a class, none below 0 and not all "
            f"0, for every row or for none: {listed(odd)}"
        )
        return None
    return np.array([_shares(text, len(text)) for text in texts], dtype=np.float32)


def _prior_names(manifest: Manifest, content: SplitContent, single: Sequence[str]) -> list[str]:
    """The classes whose shares have columns: all, or a fault and none."""
    count = range(manifest.num_classes or 0)
    classes = manifest.classes if isinstance(manifest.classes, tuple) else [str(i) for i in count]
    there = [name.removeprefix(PRIOR) for name in single]
    lacking = [name for name in classes if name not in there]
    foreign = [name for name in there if name not in classes]
    if lacking or foreign:
        content.faults.append(
            "the columns prior:<class> must name every class: missing are "
            f"{listed(lacking) or 'none'}, unknown are {listed(foreign) or 'none'}"
        )
        return []
    return list(classes)


def _shares(texts: Sequence[str], count: int) -> list[float]:
    """As many numbers, none below 0 and not all 0; [] if they are not."""
    try:
        shares = [float(text) for text in texts]
    except ValueError:
        return []
    fits = len(shares) == count and all(0 <= share < math.inf for share in shares)
    return shares if fits and sum(shares) > 0 else []


def _check_groups(content: SplitContent) -> None:
    """Slices of one volume must be as far apart everywhere."""
    groups, spacings = content.more.groups, content.more.spacings
    if not groups or not spacings:
        return
    pairs = set(zip(groups, spacings, strict=True))
    several = sorted(
        name for name, times in Counter(name for name, _ in pairs).items() if times > 1
    )
    if several:
        content.faults.append(f"rows of one group differ in spacing: {listed(several)}")


def slice_faults(keys: Sequence[str]) -> list[str]:
    """What is wrong with names of volumes, one clause each."""
    faults = []
    for key in keys:
        try:
            slice_of(key)
        except BadInput as error:
            faults.append(str(error))
    return faults
