"""What nobody prepared is explained, and the command that is named makes a manifest of it."""

from __future__ import annotations

import json
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli.app import app
from sfda.authoring.unprepared.explain import Explanation, explain
from sfda.errors import BadInput
from sfda.formats.image_files import PassedOver


def picture(file: Path, mode: str = "RGB") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (16, 12), 90 if mode == "L" else (90, 20, 30)).save(file)


def mask(file: Path, high: int = 1) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.arange(192).reshape(12, 16) % 2 * high).astype(np.uint8)).save(file)


def plain(root: Path) -> Path:
    for n in range(4):
        picture(root / f"it's {n}; $(id).png", "L" if n else "RGB")
    (root / "scan.psd").write_bytes(b"x")
    (root / "half.png").write_bytes((root / "it's 0; $(id).png").read_bytes()[:50])
    return root


def image_folder(root: Path) -> Path:
    for name in ("train/cat/1", "train/dog/2", "train/dog/5", "test/cat/3", "test/dog/4"):
        picture(root / f"{name}.png")
    return root


def windows_zip(root: Path) -> Path:
    image_folder(root)
    with zipfile.ZipFile(root / "w.zip", "w") as archive:
        for file in root.rglob("*.png"):
            archive.write(file, str(file.relative_to(root)).replace("/", "\\"))
    return root / "w.zip"


def masks_below(root: Path) -> Path:
    for n in range(4):
        picture(root / f"images/{n}.png")
        mask(root / f"masks/{n}.png", 255)
    return root


def masks_beside(root: Path) -> Path:
    for n in range(4):
        picture(root / f"{n}.png")
        mask(root / f"{n}_mask.png")
    return root


def coco(root: Path) -> Path:
    for n in range(4):
        picture(root / f"images/{n}.png")
    document = {
        "images": [{"id": n, "file_name": f"images/{n}.png"} for n in range(4)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 5, 5]} for n in range(4)
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (root / "instances.json").write_text(json.dumps(document))
    return root


def table(root: Path) -> Path:
    for n in range(4):
        picture(root / f"{n}.png")
    (root / "l.csv").write_text("file,class\n0.png,a\n1.png,b\n2.png,a\n3.png,b\n")
    return root


def arrays(root: Path) -> Path:
    root.mkdir(parents=True)
    np.savez(root / "a.npz", images=np.zeros((6, 8, 8), np.uint8), y=[0, 1, 2, 0, 1, 2])
    return root / "a.npz"


def voc_and_yolo(root: Path) -> Path:
    box = "<xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
    for n in range(3):
        picture(root / f"{n}.png")
        (root / f"{n}.txt").write_text("0 .5 .5 .2 .2\n")
        (root / f"{n}.xml").write_text(
            f"<?xml version='1.0' encoding='latin-1'?><annotation><filename>{n}.png</filename>"
            f"<object><name>Käfer</name><bndbox>{box}</bndbox></object></annotation>",
            encoding="latin-1",
        )
    (root / "classes.txt").write_text("beetle\n")
    return root


def renamed_coco(root: Path) -> Path:
    document = json.loads((coco(root) / "instances.json").read_text())
    for image, folder in zip(document["images"], ("C:\\x\\", "/data/1/", "", "y/"), strict=True):
        image["file_name"] = folder + image["file_name"].removeprefix("images/")
    document["images"][3]["file_name"] = "0123abcd-3.jpg"
    (root / "instances.json").write_text(json.dumps(document))
    return root


def label_studio(root: Path) -> Path:
    for name in "abcd":
        picture(root / f"{name}.png")
    task = {"data": {"image": "/a.png"}, "annotations": [{"result": [{"type": "choices"}]}]}
    (root / "project.json").write_text(json.dumps([task]))
    (root / "cvat.xml").write_text("<?xml version='1.0'?><annotations><version>1.1</version>")
    (root / "t.csv").write_text("Filename;Label\na.png;cat\n")
    (root / "labelme.json").write_text(json.dumps({"shapes": [], "imagePath": "a.png"}))
    (root / "film.mp4").write_bytes(b"x")
    return root


def colour_masks(root: Path) -> Path:
    for n in range(4):
        picture(root / f"images/{n}.png")
        picture(root / f"masks/{n}.png")
    return root


