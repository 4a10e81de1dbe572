"""Images are held out by their bytes, a part of them, for ever; what belongs together stays so."""

from __future__ import annotations

import io
import multiprocessing
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import small
import yaml
from PIL import Image

from sfda.authoring.from_folder import build_manifest
from sfda.errors import BadInput
from sfda.loading.opened import evaluation_split, manifest_ref, open_ref
from sfda.loading.parts import read_rows
from sfda.loading.pool import (
    NO_SIDES,
    HeldOut,
    PoolSides,
    hold_out,
    learning_part,
    pool_of,
    pool_size,
    whole_split,
)
from sfda.manifests.rows import read_split
from sfda.refs import SplitRef
from sfda.state_folder import temporary_state

NONE = np.empty(0, np.int64)


def numbers(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def held(
    values: Iterable[int], groups=None, annotated=NONE, before: PoolSides = NO_SIDES
) -> list[int]:
    """The rows that are held out."""
    flags = hold_out(numbers(*values), groups, np.array(annotated, np.int64), before)
    return np.flatnonzero(flags).tolist()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        *((1, 0), (39, 0), (40, 20), (41, 20), (100, 50), (399, 199), (400, 200)),
        *((1000, 200), (1004, 200), (1005, 201), (5000, 1000)),
    ],
)
def test_a_fifth_at_least_200_at_most_half_and_of_fewer_than_40_none(rows, expected):
    assert pool_size(rows) == expected
    generator = np.random.default_rng(rows)
    values = generator.permutation(rows) * 7 + 1
    lowest = sorted(range(rows), key=lambda row: values[row])[:expected]
    assert held(values.tolist()) == sorted(lowest)


def test_equal_bytes_and_groups_stay_together_by_their_smallest_number():
    # 40 rows of numbers 100, 101 ...; rows 0 and 39 are equal, 38 of a group with 1, 2
    values = [100 + row for row in range(40)]
    values[39] = 100
    groups = tuple("video" if row in (1, 2, 38) else f"row {row}" for row in range(40))
    assert held(values, groups) == [*range(18), 38, 39]
    # groups chain over equal bytes: 38 is of the group of 1, and 39 is equal to 38
    values[39] = values[38]
    assert held(values, groups) == [*range(18), 38, 39]


def test_what_would_make_the_pool_more_than_half_is_passed_over():
    values = [100 + row for row in range(60)]
    groups = tuple("long" if row < 40 else f"row {row}" for row in range(60))
    assert held(values, groups) == [*range(40, 60)]
    assert held(values, ("one",) * 60) == []
    # a group that goes beyond the pool's size, but not beyond half, is taken whole
    values = [100 + row for row in range(1000)]
    groups = tuple("long" if 150 <= row < 350 else f"row {row}" for row in range(1000))
    assert held(values, groups) == [*range(350)]


def test_earlier_sides_stay_and_new_rows_fill_the_pool_up():
    first = [1000 + row for row in range(100)]
    flags = hold_out(numbers(*first), None, NONE, NO_SIDES)
    before = NO_SIDES.with_rows(numbers(*first), flags)
    assert np.flatnonzero(flags).tolist() == [*range(50)]
    # 20 more rows, all of smaller numbers: ten of them are held out, the ten smallest
    assert held([*range(20), *first], before=before) == [*range(10), *range(20, 70)]
    # half of the rows are gone, those that were learnt from: nobody changes sides
    assert held(first[:60], before=before) == [*range(50)]
    # fewer than 40 are left: nothing new is held out, and what was stays
    assert held([5, *first[45:60]], before=before) == [1, 2, 3, 4, 5]


def test_rows_below_40_are_learnt_from_for_ever():
    first = [1000 + row for row in range(39)]
    before = NO_SIDES.with_rows(numbers(*first), np.zeros(39, bool))
    assert held([*first, *range(9)], before=before) == [*range(39, 48)]


