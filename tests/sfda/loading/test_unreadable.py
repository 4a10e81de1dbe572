"""An image that cannot be read is as if the manifest did not name it, within a limit."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfda.authoring.from_folder import build_manifest
from sfda.errors import BadInput
from sfda.loading.opened import (
    manifest_ref,
    open_labelled,
    open_ref,
    open_unlabelled,
    split_ref,
    stamps_of,
)
from sfda.loading.sealed import open_sealed, seal
from sfda.loading.unreadable import NothingReadable, leave_unreadable, most_skipped
from sfda.manifests.rows import read_split
from sfda.refs import InputSpec, ManifestRef, ModelSpec, Views

SPEC = InputSpec(size=(8, 8), resize=(8, 8), mean=(0.5,) * 3, std=(0.2,) * 3)
MODEL = ModelSpec(
    problem="classification",
    arch="torchvision:resnet18",
    classes=("a", "b"),
    input=SPEC,
    views=Views(),
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SFDA_DATA", raising=False)


def folder(root: Path, count: int = 12) -> Path:
    for number in range(count):
        file = root / "ab"[number % 2] / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(noise).save(file)
    return root


def ref(root: Path, out: Path, **more: object) -> ManifestRef:
    return manifest_ref(build_manifest(root, problem="classification", out=out, **more))


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:60])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def of_text(file: Path) -> None:
    file.write_text("<html>404</html>")


def removed(file: Path) -> None:
    file.unlink()


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [truncated, emptied, of_text, removed, a_folder])
def test_all_is_as_if_the_row_were_not_there(tmp_path, damage):
    root = folder(tmp_path / "in")
    broken = ref(root, tmp_path / "m.yaml", skip=frozenset())
    never = ref(root, tmp_path / "n.yaml", skip=frozenset({"b/003.png"}))
    damage(root / "b/003.png")
    left, skipped = leave_unreadable(broken, ["adapt"], SPEC)
    assert len(skipped) == 1
    assert "003.png" in skipped[0]
    assert split_ref(left, "adapt").seen == split_ref(never, "adapt").seen
    one, other = (open_unlabelled(each, "adapt", MODEL) for each in (left, never))
    assert one.split.names == other.split.names
    assert one.split.row_ids == other.split.row_ids
    assert np.array_equal(np.asarray(one.images), np.asarray(other.images))
    again, same = leave_unreadable(broken, ["adapt"], SPEC)
    assert (again, same) == (left, skipped)


def test_an_adapting_process_is_handed_the_others(tmp_path):
    root = folder(tmp_path / "in")
    whole = ref(root, tmp_path / "m.yaml")
    truncated(root / "a/004.png")
    left = leave_unreadable(whole, ["adapt"], SPEC).manifest
    target = split_ref(left, "adapt")
    opened = open_unlabelled(left, "adapt", MODEL)
    (tmp_path / "sealed").mkdir()
    seal(target, stamps_of(target, opened.split), MODEL, tmp_path / "sealed", answers=False)
    assert len(open_sealed(tmp_path / "sealed", MODEL)[0].images) == 11


def test_it_is_tried_again(tmp_path):
    root = folder(tmp_path / "in")
    whole, good = ref(root, tmp_path / "m.yaml"), (root / "a/004.png").read_bytes()
    truncated(root / "a/004.png")
    assert leave_unreadable(whole, ["adapt"], SPEC).skipped
    (root / "a/004.png").write_bytes(good)
    assert leave_unreadable(whole, ["adapt"], SPEC) == (whole, ())


def test_a_labelled_one_is_left_out_of_the_figures_and_of_the_other_split(tmp_path):
    root = folder(tmp_path / "in")
    whole = ref(root, tmp_path / "m.yaml", classes=("a", "b"))
    names = read_split(open_ref(whole), "test").names
    truncated(root / names[0])
    left, skipped = leave_unreadable(whole, ["adapt", "test"], SPEC)
    assert len(skipped) == 1
    assert open_labelled(left, "test", MODEL).split.names == names[1:]


def test_a_zip_too(tmp_path):
    root = folder(tmp_path / "in")
    truncated(root / "a/000.png")
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, str(file.relative_to(root)))
    left, skipped = leave_unreadable(ref(tmp_path / "in.zip", tmp_path / "m.yaml"), ["adapt"], SPEC)
    assert len(skipped) == 1
    assert len(open_unlabelled(left, "adapt", MODEL).images) == 11
    assert (
        leave_unreadable(ref(tmp_path / "in.zip", tmp_path / "m.yaml"), ["adapt"], SPEC)[0] == left
    )


@pytest.mark.parametrize(
    ("count", "share", "most"),
    [(1, None, 0), (2, None, 1), (6, None, 3), (999, None, 10), (20_000, None, 200), (40, 0.0, 0),
     (40, 0.5, 20), (300, 0.29, 87), (10, 0.9, 9)],
)  # fmt: skip
def test_the_limit(count, share, most):
    assert most_skipped(count, share) == most


def test_more_are_refused_with_what_would_do(tmp_path):
    root = folder(tmp_path / "in", 6)
    whole = ref(root, tmp_path / "m.yaml")
    for file in sorted(root.rglob("*.png"))[:4]:
        truncated(file)
    with pytest.raises(
        BadInput, match=r"4 images cannot be read, of 6 .* make the manifest anew"
    ) as error:
        leave_unreadable(whole, ["adapt"], SPEC)
    assert "--skip-unreadable 0.67" in str(error.value)
    assert len(leave_unreadable(whole, ["adapt"], SPEC, share=0.67).skipped) == 4
    with pytest.raises(BadInput, match="remove them and run the same again"):
        leave_unreadable(whole, ["adapt"], SPEC, share=0.0, stated=str(root))
    for file in root.rglob("*.png"):
        emptied(file)
    with pytest.raises(NothingReadable, match="6 images cannot be read, of 6"):
        leave_unreadable(whole, ["adapt"], SPEC, share=0.99)
