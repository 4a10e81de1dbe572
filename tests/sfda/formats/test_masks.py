"""Manifests with masks: what a mask holds, every fault by name, and no way past `unlabelled`."""

import csv
import hashlib
import io
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from sfda.authoring.from_folder import build_manifest
from sfda.authoring.from_masks import MaskOptions
from sfda.errors import BadInput
from sfda.formats.masks import IGNORE
from sfda.images.intensity_window import to_bytes
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split, unlabelled_digest
from sfda.manifests.subset import write_subset
from sfda.manifests.verify import verify_manifest

CLASSES = ["road", "car", "sky"]
INDEX = np.array([[0, 1, 2, 255], [2, 2, 1, 0], [255, 0, 0, 1]], np.uint8)


def encoded(array, mode=None, kind="PNG") -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    if mode == "P":
        image = Image.fromarray(array).convert("L")
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette([7 * i % 256 for i in range(768)])
    image.save(buffer, kind)
    return buffer.getvalue()


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Made:
    """A segmentation manifest on disk whose parts a test may spoil."""

    def __init__(self, folder: Path, kind: str = "folder") -> None:
        self.folder, self.kind, self.data = folder, kind, folder / "data"
        self.path, self.csv = folder / "m.yaml", folder / "m.csv"
        self.data.mkdir()
        self.files = {}
        for i in range(4):
            self.files[f"images/{i}.png"] = encoded(np.full((3, 4, 3), 10 * i, np.uint8))
            self.files[f"masks/{i}.png"] = encoded(np.roll(INDEX, i))
        self.document = {
            "name": "toy",
            "problem": "segmentation",
            "origin": "made here",
            "root": "./data",
            "classes": CLASSES,
        }
        self.store()
        key = "index" if kind == "npz" else "file"
        self.write_rows(
            [
                {key: i if kind == "npz" else f"images/{i}.png"}
                | ({} if kind == "npz" else {"mask": f"masks/{i}.png"})
                | {"split": "adapt" if i < 2 else "test"}
                for i in range(4)
            ]
        )

    def store(self, **changed: np.ndarray) -> None:
        if self.kind == "folder":
            for name, content in self.files.items():
                (self.data / name).parent.mkdir(exist_ok=True)
                (self.data / name).write_bytes(content)
            return
        path = self.data / f"all.{self.kind}"
        if self.kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in self.files.items():
                    archive.writestr(name, content)
        else:
            images = np.stack([np.full((3, 4), 10 * i, np.uint8) for i in range(4)])
            masks = np.stack([np.roll(INDEX, i) for i in range(4)])
            arrays = {"x": images, "m": masks, "g": np.array([5, 5, 6, 6])} | changed
            np.savez(path, **arrays)
            self.document["arrays"] = {"image": "x", "mask": "m", "group": "g"}
        self.document["archive"] = {"file": path.name, "sha256": sha(path)}

    def write_rows(self, rows: list[dict], **changes) -> None:
        with self.csv.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        self.rows = rows
        entry = {"rows": "m.csv", "sha256": sha(self.csv)}
        counts = {s: sum(r["split"] == s for r in rows) for s in ("adapt", "test")}
        splits = {s: entry | {"where": s, "count": n} for s, n in counts.items()}
        self.write(splits=splits, **changes)

    def write(self, **changes) -> None:
        self.document |= changes
        self.path.write_text(yaml.safe_dump(self.document))

    def put(self, name: str, content: bytes) -> None:
        self.files[name] = content
        self.store()
        self.write()

    def split(self, name: str = "test"):
        return read_split(open_manifest(self.path), name)

    def faults(self) -> str:
        result = verify_manifest(self.path)
        assert result.ok == (not result.faults)
        return " | ".join(result.faults)


@pytest.fixture(params=["folder", "zip", "npz"])
def made(request, tmp_path):
    return Made(tmp_path, request.param)


@pytest.fixture
def folder(tmp_path):
    return Made(tmp_path)


def test_a_split_gives_masks_in_the_order_of_its_classes(made):
    split = made.split()
    assert split.labels.row_classes() is None
    assert split.labelled
    for row in range(2):
        result = split.labels.mask(row)
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, np.roll(INDEX, row + 2))
    assert split.image(1).flat[0] == 30


