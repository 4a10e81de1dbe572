"""A new manifest and its row file on disk, never half-written."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sfda.authoring.listing import Listing
from sfda.formats.table import csv_bytes
from sfda.manifests.digests import bytes_digest, file_digest
from sfda.manifests.opening import is_ours, validated
from sfda.manifests.schema import Manifest
from sfda.manifests.write import refuse_other_suffix, relative_root, write_files
from sfda.refs import ProblemName

log = logging.getLogger("sfda")
ALIASES = {"adapt": "train", "test": "val"}


@dataclass(frozen=True)
class RowTable:
    """Columns of a row file, all of one length; '' where a cell is empty."""

    keys: tuple[str, ...]  # paths or indices
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    masks: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    spacings: tuple[str, ...] = ()
    label_column: str = "class"
    unlabelled: str = ""  # what it says of an image that nobody looked at

    @property
    def labelled(self) -> bool:
        """Whether every row has a class or a mask."""
        named = all(cell != self.unlabelled for cell in self.classes)
        return named or (bool(self.masks) and all(self.masks))


@dataclass(frozen=True)
class Draft:
    """What a new manifest is about, and where it goes."""

    listing: Listing
    problem: ProblemName
    classes: tuple[str, ...] | int | None
    out: Path
    official: Manifest | None  # the template that the data are held against
    data_root: Path | None


def write_manifest(
    rows: RowTable,
    draft: Draft,
    more: dict[str, Any] | None = None,
) -> Path:
    """Write the draft, with further keys `more`, and the row file beside it.

    Raises BadInput if the place cannot be written to, or if keys do not go together.
    """
    refuse_other_suffix(draft.out)
    table = _table(rows, draft.listing, numbered=isinstance(draft.classes, int))
    row_file = draft.out.with_suffix(".rows.csv")
    splits = _splits(rows, row_file.name, bytes_digest(table))
    return put_manifest({row_file: table}, splits, draft, more)


def put_manifest(
    files: dict[Path, bytes],
    splits: dict[str, dict[str, Any]],
    draft: Draft,
    more: dict[str, Any] | None = None,
) -> Path:
    """Write row files and the manifest that names them. Raises BadInput as `write_manifest`."""
    listing, official, classes, out = draft.listing, draft.official, draft.classes, draft.out
    document: dict[str, Any] = {
        "name": official.name if official else listing.path.resolve().stem,
        "problem": draft.problem,
        "version": 1,
        "origin": official.origin if official else f"{listing.path.name}, as the user has it",
    }
    if official and official.licence:
        document["licence"] = official.licence
    document["root"] = _root(listing.root, out, draft.data_root)
    if classes is not None:
        document["classes"] = classes if isinstance(classes, int) else list(classes)
    document |= more or {}
    if listing.path.is_file() and not listing.in_list:
        document["archive"] = {"file": listing.path.name, "sha256": file_digest(listing.path)}
    if listing.image:
        document["arrays"] = {"image": listing.image}
        if listing.mask:
            document["arrays"]["mask"] = listing.mask
        if listing.group:
            document["arrays"]["group"] = listing.group
    document["splits"] = splits
    validated(document, out)
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    write_files({**files, out: text.encode()}, out)
    return out


def _table(rows: RowTable, listing: Listing, *, numbered: bool) -> bytes:
    columns: dict[str, Sequence[str]] = {listing.column: rows.keys}
    if any(cell != rows.unlabelled for cell in rows.classes):
        columns["label" if numbered else rows.label_column] = rows.classes
    if any(rows.masks) and not listing.image:
        columns["mask"] = rows.masks
    if any(rows.groups):
        columns["group"] = rows.groups
    if any(rows.spacings):
        columns["spacing"] = rows.spacings
    if any(rows.splits):
        columns["split"] = rows.splits
    return csv_bytes([tuple(columns), *zip(*columns.values(), strict=True)])


def _splits(rows: RowTable, row_file: str, sha256: str) -> dict[str, dict[str, Any]]:
    entry = {"rows": row_file, "sha256": sha256}
    if not any(rows.splits):
        return {"adapt": entry | {"count": len(rows.keys)}}
    splits: dict[str, dict[str, Any]] = {}
    counts = Counter(rows.splits)
    for name in (*ALIASES, *sorted(counts.keys() - ALIASES.keys())):
        alias = ALIASES.get(name, name)
        twin = rows.labelled and alias not in counts
        for split in (name, alias) if twin else (name,):
            if counts[name]:
                splits[split] = entry | {"where": name, "count": counts[name]}
    return splits


def _root(root: Path, out: Path, data_root: Path | None) -> str:
    """Below the data folder if one is named and holds it, else relative to the manifest."""
    root = root.resolve()
    named = data_root or (Path(os.environ["SFDA_DATA"]) if os.environ.get("SFDA_DATA") else None)
    if named and root.is_relative_to(named.resolve()):
        below = root.relative_to(named.resolve()).as_posix()
        if not below.startswith(".") or below == ".":
            return below.removeprefix(".")  # '' is the data folder itself
    if is_ours(out):  # kept on this machine for this folder: the folder may not move with it
        return root.as_posix()
    relative = relative_root(root, out.resolve().parent)
    if named and relative.startswith(".."):
        log.warning(
            "the images lie outside of SFDA_DATA (%s), so the manifest names them relative to "
            "itself (root: %s) and can move together with them alone; with SFDA_DATA=%s it could "
            "move by itself",
            named,
            relative,
            root.parent,
        )
    return relative
