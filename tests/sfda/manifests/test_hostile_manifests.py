"""Manifests that somebody else wrote: what they name, and how much their archives claim to hold."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from flows.cli.app import app
from sfda.bounds.limits import PICTURE_BYTES
from sfda.errors import BadInput
from sfda.formats.readers import Zip, npz_array, npz_count
from sfda.formats.volumes import FileAddress, volume
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.manifests.verify import verify_manifest

DIGITS = "1234567890" * 6 + "1234"


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def manifest(folder: Path, split: dict[str, Any], **changes: Any) -> Path:
    document = {
        "name": "toy", "problem": "classification", "origin": "made here", "root": "./data",
        "classes": ["a", "b"], "splits": {"adapt": {"count": 1} | split},
    } | changes  # fmt: skip
    path = folder / "m.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "data" / "lists").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "0.png")
    return tmp_path


@pytest.mark.parametrize("name", ["a/b", "../x", "..", ".", "", "a\\b"])
def test_a_split_is_not_called_by_a_path(pictures: Path, name: str) -> None:
    """Files of answers are called after it."""
    path = manifest(pictures, {}, splits={name: {"count": 1}})
    with pytest.raises(BadInput, match="no name of a split"):
        open_manifest(path)


ELSEWHERE = ["/proc/self/environ", "/dev/zero", "/etc/passwd", "../m.csv", "a/../../m.csv", ".."]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_manifest_names_no_files_of_elsewhere(pictures: Path, name: str) -> None:
    """Not as rows, answers or archive."""
    part = {"rows": name, "sha256": "0" * 64}
    answers = part | {"count": 1, "classes": ["a"]}
    for path in (
        lambda: manifest(pictures, part),
        lambda: manifest(pictures, {"rows": "m.csv", "sha256": "0" * 64, "answers": answers}),
        lambda: manifest(pictures, {}, archive={"file": name, "sha256": "0" * 64}),
    ):
        with pytest.raises(BadInput, match="relative and without"):
            open_manifest(path())


def test_rows_lie_beside_the_manifest_or_below_its_root(pictures: Path) -> None:
    for place in ("rows.csv", "data/lists/rows.csv"):
        (pictures / place).write_text("file\n0.png\n")
        part = {"rows": place.removeprefix("data/"), "sha256": sha(pictures / place)}
        assert verify_manifest(manifest(pictures, part)).ok
        (pictures / place).unlink()


def test_a_pipe_of_rows_is_missing(pictures: Path) -> None:
    os.mkfifo(pictures / "rows.csv")
    path = manifest(pictures, {"rows": "rows.csv", "sha256": "0" * 64})
    with pytest.raises(BadInput, match="is missing"):
        read_split(open_manifest(path), "adapt")


def test_what_is_no_table_is_not_quoted(pictures: Path) -> None:
    """Even where a link leads to it."""
    secret = pictures / "environ"
    secret.write_text("PATH=/bin," + "x" * 90 + ",PASSWORD=hunter2\n")
    (pictures / "rows.csv").symlink_to(secret)
    path = manifest(pictures, {"rows": "rows.csv", "sha256": "0" * 64})
    out = CliRunner().invoke(app, ["check", str(path)])
    printed = out.output + str(out.exception)
    assert out.exit_code == 2
    assert "hunter2" not in printed


def test_a_digest_of_digits_alone_is_read_or_explained(pictures: Path) -> None:
    path = manifest(pictures, {"rows": "rows.csv", "sha256": "S"})
    text = path.read_text()
    path.write_text(text.replace("sha256: S", f"sha256: {DIGITS}"))
    assert open_manifest(path).splits["adapt"].sha256 == DIGITS
    path.write_text(text.replace("sha256: S", f"sha256: 0{'7' * 63}"))  # octal, to YAML
    with pytest.raises(BadInput, match="in quotes"):
        open_manifest(path)


def test_many_classes_take_no_time(pictures: Path) -> None:
    names = [f"c{i}" for i in range(5_000)]
    part = {"rows": "rows.csv", "sha256": "0" * 64}
    with pytest.raises(BadInput, match="twice: c0") as error:
        open_manifest(manifest(pictures, part, classes=names + names))
    assert len(str(error.value)) < 500


def bomb(path: Path, name: str, size: int, claim: int | None = None) -> Path:
    """A zip with a deflated member of zeros; `claim`: the size that the zip says it has."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(size))
    if claim is not None:
        raw = path.read_bytes()
        assert raw.count(struct.pack("<I", size)) == 2
        path.write_bytes(raw.replace(struct.pack("<I", size), struct.pack("<I", claim)))
    return path