def test_a_sound_manifest_passes_and_counts_images(made):
    result = verify_manifest(made.path)
    assert result.ok, result.faults
    assert result.count == 4


def test_values_are_mapped_and_ignore_may_be_another(made):
    made.write(values=[2, 0, 1])
    expected = np.array([[1, 2, 0, 255], [0, 0, 2, 1], [255, 1, 1, 2]])
    np.testing.assert_array_equal(made.split("adapt").labels.mask(0), expected)
    made.write(values=[0, 2, 255], ignore=1)
    expected = np.array([[0, 255, 1, 2], [1, 1, 255, 0], [2, 0, 0, 255]])
    np.testing.assert_array_equal(made.split("adapt").labels.mask(0), expected)


def test_binary_masks_of_0_and_255(folder):
    mask = np.array([[0, 255, 0, 255]] * 3, np.uint8)
    for i in range(4):
        folder.put(f"masks/{i}.png", encoded(mask))
    folder.write(classes=["back", "fore"], values=[0, 255], ignore=None)
    assert folder.split().labels.mask(0).tolist() == [[0, 1, 0, 1]] * 3
    assert not folder.faults()
    folder.write(ignore=255)
    with pytest.raises(BadInput, match=r"also the value of a class.*`ignore: null`"):
        folder.split()


def test_unlabelled_gives_no_masks_ever(made):
    blind = open_manifest(made.path).unlabelled()
    for manifest in (blind, blind.unlabelled(), blind.model_copy()):
        split = read_split(manifest, "test")
        assert split.labels is None
        assert not split.labelled
    assert blind.arrays is None or blind.arrays.mask is None


def test_masks_have_no_part_in_the_unlabelled_digest(made):
    def digest():
        return unlabelled_digest(open_manifest(made.path), "adapt")

    before = digest()
    if made.kind == "npz":
        made.store(m=np.zeros((4, 3, 4), np.uint8))
        made.write()
    else:
        made.put("masks/0.png", encoded(np.zeros((3, 4), np.uint8)))
        made.write_rows([row | {"mask": "masks/0.png"} for row in made.rows])
    assert (made.split("adapt").labels.mask(1) == 0).all()
    assert digest() == before
    if made.kind == "npz":
        made.store(x=np.ones((4, 3, 4), np.uint8))
        made.write()
    else:
        made.put("images/1.png", encoded(np.ones((3, 4), np.uint8)))
    assert digest() != before


def test_priors_and_groups_are_part_of_the_unlabelled_digest(folder):
    def digest():
        return unlabelled_digest(open_manifest(folder.path), "adapt")

    rows, before = folder.rows, digest()
    folder.write_rows([row | {"priors": "0.5 0.25 0.25"} for row in rows])
    with_priors = digest()
    folder.write_rows([row | {"group": "a"} for row in rows])
    assert len({before, with_priors, digest()}) == 3


def test_priors_groups_and_spacings_stay_without_labels(folder):
    rows = [
        row | {"priors": f"{i} 1;1", "group": f"v{i // 2}" if i else "", "spacing": "2x0.5x0.25"}
        for i, row in enumerate(folder.rows)
    ]
    folder.write_rows(rows)
    split = read_split(open_manifest(folder.path).unlabelled(), "adapt")
    assert split.priors.tolist() == [[0, 1, 1], [1, 1, 1]]
    assert split.groups == ("images/0.png", "v0")
    assert split.spacings == ((2.0, 0.5, 0.25),) * 2


