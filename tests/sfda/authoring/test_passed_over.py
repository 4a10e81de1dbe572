"""What is no image here is named; class folders of Windows, split folders and columns are read."""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfda.authoring.from_folder import build_manifest
from sfda.authoring.from_masks import MaskOptions
from sfda.authoring.splits import Portion
from sfda.errors import BadInput
from sfda.formats.image_files import HAS_HEIF
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.manifests.verify import verify_manifest


def picture(path: Path, colour: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 8), (colour, 30, 200)).save(path, "PNG")


def tree(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        picture(root / name, number)
    return root


def made(path: Path, out: Path, **more: object) -> dict[str, tuple[str, ...]]:
    """The rows of each split of a new manifest, which is right."""
    manifest = build_manifest(
        path, **({"problem": "classification"} | more), out=out / "m.yaml", data_root=out
    )
    assert verify_manifest(manifest, out).faults == []
    opened = open_manifest(manifest, data_root=out)
    return {name: read_split(opened, name).names for name in opened.splits}


def test_what_is_passed_over_is_counted_and_named(tmp_path, caplog):
    folder = tree(tmp_path / "in", ["a.png", "b.jfif", "c.jpe"])
    for name in ("d.psd", "e.PSD", "deep/f.psd", "g.psd", "h.nii.gz", "raw", "i.heic"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    for quiet in (".DS_Store", "Thumbs.db", "__MACOSX/._a.png", ".cache/x.psd", "labels.csv"):
        (folder / quiet).parent.mkdir(exist_ok=True)
        (folder / quiet).write_bytes(b"x")
    if HAS_HEIF:
        (folder / "i.heic").unlink()
    with caplog.at_level(logging.WARNING, "sfda"):
        assert made(folder, tmp_path)["adapt"] == ("a.png", "b.jfif", "c.jpe")
    text = caplog.text
    assert "4 .psd (" in text
    assert "1 .nii.gz (h.nii.gz)" in text
    assert "1 without a suffix (raw)" in text
    assert HAS_HEIF or "pip install pillow-heif" in text
    assert "DS_Store" not in text
    assert "MACOSX" not in text
    assert "Thumbs" not in text
    assert "labels.csv" not in text
    (tmp_path / "none").mkdir()
    (tmp_path / "none/a.psd").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"holds no images; .*1 \.psd \(a\.psd\)"):
        made(tmp_path / "none", tmp_path)


def zipped(path: Path, names: list[str]) -> Path:
    picture(path.parent / "one.png")
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, (path.parent / "one.png").read_bytes())
    return path


@pytest.mark.parametrize("top", ["", "set\\", ".\\"])
def test_a_zip_of_windows_has_its_class_folders(tmp_path, top):
    names = [f"{top}{kind}\\{n}.png" for kind in ("disc", "square") for n in range(3)]
    splits = made(zipped(tmp_path / "w.zip", names), tmp_path, classes=("disc", "square"))
    assert {"train", "val"} < set(splits)
    assert sum(len(splits[name]) for name in ("adapt", "test")) == 6
    assert all("\\" not in name for rows in splits.values() for name in rows)


@pytest.mark.parametrize(
    "odd", ["..\\a.png", "C:\\a\\b.png", "\\\\server\\a.png", "a\\..\\..\\b.png"]
)
def test_a_zip_of_windows_leads_nowhere_else(tmp_path, odd):
    with pytest.raises(BadInput, match="outside of it"):
        made(zipped(tmp_path / "w.zip", ["a\\0.png", odd]), tmp_path)


def test_one_name_in_two_spellings_is_refused(tmp_path):
    with pytest.raises(BadInput, match="several members of one name"):
        made(zipped(tmp_path / "w.zip", ["a\\0.png", "a/0.png"]), tmp_path)


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Training", "validation", "Testing"),
        ("top/train", "top/val", "top/test"),
    ],
)
def test_split_folders_become_splits(tmp_path, caplog, train, val, test):
    names = [
        f"{split}/{kind}/{n}.png" for split in (train, val, test) for kind in "ab" for n in (1, 2)
    ]
    splits = made(tree(tmp_path / "in", names), tmp_path, classes=("a", "b"))
    assert {name.split("/a/")[0].split("/b/")[0] for name in splits["adapt"]} == {train}
    assert splits["train"] == splits["adapt"]
    assert {tuple(r.rsplit("/", 2)[0] for r in splits[name]) for name in ("val", "test")} == {
        (val,) * 4,
        (test,) * 4,
    }
    assert "splits are those of the folders: adapt 4, test 4, val 4" in caplog.text


def test_without_a_test_folder_val_tests_and_a_class_called_test_is_a_class(tmp_path):
    two = tree(tmp_path / "two", ["train/1.png", "val/2.png", "val/3.png"])
    assert made(two, tmp_path) == {"adapt": ("train/1.png",), "test": ("val/2.png", "val/3.png")}
    classes = tree(
        tmp_path / "c", [f"{kind}/{n}.png" for kind in ("train", "test") for n in (1, 2)]
    )
    splits = made(classes, tmp_path, classes=("train", "test"))
    assert {name.split("/")[0] for name in splits["adapt"]} == {"train", "test"}


