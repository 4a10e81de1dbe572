"""Manifests of some classes of others: same images, same row ids, labels by name."""

import csv
import hashlib
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from sfda.authoring.from_folder import build_manifest
from sfda.errors import BadInput
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.manifests.subset import read_regimes, side_of, write_subset
from sfda.manifests.verify import verify_manifest

CLASSES = ("ant", "bee", "cow", "dog")
KEPT = ("dog", "ant")


def pictures(folder: Path) -> Path:
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (4, 4), (i, 1, 2)).save(folder / name / f"{i}.png")
    return folder


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(params=["folder", "zip", "npz"])
def whole(request, tmp_path) -> Path:
    """A labelled manifest of 40 images with splits adapt, train, test and val."""
    data = tmp_path / "data" / "photos"
    if request.param == "npz":
        data.parent.mkdir()
        labels = np.arange(40) % 4
        np.savez(data.with_suffix(".npz"), x=np.zeros((40, 3, 3), np.uint8), y=labels)
        data = data.with_suffix(".npz")
    else:
        pictures(data)
    if request.param == "zip":
        with zipfile.ZipFile(data.with_suffix(".zip"), "w") as archive:
            for image in sorted(data.rglob("*.png")):
                archive.write(image, image.relative_to(data))
        data = data.with_suffix(".zip")
    out = tmp_path / "whole.yaml"
    return build_manifest(data, problem="classification", out=out, classes=CLASSES)


def by_row(path: Path, split: str) -> dict[str, str]:
    """Class name of every row id."""
    result = read_split(open_manifest(path), split)
    return {row: result.classes[k] for row, k in zip(result.row_ids, result.labels, strict=True)}


def test_every_split_keeps_the_rows_of_the_named_classes(whole, tmp_path):
    out = write_subset(
        whole, classes=KEPT, out=tmp_path / "sub" / "part.yaml", suffix="open, source"
    )
    manifest = open_manifest(out)
    assert manifest.classes == KEPT
    assert manifest.name.endswith(" (open, source)")
    assert list(manifest.splits) == list(open_manifest(whole).splits)
    for split in manifest.splits:
        remaining = {row: name for row, name in by_row(whole, split).items() if name in KEPT}
        assert list(by_row(out, split).items()) == list(remaining.items())
    assert {name: spec.count for name, spec in manifest.splits.items()} == {
        "adapt": 16, "train": 16, "test": 4, "val": 4,
    }  # fmt: skip
    assert verify_manifest(out).ok
    assert {p.name for p in out.parent.iterdir()} == {"part.yaml", "part.rows.csv"}
    assert str(tmp_path) not in out.read_text()


def test_labels_are_names_and_digests_are_computed(whole, tmp_path):
    out = write_subset(whole, classes=KEPT, out=tmp_path / "part.yaml")
    table = tmp_path / "part.rows.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) in ({"file", "class", "split"}, {"index", "class", "split"})
    assert Counter((row["class"], row["split"]) for row in rows) == {
        ("ant", "adapt"): 8, ("dog", "adapt"): 8, ("ant", "test"): 2, ("dog", "test"): 2,
    }  # fmt: skip
    output, before = yaml.safe_load(out.read_text()), yaml.safe_load(whole.read_text())
    assert all(spec["sha256"] == sha(table) for spec in output["splits"].values())
    assert output.get("archive") == before.get("archive")
    assert output["name"] == before["name"] + " (2 of 4 classes)"
    assert output["origin"] == before["origin"]


def test_a_subset_has_subsets(whole, tmp_path):
    once = write_subset(whole, classes=("dog", "cow", "ant"), out=tmp_path / "a" / "once.yaml")
    twice = write_subset(once, classes=KEPT, out=tmp_path / "b" / "twice.yaml")
    straight = write_subset(whole, classes=KEPT, out=tmp_path / "straight.yaml")
    assert by_row(twice, "test") == by_row(straight, "test")
    assert verify_manifest(twice).ok


