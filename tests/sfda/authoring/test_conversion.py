"""Pascal VOC's XML and YOLO's folders as COCO JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sfda.authoring.conversion.voc import convert_voc
from sfda.authoring.conversion.yolo import convert_yolo
from sfda.authoring.from_folder import build_manifest
from sfda.errors import BadInput
from sfda.manifests.opening import open_manifest
from sfda.manifests.verify import verify_manifest

OBJECT = "<object><name>disc</name><bndbox>{}</bndbox></object>"
CORNERS = "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"
SIZE = "<size><width>48</width><height>40</height></size>"


def picture(path: Path, size: tuple[int, int] = (48, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def voc(folder: Path, name: str, *corners: Any, file: str | None = None, size: str = SIZE) -> None:
    objects = "".join(OBJECT.format(CORNERS.format(*own)) for own in corners)
    head = "" if file is None else f"<filename>{file}</filename>"
    (folder / f"{name}.xml").write_text(f"<annotation>{head}{size}{objects}</annotation>")


def converted(folder: Path, out: Path, *classes: str) -> tuple[dict[str, Any], dict[str, Any]]:
    counts = convert_voc(folder, out, classes or None)
    return counts, json.loads(out.read_text())


def usable(images: Path, out: Path) -> None:
    """The document makes a manifest without a fault."""
    made = build_manifest(
        images, problem="detection", out=out.with_suffix(".yaml"), annotations=out
    )
    assert verify_manifest(made).faults == []


@pytest.mark.parametrize("corners", [(25, 22, 10, 8), (25, 8, 10, 22), (10, 22, 25, 8)])
def test_swapped_corners_are_turned_and_counted(tmp_path: Path, corners: tuple[int, ...]) -> None:
    picture(tmp_path / "a.png")
    voc(tmp_path, "a", corners, (1, 1, 5, 5), file="a.png")
    counts, document = converted(tmp_path, tmp_path / "o.json")
    assert [a["bbox"] for a in document["annotations"]] == [[9, 7, 16, 15], [0, 0, 5, 5]]
    assert counts["notes"] == [
        "1 boxes had their corners swapped (xmin above xmax, or ymin above ymax), and were turned"
    ]
    usable(tmp_path, tmp_path / "o.json")


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [("48.0", "40.0", (48, 40)), ("4.8e1", " 40 ", (48, 40)), ("0", "0", (None, None))],
)
def test_sizes_are_numbers_however_they_are_written(
    tmp_path: Path, width: str, height: str, size: tuple[int | None, ...]
) -> None:
    picture(tmp_path / "a.png")
    stated = SIZE.replace("48", width).replace("40", height)
    voc(tmp_path, "a", ("10.5", "8", "25", "22.25"), file="a.png", size=stated)
    _, document = converted(tmp_path, tmp_path / "o.json")
    (image,) = document["images"]
    assert (image.get("width"), image.get("height")) == size
    assert document["annotations"][0]["bbox"] == [9.5, 7, 15.5, 15.25]
    usable(tmp_path, tmp_path / "o.json")


@pytest.mark.parametrize(
    ("bad", "fault"), [("many", "width is no number: many"), ("48.5", "a size of 48.5 x 40")]
)
def test_a_size_that_is_none_is_named(tmp_path: Path, bad: str, fault: str) -> None:
    voc(tmp_path, "a", file="a.png", size=SIZE.replace("48", bad))
    with pytest.raises(BadInput, match=rf"a\.xml \({fault}"):
        convert_voc(tmp_path, tmp_path / "o.json")


def test_without_an_object_the_classes_are_to_be_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    voc(tmp_path, "a", file="a.png")
    with pytest.raises(BadInput, match="nobody knows the classes; name them: --classes a,b,c"):
        convert_voc(tmp_path, tmp_path / "o.json")
    counts, _ = converted(tmp_path, tmp_path / "o.json", "disc", "tri")
    assert (counts["images"], counts["boxes"]) == (1, 0)
    usable(tmp_path, tmp_path / "o.json")


@pytest.mark.parametrize(
    ("file", "image"),
    [
        ("other.png", "000.png"),  # renamed since
        ("C:\\data\\000.png", "000.png"),
        ("000.jpg", "000.png"),  # saved in another format since
        ("000", "000.png"),
        (None, "000.png"),
        ("000.png", "sub/000.png"),
        ("000.png", "JPEGImages/000.png"),
    ],
)
def test_an_image_is_known_by_its_name_or_the_xmls(
    tmp_path: Path, file: str | None, image: str
) -> None:
    picture(tmp_path / image)
    voc(tmp_path, "000", (10, 8, 25, 22), file=file)
    _, document = converted(tmp_path, tmp_path / "o.json")
    assert [i["file_name"] for i in document["images"]] == [image]
    usable(tmp_path, tmp_path / "o.json")


def test_xmls_that_all_name_one_image_are_told_apart_by_their_own_names(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / f"{name}.png")
        voc(tmp_path, name, (10, 8, 25, 22), file="a.png")
    counts, document = converted(tmp_path, tmp_path / "o.json")
    assert [i["file_name"] for i in document["images"]] == ["a.png", "b.png", "c.png"]
    assert counts["notes"] == ["2 XMLs name an image that is not theirs: taken by their own names"]
    (tmp_path / "c.png").unlink()
    with pytest.raises(BadInput, match=r"images that several XMLs are of: a\.png"):
        convert_voc(tmp_path, tmp_path / "o.json")


LINES = "1 0.5 0.5 0.25 0.5\n0 0.25 0.2 0.125 0.1\n"
BOXES = [[18, 10, 12, 20], [9, 6, 6, 4]]  # of a picture of 48 x 40


def yolo(folder: Path, image: str, text: str, lines: str | None = LINES) -> None:
    picture(folder / image)
    if lines is not None:
        (folder / text).parent.mkdir(parents=True, exist_ok=True)
        (folder / text).write_text(lines)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("images/a.jpg", "labels/a.txt"),
        ("images/train/a.jpg", "labels/train/a.txt"),
        ("train/images/a.jpg", "train/labels/a.txt"),
        ("a.png", "a.txt"),
        ("obj_train_data/a.png", "obj_train_data/a.txt"),
        ("pictures/a.png", "boxes/a.txt"),
    ],
)
@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("data.yaml", "names: [disc, tri]\n"),
        ("data.yaml", "nc: 2\nnames:\n  0: disc\n  1: tri\n"),
        ("labels/classes.txt", "disc\ntri\n"),
        ("obj.names", "disc\ntri\n"),
    ],
)
def test_yolos_folders_become_coco(
    tmp_path: Path, image: str, text: str, file: str, names: str
) -> None:
    yolo(tmp_path, image, text)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(names)
    (tmp_path / "train.txt").write_text(f"{image}\n")
    counts = convert_yolo(tmp_path, tmp_path / "o.json")
    assert counts == {"images": 1, "boxes": 2, "classes": ["disc", "tri"]}
    document = json.loads((tmp_path / "o.json").read_text())
    assert document["images"] == [{"id": 1, "file_name": image, "width": 48, "height": 40}]
    boxes = [a["bbox"] for a in document["annotations"]]
    assert boxes == [pytest.approx(box) for box in BOXES], boxes
    assert [a["category_id"] for a in document["annotations"]] == [2, 1]
    usable(tmp_path, tmp_path / "o.json")


@pytest.mark.parametrize(
    ("line", "box", "note"),
    [
        ("0 0.25 0.25 0.75 0.25 0.75 0.5", [12, 10, 24, 10], "1 polygons became the boxes"),
        ("0 .25 .25 .75 .25 .75 .5 .25 .5", [12, 10, 24, 10], "1 polygons became the boxes"),
        ("0 0.5 0.5 0.5 0.5 0.875", [12, 10, 24, 20], ""),
        ("0.0\t0.5\t0.5\t0.5\t0.5", [12, 10, 24, 20], ""),
        ("disc, 0.5, 0.5, 0.5, 0.5", [12, 10, 24, 20], ""),
    ],
)
def test_yolos_lines_are_boxes_or_polygons(
    tmp_path: Path, line: str, box: list[float], note: str
) -> None:
    yolo(tmp_path, "a.png", "a.txt", line)
    counts = convert_yolo(tmp_path, tmp_path / "o.json", ("disc",))
    (one,) = json.loads((tmp_path / "o.json").read_text())["annotations"]
    assert one["bbox"] == box
    assert one.get("score") == (0.875 if "875" in line else None)
    assert note in "".join(counts.get("notes", []))


def test_key_points_behind_a_box_are_left_out_and_counted(tmp_path: Path) -> None:
    yolo(tmp_path, "a.png", "a.txt", "0 0.5 0.5 0.5 0.5 0.1 0.1 2 0.2 0.2 1\n")
    (tmp_path / "data.yaml").write_text("names: [person]\nkpt_shape: [2, 3]\n")
    counts = convert_yolo(tmp_path, tmp_path / "o.json")
    assert (counts["boxes"], counts["notes"]) == (
        1,
        ["1 boxes have key points, which were left out"],
    )


def test_an_image_without_a_text_is_not_taken_for_empty_unless_somebody_says_so(
    tmp_path: Path,
) -> None:
    yolo(tmp_path, "a.png", "a.txt")
    yolo(tmp_path, "b.png", "b.txt", "")
    yolo(tmp_path, "c.png", "c.txt", None)
    (tmp_path / "d.txt").write_text(LINES)
    counts = convert_yolo(tmp_path, tmp_path / "o.json", ("disc", "tri"))
    assert counts["images"] == 2
    assert len(counts["notes"]) == 2
    assert counts["notes"][0].startswith("1 files of boxes have no image")
    assert counts["notes"][1].startswith("1 images have no .txt file")
    usable(tmp_path, tmp_path / "o.json")
    assert convert_yolo(tmp_path, tmp_path / "o.json", ("disc", "tri"), empty=True)["images"] == 3


def test_folders_of_splits_become_splits(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        yolo(tmp_path, f"{part}/images/{part}.png", f"{part}/labels/{part}.txt")
    convert_yolo(tmp_path, tmp_path / "o.json", ("disc", "tri"))
    usable(tmp_path, tmp_path / "o.json")
    splits = open_manifest(tmp_path / "o.yaml").splits
    assert {name: spec.count for name, spec in splits.items()} == {
        "adapt": 1,
        "train": 1,
        "val": 1,
        "test": 1,
    }


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("0 12 9 24 21", "24 is no share of the image: numbers are to lie between 0 and 1"),
        ("2 .5 .5 .1 .1", r"class 2, but there are 2, from 0 \(disc, tri\)"),
        ("-1 .5 .5 .1 .1", "class -1"),
        ("cat .5 .5 .1 .1", "cat is neither the number nor the name of a class"),
        ("0 .5 .5 .1", "4 words"),
        ("0 .5 nan .1 .1", "nan is no number"),
        ("0 .5 .5 .1 -.1", "a box of width 0.1 and height -0.1"),
        ("0 .5 .5 .1 .1 7", "a sixth number is a confidence of 0 to 1, not 7"),
    ],
)
def test_every_line_that_cannot_be_read_is_named(tmp_path: Path, line: str, fault: str) -> None:
    yolo(tmp_path, "a.png", "a.txt", f"0 .5 .5 .1 .1\n{line}\n")
    yolo(tmp_path, "b.png", "b.txt", "x\n")
    with pytest.raises(BadInput, match=f"a.txt, line 2: {fault}.*; b.txt, line 1: x is neither"):
        convert_yolo(tmp_path, tmp_path / "o.json", ("disc", "tri"))
    assert not (tmp_path / "o.json").exists()


def test_what_yolos_folder_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no folder"):
        convert_yolo(tmp_path / "no.zip", tmp_path / "o.json")
    (tmp_path / "a.txt").write_text(LINES)
    with pytest.raises(BadInput, match="holds no images: YOLO's boxes are shares"):
        convert_yolo(tmp_path, tmp_path / "o.json")
    picture(tmp_path / "b.png")
    with pytest.raises(BadInput, match=r"says of no class what it is called.*--classes-file FILE"):
        convert_yolo(tmp_path, tmp_path / "o.json")
    with pytest.raises(BadInput, match=r"holds no \.txt file that is called as one of its images"):
        convert_yolo(tmp_path, tmp_path / "o.json", ("disc",))
    (tmp_path / "classes.txt").write_text("disc\n")
    (tmp_path / "obj.names").write_text("disc\ntri\n")
    with pytest.raises(BadInput, match="several lists of classes that differ"):
        convert_yolo(tmp_path, tmp_path / "o.json")


@pytest.mark.parametrize("name", ["labels/0.txt", "classes.txt", "data.yaml", "0.xml"])
def test_what_a_folder_links_to_is_not_read(tmp_path: Path, name: str):
    folder, elsewhere = tmp_path / "set", tmp_path / "passwords"
    (folder / "labels").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "0.png")
    files = {
        "labels/0.txt": "0 0.5 0.5 0.1 0.1\n",
        "data.yaml": "names: [a]\n",
        "0.xml": "<a><filename>0.png</filename><object><name>a</name><bndbox><xmin>1</xmin>"
        "<ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object></a>",
    }
    for own, content in files.items():
        (folder / own).write_text(content)
    elsewhere.write_text(files.get(name, "hunter2"))
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(elsewhere)
    convert = convert_voc if name == "0.xml" else convert_yolo
    with pytest.raises(BadInput, match=f"{name} leads out of"):
        convert(folder, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()
    elsewhere.rename(folder / "passwords")  # a link that stays there is good
    (folder / name).unlink()
    (folder / name).symlink_to(folder / "passwords")
    if name != "classes.txt":
        convert(folder, tmp_path / "out.json")
