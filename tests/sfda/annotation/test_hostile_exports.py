"""Answers that somebody else packed: what they name, and how much they claim to be."""

from __future__ import annotations

import json
import os
import re
import struct
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_seg
from asking import request_for
from PIL import Image
from typer.testing import CliRunner

from flows.cli.app import app
from sfda.annotation.exports import read_export
from sfda.bounds.limits import EXPORT_BYTES
from sfda.errors import OBEYED, BadInput
from sfda.formats.annotations import PictureAnnotations
from sfda.formats.coco_rle import decode_run_lengths, fill_polygons, unpack_run_lengths
from sfda.formats.label_studio_rle import decode_mask


def of_mask(folder: Path, name: str) -> PictureAnnotations:
    table = folder / "in" / "answers.csv"
    table.parent.mkdir(exist_ok=True)
    table.write_text(f"row,mask\nr1,{name}\n")
    (one,) = read_export(table)
    return one


def test_a_mask_lies_below_its_table(tmp_path: Path) -> None:
    own = tmp_path / "in" / "masks"
    own.mkdir(parents=True)
    for file in (tmp_path / "private.png", own / "a.png"):
        Image.new("L", (8, 8), 7).save(file)
    (own / "out.png").symlink_to(tmp_path / "private.png")
    (own / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(own / "pipe.png")
    assert of_mask(tmp_path, "masks/a.png").mask is not None
    assert of_mask(tmp_path, "masks/../masks/a.png").mask is not None
    for name in (
        str(tmp_path / "private.png"), "../private.png", "masks/../../private.png",
        "masks/out.png", "masks/zero.png", "/dev/zero", "/etc/shadow", "masks/pipe.png", "masks",
        ".", "masks/\0.png", "masks/none.png",
    ):  # fmt: skip
        one = of_mask(tmp_path, name)
        assert one.mask is None, name
        assert one.fault, name


def test_a_mask_that_claims_many_pixels_is_one_fault(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )
    assert "a.png cannot be read" in (of_mask(tmp_path, "a.png").fault or "")


@pytest.mark.parametrize("lies", [False, True])
def test_a_zip_of_answers_is_not_unpacked_for_ever(tmp_path: Path, lies: bool) -> None:
    path = tmp_path / "answers.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", " " * 1000)
    claim = 10 if lies else EXPORT_BYTES.most + 1
    content = path.read_bytes().replace(struct.pack("<I", 1000), struct.pack("<I", claim))
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"answers\.zip"):
        read_export(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '[{"id":' + "9" * 10_000 + "}]"])
def test_json_that_python_does_not_count_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadInput, match="neither JSON"):
        read_export(tmp_path / "a.json")


def test_entities_in_an_encoding_without_a_mark_are_refused(tmp_path: Path) -> None:
    text = (
        '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY e "cat">]><annotations><image id="0" '
        'name="&e;" width="1" height="1"/></annotations>'
    )
    (tmp_path / "a.xml").write_bytes(text.encode("utf-16-le"))
    with pytest.raises(BadInput, match="defines entities"):
        read_export(tmp_path / "a.xml")


@pytest.mark.parametrize("text", ["o" * 1_000_000, "0" * 1_000_000, "P" + "o" * 400 + "0"])
def test_run_lengths_cost_no_more_than_their_picture(text: str) -> None:
    start = time.process_time()
    with pytest.raises(ValueError, match=r"run length|ordinal"):
        decode_run_lengths(text, (8, 8))
    with pytest.raises(ValueError, match="more than the picture"):
        decode_run_lengths([0] * 1_000_000, (8, 8))
    assert time.process_time() - start < 1


def test_long_numbers_in_run_lengths_end_early() -> None:
    with pytest.raises(ValueError, match="more characters"):
        unpack_run_lengths("o" * 1_000_000)


@pytest.mark.parametrize("corners", ["1,1", "1,1;5,5"])
def test_a_polygon_has_an_inside(tmp_path: Path, corners: str) -> None:
    (tmp_path / "a.xml").write_text(
        '<annotations><image name="a.png" width="8" height="8">'
        f'<polygon label="a" points="{corners}"/></image></annotations>'
    )
    points = [[float(n) for n in pair.split(",")] for pair in corners.split(";")]
    size = {"original_width": 8, "original_height": 8}
    result = [{**size, "value": {"polygonlabels": ["a"], "points": points}}]
    tasks = [{"data": {"file": "a.png"}, "annotations": [{"result": result}]}]
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    for name in ("a.xml", "a.json"):
        (one,) = read_export(tmp_path / name)
        assert re.search("a polygon of [12] corners", one.fault or ""), name


def test_an_outline_is_no_longer_than_its_picture_allows() -> None:
    there_and_back = [-128.0, 0.0, 128.0, 8.0] * 200_000
    with pytest.raises(ValueError, match="outline"):
        fill_polygons([there_and_back], (8, 8))
    comb = np.array([(x, y) for x in range(8) for y in ((0, 8), (8, 0))[x % 2]], float)
    assert fill_polygons([comb.ravel().tolist()], (8, 8)).any()