def test_a_root_below_the_data_folder_stays_as_it_is(tmp_path):
    pictures(tmp_path / "photos")
    whole = build_manifest(
        tmp_path / "photos", problem="classification", out=tmp_path / "m" / "whole.yaml",
        classes=CLASSES, data_root=tmp_path,
    )  # fmt: skip
    out = write_subset(whole, classes=KEPT, out=tmp_path / "far" / "p.yaml", data_root=tmp_path)
    assert yaml.safe_load(out.read_text())["root"] == "photos"
    assert verify_manifest(out, tmp_path).ok


@pytest.fixture
def packed(tmp_path) -> Path:
    """An npz with a split array, as of MNIST: `val` by `equals`, `adapt` a part of it by rows."""
    arrays = {
        "x": np.arange(24 * 4, dtype=np.uint8).reshape(24, 2, 2),
        "y": np.arange(24) % 3,
        "part": np.arange(24) // 12,
    }
    np.savez(tmp_path / "d.npz", **arrays)
    (tmp_path / "rows.csv").write_text("index,split\n" + "".join(f"{i},a\n" for i in range(12, 18)))
    document = {
        "name": "toy", "problem": "classification", "origin": "here", "licence": "free",
        "version": 3, "root": ".", "classes": 3,
        "archive": {"file": "d.npz", "sha256": sha(tmp_path / "d.npz")},
        "arrays": {"image": "x", "label": "y", "split": "part"},
        "splits": {
            "train": {"equals": 0, "count": 12},
            "val": {"equals": 1, "count": 12},
            "adapt": {
                "rows": "rows.csv", "sha256": sha(tmp_path / "rows.csv"), "where": "a", "count": 6,
            },
        },
    }  # fmt: skip
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_label_and_split_arrays_become_columns(packed, tmp_path):
    out = write_subset(packed, classes=("2", "0"), out=tmp_path / "sub.yaml")
    manifest = open_manifest(out)
    assert manifest.classes == ("2", "0")
    assert manifest.arrays is not None
    assert (manifest.arrays.label, manifest.arrays.split) == (None, None)
    assert (manifest.version, manifest.licence) == (3, "free")
    assert {name: spec.count for name, spec in manifest.splits.items()} == {
        "train": 8, "val": 8, "adapt": 4,
    }  # fmt: skip
    split = read_split(manifest, "adapt")
    assert split.names == ("x:12", "x:14", "x:15", "x:17")
    assert split.labels.index.tolist() == [1, 0, 1, 0]
    assert split.image(1).tolist() == [[56, 57], [58, 59]]
    assert by_row(out, "val").items() >= by_row(out, "adapt").items()
    assert verify_manifest(out).ok


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (
            ("ant", "bea", "fox", "ant"),
            r"'ant' is named twice; no class 'bea' \(did you mean 'bee'",
        ),
        (("ant", "bea", "fox"), r"no class 'fox'; its classes are ant, bee, cow, dog"),
        (("ant",), "at least two classes"),
    ],
)
def test_class_names_that_do_not_fit_are_all_named(whole, tmp_path, classes, said):
    with pytest.raises(BadInput, match=said):
        write_subset(whole, classes=classes, out=tmp_path / "part.yaml")
    assert not (tmp_path / "part.yaml").exists()


def test_what_has_no_labels_has_no_subset(tmp_path):
    data = pictures(tmp_path / "photos")
    blind = build_manifest(data, problem="classification", out=tmp_path / "blind.yaml")
    with pytest.raises(BadInput, match="names no classes"):
        write_subset(blind, classes=KEPT, out=tmp_path / "p.yaml")
    (tmp_path / "l.csv").write_text("file,class\nant/0.png,ant\ndog/3.png,dog\n")
    half = build_manifest(
        data, problem="classification", out=tmp_path / "half.yaml",
        labels_csv=tmp_path / "l.csv", classes=CLASSES,
    )  # fmt: skip
    with pytest.raises(BadInput, match="split 'adapt' has no labels"):
        write_subset(half, classes=KEPT, out=tmp_path / "p.yaml")


