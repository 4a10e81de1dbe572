"""Making manifests from folders, zips and npz files."""

import os
import zipfile
from collections import Counter

import numpy as np
import pytest
import yaml
from PIL import Image

from sfda.authoring.from_folder import build_manifest
from sfda.authoring.splits import stratify
from sfda.errors import BadInput
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.manifests.verify import verify_manifest

CLASSES = ("ant", "bee", "cow")


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for name in CLASSES:
        for i in range(10):
            add(root, f"{name}/{i}.png", i)
    add(root, ".hidden/no.png", 0)
    (root / "notes.txt").write_text("no image")
    return root


def add(root, name, value):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, 1, 2)).save(root / name)


def build(path, out, **options):
    return build_manifest(path, problem="classification", out=out, **options)


def test_without_labels_there_is_one_split(photos, tmp_path):
    path = build(photos, tmp_path / "m.yaml")
    manifest = open_manifest(path)
    split = read_split(manifest, "adapt")
    assert list(manifest.splits) == ["adapt"]
    assert len(split) == 30
    assert split.labels is None
    assert list(split.names) == sorted(split.names)
    assert verify_manifest(path).ok


def test_with_classes_folders_give_labels_and_stratified_splits(photos, tmp_path):
    manifest = open_manifest(build(photos, tmp_path / "m.yaml", classes=CLASSES[::-1]))
    assert manifest.classes == ("cow", "bee", "ant")
    adapt, test = read_split(manifest, "adapt"), read_split(manifest, "test")
    assert Counter(test.labels.index.tolist()) == {0: 2, 1: 2, 2: 2}
    assert Counter(adapt.labels.index.tolist()) == {0: 8, 1: 8, 2: 8}
    assert not set(adapt.row_ids) & set(test.row_ids)
    assert all(
        manifest.classes[k] == n.split("/")[0] for n, k in zip(test.names, test.labels, strict=True)
    )
    assert read_split(manifest, "train").row_ids == adapt.row_ids
    assert read_split(manifest, "val").row_ids == test.row_ids


def test_a_class_that_grows_leaves_the_others_where_they_are(photos, tmp_path):
    before = read_split(open_manifest(build(photos, tmp_path / "m.yaml", classes=CLASSES)), "test")
    for i in range(10, 20):
        add(photos, f"cow/{i}.png", i)
    after = read_split(open_manifest(build(photos, tmp_path / "m.yaml", classes=CLASSES)), "test")
    others = {name for name in before.names if not name.startswith("cow")}
    assert others == {name for name in after.names if not name.startswith("cow")}
    assert len(after) == 8


def test_stratify_ignores_order_and_keeps_one_of_two():
    names = [str(i) for i in range(40)]
    labels = ["a"] * 30 + ["b"] * 7 + ["c"] * 2 + ["d"]
    held = dict(zip(names, stratify(names, labels, 0.1), strict=True))
    back = dict(zip(names[::-1], stratify(names[::-1], labels[::-1], 0.1), strict=True))
    assert held == back
    assert Counter(label for n, label in zip(names, labels, strict=True) if held[n]) == {
        "a": 3,
        "b": 1,
        "c": 1,
    }


def test_zip_is_read_in_place(photos, tmp_path):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for image in sorted(photos.rglob("*.*")):
            archive.write(image, f"top/{image.relative_to(photos)}")
        archive.writestr("__MACOSX/top/ant/._0.png", b"x")
    manifest = open_manifest(build(path, tmp_path / "m.yaml", classes=CLASSES))
    assert len(read_split(manifest, "test")) == 6
    assert read_split(manifest, "test").image(0).shape == (4, 4, 3)
    assert verify_manifest(tmp_path / "m.yaml").ok
    assert {p.name for p in tmp_path.iterdir()} == {"photos", "photos.zip", "m.yaml", "m.rows.csv"}


def test_npz_with_and_without_labels(tmp_path):
    labels = np.arange(20) % 2
    np.savez(tmp_path / "d.npz", images=np.zeros((20, 3, 3), np.uint8), labels=labels)
    blind = open_manifest(build(tmp_path / "d.npz", tmp_path / "blind.yaml"))
    assert read_split(blind, "adapt").labels is None
    seen = open_manifest(build(tmp_path / "d.npz", tmp_path / "seen.yaml", classes=2))
    split = read_split(seen, "test")
    index = [int(name.split(":")[1]) for name in split.names]
    assert split.labels.index.tolist() == labels[index].tolist()
    assert len(split) == 4
    with pytest.raises(BadInput, match=r"not in 0\.\.0: 1"):
        build(tmp_path / "d.npz", tmp_path / "bad.yaml", classes=1)


def test_labels_from_a_table(photos, tmp_path):
    table = tmp_path / "labels.csv"
    names = [f"{c}/{i}.png" for c in CLASSES for i in range(10)]
    table.write_text("file,class\n" + "".join(f"{n},{'xy'[i % 2]}\n" for i, n in enumerate(names)))
    manifest = open_manifest(build(photos, tmp_path / "m.yaml", labels_csv=table))
    assert manifest.classes == ("x", "y")
    assert len(read_split(manifest, "test")) == 6