def test_annotated_rows_leave_with_all_that_belongs_to_them_and_do_not_come_back():
    values = [100 + row for row in range(40)]
    groups = tuple("video" if row in (3, 30) else f"row {row}" for row in range(40))
    start = held(values, groups)
    assert {3, 30} < set(start)
    before = NO_SIDES.with_rows(numbers(*values), np.isin(np.arange(40), start))
    later = held(values, groups, annotated=[3], before=before)
    assert later == [row for row in start if row not in (3, 30)]  # none is free to come instead
    after = before.with_rows(numbers(*values), np.isin(np.arange(40), later))
    assert held(values, groups, before=after) == later


def test_new_frames_of_a_video_go_where_the_video_is_and_to_learning_where_it_is_on_both():
    values = [100 + row for row in range(40)]
    before = PoolSides(numbers(*values[:20]), numbers(*values[20:]))
    more = [*values, 1, 2, 3]
    groups = [f"row {row}" for row in range(43)]
    groups[40], groups[5] = "held", "held"
    groups[41], groups[25] = "learnt", "learnt"
    groups[42], groups[6], groups[26] = ("both",) * 3
    assert held(more, tuple(groups), before=before) == [*range(20), 40]


# targets on disk


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SFDA_DATA", raising=False)
    return tmp_path / "home"


