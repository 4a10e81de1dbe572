"""Some rows of a split as a split of their own, and what their images are by their bytes."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import small
import small_det
import small_multi
import small_pose
import small_seg
import yaml
from PIL import Image

from sfda.errors import BadInput
from sfda.loading.contents import image_numbers
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import Split, look_at, read_split

ROWS = np.array([7, 2, 3])


def written(problem: str, folder: Path) -> Path:
    sizes = {"adapt": 10, "test": 4}
    if problem == "classification":
        return small.write(folder, "t", small.arrays(sizes, seed=1), sizes)
    if problem == "pose":
        return small_pose.write(folder, "t", sizes)
    other = {"detection": small_det, "multilabel": small_multi, "segmentation": small_seg}[problem]
    return other.write(folder, "t", sizes, seed=1)


def labels_of(split: Split) -> list[str]:
    """What the labels say of each row, as text."""
    if split.problem == "segmentation":
        return [str(split.labels.mask(row).tolist()) for row in range(len(split))]
    if split.problem == "multilabel":
        return [str(flags.tolist()) for flags in split.labels.flags]
    return [str(split.labels[row]) for row in range(len(split))]


@pytest.mark.parametrize(
    "problem", ["classification", "multilabel", "segmentation", "detection", "pose"]
)
def test_some_rows_are_a_split_of_their_own(problem, tmp_path):
    whole = read_split(open_manifest(written(problem, tmp_path)), "adapt")
    part = whole.take(ROWS)
    assert len(part) == len(part.labels) == 3
    labels = labels_of(whole)
    assert labels_of(part) == [labels[row] for row in ROWS]
    for place, row in enumerate(ROWS):
        assert part.names[place] == whole.names[row]
        assert part.row_ids[place] == whole.row_ids[row]
        np.testing.assert_array_equal(part.image(place), whole.image(row))
        assert part.reader.size(place) == whole.reader.size(row)
        assert part.reader.name_of(place) == whole.reader.name_of(row)
    if problem == "pose":
        assert part.reader.crop(1) == whole.reader.crop(2)
        assert part.reader.boxes == tuple(whole.reader.boxes[row] for row in ROWS)


def png(value: int) -> bytes:
    handle = io.BytesIO()
    Image.new("L", (4, 3), value).save(handle, "PNG")
    return handle.getvalue()


FILES = {"a.png": png(1), "b.png": png(2), "again.png": png(1), "c.png": png(3)}


def manifest_of(folder: Path, columns: dict[str, list[str]] | None = None, **changes) -> Path:
    """Four images, the first and the third alike, as files or in a zip."""
    data = folder / "data"
    data.mkdir(exist_ok=True)
    for name, content in FILES.items():
        (data / name).write_bytes(content)
    with zipfile.ZipFile(data / "all.zip", "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    table = {"file": list(FILES)} | (columns or {})
    with (folder / "m.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([list(table), *zip(*table.values(), strict=True)])
    document = {"name": "toy", "problem": "classification", "origin": "made here", "root": "./data"}
    splits = {"adapt": {"rows": "m.csv", "sha256": small.sha256(folder / "m.csv"), "count": 4}}
    path = folder / "m.yaml"
    path.write_text(yaml.safe_dump(document | {"splits": splits} | changes))
    return path


def numbers_of(path: Path, split: str = "adapt") -> list[int]:
    manifest = open_manifest(path).unlabelled()
    rows = read_split(manifest, split)
    return image_numbers(manifest, rows, look_at(manifest, rows)).tolist()


@pytest.mark.parametrize("packed", [False, True])
def test_equal_bytes_have_one_number_whatever_their_name(tmp_path, packed):
    path = manifest_of(tmp_path)
    if packed:
        archive = {"file": "all.zip", "sha256": small.sha256(tmp_path / "data" / "all.zip")}
        path = manifest_of(tmp_path, archive=archive)
    first, second, again, third = numbers_of(path)
    assert first == again
    assert len({first, second, third}) == 3
    assert not packed or first != numbers_of(manifest_of(tmp_path))[0]


def test_a_file_is_its_digest(tmp_path):
    result = numbers_of(manifest_of(tmp_path))
    expected = [int(small.sha256(tmp_path / "data" / name)[:16], 16) for name in FILES]
    assert result == expected


def test_a_member_that_a_zip_lacks_is_named(tmp_path):
    path = manifest_of(tmp_path)
    few = tmp_path / "data" / "few.zip"
    with zipfile.ZipFile(few, "w") as archive:
        archive.writestr("a.png", FILES["a.png"])
    path = manifest_of(tmp_path, archive={"file": few.name, "sha256": small.sha256(few)})
    manifest = open_manifest(path)
    rows = read_split(manifest, "adapt")
    with pytest.raises(BadInput, match=r"image b\.png is missing from .*few\.zip"):
        image_numbers(manifest, rows, look_at(manifest, rows))


def test_entries_of_an_array_are_their_pixels_and_other_rows_change_nothing(tmp_path):
    inputs = small.arrays({"adapt": 6, "test": 2}, seed=1)
    inputs["x"][4] = inputs["x"][1]
    before = numbers_of(small.write(tmp_path, "t", inputs, {"adapt": 6, "test": 2}))
    assert before[4] == before[1]
    assert len(set(before)) == 5
    inputs["x"][0] += 1
    after = numbers_of(small.write(tmp_path, "t", inputs, {"adapt": 6, "test": 2}))
    assert after[0] != before[0]
    assert after[1:] == before[1:]


def test_persons_of_one_picture_have_one_number(tmp_path):
    path = small_pose.write(tmp_path, "t", {"adapt": 3, "test": 1})
    table = tmp_path / "t.json"
    document = json.loads(table.read_text())
    more = [{**one, "id": 100 + one["id"]} for one in document["annotations"]]
    document["annotations"] += more
    table.write_text(json.dumps(document))
    manifest = yaml.safe_load(path.read_text())
    for split, count in (("adapt", 6), ("test", 2)):
        manifest["splits"][split] |= {"sha256": small.sha256(table), "count": count}
    path.write_text(yaml.safe_dump(manifest))
    numbers = numbers_of(path)
    assert numbers[0::2] == numbers[1::2]
    assert len(set(numbers)) == 3


def test_rows_of_every_problem_may_have_groups(tmp_path):
    path = manifest_of(tmp_path, {"group": ["one", "", "one", ""]})
    split = read_split(open_manifest(path), "adapt")
    assert split.groups == ("one", "b.png", "one", "c.png")
    assert split.take(np.array([1, 2])).groups == ("b.png", "one")
    assert read_split(open_manifest(manifest_of(tmp_path)), "adapt").groups is None


def test_images_of_a_coco_file_may_have_groups(tmp_path):
    path = small_det.write(tmp_path, "t", {"adapt": 3, "test": 1}, seed=1)
    manifest = yaml.safe_load(path.read_text())
    table = tmp_path / manifest["splits"]["adapt"]["rows"]
    document = json.loads(table.read_text())
    for image in document["images"][:2]:
        image["group"] = "video"
    table.write_text(json.dumps(document))
    for entry in manifest["splits"].values():
        entry["sha256"] = small.sha256(table)
    path.write_text(yaml.safe_dump(manifest))
    split = read_split(open_manifest(path), "adapt")
    assert split.groups == ("video", "video", split.names[2])
