"""NIfTI volumes as slices: orientation, spacing, windows, masks and faults."""

import gzip
import struct
import tracemalloc
import zipfile

import nibabel
import numpy as np
import pytest

from sfda.authoring.from_folder import build_manifest
from sfda.authoring.from_masks import MaskOptions
from sfda.errors import BadInput
from sfda.formats import volumes
from sfda.formats.volumes import FileAddress, grid, slice_of
from sfda.manifests.digests import bytes_digest
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split, unlabelled_digest
from sfda.manifests.verify import verify_manifest

SHAPE = (4, 3, 12)  # x, y, z
SPACING = (0.5, 0.25, 2.0)


def save(path, array, spacing=SPACING, unit="mm"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, np.diag([*spacing[:3], 1.0]))
    image.header.set_zooms(spacing[: array.ndim])
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)


def scan(case: int) -> np.ndarray:
    return (np.arange(144).reshape(SHAPE) + 1000 * case - 50).astype(np.int16)


@pytest.fixture(params=[".nii", ".nii.gz"])
def cases(request, tmp_path):
    for case in range(4):
        save(tmp_path / "d" / "scans" / f"case{case}{request.param}", scan(case))
        truth = (scan(case) % 2).astype(np.uint8)
        save(tmp_path / "d" / "truth" / f"case{case}_seg{request.param}", truth)
    return tmp_path / "d"


def build(path, out, folder="truth", classes=("back", "organ"), **options):
    masks = MaskOptions(folder=folder, **options)
    return build_manifest(path, problem="segmentation", out=out, classes=classes, masks=masks)


def test_volumes_become_slices_in_order_and_stay_on_one_side(cases, tmp_path):
    out = build(cases, tmp_path / "m.yaml")
    manifest = open_manifest(out)
    adapt, test = read_split(manifest, "adapt"), read_split(manifest, "test")
    assert (len(adapt), len(test)) == (36, 12)
    (volume,) = set(test.groups)
    assert test.names == tuple(f"{volume}#{i}" for i in range(12))
    assert not set(adapt.groups) & {volume}
    assert test.spacings == ((2.0, 0.25, 0.5),) * 12  # slice, row, column
    result = verify_manifest(out)
    assert result.ok, result.faults
    assert result.count == 48


def test_rows_are_the_second_axis_and_masks_fit(cases, tmp_path):
    split = read_split(open_manifest(build(cases, tmp_path / "m.yaml")), "test")
    case = int(split.names[7].split("case")[1][0])
    expected = scan(case)[:, :, 7].T
    np.testing.assert_array_equal(split.reader.raw(7), expected)
    np.testing.assert_array_equal(split.labels.mask(7), expected % 2)
    assert split.reader.size(7) == (3, 4)


def test_percentiles_are_those_of_the_whole_volume(cases, tmp_path):
    split = read_split(open_manifest(build(cases, tmp_path / "m.yaml")), "test")
    case = int(split.names[0].split("case")[1][0])
    low, high = np.percentile(scan(case), [0.5, 99.5])
    expected = ((scan(case)[:, :, 5].T - low) / (high - low) * 255).clip(0, 255)
    for window in (None, "percentile"):
        np.testing.assert_allclose(split.image(5, window), expected, atol=0.51)
    start = 1000 * case - 50
    fixed = split.image(5, (start, start + 255))
    np.testing.assert_array_equal(fixed, scan(case)[:, :, 5].T - start)


def test_volumes_in_a_zip(cases, tmp_path):
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for path in sorted(cases.rglob("*.nii*")):
            archive.write(path, path.relative_to(cases))
    zipped = read_split(open_manifest(build(tmp_path / "d.zip", tmp_path / "z.yaml")), "test")
    plain = read_split(open_manifest(build(cases, tmp_path / "m.yaml")), "test")
    assert zipped.names == plain.names
    assert zipped.spacings == plain.spacings
    for row in (0, 11):
        np.testing.assert_array_equal(zipped.image(row), plain.image(row))
        np.testing.assert_array_equal(zipped.labels.mask(row), plain.labels.mask(row))
    assert verify_manifest(tmp_path / "z.yaml").ok