def test_labels_for_some_make_these_the_test_split(photos, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("file,class\nant/0.png,ant\nbee/3.png,bee\n")
    manifest = open_manifest(build(photos, tmp_path / "m.yaml", labels_csv=table, classes=CLASSES))
    assert read_split(manifest, "test").names == ("ant/0.png", "bee/3.png")
    assert read_split(manifest, "adapt").labels is None
    assert len(read_split(manifest, "adapt")) == 28
    assert verify_manifest(tmp_path / "m.yaml").ok


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("file,class\nant/99.png,ant\n", r"not in .*photos: ant/99\.png"),
        ("file,class\nant/0.png,dog\n", "list of classes: dog"),
        ("file,class\nant/0.png,ant\nant/0.png,bee\n", r"twice: ant/0\.png"),
        ("path,class\nant/0.png,ant\n", "no column 'file'"),
    ],
)
def test_tables_that_do_not_fit_are_refused(photos, tmp_path, content, said):
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(BadInput, match=said):
        build(photos, tmp_path / "m.yaml", labels_csv=tmp_path / "labels.csv", classes=CLASSES)
    assert not (tmp_path / "m.yaml").exists()


def test_images_in_no_class_folder_are_named(photos, tmp_path):
    with pytest.raises(BadInput, match=r"cow \(10 images\)"):
        build(photos, tmp_path / "m.yaml", classes=CLASSES[:2])


def test_root_is_relative_and_survives_a_move(photos, tmp_path):
    (tmp_path / "all").mkdir()
    photos.rename(tmp_path / "all" / "photos")
    path = build(tmp_path / "all" / "photos", tmp_path / "all" / "m.yaml")
    assert yaml.safe_load(path.read_text())["root"] == "./photos"
    assert str(tmp_path) not in path.read_text()
    (tmp_path / "all").rename(tmp_path / "moved")
    assert verify_manifest(tmp_path / "moved" / "m.yaml").ok


def test_root_below_a_data_folder(photos, tmp_path):
    path = build(photos, tmp_path / "x" / "m.yaml", data_root=tmp_path)
    assert yaml.safe_load(path.read_text())["root"] == "photos"
    assert verify_manifest(path, tmp_path).ok


@pytest.mark.parametrize("name", ["missing", "empty", "file.txt"])
def test_what_holds_no_images_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(BadInput, match=name):
        build(tmp_path / name, tmp_path / "m.yaml")


def test_nothing_is_left_when_the_place_cannot_be_written_to(photos, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(BadInput, match="cannot write"):
        build(photos, tmp_path / "taken" / "m.yaml")
    (tmp_path / "m.yaml").mkdir()
    with pytest.raises(BadInput, match=r"m\.yaml is no file"):
        build(photos, tmp_path / "m.yaml")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def template(tmp_path, **changes):
    document = {
        "name": "bench/one",
        "problem": "classification",
        "origin": "o",
        "licence": "l",
        "root": "bench/one",
        "template": True,
        "classes": list(CLASSES),
        "counts": 30,
    }
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump(document | changes))
    return path


def test_a_template_brings_names_and_is_verified(photos, tmp_path):
    out = build(photos, tmp_path / "m.yaml", template=template(tmp_path))
    manifest = open_manifest(out)
    assert (manifest.name, manifest.licence, manifest.classes) == ("bench/one", "l", CLASSES)
    assert verify_manifest(out).ok


def test_every_deviation_from_a_template_is_named(photos, tmp_path):
    path = template(tmp_path, classes=[*CLASSES, "dog"], counts={"ant": 10, "bee": 11, "cow": 9})
    with pytest.raises(BadInput) as error:
        build(photos, tmp_path / "m.yaml", template=path)
    assert "class dog: no images" in str(error.value)
    assert "class bee: 10 images, officially 11" in str(error.value)
    assert "class cow: 10 images, officially 9" in str(error.value)
    assert "ant" not in str(error.value).split(": ", 1)[1]
    with pytest.raises(BadInput, match="30 images, officially 31"):
        build(photos, tmp_path / "m.yaml", template=template(tmp_path, counts=31))
    with pytest.raises(BadInput, match="in its order"):
        build(photos, tmp_path / "m.yaml", template=template(tmp_path), classes=CLASSES[::-1])


def test_names_that_no_table_can_hold_are_told_and_pipes_are_no_images(photos, tmp_path):
    os.mkfifo(photos / "pipe.png")  # reading it would wait for ever
    assert len(read_split(open_manifest(build(photos, tmp_path / "m.yaml")), "adapt")) == 30
    for name in (b"caf\xe9.png", b"car\rriage.png"):
        odd = os.fsencode(photos) + b"/" + name
        with open(odd, "wb") as handle:
            handle.write((photos / "ant" / "0.png").read_bytes())
        with pytest.raises(BadInput, match=r"names are no UTF-8 text of one line: .*; rename them"):
            build(photos, tmp_path / "odd.yaml")
        os.unlink(odd)
    assert not (tmp_path / "odd.yaml").exists()
