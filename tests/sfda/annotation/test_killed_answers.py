"""Whenever `answer` is killed, the same command once more ends as if nothing had happened."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import small
import small_seg
from asking import exported, request_for
from killed import kills

from sfda.annotation import carry_over, next_version
from sfda.annotation.take import TakeResult, take_annotations
from sfda.annotation.waiting import note_request, waiting
from sfda.errors import BadInput
from sfda.manifests.verify import verify_manifest

Write = Callable[[Path], Path]


def classes(folder: Path) -> Path:
    return small.write(folder, "target", small.target_arrays(), small.TARGET)


def masks(folder: Path) -> Path:
    return small_seg.write(folder, "target", small_seg.TARGET, seed=3, dull=True)


def files(folder: Path) -> dict[str, bytes]:
    """Every file and folder by its path; locks are no content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
        if path.suffix != ".lock"
    }


@pytest.mark.parametrize("write", [classes, masks])
def test_killed_answers_are_taken_once(home: Path, tmp_path: Path, write: Write) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    target = write(folder)
    request_for(target, [3, 1, 2], tmp_path / "ask")
    answers = exported(tmp_path / "ask")

    def answer() -> TakeResult:
        taken = take_annotations(tmp_path / "ask", answers, target)
        carry_over.note_annotations(taken.manifest)
        return taken

    before = tmp_path / "before"
    shutil.copytree(folder, before, copy_function=shutil.copy2)
    assert not answer().again
    expected, noted = files(folder), files(home)
    again = answer()
    assert (again.again, again.total) == (True, 3)
    assert (files(folder), files(home)) == (expected, noted)

    def fresh() -> None:
        for old in (folder, home / "answers"):
            shutil.rmtree(old)
        shutil.copytree(before, folder, copy_function=shutil.copy2)

    fresh()
    steps = 0
    for steps in kills(answer):  # noqa: B007
        answer()
        assert files(folder) == expected
        assert files(home) == noted
        fresh()
    assert steps > 10


def test_other_answers_under_the_same_name_are_refused(home: Path, tmp_path: Path) -> None:
    target = classes(tmp_path)
    request_for(target, [0, 1], tmp_path / "ask")
    first = take_annotations(tmp_path / "ask", exported(tmp_path / "ask"), target)
    request_for(target, [0], tmp_path / "less")
    with pytest.raises(BadInput, match="exists already with other content"):
        take_annotations(tmp_path / "less", exported(tmp_path / "less"), target)
    assert verify_manifest(first.manifest).count == sum(small.TARGET.values())


def test_a_file_of_a_person_beside_a_new_version_stays(home: Path, tmp_path: Path) -> None:
    target = classes(tmp_path)
    request_for(target, [0, 1], tmp_path / "ask")
    own = target.with_suffix(".v2.answers.csv")
    own.write_text("mine")
    with pytest.raises(BadInput, match=r"v2\.answers\.csv exists already with other content"):
        take_annotations(tmp_path / "ask", exported(tmp_path / "ask"), target)
    assert own.read_text() == "mine"
    assert not target.with_suffix(".v2.yaml").exists()


def test_answers_noted_late_do_not_go_before_those_of_a_later_version(
    home: Path, tmp_path: Path
) -> None:
    target = classes(tmp_path)
    request_for(target, [0], tmp_path / "one")
    first = take_annotations(tmp_path / "one", exported(tmp_path / "one"), target)
    carry_over.note_annotations(first.manifest)
    request_for(target, [1], tmp_path / "two")
    second = take_annotations(tmp_path / "two", exported(tmp_path / "two"), first.manifest)
    carry_over.note_annotations(second.manifest)
    noted = files(home)
    carry_over.note_annotations(first.manifest)  # the same `answer` as at first
    assert files(home) == noted


def test_a_request_that_was_answered_does_not_wait_again(home: Path, tmp_path: Path) -> None:
    from sfda.annotation.waiting import forget

    target = classes(tmp_path)
    request = request_for(target, [0], tmp_path / "ask")
    for _ in range(2):  # the second time by the same `query` once more
        note_request(tmp_path / "ask", request, str(target), "margin", None)
        assert [one.count for one in waiting()] == [1]
    forget(tmp_path / "ask")
    note_request(tmp_path / "ask", request, str(target), "margin", None)
    assert waiting() == []
    shutil.rmtree(tmp_path / "ask")
    request = request_for(target, [0, 1], tmp_path / "ask")  # another one in its folder
    note_request(tmp_path / "ask", request, str(target), "margin", None)
    assert [one.count for one in waiting()] == [2]


@pytest.mark.parametrize("strange", ["truth.png", "deep/0123456789abcdef.png", "notes.txt"])
def test_masks_of_a_person_s_own_are_not_replaced(strange: str, tmp_path: Path) -> None:
    masks = tmp_path / "m.masks"
    (masks / strange).parent.mkdir(parents=True)
    (masks / strange).write_text("mine")
    with pytest.raises(BadInput, match="was not made by `sfda answer`"):
        next_version._remove_ours(masks)
    assert (masks / strange).read_text() == "mine"


def test_masks_of_a_killed_start_go(tmp_path: Path) -> None:
    masks = tmp_path / "m.masks"
    masks.mkdir()
    (masks / "0123456789abcdef.png").touch()
    next_version._remove_ours(masks)
    assert not masks.exists()
    (tmp_path / "m.masks").symlink_to(tmp_path)
    with pytest.raises(BadInput, match="was not made"):
        next_version._remove_ours(masks)