def test_slices_in_order_load_a_volume_once(cases, tmp_path):
    split = read_split(open_manifest(build(cases, tmp_path / "m.yaml")), "adapt")
    volumes._volume.cache_clear()
    for row in range(len(split)):
        split.image(row)
        split.labels.mask(row)
    assert volumes._volume.cache_info().misses == 6  # three scans and their masks


def test_spacing_from_the_header_where_no_column_says_it(cases, tmp_path):
    out = build(cases, tmp_path / "m.yaml", folder=None, classes=None)
    rows = tmp_path / "m.rows.csv"
    lines = [line.split(",")[0] for line in rows.read_text().splitlines() if "scans" in line]
    rows.write_text("file\n" + "\n".join(lines) + "\n")
    manifest = open_manifest(out)
    split = manifest.splits["adapt"].model_copy(
        update={"sha256": bytes_digest(rows.read_bytes()), "count": 48}
    )
    bare = manifest.model_copy(update={"splits": {"adapt": split}})
    result = read_split(bare, "adapt")
    assert result.spacings == ((2.0, 0.25, 0.5),) * 48
    assert result.groups[0] == result.names[0].split("#")[0]
    assert not result.labelled


def test_masks_have_no_part_in_the_digest_of_volumes(cases, tmp_path):
    manifest = open_manifest(build(cases, tmp_path / "m.yaml"))
    before = unlabelled_digest(manifest, "adapt")
    for truth in (cases / "truth").iterdir():
        save(truth, np.zeros(SHAPE, np.uint8))
    assert unlabelled_digest(manifest, "adapt") == before
    save(cases / sorted(set(read_split(manifest, "adapt").groups))[0], scan(9))
    assert unlabelled_digest(manifest, "adapt") != before


def test_units_and_axes_of_length_one(tmp_path):
    save(tmp_path / "a.nii.gz", np.zeros((4, 3, 2), np.uint8), (0.5, 0.25, 2.0), "micron")
    assert grid(FileAddress(tmp_path / "a.nii.gz")).spacing == pytest.approx(
        (0.002, 0.00025, 0.0005)
    )
    save(tmp_path / "b.nii", np.zeros((4, 3, 2, 1), np.uint8), (1, 1, 1, 1))
    assert grid(FileAddress(tmp_path / "b.nii")).shape == (2, 3, 4)
    assert volumes.volume(FileAddress(tmp_path / "b.nii")).raw(1).shape == (3, 4)
    save(tmp_path / "c.nii", np.zeros((4, 3, 2, 5), np.uint8), (1, 1, 1, 1))
    with pytest.raises(ValueError, match="split it into volumes of three axes"):
        grid(FileAddress(tmp_path / "c.nii"))


def test_scaled_intensities(tmp_path):
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(2.0, -1000.0)
    nibabel.save(image, tmp_path / "a.nii.gz")
    with_slope = nibabel.load(tmp_path / "a.nii.gz").get_fdata()
    np.testing.assert_array_equal(
        volumes.volume(FileAddress(tmp_path / "a.nii.gz")).raw(2), with_slope[:, :, 2].T
    )


def scaled(path, array, slope=0.5, inter=-3.0):
    image = nibabel.Nifti1Image(array, np.eye(4))
    image.header.set_slope_inter(slope, inter)
    nibabel.save(image, path)
    return FileAddress(path)


@pytest.mark.parametrize("kind", ["u1", "<i2", ">f4", "<f8", ">f8", "<i4"])
@pytest.mark.parametrize("slope", [1.0, 0.3])
def test_intensities_are_those_of_nibabel_in_whole_pieces_and_the_last(
    tmp_path, monkeypatch, kind, slope
):
    monkeypatch.setattr(volumes, "SCALED_AT_ONCE", 100)
    array = np.arange(210).reshape(7, 6, 5).astype(kind)
    for name in ("a.nii", "a.nii.gz"):
        one = volumes.volume(scaled(tmp_path / name, array, slope, slope - 1))
        expected = nibabel.load(tmp_path / name).get_fdata().astype(np.float32)
        for index in range(5):
            np.testing.assert_allclose(one.raw(index), expected[:, :, index].T, rtol=1e-7)
        assert one.ends == pytest.approx(np.percentile(expected, [0.5, 99.5]))


