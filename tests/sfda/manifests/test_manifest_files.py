"""Opening, verifying and digesting manifests: every fault is named, labels never leak."""

import csv
import hashlib
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from sfda.errors import BadInput
from sfda.loading.opened import manifest_ref
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split, unlabelled_digest
from sfda.manifests.schema import Manifest
from sfda.manifests.verify import verify_manifest

CLASSES = ["cat", "dog"]


def png(value: int, size=(6, 5)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 0, 255 - value)).save(buffer, "PNG")
    return buffer.getvalue()


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Made:
    """A manifest on disk whose parts a test may spoil."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self.path, self.csv = folder / "m.yaml", folder / "m.csv"
        self.names = [f"{CLASSES[i % 2]}/{i}.png" for i in range(6)]
        self.document = {
            "name": "toy",
            "problem": "classification",
            "origin": "made here",
            "root": "./data",
            "classes": CLASSES,
        }
        data = folder / "data"
        if kind == "folder":
            for i, name in enumerate(self.names):
                (data / name).parent.mkdir(parents=True, exist_ok=True)
                (data / name).write_bytes(png(i))
        elif kind == "zip":
            self.pack({name: png(i) for i, name in enumerate(self.names)})
        else:
            self.save(np.array([0, 1, 0, 1, 0, 1]))
        key = "index" if kind == "npz" else "file"
        self.write_rows(
            [
                {
                    key: i if kind == "npz" else name,
                    "class": CLASSES[i % 2],
                    "split": "adapt" if i < 4 else "test",
                }
                for i, name in enumerate(self.names)
            ]
        )

    def pack(self, members: dict[str, bytes]) -> None:
        (self.folder / "data").mkdir(exist_ok=True)
        path = self.folder / "data" / "all.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        self.document["archive"] = {"file": "all.zip", "sha256": sha(path)}

    def save(self, labels: np.ndarray, **others: np.ndarray) -> None:
        (self.folder / "data").mkdir(exist_ok=True)
        path = self.folder / "data" / "all.npz"
        images = np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4)
        arrays = {"x": images, "y": labels, "part": np.array([0, 0, 0, 0, 1, 1])} | others
        np.savez(path, **arrays)
        self.document["archive"] = {"file": "all.npz", "sha256": sha(path)}
        self.document["arrays"] = {"image": "x", "label": "y", "split": "part"}

    def write_rows(self, rows: list[dict]) -> None:
        with self.csv.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        self.rows = rows
        entry = {"rows": "m.csv", "sha256": sha(self.csv)}
        counts = {s: sum(r.get("split") == s for r in rows) for s in ("adapt", "test")}
        self.write(splits={s: entry | {"where": s, "count": n} for s, n in counts.items()})

    def write(self, **changes) -> None:
        self.document |= changes
        self.path.write_text(yaml.safe_dump(self.document))

    def open(self) -> Manifest:
        return open_manifest(self.path)

    def faults(self) -> str:
        result = verify_manifest(self.path)
        assert result.ok == (not result.faults)
        return " | ".join(result.faults)


@pytest.fixture(params=["folder", "zip", "npz"])
def made(request, tmp_path):
    return Made(tmp_path, request.param)


@pytest.fixture
def folder(tmp_path):
    return Made(tmp_path, "folder")


@pytest.fixture
def zipped(tmp_path):
    return Made(tmp_path, "zip")


@pytest.fixture
def npz(tmp_path):
    return Made(tmp_path, "npz")


def test_a_split_gives_rows_labels_and_images(made):
    split = read_split(made.open(), "test")
    assert len(split) == 2
    assert split.labels.index.tolist() == [0, 1]
    assert split.classes == ("cat", "dog")
    if made.kind == "npz":
        np.testing.assert_array_equal(split.image(1), np.arange(80, 96).reshape(4, 4))
    else:
        assert split.image(1).shape == (5, 6, 3)
        assert split.image(1)[0, 0].tolist() == [5, 0, 250]


def test_row_ids_are_opaque_and_names_are_not(zipped):
    split = read_split(zipped.open(), "adapt")
    assert split.names[1] == "dog/1.png"
    assert split.row_ids[1] == hashlib.sha256(b"dog/1.png").hexdigest()[:16]
    assert "dog/1.png" not in repr(split)


def test_a_sound_manifest_passes(made):
    seen = []
    result = verify_manifest(made.path, progress=lambda done, total: seen.append((done, total)))
    assert result.ok, result.faults
    assert (result.count, result.classes) == (6, ("cat", "dog"))
    assert seen[-1:] == ([] if made.kind == "npz" else [(6, 6)])


def test_unlabelled_gives_no_labels_ever(made):
    blind = made.open().unlabelled()
    assert read_split(blind, "test").labels is None
    assert read_split(blind.unlabelled(), "adapt").labels is None
    assert read_split(blind.model_copy(), "adapt").labels is None
    assert blind.arrays is None or blind.arrays.label is None


def test_labels_have_no_part_in_the_unlabelled_digest(made):
    before = unlabelled_digest(made.open(), "adapt")
    if made.kind == "npz":
        made.save(np.array([1, 1, 0, 0, 1, 0]))
    rows = [row | {"class": CLASSES[(i + 1) % 2]} for i, row in enumerate(made.rows)]
    made.write_rows(rows)
    assert read_split(made.open(), "adapt").labels.index.tolist() == [1, 0, 1, 0]
    assert unlabelled_digest(made.open(), "adapt") == before


def test_the_label_array_has_no_part_in_the_unlabelled_digest(npz):
    npz.write(splits={"adapt": {"count": 6}})
    before, labels = unlabelled_digest(npz.open(), "adapt"), read_split(npz.open(), "adapt").labels
    npz.save(np.array([1, 1, 0, 0, 1, 0]))
    npz.write()
    assert read_split(npz.open(), "adapt").labels.index.tolist() != labels.index.tolist()
    assert unlabelled_digest(npz.open(), "adapt") == before


@pytest.mark.parametrize("what", ["order", "classes", "split", "bytes"])
def test_what_an_adaptation_sees_changes_the_digest(made, what):
    before, split = unlabelled_digest(made.open(), "adapt"), "adapt"
    if what == "order":
        made.write_rows(made.rows[::-1])
    elif what == "classes":
        made.write(classes=CLASSES[::-1])
    elif what == "split":
        split = "test"
    elif made.kind == "folder":
        (made.folder / "data" / made.names[0]).write_bytes(png(200, (7, 7)))
    elif made.kind == "zip":
        made.pack({name: png(i + 100) for i, name in enumerate(made.names)})
    else:
        made.save(np.zeros(6, int), x=np.ones((6, 4, 4), np.uint8))
    made.write()
    assert unlabelled_digest(made.open(), split) != before


def test_name_and_place_do_not_change_the_digest(folder, tmp_path):
    before = unlabelled_digest(folder.open(), "adapt")
    folder.write(name="other", version=2, origin="elsewhere")
    assert unlabelled_digest(folder.open(), "adapt") == before


def test_splits_of_an_npz_by_array_and_whole(npz):
    npz.write(splits={"train": {"equals": 0, "count": 4}, "all": {"count": 6}})
    manifest = npz.open()
    assert read_split(manifest, "train").labels.index.tolist() == [0, 1, 0, 1]
    assert read_split(manifest, "all").names[5] == "x:5"


def test_classes_may_be_a_number(npz):
    npz.write(classes=2, splits={"all": {"count": 6}})
    assert read_split(npz.open(), "all").labels.index.tolist() == [0, 1, 0, 1, 0, 1]
    npz.write(classes=1)
    assert "label not in 0..0: 1 (1), 3 (1), 5 (1)" in npz.faults()


def test_class_names_become_text(folder):
    folder.write(classes=[0, 1])
    assert folder.open().classes == ("0", "1")


def test_rows_without_labels_have_none(folder):
    folder.write_rows([{k: v for k, v in row.items() if k != "class"} for row in folder.rows])
    assert read_split(folder.open(), "adapt").labels is None
    assert verify_manifest(folder.path).ok


def test_root_is_below_the_data_root(folder, monkeypatch):
    folder.write(root="data")
    assert len(read_split(open_manifest(folder.path, data_root=folder.folder), "test")) == 2
    monkeypatch.setenv("SFDA_DATA", str(folder.folder))
    assert len(read_split(folder.open(), "test")) == 2
    monkeypatch.setenv("SFDA_DATA", str(folder.folder / "elsewhere"))
    with pytest.raises(BadInput, match="SFDA_DATA"):
        read_split(folder.open(), "test")


def test_row_file_may_lie_below_the_root(folder):
    folder.csv.rename(folder.folder / "data" / "m.csv")
    assert verify_manifest(folder.path).ok


def test_an_absolute_root_is_for_our_own_manifests_alone(folder, monkeypatch):
    folder.write(root=str(folder.folder / "data"))
    monkeypatch.setenv("SFDA_HOME", str(folder.folder / "home"))
    with pytest.raises(BadInput, match="absolute"):
        folder.open()
    monkeypatch.setenv("SFDA_HOME", str(folder.folder))
    assert len(read_split(folder.open(), "test")) == 2


def test_reference_is_address_and_content(folder):
    before = manifest_ref(folder.path)
    assert before.sha256 == sha(folder.path)
    folder.write(version=7)
    assert manifest_ref(folder.path).sha256 == sha(folder.path) != before.sha256


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clases": ["a"]}, "unknown key 'clases'"),
        ({"version": "new"}, "version"),
        ({"problem": "regression"}, "problem"),
        ({"classes": [True, "dog"]}, "quotes"),
        ({"classes": ["dog", "dog"]}, "twice: dog"),
        ({"root": "data/../../etc"}, "leaves the data folder"),
        ({"splits": {}}, "no split"),
        ({"splits": {"adapt": {"count": 3}}}, "needs `rows`"),
        ({"splits": {"adapt": {"rows": "m.csv", "count": 3}}}, "sha256"),
        ({"template": True}, "--template"),
    ],
)
def test_what_is_no_manifest_is_refused_by_name(folder, changes, said):
    folder.write(**changes)
    with pytest.raises(BadInput, match=said):
        folder.open()
    assert said.strip("`") in folder.faults()


def test_missing_and_broken_files_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no manifest at"):
        open_manifest(tmp_path / "m.yaml")
    (tmp_path / "m.yaml").write_text("name: [unclosed")
    with pytest.raises(BadInput, match="not valid YAML"):
        open_manifest(tmp_path / "m.yaml")
    (tmp_path / "m.yaml").write_text("just words")
    with pytest.raises(BadInput, match="not a manifest"):
        open_manifest(tmp_path / "m.yaml")
    (tmp_path / "m.yaml").write_bytes(b"\xff\xfe\x00\x80")
    assert not verify_manifest(tmp_path / "m.yaml").ok


def test_a_missing_split_is_named_with_those_there(made):
    with pytest.raises(BadInput, match="no split 'val'; there are adapt, test"):
        read_split(made.open(), "val")


def test_a_changed_row_file_is_refused_with_a_remedy(made):
    made.csv.write_text(made.csv.read_text().replace("cat", "dog"))
    with pytest.raises(BadInput, match=r"other sha256.*sfda manifest"):
        read_split(made.open(), "adapt")
    made.csv.unlink()
    with pytest.raises(BadInput, match=r"m\.csv is missing"):
        read_split(made.open(), "adapt")


def test_an_empty_split_is_refused(made):
    splits = made.document["splits"]
    made.write(splits=splits | {"none": splits["adapt"] | {"where": "nowhere", "count": 0}})
    with pytest.raises(BadInput, match="split 'none': it has no rows"):
        read_split(made.open(), "none")
    assert "split 'none': it has no rows" in made.faults()


def test_every_fault_of_the_rows_is_named(folder):
    rows = [dict(row) for row in folder.rows]
    rows[0]["class"] = "cow"
    rows[2]["file"] = "../secret.png"
    rows[3]["file"] = rows[1]["file"]
    folder.write_rows(rows)
    folder.document["splits"]["test"]["count"] = 9
    folder.write()
    output = folder.faults()
    assert "cat/0.png (cow)" in output
    assert "not a path below the root: ../secret.png" in output
    assert "named twice: dog/1.png" in output
    assert "split 'test': 2 rows, but the manifest counts 9" in output


def test_labels_by_number(folder):
    rows = [
        {k: v for k, v in r.items() if k != "class"} | {"label": i % 2}
        for i, r in enumerate(folder.rows)
    ]
    folder.write_rows(rows)
    assert read_split(folder.open(), "adapt").labels.index.tolist() == [0, 1, 0, 1]
    rows[1]["label"], rows[4]["label"] = 2, "x"
    folder.write_rows(rows)
    assert "label not in 0..1: dog/1.png (2)" in folder.faults()
    assert "label is not a whole number: cat/4.png (x)" in folder.faults()
    assert read_split(folder.open().unlabelled(), "adapt").labels is None


def test_class_and_label_that_disagree_are_a_fault(folder):
    folder.write_rows([row | {"label": 0} for row in folder.rows])
    assert "dog/1.png: columns class and label disagree" in folder.faults()


def test_missing_and_corrupt_images_are_all_named(folder):
    data = folder.folder / "data"
    (data / "cat/0.png").unlink()
    (data / "dog/3.png").write_bytes(b"no image at all")
    (data / "cat/4.png").write_bytes(png(4)[:48])
    output = folder.faults()
    assert "cat/0.png is missing" in output
    assert "dog/3.png cannot be read: it is no image" in output
    assert "cat/4.png cannot be read" in output
    with pytest.raises(BadInput, match=r"dog/3\.png"):
        read_split(folder.open(), "adapt").image(3)


def test_faults_of_a_zip_are_all_named(zipped):
    members = {name: png(i) for i, name in enumerate(zipped.names)}
    del members["cat/0.png"]
    members["dog/1.png"] = b"broken"
    recorded = zipped.document["archive"]
    zipped.pack(members)
    zipped.write(archive=recorded)
    output = zipped.faults()
    assert "all.zip is not the one" in output
    assert "cat/0.png is missing from" in output
    assert "dog/1.png in" in output
    (zipped.folder / "data" / "all.zip").unlink()
    assert "all.zip is missing" in zipped.faults()
    (zipped.folder / "data" / "all.zip").write_bytes(b"PK no zip")
    assert "all.zip cannot be read" in zipped.faults()


def test_faults_of_an_npz_are_named(npz):
    npz.write_rows([row | {"index": row["index"] * 3} for row in npz.rows])
    assert "index not in 0..5: 6, 9" in npz.faults()
    npz.save(np.zeros(6, int), x=np.zeros((6, 4, 4), np.float32))
    npz.write()
    assert "images must be uint8" in npz.faults()
    npz.write(arrays={"image": "pictures"})
    assert "no array 'pictures'; there are x, y, part" in npz.faults()
    (npz.folder / "data" / "all.npz").write_bytes(b"none")
    assert "cannot be read" in npz.faults()


def test_shipped_manifests_parse_and_carry_the_digests_of_their_row_files():
    here = Path(__file__).parents[3] / "data_manifests"
    for name in (
        "digits/mnist",
        "digits/usps",
        "pacs/photo",
        "pacs/art_painting",
        "camvid/day",
        "camvid/dusk",
    ):
        manifest = open_manifest(here / f"{name}.yaml")
        assert {"adapt", "test", "train", "val"} <= set(manifest.splits)
        assert manifest.origin
        assert manifest.licence
        for spec in manifest.splits.values():
            beside = here / name.split("/")[0] / (spec.rows or "-")
            assert spec.rows is None or "pacs" in name or spec.sha256 == sha(beside)


def test_grey_sixteen_bit_and_turned_images(tmp_path):
    made = Made(tmp_path, "folder")
    data = tmp_path / "data"
    Image.fromarray(np.full((3, 4), 65535, np.uint16)).save(data / "cat/0.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (6, 2)).save(data / "dog/1.png", exif=exif)
    Image.new("L", (6, 2), 9).save(data / "cat/2.png")
    split = read_split(made.open(), "adapt")
    assert split.image(0).tolist() == [[255] * 4] * 3
    assert split.image(1).shape == (6, 2, 3)
    assert split.image(2).shape == (2, 6)


def test_the_rows_of_camvid_at_dusk_are_apart_in_time():
    manifest = open_manifest(Path(__file__).parents[3] / "data_manifests/camvid/dusk.yaml")
    rows = list(csv.DictReader((manifest.path.parent / "dusk.csv").open()))
    frames = [int(row["file"][-10:-4]) for row in rows]
    assert frames == sorted(frames)
    assert [row["split"] for row in rows] == ["adapt"] * 40 + ["unused"] * 4 + ["test"] * 18
    assert manifest.num_classes == 11


@pytest.mark.slow
@pytest.mark.skipif("SFDA_DATA" not in os.environ, reason="needs the data below $SFDA_DATA")
@pytest.mark.parametrize("name", ["day", "dusk"])
def test_camvid_is_as_its_manifests_say(name):
    path = Path(__file__).parents[3] / f"data_manifests/camvid/{name}.yaml"
    result = verify_manifest(path, Path(os.environ["SFDA_DATA"]))
    assert result.ok, result.faults
    assert result.count == {"day": 457, "dusk": 58}[name]