def png(value: int) -> bytes:
    handle = io.BytesIO()
    Image.fromarray(np.array([[value % 256, value // 256]], np.uint8)).save(handle, "PNG")
    return handle.getvalue()


def photos(folder: Path, values: Iterable[int]) -> Path:
    folder.mkdir(exist_ok=True)
    for value in values:
        (folder / f"{value:05d}.png").write_bytes(png(value))
    return folder


def target_of(folder: Path, out: Path):
    return manifest_ref(build_manifest(folder, problem="classification", out=out))


def names_of(part: SplitRef) -> list[str]:
    names = read_split(open_ref(part.manifest), part.split).names
    if part.rows is None:
        return list(names)
    return [names[row] for row in read_rows(part.rows, len(names)).tolist()]


def sides_of(ref, split: str = "adapt") -> tuple[set[str], set[str]]:
    """Names that are learnt from and that are held out; together they are all."""
    learnt, pool = learning_part(ref, split), pool_of(ref, split)
    assert pool.kind == "held out"
    assert not pool.says
    sides = set(names_of(learnt)), set(names_of(pool.part))
    assert not sides[0] & sides[1]
    assert len(sides[1]) == pool.count
    return sides


def test_a_growing_folder_moves_no_row(tmp_path):
    folder, before = photos(tmp_path / "photos", range(40)), (set(), set())
    for step, size in enumerate((40, 45, 100, 101, 400, 700)):
        photos(folder, range(size))
        learnt, pool = sides_of(target_of(folder, tmp_path / f"m{step}.yaml"))
        assert before[0] <= learnt
        assert before[1] <= pool
        assert len(pool) == pool_size(size)
        before = learnt, pool


def test_a_copy_elsewhere_is_divided_alike_and_another_manifest_shares_the_memory(
    tmp_path, monkeypatch
):
    folder = photos(tmp_path / "photos", range(50))
    expected = sides_of(target_of(folder, tmp_path / "a.yaml"))
    assert sides_of(target_of(folder, tmp_path / "b.yaml")) == expected
    other = photos(tmp_path / "other", range(50))
    assert sides_of(target_of(other, tmp_path / "c.yaml")) == expected
    # what grew before is remembered here alone
    photos(folder, range(90))
    photos(other, range(90))
    grown = sides_of(target_of(folder, tmp_path / "d.yaml"))
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert sides_of(target_of(link, tmp_path / "e.yaml")) == grown
    with temporary_state():  # what is remembered at home counts
        assert sides_of(target_of(folder, tmp_path / "f.yaml")) == grown
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / "no home"))
    anew = sides_of(target_of(folder, tmp_path / "g.yaml"))
    assert len(anew[1]) == len(grown[1]) == 45
    assert anew != grown


@pytest.mark.parametrize("kind", ["zip", "npz"])
def test_archives_are_divided_by_their_images_and_grow_as_folders_do(tmp_path, kind):
    before = (set(), set())
    for size in (40, 80):
        archive = tmp_path / f"all.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(archive, "w") as packed:
                for value in range(size):
                    packed.writestr(f"{value:05d}.png", png(value))
        else:
            images = np.arange(size, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
            np.savez(archive, x=images)
        learnt, pool = sides_of(target_of(archive, tmp_path / f"m{size}.yaml"))
        assert before[0] <= learnt
        assert before[1] <= pool
        assert len(pool) == size // 2
        before = learnt, pool


def test_below_40_all_serves_and_is_said_to(tmp_path):
    ref = target_of(photos(tmp_path / "photos", range(39)), tmp_path / "m.yaml")
    pool, learnt = pool_of(ref, "adapt"), learning_part(ref, "adapt")
    assert learnt.rows is None
    assert pool == HeldOut(part=learnt, kind="all", count=39, seen=39)
    assert pool.says == "all 39 images, which adaptation has seen"


def test_what_was_held_out_stays_so_where_fewer_than_40_are_left(tmp_path):
    folder = photos(tmp_path / "photos", range(40))
    learnt, held_out = sides_of(target_of(folder, tmp_path / "a.yaml"))
    for name in sorted(learnt)[:15]:
        (folder / name).unlink()
    ref = target_of(folder, tmp_path / "b.yaml")
    pool = pool_of(ref, "adapt")
    assert set(names_of(learning_part(ref, "adapt"))) == set(sorted(learnt)[15:])
    assert (pool.kind, pool.part.rows) == ("all", None)
    assert pool.says == "all 25 images, 5 of which adaptation has seen"
    for name in sorted(learnt)[15:]:
        (folder / name).unlink()
    ref = target_of(folder, tmp_path / "c.yaml")
    with pytest.raises(BadInput, match=r"all 20 images of .* were held out before.*\.npz"):
        learning_part(ref, "adapt")
    assert held_out


def test_the_test_split_is_the_pool_and_nothing_is_held_out(tmp_path, own_home):
    ref = manifest_ref(small.write(tmp_path, "t", small.target_arrays(), small.TARGET))
    pool = pool_of(ref, "adapt")
    assert learning_part(ref, "adapt").rows is None
    assert (pool.kind, pool.part.split, pool.part.rows, pool.says) == ("test", "test", None, "")
    assert (pool.count, pool.seen) == (30, 0)
    assert not own_home.exists()
    # adapted to itself it has no row that is not seen
    pool = pool_of(ref, "test")
    assert pool.says == "all 30 images of the split 'test', which adaptation has seen"
    assert learning_part(ref, "test").rows is None


def test_another_split_may_be_named_as_that_for_tests(tmp_path):
    sizes = {"adapt": 48, "own": 30}
    ref = manifest_ref(small.write(tmp_path, "t", small.arrays(sizes, seed=2), sizes))
    assert learning_part(ref, "adapt", "own").rows is None
    assert pool_of(ref, "adapt", "own").part.split == "own"
    assert sides_of(ref)  # none is called test


def test_rows_of_the_test_split_that_adaptation_sees_are_left_out(tmp_path):
    inputs = small.target_arrays()
    entries = {"adapt": {"equals": 0, "count": 48}, "test": {"count": 78}}
    path = small.write(tmp_path, "t", inputs, small.TARGET, splits=entries)
    pool = pool_of(manifest_ref(path), "adapt")
    assert (pool.kind, pool.count, pool.says) == ("test", 30, "")
    assert names_of(pool.part) == [f"x:{row}" for row in range(48, 78)]
    # their labels are all counted, and it is said how many were seen
    test = evaluation_split(manifest_ref(path), "test")
    assert test is not None
    whole = whole_split(manifest_ref(path), "adapt", test)
    assert len(names_of(whole.part)) == 78
    assert whole.says == "all 78 images of the split 'test', 48 of which adaptation has seen"


def test_rows_of_one_group_are_on_one_side(tmp_path):
    folder = photos(tmp_path / "photos", range(60))
    path = build_manifest(folder, problem="classification", out=tmp_path / "m.yaml")
    lines = (tmp_path / "m.rows.csv").read_text().splitlines()
    rows = [f"{line},{'group' if n == 0 else (n - 1) // 3}" for n, line in enumerate(lines)]
    (tmp_path / "m.rows.csv").write_text("\n".join(rows) + "\n")
    document = yaml.safe_load(path.read_text())
    document["splits"]["adapt"]["sha256"] = small.sha256(tmp_path / "m.rows.csv")
    path.write_text(yaml.safe_dump(document))
    _, pool = sides_of(manifest_ref(path))
    assert len(pool) == 30
    videos = {int(name[:5]) // 3 for name in pool}
    assert pool == {f"{3 * video + frame:05d}.png" for video in videos for frame in range(3)}


def test_a_damaged_memory_is_named(tmp_path, own_home):
    ref = target_of(photos(tmp_path / "photos", range(40)), tmp_path / "m.yaml")
    learning_part(ref, "adapt")
    (memory,) = (own_home / "pools").glob("*.npz")
    memory.write_bytes(memory.read_bytes()[:100])
    with pytest.raises(BadInput, match=r"pools/.*\.npz is damaged .* delete it"):
        learning_part(ref, "adapt")


def test_a_second_look_writes_nothing(tmp_path, own_home):
    ref = target_of(photos(tmp_path / "photos", range(40)), tmp_path / "m.yaml")
    sides_of(ref)
    before = {file: file.stat().st_mtime_ns for file in (own_home / "pools").glob("*.np?")}
    sides_of(ref)
    after = {file: file.stat().st_mtime_ns for file in (own_home / "pools").glob("*.np?")}
    assert before == after
    assert len(before) == 3  # which sides there are, and the rows of both


def _divide(path: str, begin, answers) -> None:
    ref = manifest_ref(path)
    begin.wait()
    answers.put(sorted(names_of(pool_of(ref, "adapt").part)))


def test_two_processes_that_divide_at_once_agree(tmp_path):
    """Each sees another half of what both have, and a third looks at all."""
    folder = photos(tmp_path / "photos", range(120))
    whole = target_of(folder, tmp_path / "whole.yaml")
    halves = []
    for n, keep in enumerate((range(80), range(40, 120))):
        skip = frozenset(f"{v:05d}.png" for v in range(120) if v not in keep)
        out = tmp_path / f"half{n}.yaml"
        halves.append(build_manifest(folder, problem="classification", out=out, skip=skip))
    context = multiprocessing.get_context("fork")
    begin, answers = context.Event(), context.Queue()
    workers = [context.Process(target=_divide, args=(str(h), begin, answers)) for h in halves]
    for worker in workers:
        worker.start()
    begin.set()
    pools = [set(answers.get(timeout=60)) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
    both = {f"{value:05d}.png" for value in range(40, 80)}
    assert pools[0] & both == pools[1] & both
    learnt, pool = sides_of(whole)
    assert pool == pools[0] | pools[1]
    assert not learnt & pool


def test_a_hundred_thousand_rows_take_seconds():
    generator = np.random.default_rng(0)
    values = generator.integers(0, 2**63, 100_000).astype(np.uint64)
    groups = tuple(f"video {row // 7}" for row in range(100_000))
    before = PoolSides(values[:1000], values[2000:50_000])
    began = time.process_time()
    flags = hold_out(values, groups, np.arange(0, 100_000, 1000), before)
    assert time.process_time() - began < 5
    assert 20_000 <= flags.sum() < 20_007
