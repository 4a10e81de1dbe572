"""A look at a growing folder: what is new, gone, altered, or still being written."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfda.authoring.from_folder import build_manifest
from sfda.authoring.listing import list_images
from sfda.decision.drift import drift_between, stability_index
from sfda.errors import BadInput
from sfda.formats.image_files import image_files
from sfda.manifests.growing import Change, compare_marks, survey
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.manifests.verify import verify_manifest

OLD = 1_700_000_000.0


def picture(path: Path, grey: int, *, age: float = 100.0) -> Path:
    """A small PNG that was last written so many seconds before OLD."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), grey, np.uint8)).save(path)
    os.utime(path, (OLD - age, OLD - age))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, name in enumerate(("a.png", "b.png", "day/c.png")):
        picture(tmp_path / "site" / name, 10 * i)
    (tmp_path / "site" / "notes.txt").write_text("no image")
    return tmp_path / "site"


def test_a_survey_holds_the_digest_of_every_image(folder):
    marks, fresh = survey(folder, {}, settle=10, now=OLD)
    assert list(marks) == ["a.png", "b.png", "day/c.png"]
    assert not fresh
    expected = hashlib.sha256((folder / "day/c.png").read_bytes()).hexdigest()
    assert marks["day/c.png"].sha256 == expected


def test_what_came_went_and_changed_is_told_apart(folder):
    before, _ = survey(folder, {}, settle=10, now=OLD)
    picture(folder / "d.png", 99)
    (folder / "b.png").unlink()
    picture(folder / "a.png", 200, age=50)
    os.utime(folder / "day/c.png", (OLD - 20, OLD - 20))  # touched, the same bytes
    now, _ = survey(folder, before, settle=10, now=OLD)
    change = compare_marks(before, now)
    assert change == Change(added=("d.png",), removed=("b.png",), altered=("a.png",))
    assert change.count == 3
    assert compare_marks(now, now).text() == "nothing"


def test_files_without_change_are_not_read_again(folder):
    before, _ = survey(folder, {}, settle=10, now=OLD)
    spoilt = {n: m.model_copy(update={"sha256": "0" * 64}) for n, m in before.items()}
    again, _ = survey(folder, spoilt, settle=10, now=OLD)
    assert again == spoilt  # believed, since size and time are the same


def test_a_file_that_may_still_be_written_to_is_left_for_the_next_look(folder):
    picture(folder / "new.png", 1, age=3)
    marks, fresh = survey(folder, {}, settle=10, now=OLD)
    assert fresh == {"new.png"}
    assert "new.png" not in marks
    later, fresh = survey(folder, marks, settle=10, now=OLD + 8)
    assert "new.png" in later
    assert not fresh


def test_a_list_names_images_below_its_own_folder(folder, tmp_path):
    names = folder / "of_today.txt"
    names.write_text("day/c.png\n\n./a.png\n")
    assert list_images(names).keys == ("a.png", "day/c.png")
    made = build_manifest(names, problem="classification", out=tmp_path / "m.yaml", version=4)
    assert verify_manifest(made).ok
    opened = open_manifest(made)
    assert opened.version == 4
    assert read_split(opened, "adapt").names == ("a.png", "day/c.png")
    assert set(image_files(names)) == {"a.png", "day/c.png"}


def test_all_that_is_wrong_with_a_list_is_said_at_once(folder):
    names = folder / "bad.txt"
    names.write_text("gone.png\n../x.png\nnotes.txt\na.png\na.png\n")
    with pytest.raises(BadInput) as error:
        list_images(names)
    for part in ("gone.png", "../x.png", "notes.txt", "twice"):
        assert part in str(error.value)


def test_skipped_files_are_not_in_the_manifest(folder, tmp_path):
    made = build_manifest(
        folder, problem="classification", out=tmp_path / "m.yaml", skip=frozenset({"b.png"})
    )
    assert read_split(open_manifest(made), "adapt").names == ("a.png", "day/c.png")


def test_a_target_that_is_missing_is_named(tmp_path):
    with pytest.raises(BadInput, match="nowhere"):
        survey(tmp_path / "nowhere", {}, settle=0, now=OLD)


def test_the_index_is_the_symmetric_divergence():
    before, now = [900_000, 100_000], [600_000, 400_000]
    expected = (0.9 - 0.6) * np.log(0.9 / 0.6) + (0.1 - 0.4) * np.log(0.1 / 0.4)
    assert stability_index(before, now)[0] == pytest.approx(expected, rel=1e-4)
    assert stability_index(before, now)[0] == pytest.approx(stability_index(now, before)[0])


def test_chance_alone_seldom_exceeds_the_noise():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(10))
    over = 0
    for _ in range(300):
        a, b = rng.multinomial(400, shares), rng.multinomial(60, shares)
        index, noise = stability_index(a.tolist(), b.tolist())
        over += index > noise
    assert over <= 0.08 * 300


def profile(classes: list[int], bins: list[int]) -> dict[str, object]:
    return {"classes": dict(zip("abc", classes, strict=True)), "confidence_histogram": bins}


def test_drift_is_seen_in_classes_or_in_confidences_and_not_in_a_few_images():
    before = profile([100, 100, 100], [10, 40, 250])
    same = profile([34, 33, 33], [3, 14, 83])
    unsure = profile([34, 33, 33], [50, 40, 10])
    other = profile([90, 5, 5], [3, 14, 83])
    assert not drift_between(before, same, (300, 100)).exceeds(0.25)
    assert drift_between(before, unsure, (300, 100)).exceeds(0.25)
    assert drift_between(before, other, (300, 100)).exceeds(0.25)
    assert drift_between(before, other, (300, 29)) is None


def test_pixels_of_one_image_do_not_count_as_many():
    before = profile([1_000_000, 900_000, 100_000], [0, 0, 2_000_000])
    now = profile([200_000, 150_000, 40_000], [0, 0, 390_000])
    few = drift_between(before, now, (40, 40))
    many = drift_between(before, now, (10**6, 10**6))
    assert few.noise > 0.1 > many.noise