def test_classes_and_splits_left_without_images_are_named(packed, tmp_path):
    output = yaml.safe_load(packed.read_text())
    output["classes"] = ["a", "b", "c", "d", "e"]
    table = tmp_path / "b.csv"
    table.write_text("index\n1\n4\n")
    output["splits"]["odd"] = {"rows": "b.csv", "sha256": sha(table), "count": 2}
    packed.write_text(yaml.safe_dump(output))
    with pytest.raises(BadInput) as error:
        write_subset(packed, classes=("a", "d", "e"), out=tmp_path / "p.yaml")
    assert "no images of class 'd'; no images of class 'e'; split 'odd' has none" in str(
        error.value
    )


def test_a_manifest_that_is_not_true_to_its_data_is_refused(whole, tmp_path):
    table = tmp_path / "whole.rows.csv"
    table.write_text(table.read_text() + "\n")
    with pytest.raises(BadInput, match=r"row file .* is not the one"):
        write_subset(whole, classes=KEPT, out=tmp_path / "p.yaml")


def test_another_archive_is_refused(packed, tmp_path):
    arrays = dict(np.load(tmp_path / "d.npz"))
    np.savez(tmp_path / "d.npz", **arrays | {"x": arrays["x"] + 1})
    with pytest.raises(BadInput, match=r"archive .* is not the one"):
        write_subset(packed, classes=("0", "1"), out=tmp_path / "p.yaml")
    (tmp_path / "d.npz").unlink()
    with pytest.raises(BadInput, match="is missing"):
        write_subset(packed, classes=("0", "1"), out=tmp_path / "p.yaml")


@pytest.mark.parametrize("name", ["whole.yaml", "whole.yml", "part.txt", "taken/p.yaml"])
def test_places_that_cannot_be_written_to(whole, tmp_path, name):
    (tmp_path / "taken").write_text("a file")
    before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    with pytest.raises(BadInput, match=r"overwritten|not named like one|cannot write"):
        write_subset(whole, classes=KEPT, out=tmp_path / name)
    assert {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


def test_sides_of_a_file_of_regimes(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("open: {source: [a, b], target: [b, a, c]}\nclosed: {source: [a], target: [a]}")
    assert list(read_regimes(path)) == ["open", "closed"]
    assert side_of(path, "open", "source") == ("a", "b")
    assert side_of(path, "open", "target") == ("b", "a", "c")
    with pytest.raises(BadInput, match="no regime 'partial'; there are open, closed"):
        side_of(path, "partial", "target")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("open: {source: [a, b], target: [a, b]}", r"others by their lists: open \(closed\)"),
        ("open: {source: [a, b], target: [a, c]}", r"open \(open-partial\)"),
        ("closed: {source: [a, b], target: [a]}", r"closed \(partial\)"),
        ("open: {source: [a, 1], target: [a, b]}", r"open\.source\.1: Input should be a valid str"),
        ("opne: {source: [a], target: [a]}", "no file of regimes .*opne"),
        ("open: [a, b]", r"no file of regimes .*write `open: \{source"),
        ("", "no file of regimes"),
        ("a: [", "cannot be read"),
    ],
)
def test_files_of_regimes_that_are_none(tmp_path, text, said):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(BadInput, match=said):
        read_regimes(tmp_path / "r.yaml")
    with pytest.raises(BadInput, match=r"no file .*README"):
        read_regimes(tmp_path / "none.yaml")