@pytest.mark.parametrize("code", [[0] * 10_000_000, [10**4000], [300], "abc", None])
def test_a_painted_code_is_bounded(code: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode_mask(code, 8, 8)


HUGE = {"original_width": 60_000, "original_height": 60_000}
LARGE = {
    "painted.json": json.dumps(
        [{"data": {"row": "r"}, "annotations": [{"result": [
            {**HUGE, "value": {"rle": [0] * 9, "brushlabels": ["a"]}}]}]}]
    ),
    "outlined.json": json.dumps(
        [{"data": {"row": "r"}, "annotations": [{"result": [
            {**HUGE, "value": {"points": [[0, 0], [1, 0], [1, 1]], "polygonlabels": ["a"]}}]}]}]
    ),
    "boxed.json": json.dumps(
        [{"data": {"row": "r"}, "annotations": [{"result": [{**HUGE, "value": {
            "x": 0, "y": 0, "width": 1, "height": 1, "rectanglelabels": ["a"]}}]}]}]
    ),
    "cvat.xml": '<annotations><image id="0" name="a" width="60000" height="60000"><polygon '
    'label="a" points="0,0;1,0;1,1"/></image></annotations>',
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_a_picture_that_claims_many_pixels_is_one_fault(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(LARGE[name])
    (one,) = read_export(tmp_path / name)
    assert "60000 x 60000" in (one.fault or "")


@pytest.mark.parametrize(
    ("width", "height", "code"),
    [("-40000", "-40000", "1600000000"), ("-40000", "0", "0"), ("0", "0", "0"), ("0", "4", "0"),
     ("4", "4", "0," * 1_000_000 + "16"), ("4", "4", "-16,32"), ("4", "5", "20")],
)  # fmt: skip
def test_a_painted_mask_of_cvat_has_pixels_of_its_picture_alone(
    tmp_path: Path, width: str, height: str, code: str
) -> None:
    (tmp_path / "a.xml").write_text(
        '<annotations><image id="0" name="a.png" width="4" height="4"><mask label="a" left="0" '
        f'top="0" width="{width}" height="{height}" rle="{code}"/></image></annotations>'
    )
    tracemalloc.start()
    try:
        (one,) = read_export(tmp_path / "a.xml")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert re.search("run lengths|a mask", one.fault or "")
    assert peak < 10_000_000 + 3 * len(code)


@pytest.mark.parametrize("side", ["60000", "1e999", "-1", "0", '"a"', "null", "[]", "{}"])
def test_an_odd_size_in_coco_is_one_message(tmp_path: Path, side: str) -> None:
    (tmp_path / "a.json").write_text(
        '{"images": [{"id": 1, "file_name": "a.png", "width": 60000, "height": ' + side + "}], "
        '"annotations": [], "categories": []}'
    )
    (one,) = read_export(tmp_path / "a.json")
    assert (one.fault or "").startswith("its size cannot be read")
    assert not re.search("argument|Error|literal|must be", one.fault or "")


@pytest.mark.parametrize("which", ["image", "its annotation", "category", "its use"])
@pytest.mark.parametrize("odd", [2**61 - 1, True, 1.5])
def test_numbers_that_could_share_one_hash_are_no_ids(
    tmp_path: Path, which: str, odd: float
) -> None:
    ids = {"image": 1, "its annotation": 1, "category": 1, "its use": 1} | {which: odd}
    picture = {"id": ids["image"], "file_name": "a.png", "width": 8, "height": 8}
    drawn = {"image_id": ids["its annotation"], "category_id": ids["its use"]}
    document = {"images": [picture], "categories": [{"id": ids["category"], "name": "a"}]}
    (tmp_path / "a.json").write_text(json.dumps({**document, "annotations": [drawn]}))
    with pytest.raises(BadInput, match=r"a whole number of at most 2\^53"):
        read_export(tmp_path / "a.json")


ESCAPES = "\x1b]0;pwn\x07\x1b[2J\u202e[red]"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "{file},{e}.png"),
        ("b.csv", "{e},a.png"),
        ("c.json", '[{{"data": {{"row": "{j}", "file": "{j}"}}, '
         '"annotations": [{{"result": [5]}}]}}]'),
        ("d.json", '{{"images": [], "annotations": [{{"image_id": "{j}", "category_id": 1}}], '
         '"categories": [{{"id": 1, "name": "{j}"}}]}}'),
    ],
)  # fmt: skip
def test_no_fault_is_a_command_to_the_terminal(tmp_path: Path, name: str, text: str) -> None:
    target = small_seg.write(tmp_path, "target", small_seg.TARGET, seed=3, dull=True)
    request = request_for(target, [3], tmp_path / "ask")
    export = tmp_path / name
    head = "file,mask\n" if name.endswith("csv") else ""
    export.write_text(
        head + text.format(file=request.requested[0].file, e=ESCAPES, j=json.dumps(ESCAPES)[1:-1])
    )
    words = ["answer", str(tmp_path / "ask"), str(export), "--target", str(target)]
    out = CliRunner().invoke(app, words)
    printed = out.output + str(out.exception or "")
    assert out.exit_code == 2
    assert "[2J" in printed  # the name is named, as text
    assert not set(map(ord, printed)) & OBEYED
