"""From a request and its answers to the next version of the target's manifest, all or nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sfda.annotation.exports import read_export
from sfda.annotation.next_version import put_version
from sfda.annotation.picture_names import AskedNames
from sfda.annotation.problems import LABELLING
from sfda.annotation.problems._base import Answer, Unfit
from sfda.annotation.request import Request, WantedRow, read_request
from sfda.errors import BadInput, listed
from sfda.formats.annotations import Given
from sfda.formats.keypoints import file_of
from sfda.manifests.rows import Split, read_split
from sfda.manifests.schema import Manifest, open_manifest

Found = dict[str, tuple[WantedRow, Answer]]


class Taken(NamedTuple):
    """What `sfda answer` wrote."""

    manifest: Path
    answered: int  # of this request
    asked: int
    total: int  # answers that the manifest has now
    bare: int = 0  # pictures of the export without a box, which were left out


def take_answers(
    folder: Path,
    answers: Path,
    target: Path,
    *,
    out: Path | None = None,
    data_root: Path | None = None,
    empty: bool = False,
) -> Taken:
    """Check every answer to the request in `folder` and write the next version of `target`.

    It lies beside `target` (`usps.yaml`, then `usps.v2.yaml`) unless `out` says otherwise, with
    earlier answers kept. `empty`: pictures in which nobody drew a box hold none; else only those
    that somebody handed in so. Raises BadInput that names every fault; nothing is written then.
    """
    request = read_request(folder)
    manifest = open_manifest(target, data_root=data_root)
    split = read_split(manifest.unlabelled(), request.split)
    faults = []
    if (manifest.name, manifest.problem) != (request.manifest, request.problem):
        raise BadInput(f"{folder} asks about {request.manifest}, not about {manifest.name}")
    if empty and not LABELLING[request.problem].empty:
        raise BadInput(f"--empty is for boxes; an answer for {request.problem} is never empty")
    place = dict(zip(split.row_ids, split.names, strict=True))
    gone = [w.key for w in request.wanted if w.row not in place]
    if gone:
        faults.append(f"images that {target} lacks: {listed(gone)}")
    known = {split.row_ids[int(r)] for r in split.answers.rows} if split.answers else set()
    if again := [w.key for w in request.wanted if w.row in known]:
        faults.append(f"answered already in {target}: {listed(again)}")
    given = read_export(answers)
    if empty:
        given = [one._replace(done=True) for one in given]
    found, more = match(request, given, _pictures(manifest, split))
    faults += more
    bare = sum(one.bare and not one.done and not one.fault for one in given)
    bare = bare if LABELLING[request.problem].empty else 0
    if not faults and not found:
        faults.append("not one sample has an answer" + (f" ({told_bare(bare)})" if bare else ""))
    if faults:
        raise BadInput(f"{answers}: " + "; ".join(faults) + "; nothing was taken")
    path = out or next_path(target, manifest)
    total = put_version(manifest, request, found, path)
    return Taken(path, len(found), len(request.wanted), total, bare)


def told_bare(count: int) -> str:
    """What to say of pictures that were left out since nothing is in them."""
    return f"{count} images have no box; if they hold none, say --empty"


def _pictures(manifest: Manifest, split: Split) -> set[str]:
    """What an export may call the pictures of a split."""
    if manifest.arrays:
        return {name.removeprefix(f"{manifest.arrays.image}:") for name in split.names}
    return {file_of(name) if manifest.problem == "pose" else name for name in split.names}


def match(
    request: Request, given: list[Given], pictures: Iterable[str] = ()
) -> tuple[Found, list[str]]:
    """The answer to each row, and every fault. `pictures` are names of all that the split has."""
    labelling = LABELLING[request.problem]
    by_row = {w.row: w for w in request.wanted}
    names = AskedNames(request.wanted, pictures)
    found: Found = {}
    kinds: dict[str, list[str]] = {}
    seen: Counter[str] = Counter()
    for one in labelling.apportion(request, names, given):
        wanted = by_row.get(one.row or "")
        told = one.file or one.row or one.where
        if wanted is None and not one.row:
            near = names.rows(one.file)
            if len(near) > 1:
                said = f"{told} ({listed([w.key for w in near])})"
                kinds.setdefault("names that several pictures end in", []).append(said)
                continue
            wanted = near[0] if near else None
        if wanted is None:
            kinds.setdefault("never asked for", []).append(told)
            continue
        seen[wanted.row] += 1
        if seen[wanted.row] > 1:
            kinds.setdefault("answered twice", []).append(wanted.key)
            continue
        if one.fault:
            kinds.setdefault("unusable", []).append(f"{wanted.key}: {one.fault}")
            continue
        try:
            labelling.refuse_resized(wanted, one)
            answer = labelling.answer(request, wanted, one)
        except Unfit as error:
            kinds.setdefault(error.kind, []).append(error.told)
            continue
        if answer is not None:
            found[wanted.row] = (wanted, answer)
    return found, [f"{kind}: {listed(list(dict.fromkeys(said)))}" for kind, said in kinds.items()]


def next_path(path: Path, manifest: Manifest) -> Path:
    """Where the next version lies: beside this one, under its name and number.

    >>> next_path(Path("a/usps.v2.yaml"), Manifest.model_construct(version=2)).name
    'usps.v3.yaml'
    """
    stem = re.sub(r"\.v\d+$", "", path.stem)
    return path.with_name(f"{stem}.v{manifest.version + 1}{path.suffix}")
