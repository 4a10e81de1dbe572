"""DICOM: intensities as the scanner means them, series in their order, and what is not read."""

from __future__ import annotations

import io
import itertools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    RLELossless,
)

from sfda.authoring.from_folder import build_manifest
from sfda.authoring.from_masks import MaskOptions
from sfda.errors import BadInput
from sfda.formats.images import decode_bytes, raw_bytes, size_of_bytes, value_bytes
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.manifests.verify import verify_manifest

PIXELS = np.random.default_rng(0).integers(0, 4096, (12, 20), dtype=np.uint16)


def dicom(pixels: Any = PIXELS, *, syntax: Any = ExplicitVRLittleEndian, **tags: Any) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, "1.2.3"
    meta.TransferSyntaxUID = syntax
    made = Dataset()
    made.file_meta = meta
    made.SOPClassUID, made.SOPInstanceUID, made.SeriesInstanceUID = CTImageStorage, "1.2.3", "1.9"
    made.Rows, made.Columns = pixels.shape[:2]
    bits = pixels.dtype.itemsize * 8
    made.BitsAllocated, made.BitsStored, made.HighBit = bits, bits, bits - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    made.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    for name, value in tags.items():
        setattr(made, name, value)
    if syntax == ExplicitVRBigEndian:
        pixels = pixels.byteswap()
    made.PixelData = pixels.tobytes()
    if syntax == RLELossless:
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.compress(RLELossless)
    made["PixelData"].VR = "OB" if bits == 8 or syntax == RLELossless else "OW"
    out = io.BytesIO()
    pydicom.dcmwrite(out, made, enforce_file_format=True)
    return out.getvalue()


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless]
)
def test_intensities_are_those_of_the_scanner(syntax: Any) -> None:
    data = dicom(syntax=syntax, RescaleSlope="2", RescaleIntercept="-1024")
    assert size_of_bytes(data) == PIXELS.shape
    assert np.array_equal(raw_bytes(data), PIXELS.astype(int) * 2 - 1024)
    assert np.array_equal(value_bytes(data), PIXELS)
    seen = decode_bytes(data, (-1024.0, 7166.0))
    assert np.abs(seen.astype(float) - PIXELS / 4095 * 255).max() <= 1
    assert decode_bytes(data).max() == 255, "without a window by percentiles, as volumes"


@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.uint32])
def test_other_numbers_and_colours(kind: Any) -> None:
    pixels = (PIXELS % 200).astype(kind) - (100 if kind == np.int16 else 0)
    assert np.array_equal(raw_bytes(dicom(pixels.astype(kind))), pixels)
    colours = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    assert np.array_equal(decode_bytes(dicom(colours)), colours)
    half = raw_bytes(dicom(RescaleSlope="0.5", RescaleIntercept="1.5"))
    assert np.allclose(half, PIXELS * 0.5 + 1.5)


