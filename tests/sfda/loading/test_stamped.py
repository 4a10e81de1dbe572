"""A target is digested once; whoever is told the digest refuses another target than that."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import opens
import pytest
from PIL import Image

from sfda.authoring.from_folder import build_manifest
from sfda.errors import BadInput
from sfda.loading.opened import (
    manifest_ref,
    open_ref,
    open_split,
    open_stamped,
    split_ref,
    stamps_of,
)
from sfda.manifests.rows import read_split
from sfda.refs import InputSpec, SplitRef
from sfda.state_folder import decoded_folder

GREY = InputSpec(size=(8, 8), channels="gray", mean=(0,), std=(1,))
CHANGED = "have changed while the job ran; start the job again"


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SFDA_DATA", raising=False)
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(6):
        Image.fromarray(np.full((8, 8), 10 * n, np.uint8)).save(folder / f"{n}.png")
    return folder


@pytest.fixture
def part(photos: Path, tmp_path: Path) -> SplitRef:
    path = build_manifest(photos, problem="classification", out=tmp_path / "m.yaml")
    return split_ref(manifest_ref(path), "adapt")


def looked_at(part: SplitRef) -> str:
    """The stamps of a target as it is now, its images decoded."""
    manifest = open_ref(part.manifest).unlabelled()
    open_split(manifest, "adapt", GREY, seen=part.seen)
    return stamps_of(part, read_split(manifest, "adapt"))


def test_what_was_seen_is_opened_without_a_look_at_the_images(part, photos):
    stamps = looked_at(part)
    with opens.own_opens() as counter:
        opened = open_stamped(part, stamps, GREY)
    assert opened.seen == part.seen
    assert np.asarray(opened.images)[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]
    assert not [file for file in photos.iterdir() if counter[str(file)]]


def test_other_bytes_other_files_and_other_links_are_refused(part, photos):
    stamps, file = looked_at(part), photos / "3.png"
    before, content = file.stat(), file.read_bytes()
    file.write_bytes(content + b" ")
    with pytest.raises(BadInput, match=CHANGED):
        open_stamped(part, stamps, GREY)
    file.unlink()  # the same bytes and times, but another file
    (photos.parent / "other.png").write_bytes(content)
    file.symlink_to("4.png")
    with pytest.raises(BadInput, match=CHANGED):
        open_stamped(part, stamps, GREY)
    file.unlink()
    with pytest.raises(BadInput, match=r"3\.png is missing"):
        open_stamped(part, stamps, GREY)
    file.symlink_to(photos.parent / "other.png")
    with pytest.raises(BadInput, match="leads out of"):
        open_stamped(part, stamps, GREY)
    file.unlink()
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert stamps_of(part, read_split(open_ref(part.manifest).unlabelled(), "adapt"))


def test_another_manifest_and_other_rows_are_refused(part):
    stamps, path = looked_at(part), Path(part.manifest.path)
    rows = path.with_name("m.rows.csv")
    whole = rows.read_text()
    rows.write_text(whole.replace("5.png", "4.png"))
    with pytest.raises(BadInput, match="is not the one this manifest was made with"):
        open_stamped(part, stamps, GREY)
    rows.write_text(whole)
    path.write_text(path.read_text() + "# by hand\n")
    with pytest.raises(BadInput, match="has changed while the job ran"):
        open_stamped(part, stamps, GREY)


def test_a_target_that_is_no_longer_as_it_was_seen_gets_no_stamps(part, photos):
    manifest = open_ref(part.manifest).unlabelled()
    (photos / "2.png").write_bytes((photos / "1.png").read_bytes())
    with pytest.raises(BadInput, match=CHANGED):
        stamps_of(part, read_split(manifest, "adapt"))


def test_images_that_change_before_they_are_decoded_are_not_kept_under_the_old_digest(part, photos):
    (photos / "2.png").write_bytes((photos / "1.png").read_bytes())
    with pytest.raises(BadInput, match=CHANGED):
        open_split(open_ref(part.manifest).unlabelled(), "adapt", GREY, seen=part.seen)
    assert not list(decoded_folder().iterdir())


def test_another_manifest_of_the_same_images_is_the_same_target(part, photos, tmp_path):
    path = build_manifest(photos, problem="classification", out=tmp_path / "again.yaml")
    again = split_ref(manifest_ref(path), "adapt")
    assert again.manifest != part.manifest
    assert again.seen == part.seen
