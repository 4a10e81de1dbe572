"""From a request and its answers to the next version of the target's manifest, all or nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sfda.annotation.exports import read_export
from sfda.annotation.next_version import RowAnnotations, filed_annotations, put_version
from sfda.errors import BadInput, listed
from sfda.formats.annotations import PictureAnnotations
from sfda.formats.images import value_bytes
from sfda.formats.request import Request, RequestedNames, read_request
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import Split, read_split
from sfda.manifests.schema import Manifest
from sfda.problems.labelling import Unfit
from sfda.problems.registry import PROBLEMS


class TakeResult(NamedTuple):
    """What `sfda answer` wrote."""

    manifest: Path
    annotated: int  # of this request
    requested: int
    total: int  # annotations that the manifest has now
    unmarked: int = 0  # pictures of the export without a box, which were left out
    nothing: str = "box"  # what those lack
    again: bool = False  # just this was taken before, and nothing was written
    unanswered: tuple[tuple[str, tuple[str, ...]], ...] = ()  # why, and which images


def take_annotations(
    folder: Path,
    export: Path,
    target: Path,
    *,
    out: Path | None = None,
    data_root: Path | None = None,
    empty: bool = False,
) -> TakeResult:
    """Check every answer to the request in `folder` and write the next version of `target`.

    It lies beside `target` (`usps.yaml`, then `usps.v2.yaml`) unless `out` says otherwise, with
    earlier answers kept; where just that is there already nothing is written. The same answer to a
    row that has one is passed over, so that the rest of a request may come later. `empty`: pictures
    in which nobody drew a box hold none; else only those that somebody handed in so.
    Raises BadInput that names every fault; nothing is written then.
    """
    request = read_request(folder)
    manifest = open_manifest(target, data_root=data_root)
    split = read_split(manifest.unlabelled(), request.split)
    faults = []
    if (manifest.name, manifest.problem) != (request.manifest, request.problem):
        raise BadInput(f"{folder} asks about {request.manifest}, not about {manifest.name}")
    if empty and not PROBLEMS[request.problem].labelling.empty:
        raise BadInput(
            f"--empty is for what may be absent; an answer for {request.problem} is never empty"
        )
    name_of = dict(zip(split.row_ids, split.names, strict=True))
    gone = [w.key for w in request.requested if w.row not in name_of]
    if gone:
        faults.append(f"images that {target} lacks: {listed(gone)}")
    pictures = read_export(export)
    if empty:
        pictures = [one._replace(done=True) for one in pictures]
    annotations, more, blank = match(request, pictures, _pictures(manifest, split))
    faults += more
    known = {split.row_ids[int(r)] for r in split.annotations.rows} if split.annotations else set()
    again, other = _answered(manifest, request, annotations, known)
    if other:
        faults.append(f"answered otherwise already in {target}: {listed(other)}")
    if again and len(again) == len(annotations) and not faults:
        faults.append(f"answered already in {target}: {listed(again)}")
    annotations = {row: own for row, own in annotations.items() if row not in known}
    unmarked = sum(one.empty and not one.done and not one.fault for one in pictures)
    unmarked = unmarked if PROBLEMS[request.problem].labelling.empty else 0
    nothing = PROBLEMS[request.problem].labelling.nothing
    if not faults and not annotations:
        faults.append(
            "not one sample has an answer"
            + (f" ({unmarked_message(unmarked, nothing)})" if unmarked else "")
        )
    if faults:
        raise BadInput(f"{export}: " + "; ".join(faults) + "; nothing was taken")
    path = out or next_path(target, manifest)
    new = put_version(manifest, request, annotations, path)
    asked = len(request.requested)
    rest = _unanswered(request, {*annotations, *known}, blank)
    return TakeResult(
        path, len(annotations), asked, new.answers, unmarked, nothing, new.again, rest
    )


def _answered(
    manifest: Manifest, request: Request, annotations: RowAnnotations, known: set[str]
) -> tuple[list[str], list[str]]:
    """Images that were answered before and are answered so again, and those otherwise."""
    if not known & annotations.keys():
        return [], []
    filed = filed_annotations(manifest, request.split)
    as_filed = PROBLEMS[request.problem].labelling.filed
    same, other = list[str](), list[str]()
    for row in known & annotations.keys():
        sample, annotation = annotations[row]
        before, now = filed.get(sample.key), as_filed(annotation)
        if isinstance(before, Path):
            alike = np.array_equal(value_bytes(before.read_bytes()), now)
        else:
            alike = before == now
        (same if alike else other).append(sample.key)
    return sorted(same), sorted(other)


def _unanswered(
    request: Request, answered: set[str], blank: set[str]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Why images of the request have no answer yet, and which those are."""
    open_rows = [one for one in request.requested if one.row not in answered]
    reasons = (
        ("have nothing marked in the export, or were skipped", True),
        ("are not in the export", False),
    )
    listing = [
        (reason, tuple(one.key for one in open_rows if (one.row in blank) is inside))
        for reason, inside in reasons
    ]
    return tuple((reason, keys) for reason, keys in listing if keys)