def test_priors_by_class_are_put_in_the_order_of_the_classes(folder):
    rows = [
        row | {"prior:sky": 0.25, "prior:road": i, "prior:car": 3}
        for i, row in enumerate(folder.rows)
    ]
    folder.write_rows(rows)
    assert folder.split().priors.tolist() == [[2, 3, 0.25], [3, 3, 0.25]]


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"priors": "0.5 0.5"}, r"3 shares.*images/1\.png \(0\.5 0\.5\)"),
        ({"priors": "0.5 0.6 -0.1"}, r"images/1\.png \(0\.5 0\.6 -0\.1\)"),
        ({"priors": "0 0 0"}, r"images/1\.png \(0 0 0\)"),
        ({"priors": "much of all"}, r"much of all"),
        ({"priors": ""}, r"images/1\.png \(none\)"),
        ({"spacing": "0.5"}, r"spacing is not millimetres.*images/1\.png \(0\.5\)"),
        ({"spacing": "0x1"}, r"images/1\.png \(0x1\)"),
        ({"spacing": ""}, r"images/1\.png \(none\)"),
        ({"spacing": "2x1", "group": "v"}, "one group differ in spacing: v"),
        ({"mask": ""}, r"no mask for images/1\.png.*split of their own"),
        ({"mask": "../m.png"}, r"mask is not a path below the root: \.\./m\.png"),
        ({"mask": "m.nii"}, r"m\.nii is a whole volume"),
    ],
)
def test_faults_of_columns_are_named(folder, cells, said):
    usual = {"priors": "0.2 0.3 0.5", "spacing": "1x1", "group": "v"}
    row = folder.rows[1] | usual | cells
    folder.write_rows([folder.rows[0] | usual, row, *(r | usual for r in folder.rows[2:])])
    with pytest.raises(BadInput, match=said):
        folder.split("adapt")
    assert "split 'adapt': " in folder.faults()


def test_priors_that_name_not_all_classes_are_a_fault(folder):
    folder.write_rows([row | {"prior:car": 1, "prior:cow": 1} for row in folder.rows])
    with pytest.raises(BadInput, match="missing are road, sky, unknown are cow"):
        folder.split()


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (
            np.full((3, 4), 7, np.uint8),
            r"0\.png.* holds the value 7 of no class \(0 to 2 are",
        ),
        (np.full((3, 4), 300, np.uint16), r"0\.png.* holds the value 300 of"),
        (
            np.zeros((4, 3), np.uint8),
            r"0\.png.* has 4 x 3 pixels, but its image .*0\.png.* has 3 x 4",
        ),
        (
            np.arange(36, dtype=np.uint8).reshape(3, 4, 3),
            r"0\.png.* is a colour image.*not colours",
        ),
        (np.full((3, 4), 255, np.uint8), r"0\.png.* has no pixel that counts"),
        (None, r"mask .*0\.png is missing"),
        (b"no image", r"mask .*0\.png.* cannot be read: it is no image"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_faults_of_a_mask_are_named_by_check_and_at_use(tmp_path, kind, mask, said):
    made = Made(tmp_path, kind)
    content = mask if isinstance(mask, bytes | None) else encoded(mask)
    if content is None:
        del made.files["masks/0.png"]
        (made.data / "masks/0.png").unlink(missing_ok=True)
        made.store()
        made.write()
    else:
        made.put("masks/0.png", content)
    with pytest.raises(BadInput, match=said) as error:
        made.split("adapt").labels.mask(0)
    assert made.faults() == str(error.value)


def test_every_faulty_mask_is_named(folder):
    folder.put("masks/0.png", encoded(np.full((3, 4), 9, np.uint8)))
    folder.put("masks/2.png", encoded(np.zeros((9, 9), np.uint8)))
    folder.put("images/3.png", b"broken")
    output = folder.faults()
    assert "masks/0.png holds the value 9" in output
    assert "masks/2.png has 9 x 9 pixels" in output
    assert "images/3.png cannot be read" in output


def test_sixteen_bits_and_palettes_hold_indices_too(folder):
    folder.put("masks/0.png", encoded(INDEX.astype(np.uint16)))
    folder.put("masks/1.png", encoded(INDEX, "P"))
    masks = folder.split("adapt").labels
    np.testing.assert_array_equal(masks.mask(0), INDEX)
    np.testing.assert_array_equal(masks.mask(1), INDEX)
    assert not folder.faults()


def test_a_turned_image_has_the_size_that_it_is_seen_in(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (3, 4)).save(buffer, "PNG", exif=exif)
    folder.put("images/0.png", buffer.getvalue())
    assert folder.split("adapt").image(0).shape == (3, 4, 3)
    np.testing.assert_array_equal(folder.split("adapt").labels.mask(0), INDEX)


def test_mask_arrays_that_do_not_fit_are_refused(tmp_path):
    npz = Made(tmp_path, "npz")
    npz.store(m=np.zeros((4, 4, 3), np.uint8))
    npz.write()
    assert "must be uint8 [4, 3, 4]" in npz.faults()
    npz.store(m=np.full((4, 3, 4), 3, np.uint8))
    npz.write()
    assert "m:2 in" in npz.faults()
    assert "holds the value 3" in npz.faults()
    npz.store(g=np.array([1, 2]))
    npz.write()
    assert "too few for its rows" in npz.faults()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"values": [0, 1]}, "one value for each of 3 classes, not 2"),
        ({"values": [0, 1, 1]}, "distinct"),
        ({"values": [0, 1, 70000]}, "from 0 to 65535"),
        ({"ignore": 2}, "`ignore` 2 is also"),
        ({"classes": 256, "ignore": 300}, "255 classes, not 256"),
        ({"problem": "classification", "ignore": 9}, "`ignore` is for masks"),
    ],
)
def test_what_is_said_of_masks_must_go_together(folder, changes, said):
    folder.write(**changes)
    with pytest.raises(BadInput, match=said):
        open_manifest(folder.path)