def test_a_scaled_volume_takes_four_bytes_a_voxel_and_what_is_stored(tmp_path):
    address = scaled(tmp_path / "a.nii.gz", np.zeros((400, 400, 50), np.uint8))
    tracemalloc.start()
    try:
        volumes.volume(address)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak / (400 * 400 * 50) < 9  # 17 if nibabel scaled all at once


def test_a_volume_that_takes_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(volumes, "machine_memory", lambda: 200)
    array = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    assert volumes.volume(scaled(tmp_path / "plain.nii.gz", array, 1.0, 0.0)).raw(0).shape == (4, 5)
    with pytest.raises(ValueError, match="needs 300 bytes, more than this machine's memory"):
        volumes.volume(scaled(tmp_path / "scaled.nii.gz", array))
    monkeypatch.setattr(volumes, "machine_memory", lambda: 300)
    for name in ("a.nii", "a.nii.gz"):
        one = volumes.volume(scaled(tmp_path / name, array))
        assert one.image(0, (0, 9)).shape == (4, 5)
        with pytest.raises(ValueError, match="needs 780 bytes"):
            one.image(0, None)


def test_what_names_no_slice_is_refused():
    assert slice_of("img#1.png") is None
    assert slice_of("a.nii#0") == ("a.nii", 0)
    for name in ("a.nii.gz", "a.nii.gz#", "a.nii#x", "a.nii#-1"):
        with pytest.raises(BadInput, match=r"rows are slices: name them a\.nii"):
            slice_of(name)


def test_faults_of_volumes_are_named(cases, tmp_path):
    out = build(cases, tmp_path / "m.yaml")
    names = read_split(open_manifest(out), "adapt").groups
    first, second = sorted(set(names))[:2]
    (cases / first).write_bytes(b"no volume")
    (cases / second).unlink()
    output = " | ".join(verify_manifest(out).faults)
    assert f"{first}#0 cannot be read: it is no NIfTI file" in output
    assert f"{second} is missing" in output


def test_a_mask_of_another_grid_is_named(cases, tmp_path):
    out = build(cases, tmp_path / "m.yaml")
    truth = next(iter(sorted((cases / "truth").iterdir())))
    save(truth, np.zeros((3, 3, 12), np.uint8))
    output = " | ".join(verify_manifest(out).faults)
    assert "#0 has 3 x 3 pixels, but its image" in output
    save(truth, np.full(SHAPE, 0.5, np.float32))
    assert "holds the value 0.5" in " | ".join(verify_manifest(out).faults)


def test_volumes_with_masks_of_fewer_slices_are_refused(cases, tmp_path):
    truth = next(iter(sorted((cases / "truth").iterdir())))
    save(truth, np.zeros((4, 3, 11), np.uint8))
    with pytest.raises(BadInput, match="it has 11 x 3 x 4 voxels, and the image 12 x 3 x 4"):
        build(cases, tmp_path / "m.yaml")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".zip"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_notes_in_a_header_without_end_are_refused_before_they_are_read(
    tmp_path, suffix, kind, endian
):
    header = kind.header_class(endianness=endian)
    whole = bytearray(kind(np.zeros((2, 3, 4), np.uint8), np.eye(4), header).to_bytes())
    first = kind is nibabel.Nifti1Image
    end, place, form = (352, 108, "f") if first else (544, 168, "q")
    note = struct.pack(f"{endian}ii", 16, 6) + b"a b c d "

    def size(notes: int, begin: int) -> tuple[int, ...]:
        head = bytearray(whole[:end])
        head[end - 4] = 1
        struct.pack_into(endian + form, head, place, begin)
        content = bytes(head) + note * notes + bytes(whole[end:])
        address = FileAddress(tmp_path / f"v{notes}{begin}{suffix}", "a.nii")
        if suffix == ".zip":
            with zipfile.ZipFile(address.path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("a.nii", content)
            return grid(address).shape
        address.path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
        return grid(address._replace(member=None)).shape

    assert size(3, end + 48) == (4, 3, 2)
    for notes, begin in ((70_000, end + 70_000 * 16), (3, 0)):
        with pytest.raises(ValueError, match="more than 1048576 bytes of notes"):
            size(notes, begin)
