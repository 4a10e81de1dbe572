"""The pool: images of a target that adaptation never sees, so that a decision can be made on them
(docs/methods/decide.md, section 1). A `test` split is the pool where there is one.

Else images are held out in order of a digest of their bytes. Rows of one file, of equal bytes or
of one group (volume, video) stay together; images that look alike and are other bytes do not,
unless they share a group: what they look like would have to be decoded before anything is planned.
Which side an image is on is remembered below the home, by the folder or archive that it lies in: as
a folder grows, and whichever manifest or split names its images, none changes sides. The one way
leads out of the pool: rows that people have annotated are learnt from, and with them their group.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sfda.config import Config
from sfda.errors import BadInput
from sfda.formats.readers import BROKEN, Indices
from sfda.loading.contents import Numbers, image_numbers
from sfda.loading.opened import open_ref, split_ref
from sfda.loading.parts import keep_rows
from sfda.manifests.rows import Split, look_at, read_split
from sfda.manifests.schema import Manifest
from sfda.manifests.write import put
from sfda.refs import LabelledSplit, ManifestRef, SplitRef
from sfda.state_folder import disk_errors, home, lasting_folder, one_at_a_time

FEWEST_ROWS = 40  # rows below which none are held out
USUAL_TEST = "test"
Flags = np.ndarray[Any, np.dtype[np.bool_]]


def pool_size(rows: int) -> int:
    """How many of so many rows are held out: a fifth, at least 200, at most half.

    >>> [pool_size(rows) for rows in (39, 40, 100, 400, 1000, 5000)]
    [0, 20, 50, 200, 200, 1000]
    """
    return 0 if rows < FEWEST_ROWS else min(max(rows // 5, 200), rows // 2)


class PoolSides(NamedTuple):
    """Images, by their numbers, that were given their side before."""

    held_out: Numbers
    learnt: Numbers

    def with_rows(self, numbers: Numbers, held_out: Flags) -> PoolSides:
        """The same with rows of these numbers on the side that they are now."""
        learnt = np.union1d(self.learnt, numbers[~held_out])
        return PoolSides(np.setdiff1d(np.union1d(self.held_out, numbers[held_out]), learnt), learnt)


NO_SIDES = PoolSides(np.empty(0, np.uint64), np.empty(0, np.uint64))


def hold_out(
    numbers: Numbers, groups: tuple[str, ...] | None, annotated: Indices, before: PoolSides
) -> Flags:
    """[N]: which rows are held out, by the numbers of their images, their groups, the rows that
    people have annotated, and the sides that images were on before.

    What must stay together is held out in order of its smallest number until `pool_size` is
    reached; what would make the pool more than half of all rows is passed over.
    """
    size = len(numbers)
    cluster = _clusters(numbers, groups)
    counts = np.bincount(cluster)
    held, learnt = np.isin(numbers, before.held_out), np.isin(numbers, before.learnt)
    left = _any_of(cluster, annotated)
    has_held, has_learnt = _any_of(cluster, held), _any_of(cluster, learnt)
    # where both sides have met in a group, its new rows are learnt from, and its old ones stay
    flags: Flags = (held | (has_held & ~has_learnt)[cluster]) & ~left[cluster]
    missing, room = pool_size(size) - int(flags.sum()), size // 2 - int(flags.sum())
    smallest = np.full(len(counts), np.iinfo(np.uint64).max)
    np.minimum.at(smallest, cluster, numbers)
    free = np.flatnonzero(~(left | has_held | has_learnt))
    chosen = np.zeros(len(counts), dtype=bool)
    for one in free[np.argsort(smallest[free], kind="stable")].tolist():
        if missing <= 0:
            break
        if counts[one] <= room:
            chosen[one] = True
            missing, room = missing - int(counts[one]), room - int(counts[one])
    return np.asarray(flags | chosen[cluster])


def _clusters(numbers: Numbers, groups: tuple[str, ...] | None) -> Indices:
    """[N]: which rows must stay together, numbered from 0."""
    images: Indices = np.unique(numbers, return_inverse=True)[1]
    if groups is None:
        return images
    codes: dict[str, int] = {}
    named = np.array([codes.setdefault(name, len(codes)) for name in groups]) + images.max() + 1
    nodes = int(named.max()) + 1
    links = coo_array((np.ones(len(images), bool), (images, named)), shape=(nodes, nodes))
    labels = connected_components(links, directed=False)[1]
    together: Indices = np.unique(labels[images], return_inverse=True)[1]
    return together


def _any_of(cluster: Indices, rows: Indices | Flags) -> Flags:
    """Of each cluster, whether it has any of these rows."""
    return np.bincount(cluster[rows], minlength=int(cluster.max()) + 1) > 0


class HeldOut(Config):
    """What a decision about an adaptation is made on.

    `kind`: the split for tests, rows that are held out, or all rows, where none can be spared.
    """

    part: SplitRef
    kind: Literal["test", "held out", "all"]
    count: int  # rows of it
    seen: int  # of these, how many adaptation sees

    @property
    def says(self) -> str:
        """What it is, where adaptation has seen it; '' otherwise."""
        if not self.seen:
            return ""
        which = "" if self.seen == self.count else f"{self.seen:,} of "
        split = f" of the split '{self.part.split}'" if self.kind == "test" else ""
        return f"all {self.count:,} images{split}, {which}which adaptation has seen"


def learning_part(target: ManifestRef, split: str, test: str | None = None) -> SplitRef:
    """What an adaptation to a split sees: all of it where there is a split `test` (None: "test"),
    else all that is not held out. Raises BadInput where that is nothing.
    """
    return _divided(target, split, test)[0]


def pool_of(target: ManifestRef, split: str, test: str | None = None) -> HeldOut:
    """What a decision about an adaptation to a split is made on, whether or not it has labels: the
    split `test` (None: "test") where there is one, without rows that are in both; else what is held
    out; else all. Raises BadInput.
    """
    name = test or USUAL_TEST
    if name in open_ref(target).splits:
        return _test_rows(target, split, name)
    part, held_out = _divided(target, split, test)
    pool, size = np.flatnonzero(held_out), len(held_out)
    if size < FEWEST_ROWS or not len(pool):
        whole = part.model_copy(update={"rows": None})
        return HeldOut(part=whole, kind="all", count=size, seen=size - len(pool))
    own = part.model_copy(update={"rows": keep_rows(pool)})
    return HeldOut(part=own, kind="held out", count=len(pool), seen=0)


def whole_split(target: ManifestRef, split: str, test: LabelledSplit) -> HeldOut:
    """All rows of a split for tests, whose labels decide, and how many of them an adaptation to
    `split` sees. Raises BadInput.
    """
    manifest = open_ref(target).unlabelled()
    learnt = set(read_split(manifest, split).row_ids)
    ids = read_split(manifest, test.name).row_ids
    part = SplitRef(manifest=target, split=test.name, seen=test.seen)
    return HeldOut(part=part, kind="test", count=len(ids), seen=sum(one in learnt for one in ids))


def _test_rows(target: ManifestRef, split: str, test: str) -> HeldOut:
    """The rows of a split for tests that adaptation does not see, or all, where it sees them all.

    A row that is in both splits has one id.
    """
    manifest, part = open_ref(target).unlabelled(), split_ref(target, test)
    ids, learnt = read_split(manifest, test).row_ids, set(read_split(manifest, split).row_ids)
    unseen = np.array([row for row, name in enumerate(ids) if name not in learnt], dtype=np.int64)
    if not len(unseen):
        return HeldOut(part=part, kind="test", count=len(ids), seen=len(ids))
    if len(unseen) < len(ids):
        part = part.model_copy(update={"rows": keep_rows(unseen)})
    return HeldOut(part=part, kind="test", count=len(unseen), seen=0)


def _divided(target: ManifestRef, split: str, test: str | None) -> tuple[SplitRef, Flags]:
    """What adaptation sees of a split, and which rows of it are held out."""
    manifest = open_ref(target).unlabelled()
    rows = read_split(manifest, split)
    look = look_at(manifest, rows)
    whole = SplitRef(manifest=target, split=split, seen=look.seen)
    if (test or USUAL_TEST) in manifest.splits:
        return whole, np.zeros(len(rows), dtype=bool)
    memory = _memory_of(manifest)
    held_out = _remembered(memory, image_numbers(manifest, rows, look), rows)
    if held_out.all():
        raise BadInput(
            f"all {len(rows)} images of {target.path}, split '{split}', were held out before, so "
            f"that decisions can be made on them: there is none to adapt to. Add images, or "
            f"delete {memory} to divide them anew"
        )
    if not held_out.any():
        return whole, held_out
    learnt = keep_rows(np.flatnonzero(~held_out))
    return whole.model_copy(update={"rows": learnt}), held_out


def _memory_of(manifest: Manifest) -> Path:
    """Where it is remembered of what the images lie in which side each is on."""
    lies_in = os.path.realpath(manifest.archive_path or manifest.location)
    digest = hashlib.sha256(os.fsencode(lies_in)).hexdigest()
    return home() / "pools" / f"{digest[:24]}.npz"


def _remembered(memory: Path, numbers: Numbers, rows: Split) -> Flags:
    """Which rows are held out, as was decided before or is now, and remembered from now on."""
    annotated = rows.annotations.rows if rows.annotations else np.empty(0, np.int64)
    with disk_errors(f"which images are held out in {memory}"), one_at_a_time(memory):
        before = _read(memory if memory.exists() else _lasting(memory))
        held_out = hold_out(numbers, rows.groups, annotated, before)
        now = before.with_rows(numbers, held_out)
        if not all(map(np.array_equal, before, now)):
            content = io.BytesIO()
            np.savez(content, **now._asdict())
            put({memory: content.getvalue()})
    return held_out


def _lasting(memory: Path) -> Path:
    """The same below the home that lasts, for a notebook, whose state is its own and whose memory
    ends with it: what was held out there is not learnt from here.
    """
    file = lasting_folder() / memory.parent.name / memory.name
    own = file.is_file() and file.stat().st_uid == os.geteuid()
    return file if own else memory


def _read(memory: Path) -> PoolSides:
    try:
        with np.load(memory, allow_pickle=False) as arrays:
            sides = PoolSides(*(arrays[name].astype(np.uint64) for name in PoolSides._fields))
    except FileNotFoundError:
        return NO_SIDES
    except (*BROKEN, KeyError) as error:
        raise BadInput(
            f"{memory} is damaged ({error}); delete it to divide the images anew, after which some "
            "that were learnt from may be held out"
        ) from None
    return sides