def test_masks_without_classes_are_a_fault(folder):
    folder.write(classes=None)
    with pytest.raises(BadInput, match="masks, but the manifest says nothing of `classes`"):
        folder.split()
    blind = open_manifest(folder.path).unlabelled()
    assert len(read_split(blind, "test")) == 2


# intensities


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_intensities_of_sixteen_bits(folder, kind):
    deep = np.array([[0, 1000, 2000, 65535]] * 3, np.uint16)
    folder.put("images/0.png", encoded(deep, kind=kind))
    split = folder.split("adapt")
    assert split.image(0).tolist() == [[0, 3, 7, 255]] * 3
    assert split.image(0, (0, 2000)).tolist() == [[0, 128, 255, 255]] * 3
    assert split.reader.raw(0).tolist() == deep.tolist()


@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_sixteen_bit_colours_keep_their_depth_under_a_window(folder, kind):
    deep = np.zeros((3, 4, 3), np.uint16)
    deep[..., 0], deep[..., 2] = 100, 4000  # blue first in OpenCV
    folder.put("images/0.png", cv2.imencode(kind, deep)[1].tobytes())
    split = folder.split("adapt")
    assert split.image(0, (0, 4000))[0, 0].tolist() == [255, 0, 6]
    assert split.image(0)[0, 0].tolist() == [15, 0, 0]


def test_floats_are_stretched_between_percentiles_and_negatives_kept(folder):
    values = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    folder.put("images/0.png", encoded(values, kind="TIFF"))
    folder.put("images/1.png", encoded(np.full((3, 4), -400, np.int32), kind="TIFF"))
    split = folder.split("adapt")
    low, high = np.percentile(values, [0.5, 99.5])
    expected = np.rint(((values - low) / (high - low) * 255).clip(0, 255))
    np.testing.assert_allclose(split.image(0), expected, atol=1)
    assert split.image(0).min() == 0
    assert split.image(0).max() == 255
    assert split.image(1, (-1000, 200)).tolist() == [[128] * 4] * 3  # 127.5 goes to the even


def test_a_tiff_of_pages_is_refused_unless_they_are_small_copies(folder):
    page = Image.fromarray(np.zeros((3, 4), np.uint8))
    for reduced in (0, 1):
        buffer = io.BytesIO()
        page.save(buffer, "TIFF", save_all=True, append_images=[page], tiffinfo={254: reduced})
        folder.put("images/0.png", buffer.getvalue())
        assert ("it has several pages; save each as a file" in folder.faults()) == (not reduced)


def test_window_of_what_is_all_the_same_or_no_number():
    assert to_bytes(np.full((1, 2), 7.0), "percentile").tolist() == [[0, 0]]
    odd = np.array([[np.nan, -np.inf, 0.5, np.inf]])
    assert to_bytes(odd, (0, 1)).tolist() == [[0, 0, 128, 255]]
    assert to_bytes(np.full((1, 2), np.nan), None).tolist() == [[0, 0]]