def test_answers_to_rows_that_stay_are_kept(whole, tmp_path):
    split = read_split(open_manifest(whole), "adapt")
    names = [split.classes[k] for k in split.labels]
    rows = [names.index(name) for name in ("dog", "bee", "ant")]
    keys = [split.names[row].removeprefix("x:") for row in rows]
    key = "index" if whole.parent.joinpath("data/photos.npz").exists() else "file"
    table = whole.with_suffix(".answers.csv")
    message = ("dog", "ant", "cow")  # a bee that somebody took for an ant, and an ant for a cow
    table.write_text(
        f"{key},class\n" + "".join(f"{k},{t}\n" for k, t in zip(keys, message, strict=True))
    )
    document = yaml.safe_load(whole.read_text())
    document["splits"]["adapt"]["answers"] = {
        "rows": table.name, "sha256": sha(table), "count": 3, "classes": list(CLASSES)
    }  # fmt: skip
    whole.write_text(yaml.safe_dump(document))
    assert verify_manifest(whole).ok
    out = write_subset(whole, classes=KEPT, out=tmp_path / "elsewhere" / "two.yaml")
    result = read_split(open_manifest(out), "adapt")
    assert verify_manifest(out).ok
    assert result.annotations.classes == KEPT
    assert [result.names[row].removeprefix("x:") for row in result.annotations.rows] == keys[:1]
    assert result.annotations.labels.index.tolist() == [0]
    assert read_split(open_manifest(out), "test").annotations is None


def several(folder: Path) -> Path:
    """Images of several classes: `adapt` alone, since the table says so of each."""
    pictures(folder / "photos")
    files = sorted(p.relative_to(folder / "photos") for p in (folder / "photos").rglob("*.png"))
    cells = ["ant;dog", "bee", "", "dog;bee;cow", "cow"]
    lines = [f"{file},{cells[n % 5]}\n" for n, file in enumerate(files)]
    (folder / "l.csv").write_text("file,classes\n" + "".join(lines))
    return build_manifest(
        folder / "photos", problem="multilabel", out=folder / "several.yaml",
        labels_csv=folder / "l.csv", classes=CLASSES,
    )  # fmt: skip


def test_of_several_classes_an_image_the_chosen_ones_stay(tmp_path):
    """`bee` and `cow` alone go; an image that shows nothing shows none of these, too."""
    whole = several(tmp_path)
    out = write_subset(whole, classes=KEPT, out=tmp_path / "sub" / "part.yaml")
    assert verify_manifest(out).ok
    assert open_manifest(out).problem == "multilabel"
    before, after = (read_split(open_manifest(path), "adapt") for path in (whole, out))
    assert set(after.row_ids) < set(before.row_ids)
    counts = Counter(tuple(flags) for flags in after.labels.flags.tolist())
    own = Counter(tuple(flags) for flags in before.labels.flags.tolist())  # ant, bee, cow, dog
    assert counts == {
        (1, 1): own[1, 0, 0, 1], (0, 0): own[0, 0, 0, 0], (1, 0): own[0, 1, 1, 1],
    }  # fmt: skip


def test_answers_of_several_classes_are_kept_by_the_same_rule(tmp_path):
    whole = several(tmp_path)
    split = read_split(open_manifest(whole), "adapt")
    first = [split.labels.flags.tolist().index(row) for row in ([1, 0, 0, 1], [0, 0, 0, 0])]
    table = whole.with_suffix(".answers.csv")
    cells = ("ant;cow", "")
    rows = [f"{split.names[row]},{cell}\n" for row, cell in zip(first, cells, strict=True)]
    table.write_text("file,classes\n" + "".join(rows))
    document = yaml.safe_load(whole.read_text())
    document["splits"]["adapt"]["answers"] = {
        "rows": table.name, "sha256": sha(table), "count": 2, "classes": list(CLASSES)
    }  # fmt: skip
    whole.write_text(yaml.safe_dump(document))
    assert verify_manifest(whole).ok
    result = read_split(
        open_manifest(write_subset(whole, classes=KEPT, out=tmp_path / "two.yaml")), "adapt"
    )
    assert result.annotations.labels.flags.tolist() == [[0, 1], [0, 0]]
