"""What is written takes the place of an earlier form of itself, and of nothing else of a person."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfda.errors import BadInput
from sfda.manifests.write import write_files

MANIFEST = b"problem: classification\nsplits: {adapt: {rows: m.rows.csv}}\n"
COCO = b'{"images": [], "annotations": [], "categories": []}'


@pytest.mark.parametrize(
    ("name", "before", "content"),
    [
        ("m.yaml", b"model: resnet\n", MANIFEST),  # somebody's settings
        ("m.yml", b"", MANIFEST),
        ("0.xml", b"<annotation/>", COCO),  # the input of a conversion
        ("boxes.json", b'{"images": 3}', COCO),
    ],
)
def test_a_file_of_another_kind_stays(tmp_path: Path, name: str, before: bytes, content: bytes):
    out = tmp_path / name
    out.write_bytes(before)
    with pytest.raises(BadInput, match=f"{name} exists and is no earlier form"):
        write_files({out: content}, out)
    assert out.read_bytes() == before


def test_a_file_beside_it_that_nobody_named_stays(tmp_path: Path):
    out, rows = tmp_path / "m.yaml", tmp_path / "m.rows.csv"
    rows.write_text("a table of mine\n")
    with pytest.raises(BadInput, match=r"m\.rows\.csv exists"):
        write_files({rows: b"image\n", out: MANIFEST}, out)
    assert not out.exists()
    assert rows.read_text() == "a table of mine\n"


def test_links_and_folders_stay(tmp_path: Path):
    (own := tmp_path / "own.yaml").write_bytes(MANIFEST)
    (link := tmp_path / "link.yaml").symlink_to(own)
    (folder := tmp_path / "folder.yaml").mkdir()
    for out, kind in ((link, "a link"), (folder, "no file")):
        with pytest.raises(BadInput, match=f"{out.name} is {kind}"):
            write_files({out: MANIFEST}, out)
    assert link.is_symlink()
    assert folder.is_dir()


def test_an_earlier_form_is_replaced(tmp_path: Path):
    out, rows = tmp_path / "m.yaml", tmp_path / "m.rows.csv"
    write_files({rows: b"image\n", out: MANIFEST}, out)
    write_files({rows: b"image\na.png\n", out: MANIFEST + b"version: 2\n"}, out)
    assert rows.read_bytes() == b"image\na.png\n"
    assert b"version: 2" in out.read_bytes()
    for text in (COCO, COCO.replace(b"[]", b"[{}]")):
        write_files({tmp_path / "boxes": text}, tmp_path / "boxes")
    assert (tmp_path / "boxes").read_bytes() == text