# making manifests


def lay_out(root: Path, names: list[str], size=(4, 3)) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, 1).save(root / name)
    return root


def build(path, out, folder=None, classes=CLASSES, **options):
    masks = MaskOptions(folder=folder, **options)
    return build_manifest(path, problem="segmentation", out=out, classes=classes, masks=masks)


TEN = [str(i) for i in range(10)]


@pytest.mark.parametrize(
    ("images", "masks", "where"),
    [
        ("images/{}.png", "masks/{}.png", "masks"),
        ("images/{}.jpg", "masks/{}_mask.png", "masks"),
        ("a/{}.png", "labels/a/{}.png", "labels"),
        ("{}.png", "masks/{}.png", "masks"),
        ("{}.jpg", "{}_gt.png", "."),
        ("deep/x{}.jpg", "deep/x{}_label.png", "."),
    ],
)
def test_masks_are_found_by_name(tmp_path, images, masks, where):
    names = [pattern.format(i) for i in TEN for pattern in (images, masks)]
    out = build(lay_out(tmp_path / "d", names), tmp_path / "m.yaml", where)
    manifest = open_manifest(out)
    assert [manifest.splits[s].count for s in ("adapt", "train", "test", "val")] == [8, 8, 2, 2]
    rows = list(csv.DictReader((tmp_path / "m.rows.csv").open()))
    assert [(r["file"], r["mask"]) for r in rows] == [
        (images.format(i), masks.format(i)) for i in TEN
    ]
    assert verify_manifest(out).ok


def test_masks_beside_the_folder_of_images(tmp_path):
    lay_out(tmp_path / "all", [f"{part}/{i}.png" for i in TEN for part in ("pics", "truth")])
    out = build(tmp_path / "all" / "pics", tmp_path / "m.yaml", tmp_path / "all" / "truth")
    split = read_split(open_manifest(out), "test")
    assert split.names[0].startswith("pics/")
    assert split.labels.mask(0).tolist() == [[1] * 4] * 3
    assert verify_manifest(out).ok


def test_masks_in_a_zip(tmp_path):
    lay_out(tmp_path / "d", [f"{part}/{i}.png" for i in TEN for part in ("images", "labels")])
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for path in sorted((tmp_path / "d").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path / "d"))
    out = build(tmp_path / "d.zip", tmp_path / "m.yaml", "labels")
    assert read_split(open_manifest(out), "test").labelled
    assert verify_manifest(out).ok


def test_masks_for_some_make_these_the_test_split(tmp_path):
    lay_out(tmp_path / "d", [f"images/{i}.png" for i in TEN] + ["masks/3.png", "masks/5.png"])
    manifest = open_manifest(build(tmp_path / "d", tmp_path / "m.yaml", "masks"))
    assert list(manifest.splits) == ["adapt", "test"]
    assert read_split(manifest, "test").names == ("images/3.png", "images/5.png")
    assert not read_split(manifest, "adapt").labelled
    assert verify_manifest(tmp_path / "m.yaml").ok


def test_without_masks_there_is_one_split_and_masks_are_no_images(tmp_path):
    lay_out(tmp_path / "d", ["1.png", "1_mask.png", "2.png", "lone_mask.png"])
    manifest = open_manifest(build(tmp_path / "d", tmp_path / "m.yaml", classes=None))
    assert read_split(manifest, "adapt").names == ("1.png", "2.png", "lone_mask.png")
    lay_out(tmp_path / "e", ["images/1.png", "labels/1.png"])
    lay_out(tmp_path / "e", ["images/labels/2.png", "labels/no image.png"])
    manifest = open_manifest(build(tmp_path / "e", tmp_path / "m.yaml", classes=None))
    images = ("images/1.png", "images/labels/2.png", "labels/no image.png")
    assert read_split(manifest, "adapt").names == images