@pytest.mark.parametrize("claim", [PICTURE_BYTES.most + 1, 10])
def test_a_picture_in_a_zip_is_not_unpacked_for_ever(pictures: Path, claim: int) -> None:
    path = bomb(pictures / "data" / "a.zip", "a.png", 1_234_567, claim)
    with pytest.raises((ValueError, zipfile.BadZipFile)):
        Zip(path).read("a.png")
    (pictures / "rows.csv").write_text("file\na.png\n")
    part = {"rows": "rows.csv", "sha256": sha(pictures / "rows.csv")}
    archive = {"file": "a.zip", "sha256": sha(path)}
    split = read_split(open_manifest(manifest(pictures, part, archive=archive)), "adapt")
    with pytest.raises(BadInput, match=r"a\.png"):
        split.image(0)


def test_a_picture_with_holes_is_not_read_for_ever(pictures: Path) -> None:
    (pictures / "rows.csv").write_text("file\n0.png\n")
    os.truncate(pictures / "data" / "0.png", 1 << 40)
    part = {"rows": "rows.csv", "sha256": sha(pictures / "rows.csv")}
    split = read_split(open_manifest(manifest(pictures, part)), "adapt")
    with pytest.raises(BadInput, match=r"0\.png"):
        split.reader.size(0)


def npz(path: Path, header: str, content: bytes, kind: int = zipfile.ZIP_STORED) -> Path:
    text = (header + " " * (118 - len(header)) + "\n").encode()
    member = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("x.npy", member)
    return path


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("shape", ["(99999999,9999,9999,3)", "(99999999,1,1)", "(101,1,1)"])
def test_an_array_claims_no_more_than_it_holds(tmp_path: Path, shape: str, kind: int) -> None:
    header = f"{{'descr':'|u1','fortran_order':False,'shape':{shape},}}"
    path = npz(tmp_path / "h.npz", header, bytes(100), kind)
    for read in (npz_count, npz_array):
        with pytest.raises(BadInput, match="cannot hold"):
            read(path, "x")


def test_a_zip_that_lies_about_an_array_is_refused(tmp_path: Path) -> None:
    header = "{'descr':'|u1','fortran_order':False,'shape':(2000000000,1,1),}"
    path = npz(tmp_path / "h.npz", header, bytes(100))
    size = zipfile.ZipFile(path).getinfo("x.npy").file_size
    raw = path.read_bytes()
    path.write_bytes(raw.replace(struct.pack("<I", size), struct.pack("<I", 2_000_000_200)))
    with pytest.raises(BadInput, match="cannot hold"):
        npz_count(path, "x")


def test_an_array_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    class Run:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    header = "{'descr':'|O','fortran_order':False,'shape':(1,),}"
    path = npz(tmp_path / "o.npz", header, pickle.dumps(Run()))
    bare = tmp_path / "bare.npz"
    bare.write_bytes(pickle.dumps(Run()))
    for file in (path, bare):
        with pytest.raises(BadInput):
            npz_array(file, "x")
    assert not (tmp_path / "ran").exists()


def test_a_volume_that_claims_much_is_not_read(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((2000, 2000, 2000))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    packed = tmp_path / "v.nii.gz"
    packed.write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    inside = tmp_path / "v.zip"
    with zipfile.ZipFile(inside, "w") as archive:
        archive.writestr("v.nii.gz", packed.read_bytes())
    for address in (FileAddress(packed), FileAddress(inside, "v.nii.gz")):
        with pytest.raises(ValueError, match="claim 8000000000 bytes"):
            volume(address)


def test_a_packed_volume_is_unpacked_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFDA_LIMIT_VOLUME_BYTES", str(1 << 20))
    path = tmp_path / "v.zip"
    with zipfile.ZipFile(path, "w") as archive:
        packed = io.BytesIO()
        with gzip.open(packed, "wb") as file:
            file.write(bytes(3 << 20))
        archive.writestr("v.nii.gz", packed.getvalue())
    with pytest.raises(ValueError, match="more than 1048576 bytes"):
        volume(FileAddress(path, "v.nii.gz"))