def test_split_folders_hold_for_masks(tmp_path):
    root = tmp_path / "in"
    for name in ("train/1", "train/2", "test/3"):
        picture(root / "images" / f"{name}.png")
        (root / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        mask = np.arange(96).reshape(8, 12) % 2
        Image.fromarray(mask.astype(np.uint8)).save(root / "masks" / f"{name}.png")
    splits = made(
        root, tmp_path, problem="segmentation", classes=("a", "b"), masks=MaskOptions("masks")
    )
    assert splits["test"] == ("images/test/3.png",)


def test_a_column_split_states_splits(tmp_path):
    root = tree(tmp_path / "in", [f"{n}.png" for n in range(6)])
    lines = ["file,class,split", "0.png,a,train", "1.png,b,train", "2.png,a,valid", "3.png,b,test"]
    (tmp_path / "l.csv").write_text("\n".join([*lines, "4.png,a,fold7", "5.png,b,"]))
    splits = made(root, tmp_path, labels_csv=tmp_path / "l.csv")
    assert splits["adapt"] == ("0.png", "1.png", "5.png")
    assert (splits["val"], splits["test"], splits["fold7"]) == (("2.png",), ("3.png",), ("4.png",))


@pytest.mark.parametrize("dtype", ["U8", "S8", "O"])
def test_an_array_split_states_splits(tmp_path, dtype):
    split = np.array(["train", "train", "test"], dtype=dtype)
    images, labels = np.zeros((3, 8, 8), np.uint8), np.array([0, 1, 1])
    np.savez(tmp_path / "in.npz", images=images, labels=labels, split=split)
    if dtype == "O":
        with pytest.raises(BadInput):
            made(tmp_path / "in.npz", tmp_path, classes=("a", "b"))
        return
    splits = made(tmp_path / "in.npz", tmp_path, classes=("a", "b"))
    assert (len(splits["adapt"]), len(splits["test"])) == (2, 1)


def test_numbers_for_splits_are_refused_with_the_way(tmp_path):
    np.savez(tmp_path / "in.npz", images=np.zeros((3, 8, 8), np.uint8), split=[0, 0, 1])
    with pytest.raises(
        BadInput, match=r"splits 0, 1, and nobody knows .* write train, val and test"
    ):
        made(tmp_path / "in.npz", tmp_path)


@pytest.mark.parametrize(
    ("part", "sizes"),
    [
        (Portion(10), (8, 2)),
        (Portion(2), (1, 1)),
        (Portion(share=0.25), (8, 2)),
        (Portion(99), (32, 8)),
    ],
)
def test_a_part_has_all_classes_and_is_the_same_again(tmp_path, part, sizes):
    names = [f"many/{n}.png" for n in range(32)] + [f"few/{n}.png" for n in range(8)]
    root = tree(tmp_path / "in", names)

    def taken(seed: int) -> list[str]:
        own = Portion(part.limit, part.share, seed)
        splits = made(root, tmp_path, classes=("many", "few"), part=own)
        return sorted(splits["adapt"] + splits.get("test", ()))

    first = taken(0)
    assert tuple(sum(name.startswith(k) for name in first) for k in ("many", "few")) == sizes
    assert taken(0) == first
    assert part.limit == 99 or taken(1) != first


def test_a_part_of_volumes_boxes_and_unlabelled_images(tmp_path):
    root = tree(tmp_path / "in", [f"clip{n % 4}/{n}.png" for n in range(16)])
    assert len(made(root, tmp_path, part=Portion(5))["adapt"]) == 5
    options = MaskOptions(groups="folder")
    splits = made(root, tmp_path, problem="segmentation", masks=options, part=Portion(8))
    assert len({name.split("/")[0] for name in splits["adapt"]}) == 2
    assert len(splits["adapt"]) == 8
    document = {
        "images": [
            {"id": n, "file_name": f"clip{n % 4}/{n}.png", "width": 12, "height": 8}
            for n in range(16)
        ],
        "annotations": [
            {"id": n, "image_id": n, "category_id": n % 2, "bbox": [1, 1, 5, 5]} for n in range(16)
        ],
        "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}],
    }
    (tmp_path / "b.json").write_text(json.dumps(document))
    boxes = made(
        root, tmp_path, problem="detection", annotations=tmp_path / "b.json", part=Portion(6)
    )
    assert sorted(len(boxes[name]) for name in ("adapt", "test")) == [1, 5]


@pytest.mark.parametrize(
    "part", [{"limit": 0}, {"share": 0.0}, {"share": 1.5}, {"limit": 1, "share": 0.5}]
)
def test_no_part_is_refused(part):
    with pytest.raises(BadInput, match=r"--limit|--share"):
        Portion(**part)