def frames(root: Path) -> Path:
    for video in "ab":
        for n in range(6):
            picture(root / f"video_{video}_frame{n:04d}.png")
    return root


HEAPS = {
    plain: ("classification", ["5 images (5 .png)", "1 .psd (scan.psd)",
            "1 cannot be read: half.png"]),
    image_folder: ("classification", ["cat (2), dog (3)", "splits, by folders: adapt 3, test 2"]),
    windows_zip: ("classification", ["cat (2), dog (3)", "splits, by folders: adapt 3, test 2"]),
    masks_below: ("segmentation", ["4 masks at 'masks', of the values 0, 255"]),
    masks_beside: ("segmentation", ["4 masks at '.', of the values 0, 1"]),
    coco: ("detection", ["instances.json: 4 boxes of 4 images, 4 of which are here"]),
    table: ("classification", ["l.csv: 4 rows of file, class"]),
    voc_and_yolo: ("detection", ["boxes in Pascal VOC's XML: 0.xml", "YOLO's text files: 0.txt",
                   "`sfda convert yolo "]),
    renamed_coco: ("detection", ["4 boxes of 4 images, 4 of which are here",
                   "say: ", "4 of 4 images are named otherwise"]),
    label_studio: ("classification", ["project.json: 1 tasks (1 choices) in Label Studio's own",
                   "cvat.xml: CVAT's own XML", "LabelMe's JSON", "t.csv: 1 rows of Filename, label",
                   "ffmpeg -i ./film.mp4 ./film_%05d.png"]),
    colour_masks: ("segmentation", ["masks at 'masks', such as", "are colour images"]),
    frames: ("classification", ["2 runs of consecutive names, from video_a_frame0000.png"]),
    arrays: ("classification", ["6 images in array 'images'", "labels in array 'y', of 3 classes"]),
}  # fmt: skip


@pytest.mark.parametrize("make", HEAPS, ids=lambda make: make.__name__)
def test_the_command_that_is_named_works(make, tmp_path, monkeypatch):
    problem, sees = HEAPS[make]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SFDA_DATA", raising=False)
    path = make(tmp_path / "my site")
    seen = explain(path)
    text = seen.text()
    assert f"take this for {problem}" in text
    for line in sees:
        assert line in text
    assert seen.fault is None
    for command in seen.commands:
        words = shlex.split(command)
        assert words[0] == "sfda"
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0 or (make is plain and words[1] == "check"), result.output
    assert all(f"{name} {count}" in text for name, count in seen.splits.items())
    counted = sum(seen.splits[name] for name in seen.splits if name in ("adapt", "test"))
    assert counted >= 4 or make is voc_and_yolo, "a conversion is not tried"


def test_boxes_of_voc_and_yolo_are_converted_first(tmp_path):
    for folder, name, content in (
        ("voc", "0.xml", "<annotation><filename>0.png</filename></annotation>"),
        ("yolo", "0.txt", "0 0.5 0.5 0.25 0.25\n"),
    ):
        picture(tmp_path / folder / "0.png")
        (tmp_path / folder / name).write_text(content)
        seen = explain(tmp_path / folder)
        assert seen.commands[0].startswith(f"sfda convert {folder} ")
        assert "--annotations boxes.json" in seen.commands[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "no", "does not exist"),
        (lambda p: (p / "e").mkdir() or p / "e", "holds no images"),
        (lambda p: p / "m.yaml", "sfda check .*m.yaml. verifies a manifest"),
    ],
)
def test_what_is_nothing_is_refused(make, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        explain(make(tmp_path))


def test_it_is_one_object(tmp_path):
    path = table(tmp_path / "t")
    result = CliRunner().invoke(app, ["check", "--explain", str(path)])
    assert result.output.startswith(f"{path} holds\n")
    assert Explanation.model_validate(explain(path).model_dump()) == explain(path)


def test_the_name_of_a_film_is_a_word_to_a_shell_and_no_option():
    others = PassedOver()
    others.note("a/-y $(id).mp4")
    assert others.text().endswith("ffmpeg -i './-y $(id).mp4' './-y $(id)_%05d.png'")