def test_videos_stay_on_one_side(tmp_path):
    names = [f"{part}/v{i % 5}/{i}.png" for i in range(20) for part in ("images", "masks")]
    out = build(lay_out(tmp_path / "d", names), tmp_path / "m.yaml", "masks", groups="folder")
    adapt, test = (read_split(open_manifest(out), name) for name in ("adapt", "test"))
    assert not set(adapt.groups) & set(test.groups)
    assert (len(adapt), len(test)) == (16, 4)


def test_spacing_and_values_are_written_down(tmp_path):
    lay_out(tmp_path / "d", [f"{part}/{i}.png" for i in TEN for part in ("images", "masks")])
    options = MaskOptions.from_text("masks", "1,255", None, None, "0.5x0.25")
    out = build_manifest(
        tmp_path / "d",
        problem="segmentation",
        out=tmp_path / "m.yaml",
        classes=("a", "b"),
        masks=options,
    )
    manifest = open_manifest(out)
    assert (manifest.values, manifest.ignore) == ((1, 255), None)
    split = read_split(manifest, "test")
    assert split.spacings == ((0.5, 0.25),) * 2
    assert split.labels.mask(0).tolist() == [[0] * 4] * 3


def test_an_npz_with_masks_and_groups(tmp_path):
    groups = np.repeat(np.arange(5), 4)
    np.savez(
        tmp_path / "d.npz",
        images=np.zeros((20, 3, 3), np.uint8),
        masks=np.ones((20, 3, 3), np.uint8),
        groups=groups,
    )
    blind = open_manifest(build(tmp_path / "d.npz", tmp_path / "blind.yaml", classes=None))
    assert not read_split(blind, "adapt").labelled
    seen = open_manifest(build(tmp_path / "d.npz", tmp_path / "seen.yaml"))
    adapt, test = read_split(seen, "adapt"), read_split(seen, "test")
    assert (len(adapt), len(test)) == (16, 4)
    assert not set(adapt.groups) & set(test.groups)
    assert test.labels.mask(0).tolist() == [[1] * 3] * 3


@pytest.mark.parametrize(
    ("names", "where", "said"),
    [
        (["images/1.png", "masks/2.png"], "masks", r"without an image: masks/2\.png"),
        (["i/1.png", "masks/1.png", "masks/1.tif"], "masks", "several masks for one image"),
        (["i/1.png", "i/1.jpg", "masks/1.png"], "masks", "several images for one mask"),
        (["images/1.png"], ".", "no masks at"),
        (["masks/1.png"], "masks", "no images"),
    ],
)
def test_masks_that_do_not_fit_are_refused(tmp_path, names, where, said):
    with pytest.raises(BadInput, match=said):
        build(lay_out(tmp_path / "d", names), tmp_path / "m.yaml", where)
    assert not (tmp_path / "m.yaml").exists()


def test_options_that_do_not_fit_are_refused(tmp_path):
    lay_out(tmp_path / "d", ["images/1.png", "masks/1.png"])
    with pytest.raises(BadInput, match="--classes"):
        build(tmp_path / "d", tmp_path / "m.yaml", "masks", classes=None)
    with pytest.raises(BadInput, match="spacing wide is not"):
        build(tmp_path / "d", tmp_path / "m.yaml", "masks", spacing="wide")
    with pytest.raises(BadInput, match="whole numbers"):
        MaskOptions.from_text("masks", "a,b", None, None, None)
    with pytest.raises(BadInput, match="masks are for segmentation"):
        build_manifest(
            tmp_path / "d",
            problem="classification",
            out=tmp_path / "m.yaml",
            masks=MaskOptions("masks"),
        )
    with pytest.raises(BadInput, match="one value for each of 3"):
        build(tmp_path / "d", tmp_path / "m.yaml", "masks", values=(0, 1))
    assert not (tmp_path / "m.yaml").exists()


def test_classes_of_masks_cannot_be_left_out_of_a_set(folder):
    with pytest.raises(BadInput, match=r"masks are of parts of images.*sfda manifest"):
        write_subset(folder.path, classes=CLASSES[:2], out=folder.folder / "s.yaml")


def test_ignore_is_255_in_memory_whatever_it_is_on_disk():
    assert IGNORE == 255
