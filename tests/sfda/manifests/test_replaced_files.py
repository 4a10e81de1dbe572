"""What is written takes the place of an earlier form of itself, and of nothing else of a person."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from pathlib import Path

import pytest
import yaml

from sfda.errors import BadInput
from sfda.manifests import write
from sfda.manifests.write import write_files

MANIFEST = b"problem: classification\nsplits: {adapt: {rows: m.rows.csv, sha256: %s}}\n"
COCO = b'{"images": [], "annotations": [], "categories": []}'
WHY = "exists, and was not made by such a command, or was changed since"


def manifest(rows: bytes) -> bytes:
    return MANIFEST % hashlib.sha256(rows).hexdigest().encode()


@pytest.mark.parametrize(
    ("name", "before", "content"),
    [
        ("m.yaml", b"model: resnet\n", manifest(b"")),  # somebody's settings
        ("m.yaml", manifest(b"mine"), manifest(b"")),  # written by hand
        ("m.yml", b"", manifest(b"")),
        ("0.xml", b"<annotation/>", COCO),  # the input of a conversion
        ("boxes.json", COCO.replace(b"[]", b"[{}]"), COCO),  # a year of annotation
    ],
)
def test_what_a_person_has_written_stays(tmp_path: Path, name: str, before: bytes, content: bytes):
    out = tmp_path / name
    out.write_bytes(before)
    with pytest.raises(BadInput, match=f"{name} {WHY}"):
        write_files({out: content}, out)
    assert out.read_bytes() == before


@pytest.mark.parametrize("content", [manifest(b""), COCO])
def test_what_a_person_has_changed_since_stays(tmp_path: Path, content: bytes):
    out = tmp_path / "m.yaml"
    write_files({out: content}, out)
    changed = out.read_bytes() + b"\n"
    out.write_bytes(changed)
    with pytest.raises(BadInput, match=WHY):
        write_files({out: content}, out)
    assert out.read_bytes() == changed


def test_a_file_beside_it_that_nobody_named_stays(tmp_path: Path):
    out, rows = tmp_path / "m.yaml", tmp_path / "m.rows.csv"
    rows.write_text("a table of mine\n")
    with pytest.raises(BadInput, match=rf"m\.rows\.csv {WHY}"):
        write_files({rows: b"image\n", out: manifest(b"image\n")}, out)
    assert not out.exists()
    rows.unlink()
    write_files({rows: b"image\n", out: manifest(b"image\n")}, out)
    rows.write_text("a table of mine\n")
    with pytest.raises(BadInput, match=rf"m\.rows\.csv {WHY}"):
        write_files({rows: b"more\n", out: manifest(b"more\n")}, out)
    assert rows.read_text() == "a table of mine\n"


def test_links_and_folders_stay(tmp_path: Path):
    (own := tmp_path / "own.yaml").write_bytes(manifest(b""))
    (link := tmp_path / "link.yaml").symlink_to(own)
    (folder := tmp_path / "folder.yaml").mkdir()
    for out, kind in ((link, "a link"), (folder, "no file")):
        with pytest.raises(BadInput, match=f"{out.name} is {kind}"):
            write_files({out: manifest(b"")}, out)
    assert link.is_symlink()
    assert folder.is_dir()


def test_what_an_earlier_call_has_made_is_replaced(tmp_path: Path):
    out, rows = tmp_path / "m.yaml", tmp_path / "m.rows.csv"
    for text in (b"image\n", b"image\n", b"image\na.png\n"):
        write_files({rows: text, out: manifest(text)}, out)
        assert rows.read_bytes() == text
        assert yaml.safe_load(out.read_text()) == yaml.safe_load(manifest(text))
    for text in (COCO, COCO.replace(b"[]", b"[{}]")):
        write_files({tmp_path / "boxes": text}, tmp_path / "boxes")
        document = json.loads((tmp_path / "boxes").read_bytes())
        assert document.pop("info")["description"] == "made by sfda"
        assert document == json.loads(text)


def test_a_folder_that_another_process_keeps_locked_is_written_to(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(write, "FOLDER_PATIENCE", 0.05)
    folder = os.open(tmp_path, os.O_RDONLY)  # whoever may read it may lock it
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        write_files({tmp_path / "m.yaml": manifest(b"")}, tmp_path / "m.yaml")
    finally:
        os.close(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["m.yaml"]