def unmarked_message(count: int, nothing: str) -> str:
    """What to say of pictures that were left out since nothing, such as no box, is in them."""
    return f"{count} images have no {nothing}; if they hold none, say --empty"


def _pictures(manifest: Manifest, split: Split) -> set[str]:
    """What an export may call the pictures of a split."""
    if manifest.arrays:
        return {name.removeprefix(f"{manifest.arrays.image}:") for name in split.names}
    return set(map(PROBLEMS[manifest.problem].image_file, split.names))


def match(
    request: Request, pictures: list[PictureAnnotations], known: Iterable[str] = ()
) -> tuple[RowAnnotations, list[str], set[str]]:
    """The annotation of each row, every fault, and the rows that the export leaves blank. `known`
    are the names of all pictures of the split.
    """
    labelling = PROBLEMS[request.problem].labelling
    by_row = {w.row: w for w in request.requested}
    names = RequestedNames(request.requested, known)
    row_annotations: RowAnnotations = {}
    blank: set[str] = set()
    kinds: dict[str, list[str]] = {}
    seen: Counter[str] = Counter()
    for one in labelling.apportion(request, names, pictures):
        sample = by_row.get(one.row or "")
        name = one.file or one.row or one.where
        if sample is None and not one.row:
            near = names.rows(one.file)
            if len(near) > 1:
                which = f"{name} ({listed([w.key for w in near])})"
                kinds.setdefault("names that several pictures end in", []).append(which)
                continue
            sample = near[0] if near else None
        if sample is None:
            kinds.setdefault("never asked for", []).append(name)
            continue
        seen[sample.row] += 1
        if seen[sample.row] > 1:
            kinds.setdefault("answered twice", []).append(sample.key)
            continue
        if one.fault:
            kinds.setdefault("unusable", []).append(f"{sample.key}: {one.fault}")
            continue
        try:
            labelling.refuse_resized(sample, one)
            annotation = labelling.check(request, sample, one)
        except Unfit as error:
            kinds.setdefault(error.kind, []).append(error.which)
            continue
        if annotation is not None:
            row_annotations[sample.row] = (sample, annotation)
        else:
            blank.add(sample.row)
    faults = [f"{kind}: {listed(list(dict.fromkeys(which)))}" for kind, which in kinds.items()]
    return row_annotations, faults, blank


def next_path(path: Path, manifest: Manifest) -> Path:
    """Where the next version lies: beside this one, under its name and number.

    >>> next_path(Path("a/usps.v2.yaml"), Manifest.model_construct(version=2)).name
    'usps.v3.yaml'
    """
    stem = re.sub(r"\.v\d+$", "", path.stem)
    return path.with_name(f"{stem}.v{manifest.version + 1}{path.suffix}")