def test_of_monochrome1_large_is_bright() -> None:
    flipped = raw_bytes(dicom(PhotometricInterpretation="MONOCHROME1")).astype(int)
    assert (
        np.array_equal(flipped.argsort(None), (-PIXELS.astype(int)).argsort(None))
        or (flipped + PIXELS == flipped[0, 0] + PIXELS[0, 0]).all()
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: dicom(NumberOfFrames=3), "3 frames.*dcm2niix"),
        (lambda: dicom(PhotometricInterpretation="PALETTE COLOR"), "PALETTE COLOR"),
        (lambda: dicom(Rows=60000, Columns=60000), "pixels, more than"),
        (lambda: dicom(Rows=9000), "damaged|bytes|length"),
        (lambda: dicom()[:700], "damaged|bytes|pixel|length"),
        (lambda: dicom()[:140], "damaged|bytes|pixel|length"),
        (lambda: b"\0" * 128 + b"DICM" + b"\xff" * 400, "damaged|length"),
        (lambda: dicom().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4\0"), "compressed"),
        (
            lambda: dicom().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"),
            "deflated.*dcmconv",
        ),
    ],
)
def test_what_is_not_read_is_said(data: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        raw_bytes(data())
    assert len(str(error.value)) < 500


def test_a_deflated_one_is_not_unpacked_whatever_stands_before(tmp_path: Path) -> None:
    """Its header, which says it, may be of any length."""
    whole = dicom()
    begin = whole[: 128 + 4]
    long = b"\x02\0\x01\0OB\0\0" + (6000).to_bytes(4, "little") + bytes(6000)
    rest = whole[132:].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    for read in (raw_bytes, size_of_bytes, value_bytes):
        with pytest.raises(ValueError, match="deflated"):
            read(begin + long + rest)


def test_every_cut_is_one_error() -> None:
    whole = dicom()
    for end in itertools.chain(range(132, 700, 7), range(700, len(whole), 40)):
        for read in (raw_bytes, size_of_bytes, value_bytes):
            try:
                read(whole[:end])
            except ValueError:
                continue


def series(folder: Path, name: str, count: int = 4, *, uid: str = "1.9") -> None:
    """Slices whose names are in another order than they lie."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    for at in range(count):
        data = dicom(
            PIXELS + at, InstanceNumber=str(at), SeriesInstanceUID=uid, SliceThickness="5",
            ImagePositionPatient=["0", "0", str(2.5 * at)], PixelSpacing=["0.5", "0.25"],
            ImageOrientationPatient=["1", "0", "0", "0", "1", "0"],
        )  # fmt: skip
        (folder / name / f"{uid}-{9 - at}.dcm").write_bytes(data)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_series_are_volumes(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    series(folder, "case1")
    series(folder, "case2", uid="1.7")
    series(folder, "case2", uid="1.8")
    path = folder
    if kind == "zip":
        path = tmp_path / "scans.zip"
        with zipfile.ZipFile(path, "w") as packed:
            for file in sorted(folder.rglob("*.dcm")):
                packed.write(file, file.relative_to(folder))
    made = build_manifest(
        path, problem="segmentation", classes=None, out=tmp_path / "m.yaml", masks=MaskOptions()
    )
    report = verify_manifest(made)
    assert report.ok, report.faults
    split = read_split(open_manifest(made), "adapt")
    assert split.groups is not None
    assert split.groups == ("case1",) * 4 + ("case2:1.7",) * 4 + ("case2:1.8",) * 4
    assert split.spacings == ((2.5, 0.5, 0.25),) * 12
    places = [split.reader.raw(row)[0, 0] for row in range(4)]  # type: ignore[attr-defined]
    assert places == [PIXELS[0, 0] + at for at in range(4)], "in their order along the axis"


def test_a_broken_slice_is_named(tmp_path: Path) -> None:
    series(tmp_path / "scans", "case1")
    (tmp_path / "scans" / "case1" / "broken.dcm").write_bytes(dicom()[:150])
    with pytest.raises(BadInput, match=r"broken\.dcm cannot be read"):
        build_manifest(
            tmp_path / "scans", problem="segmentation", out=tmp_path / "m.yaml", masks=MaskOptions()
        )


def test_pictures_of_classes_may_be_dicom(tmp_path: Path) -> None:
    for name in ("ill", "well"):
        (tmp_path / "scans" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "scans" / name / f"{number}.dcm").write_bytes(dicom(PIXELS + number))
    made = build_manifest(
        tmp_path / "scans",
        problem="classification",
        classes=("ill", "well"),
        out=tmp_path / "m.yaml",
    )
    assert verify_manifest(made).ok


def test_a_compressed_one_says_how_to_unpack_it() -> None:
    data = dicom().replace(b"1.2.840.10008.1.2.1\0", JPEGLosslessSV1.encode()[:20])
    with pytest.raises(ValueError, match=r"gdcmconv --raw"):
        raw_bytes(data)


def coded(runs: bytes, *, parts: int = 0) -> bytes:
    """A picture of 12 x 20 bytes whose one segment is these runs, and empty parts after it."""
    item = b"\xfe\xff\x00\xe0"
    data = dicom((PIXELS % 200).astype(np.uint8), syntax=RLELossless)
    begin, end = data.index(item, data.index(item) + 4), data.rindex(b"\xfe\xff\xdd\xe0")
    part = np.array([1, 64, *[0] * 14], "<u4").tobytes() + runs + bytes(len(runs) % 2)
    length = len(part).to_bytes(4, "little")
    return data[:begin] + item + length + part + (item + bytes(4)) * parts + data[end:]


WHOLE = b"\x7f" + bytes(128) + b"\x6f" + bytes(112)  # 240 bytes as they are


def test_run_lengths_unpack_to_their_pixels_and_no_more() -> None:
    assert raw_bytes(coded(WHOLE)).shape == (12, 20)
    assert raw_bytes(coded(WHOLE + b"\x81\0" * 100)).shape == (12, 20), "some bytes of padding"
    for runs in (b"\x81\0" * 1000, b"\x80" * 100_000, (b"\x7f" + bytes(128)) * 600):
        with pytest.raises(ValueError, match="unpack to more than its pixels"):
            raw_bytes(coded(runs))
    with pytest.raises(ValueError, match=r"its pixels are in 100\d parts"):
        raw_bytes(coded(WHOLE, parts=1001))


def test_a_header_of_very_many_elements_is_refused_while_it_is_read() -> None:
    plain = dicom()
    place = plain.index(b"\x28\0\x02\0US")
    element = b"\x0b\0%bUN\0\0\0\0\0\0"
    many = b"".join(element % number.to_bytes(2, "little") for number in range(60_000))
    for look in (size_of_bytes, raw_bytes):
        with pytest.raises(ValueError, match="its header takes more than 100000 reads"):
            look(plain[:place] + many + plain[place:])
    assert size_of_bytes(plain[:place] + many[: 12 * 1000] + plain[place:]) == PIXELS.shape
