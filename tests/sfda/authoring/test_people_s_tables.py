"""Tables and lists of classes as people's programs write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from sfda.authoring.conversion.class_files import read_class_file
from sfda.authoring.from_folder import build_manifest
from sfda.errors import BadInput
from sfda.formats.image_files import image_files
from sfda.formats.table import read_csv
from sfda.manifests.opening import open_manifest

NAMES = ("disc", "square", "Käse")
ROWS = [("000.png", "disc"), ("001.png", "square"), ("002.png", "Käse"), ("003.png", "disc")]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, _ in ROWS:
        Image.new("L", (4, 4)).save(folder / name)
    return folder


def lines(separator: str = ",", head: str = "file,class") -> str:
    rows = [head.replace(",", separator), *(separator.join(row) for row in ROWS)]
    return "\n".join(rows) + "\n"


TABLES = {
    "semicolon": lines(";").encode(),
    "semicolon at the end": lines(";").replace("\n", ";\n").encode(),
    "tab": lines("\t").encode(),
    "bar": lines(" | ").encode(),
    "blank": lines(" ").encode(),
    "spaces": lines(", ").encode(),
    "spaces behind": lines(" ,").encode(),
    "capitals": lines(head="FILE,Class").encode(),
    "latin-1": lines().encode("latin-1"),
    "UTF-16": lines("\t").encode("utf-16"),
    "UTF-16 without a mark": lines().encode("utf-16-le"),
    "mark": lines(";").encode("utf-8-sig"),
    "Windows": lines(";").replace("\n", "\r\n").encode("cp1252"),
    "Excel": b"sep=;\r\n" + lines(";").replace("\n", "\r\n").encode(),
    "folder named": lines().replace("00", "images/00").encode(),
    "backslashes": lines().replace("00", ".\\00").encode(),
    "further columns": lines().replace("\n", ',"a; b"\n').replace(',"a; b"', ",note", 1).encode(),
}


@pytest.mark.parametrize("content", TABLES.values(), ids=TABLES)
def test_a_table_is_read_as_programs_write_it(tmp_path: Path, images: Path, content: bytes) -> None:
    table = tmp_path / "labels.csv"
    table.write_bytes(content)
    out = build_manifest(
        images, problem="classification", out=tmp_path / "m.yaml", classes=NAMES, labels_csv=table
    )
    rows, _ = read_csv(tmp_path / "m.rows.csv")
    assert dict(zip(rows.columns["file"], rows.columns["class"], strict=True)) == dict(ROWS)
    assert open_manifest(out).classes == NAMES


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("000.png,disc\n001.png,square\n", "no line of column names: put file,class above"),
        ("picture;class\n000.png;disc\n", "no column 'file', its first line says picture | class"),
        ("file,class\n000.png,disc,square\n", "put a cell that holds the separator in quotes"),
        ("\0\1\2", "no column 'file'"),
        ("file,class\n000.png,\udce4\1\n", "cannot be read as CSV"),  # neither UTF-8 nor a text
    ],
)
def test_a_table_that_cannot_be_read_says_what_is_missing(
    tmp_path: Path, images: Path, text: str, fault: str
) -> None:
    table = tmp_path / "labels.csv"
    table.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BadInput, match=fault.replace("|", r"\|")):
        build_manifest(images, problem="classification", out=tmp_path / "m.yaml", labels_csv=table)


def test_classes_in_a_header_keep_their_case(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("File;Label:Dog;label: My cat;Notes\na.png;1;0;x\n")
    assert read_csv(tmp_path / "a.csv")[1] == ["file", "label:Dog", "label:My cat", "Notes"]


COCO_CATEGORIES = [
    {"id": 7, "name": "Käse"},
    {"id": 2, "name": "square"},
    {"id": 1, "name": "disc"},
]
CLASS_FILES = {
    "a.txt": "disc\nsquare\n\nKäse\n",
    "b.txt": "0 disc\n1 square\n2 Käse\n\n",
    "c.txt": "1: disc\n2: square\n3: Käse",
    "d.txt": "disc 0\nKäse 2\nsquare 1\n",
    "e.txt": "2,Käse\n0,disc\n1,square\n",
    "f.txt": "disc, square, Käse\n",
    "g.txt": '# ours\n"disc"\n"square",\n"Käse"\n',
    "h.names": "disc\r\nsquare\r\nKäse\r\n",
    "a.json": json.dumps(NAMES),
    "b.json": json.dumps({"0": "disc", "2": "Käse", "1": "square"}),
    "c.json": json.dumps({"disc": 0, "Käse": 2, "square": 1}),
    "d.json": json.dumps({"info": {}, "images": [], "categories": COCO_CATEGORIES}),
    "e.txt.json": json.dumps({"names": NAMES}),
    "json.txt": json.dumps(NAMES),
    "data.yaml": yaml.safe_dump({"train": "images", "nc": 3, "names": list(NAMES)}),
    "b.yaml": yaml.safe_dump({"path": ".", "names": dict(enumerate(NAMES))}),
    "c.yml": yaml.safe_dump(list(NAMES)),
}


@pytest.mark.parametrize(
    ("encoding", "told"), [("utf-8", 0), ("utf-16", 0), ("cp1252", 1)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("kind", ["table", "classes", "images"])
def test_an_older_encoding_is_said_once(
    tmp_path: Path, images: Path, kind: str, encoding: str, told: int, caplog: Any
) -> None:
    (images / "Käse.png").write_bytes((images / "000.png").read_bytes())
    text = {"table": lines(), "classes": "\n".join(NAMES), "images": "Käse.png\n"}[kind]
    file = images / f"{kind}.txt"
    file.write_bytes(text.encode(encoding))
    read = {"table": read_csv, "classes": read_class_file, "images": image_files}[kind]
    for _ in range(2):
        read(file)
    assert "Käse.png" in read(file) or kind != "images"
    lines_told = [record.getMessage() for record in caplog.records]
    assert len(lines_told) == told
    assert all("Windows-1252" in line and str(file) in line for line in lines_told)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
@pytest.mark.parametrize("name", CLASS_FILES)
def test_a_list_of_classes_is_read_in_its_order(tmp_path: Path, name: str, encoding: str) -> None:
    (tmp_path / name).write_bytes(CLASS_FILES[name].encode(encoding))
    assert read_class_file(tmp_path / name) == NAMES


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("a.txt", "7 of hearts\nqueen\n", ("7 of hearts", "queen")),
        ("b.txt", "3 disc\n9 square\n", ("3 disc", "9 square")),  # no count: part of the names
        ("c.txt", "0\n1\n", ("0", "1")),
        ("d.txt", "n01440764 tench\nn01443537 goldfish", ("n01440764 tench", "n01443537 goldfish")),
    ],
)
def test_numbers_that_are_no_count_are_part_of_a_name(
    tmp_path: Path, name: str, text: str, names: tuple[str, ...]
) -> None:
    (tmp_path / name).write_text(text)
    assert read_class_file(tmp_path / name) == names


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("a.json", '{"0": "disc", "2": "square"}', "the numbers 0, 2"),
        ("b.json", '["disc", null]', "these are no names: None"),
        ("c.json", '{"a": "b"}', "no list of names"),
        ("d.json", "[", "is no list of classes"),
        ("e.txt", "\n# nothing\n", "names no class"),
        ("f.txt", "\0\1\2", "is no text"),
    ],
)
def test_what_is_no_list_of_classes_is_refused(
    tmp_path: Path, name: str, text: str, fault: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=fault):
        read_class_file(tmp_path / name)
