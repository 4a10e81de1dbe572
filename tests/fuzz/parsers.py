"""The parsers of what people bring: for each a small valid input, and the call that reads it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import asking
import auditing
import nibabel
import numpy as np
import small
import small_det
import small_multi
import small_pose
import small_seg
import torch
import yaml
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from safetensors.torch import save_file

from flows import presets
from flows.cli.model_input import stated_input
from flows.cli.parsing import class_names, read_settings
from flows.cli.tune import _grid
from flows.deployments import read_jobs
from sfda.annotation.audit.answers import take_answers
from sfda.annotation.audit.questions import read_audit
from sfda.annotation.take import take_annotations
from sfda.authoring.conversion.voc import convert_voc
from sfda.authoring.conversion.yolo import convert_yolo
from sfda.authoring.from_folder import build_manifest
from sfda.authoring.from_keypoints import read_skeleton
from sfda.authoring.from_masks import MaskOptions
from sfda.errors import BadInput
from sfda.formats.request import read_request
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import look_at, read_split
from sfda.manifests.subset import read_regimes, write_subset
from sfda.manifests.verify import verify_manifest
from sfda.policy import read_policy
from sfda.problems.registry import read_bundle
from sfda.weights.checkpoints import read_weights
from sfda.weights.load import load_exactly
from sfda.weights.source_card import Card, CardFacts, read_card, write_card

SUFFIXES = ("png", "jpg", "bmp", "gif", "webp", "tif", "ppm", "pgm", "jp2", "avif", "tga")


class Parser(NamedTuple):
    """A reader of files. `make` writes its valid input into an empty folder, `damaged` are those of
    its files that may be damaged, as patterns, and `parse` reads the folder.
    """

    name: str
    make: Callable[[Path], object]
    damaged: Sequence[str]
    parse: Callable[[Path], object]


def noise(seed: int = 0, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)


def write_yaml(path: Path, document: Any) -> Path:
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def checked(folder: Path) -> None:
    """All that a command does with a manifest before it computes. Raises BadInput."""
    result = verify_manifest(folder / "m.yaml", data_root=folder)
    if not result.ok:
        raise BadInput("; ".join(result.faults))
    manifest = open_manifest(folder / "m.yaml", data_root=folder)
    for split in manifest.splits:
        rows = read_split(manifest, split)
        look_at(manifest, rows)
        for row in range(min(3, len(rows))):
            rows.image(row)
            rows.reader.size(row)


def restamp(folder: Path, before: str, after: str) -> None:
    """Put a file's digest where another file states what it was: what is damaged is read then."""
    for path in folder.rglob("*.yaml"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            path.write_bytes(content.replace(before.encode(), after.encode()))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _renamed(made: Path) -> None:
    made.rename(made.with_name("m.yaml"))


def _npz_manifest(folder: Path) -> None:
    arrays = small.arrays({"adapt": 6, "test": 6}, seed=0)
    _renamed(small.write(folder, "t", arrays, {"adapt": 6, "test": 6}))


def _rows_manifest(folder: Path) -> None:
    """Classification: images of many formats, a row file with groups and priors."""
    images(folder / "images")
    lines = [["file", "class", "split", "group", "priors"]]
    for number, suffix in enumerate(SUFFIXES):
        lines.append([f"{number}.{suffix}", "cat", "adapt", "g", "0.5 0.5"])
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    spec = {"rows": "rows.csv", "sha256": sha256(folder / "rows.csv"), "where": "adapt",
            "count": len(SUFFIXES)}  # fmt: skip
    document = {
        "name": "toy", "problem": "classification", "version": 1, "origin": "a test",
        "licence": "none", "root": "./images", "classes": ["cat", "dog"], "splits": {"adapt": spec},
    }  # fmt: skip
    write_yaml(folder / "m.yaml", document)


def _zip_manifest(folder: Path) -> None:
    _zip(folder)
    (folder / "rows.csv").write_text("file\n" + "".join(f"a/{n}.png\n" for n in range(4)))
    rows = {"rows": "rows.csv", "sha256": sha256(folder / "rows.csv"), "count": 4}
    archive_file = {"file": "a.zip", "sha256": sha256(folder / "a.zip")}
    document = {"name": "toy", "problem": "classification", "origin": "a test", "root": ".",
                "archive": archive_file, "splits": {"adapt": rows}}  # fmt: skip
    write_yaml(folder / "m.yaml", document)


def _zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"a/{number}.png", png(number))


def _npz(folder: Path) -> None:
    pictures = np.stack([noise(n) for n in range(8)])
    np.savez(folder / "a.npz", images=pictures, labels=np.arange(8) % 2)


def png(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(noise(seed)).save(out, "PNG")
    return out.getvalue()


def images(folder: Path) -> None:
    """A picture of each format."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, suffix in enumerate(SUFFIXES):
        picture = Image.fromarray(noise(number))
        exif = picture.getexif()
        exif[274] = 6
        grey = picture.convert("L") if suffix in ("pgm", "gif") else picture
        own = {"exif": exif} if suffix in ("jpg", "webp", "png") else {}
        own |= {"compression": "tiff_lzw"} if suffix == "tif" else {}
        own |= {"progressive": True} if suffix == "jpg" else {}
        grey.save(folder / f"{number}.{suffix}", **own)


def _detection(folder: Path) -> None:
    _renamed(small_det.write(folder, "t", {"adapt": 3, "test": 2}, seed=0))


def _pose(folder: Path) -> None:
    _renamed(small_pose.write(folder, "t", {"adapt": 3, "test": 2}))


def _segmentation(folder: Path) -> None:
    _renamed(small_seg.write(folder, "t", {"adapt": 3, "test": 2}, seed=0))


def _multilabel(folder: Path) -> None:
    _renamed(small_multi.write(folder, "t", {"adapt": 6, "test": 6}, seed=0))


def _volume(path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 9, (8, 8, 5)).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(path)


def _volumes(folder: Path) -> None:
    for name in ("images/a.nii", "images/b.nii.gz", "masks/a.nii", "masks/b.nii.gz"):
        _volume(folder / name)


def _series(folder: Path) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for at in range(4):
        (folder / "images").mkdir(exist_ok=True)
        slice_of_it = Dataset()
        slice_of_it.update(
            {
                "Rows": 8, "Columns": 8, "BitsAllocated": 16, "BitsStored": 12, "HighBit": 11,
                "PixelRepresentation": 0, "SamplesPerPixel": 1, "InstanceNumber": at,
                "PhotometricInterpretation": "MONOCHROME2", "RescaleSlope": "2",
                "RescaleIntercept": "-1024", "PixelSpacing": ["0.5", "0.5"],
                "ImagePositionPatient": ["0", "0", str(at)], "SeriesInstanceUID": "1.2",
                "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
            }
        )  # fmt: skip
        slice_of_it.add_new("PixelData", "OW", noise(at)[:8, :8, 0].astype("<u2").tobytes())
        slice_of_it.file_meta = meta
        slice_of_it.preamble = bytes(128)
        slice_of_it.save_as(folder / "images" / f"{at}.dcm", enforce_file_format=False)


def _built(folder: Path, **options: Any) -> None:
    """What `sfda manifest` makes of a folder, checked as `sfda check` does."""
    made = folder / "m.yaml"
    build_manifest(options.pop("path", folder / "images"), out=made, **options)
    for written in folder.glob("m.rows.json"):
        json.loads(written.read_bytes(), parse_constant=_no_number)
    try:
        checked(folder)
    except BadInput:  # of the manifest, which was written
        for path in (made, *folder.glob("m.rows.*")):
            path.unlink(missing_ok=True)
        raise


def _labels(folder: Path) -> None:
    images(folder / "images")
    lines = [f"{number}.{suffix},{'cat' if number % 2 else 'dog'}\n" for number, suffix in
             enumerate(SUFFIXES)]  # fmt: skip
    (folder / "labels.csv").write_text("file,class\n" + "".join(lines))


def _cells(folder: Path) -> None:
    images(folder / "images")
    lines = [f"{n}.{suffix},cat;dog\n" for n, suffix in enumerate(SUFFIXES)]
    (folder / "labels.csv").write_text("file,classes\n" + "".join(lines))


def _listed(folder: Path) -> None:
    images(folder / "images")
    lines = [f"images/{n}.{suffix}" for n, suffix in enumerate(SUFFIXES)]
    (folder / "images.txt").write_text("\n".join(lines))


def _boxes(folder: Path) -> None:
    small_det.write(folder, "t", {"adapt": 3, "test": 2}, seed=0)
    (folder / "t").rename(folder / "images")
    (folder / "t.yaml").unlink()


def _persons(folder: Path) -> None:
    small_pose.write(folder, "t", {"adapt": 3, "test": 2})
    (folder / "t").rename(folder / "images")
    (folder / "t.yaml").unlink()
    write_yaml(folder / "s.yaml", {"edges": [["neck", "hip"]], "unit": "box"})


def _voc(folder: Path) -> None:
    folder = folder / "voc"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.png</filename><size><width>16</width><height>16"
            "</height><depth>3</depth></size><object><name>cat</name><difficult>0</difficult>"
            "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox></object>"
            "</annotation>"
        )


def _yolo(folder: Path) -> None:
    folder = folder / "yolo"
    folder.mkdir()
    for number in range(2):
        Image.new("RGB", (16, 16)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("0 0.5 0.5 0.25 0.25\n1 .1 .1 .9 .1 .9 .9\n")
    (folder / "data.yaml").write_text("names: {0: cat, 1: dog}\nkpt_shape: [2, 3]\n")


def _request(problem: str, *exports: Callable[[Path], object]) -> Callable[[Path], None]:
    """A manifest, a request about three of its rows, and what tools export of it."""
    write = {"segmentation": _segmentation, "detection": _detection, "pose": _pose}

    def make(folder: Path) -> None:
        if problem == "classification":
            _npz_manifest(folder)
        else:
            write[problem](folder)
        asking.request_for(folder / "m.yaml", [0, 1, 2], folder / "ask")
        for export in exports:
            made = export(folder / "ask")
            if isinstance(made, Path):
                made.rename(folder / f"answers{made.suffix}")

    return make


def _taken(folder: Path) -> None:
    (path,) = folder.glob("answers.*")
    taken = take_annotations(folder / "ask", path, folder / "m.yaml", data_root=folder)
    for written in folder.glob(f"{taken.manifest.stem}*.json"):
        json.loads(written.read_bytes(), parse_constant=_no_number)


def _no_number(word: str) -> NoReturn:
    raise AssertionError(f"{word} was written, which is no JSON")


def _table_of_masks(folder: Path) -> Path:
    rows = read_request(folder).requested
    lines = ["row,mask"]
    for number, row in enumerate(rows):
        name = f"mask{number}.png"
        Image.fromarray(np.eye(32, dtype=np.uint8)).save(folder.parent / name)
        lines.append(f"{row.row},{name}")
    path = folder / "masks.csv"
    path.write_text("\n".join(lines))
    return path


def _painted(folder: Path) -> Path:
    """CVAT's XML with a polygon and a mask in each picture."""
    lines = ["<annotations>"]
    for row in read_request(folder).requested:
        lines += [
            f'<image id="0" name="{row.file}" width="32" height="32">',
            '<polygon label="disc" points="1,1;20,1;20,20" z_order="0"/>',
            '<mask label="bar" rle="10,6,16" left="0" top="0" width="8" height="4" z_order="1"/>',
            "</image>",
        ]
    path = folder / "painted.xml"
    path.write_text("\n".join([*lines, "</annotations>"]))
    return path


def _polygons(folder: Path) -> Path:
    rows = read_request(folder).requested
    document = {
        "images": [
            {"id": n, "file_name": row.file, "height": 32, "width": 32}
            for n, row in enumerate(rows)
        ],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 9, 9], "segmentation": shape}
            for n, shape in enumerate(
                ([[1, 1, 20, 1, 20, 20]], {"size": [32, 32], "counts": [100, 60, 864]},
                 {"size": [32, 32], "counts": "T3l1`K"})
            )
        ],
        "categories": [{"id": 1, "name": "disc"}],
    }  # fmt: skip
    path = folder / "polygons.json"
    path.write_text(json.dumps(document))
    return path


def _audit(folder: Path) -> None:
    request = auditing.audit_of(folder / "ask", unchanged=2)
    page = {"format": "sfda-audit-answers-1", "audit": request.id, "person": "a",
            "answers": {q.id: q.choices[0] for q in request.questions}}  # fmt: skip
    (folder / "answers.json").write_text(json.dumps(page))


def _audit_table(folder: Path) -> None:
    request = auditing.audit_of(folder / "ask", "pose")
    lines = ["unit,answer,x,y", *(f"{q.id},,3.5,4" for q in request.questions)]
    (folder / "answers.csv").write_text("\n".join(lines))


def _answered(folder: Path) -> None:
    (path,) = folder.glob("answers.*")
    request = read_audit(folder / "ask")
    take_answers(folder / "ask", request, path)
    take_answers(folder / "ask", request, path)


def _state() -> dict[str, torch.Tensor]:
    return {"fc.weight": torch.ones(3, 4), "fc.bias": torch.zeros(3)}


def _checkpoint(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        path, state = folder / name, _state()
        if name.endswith(".safetensors"):
            save_file(state, path)
        elif name.endswith(".npz"):
            np.savez(path, **{key: value.numpy() for key, value in state.items()})
        elif "legacy" in name:
            torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=False)
        else:
            torch.save({"state_dict": state, "meta": {"epoch": 1}}, path)

    return make


def _weights(folder: Path) -> None:
    (path,) = folder.iterdir()
    network = torch.nn.Sequential()
    network.add_module("fc", torch.nn.Linear(4, 3))
    load_exactly(network, read_weights(path), head="fc")


def _bundle(folder: Path) -> None:
    small.bundle(folder / "model")
    shares = torch.full((len(small.CLASSES),), 1 / len(small.CLASSES))
    facts = CardFacts(
        classes=small.CLASSES, source_sha256="0" * 64, manifest="toy", manifest_sha256="0" * 64,
        split="val", count=9, metrics={"accuracy": 0.5}, temperature=1.0,
    )  # fmt: skip
    write_card(folder / "model", Card(facts, {"class_prior": shares}))


def _opened_model(folder: Path) -> None:
    read_card(folder / "model")
    read_bundle(folder / "model")


def _yaml(document: Any) -> Callable[[Path], object]:
    return lambda folder: write_yaml(folder / "f.yaml", document)


def _subset(folder: Path) -> None:
    write_subset(folder / "m.yaml", classes=["cat"], out=folder / "s.yaml", data_root=folder)


JOBS = {"jobs": [{"name": "nightly", "every": "2h", "target": "m.yaml", "source": "models:/a/1",
                  "method": "aad", "epochs": 2, "settings": {"push": 1.0}}]}  # fmt: skip
POLICY = {"alpha": 0.05, "budget": 40, "margin": 0.0, "vetoes": {"one_class": 0.8}}
PRESET = {"method": "shot", "epochs": 2, "settings": {"schedule": {"lr": 0.01}}}
INPUT = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "channels": "rgb", "scale": 255}
REGIMES = {"open": {"source": ["a", "b"], "target": ["a", "b", "c"]}}
SKELETON = {"edges": [["a", "b"]], "pairs": [["a", "b"]], "groups": {"all": ["a"]}, "unit": "box",
            "sigmas": {"a": 0.05}}  # fmt: skip

PARSERS = (
    Parser("manifest, npz", _npz_manifest, ["m.yaml", "*.npz"], checked),
    Parser("manifest, rows", _rows_manifest, ["m.yaml", "rows.csv", "images/*"], checked),
    Parser("manifest, zip", _zip_manifest, ["m.yaml", "rows.csv", "a.zip"], checked),
    Parser("manifest, boxes", _detection, ["m.yaml", "t.json"], checked),
    Parser("manifest, poses", _pose, ["m.yaml", "t.json"], checked),
    Parser("manifest, masks", _segmentation, ["m.yaml", "t.csv", "t/masks/*"], checked),
    Parser("manifest, labels", _multilabel, ["m.yaml", "*.npz"], checked),
    Parser("folder of images", lambda f: images(f / "images"), ["images/*"],
           lambda f: _built(f, problem="classification")),
    Parser("labels as CSV", _labels, ["labels.csv"],
           lambda f: _built(f, problem="classification", labels_csv=f / "labels.csv")),
    Parser("several labels", _cells, ["labels.csv"],
           lambda f: _built(f, problem="multilabel", labels_csv=f / "labels.csv")),
    Parser("list of images", _listed, ["images.txt"],
           lambda f: _built(f, path=f / "images.txt", problem="detection")),
    Parser("zip of images", _zip, ["a.zip"],
           lambda f: _built(f, path=f / "a.zip", problem="classification")),
    Parser("npz of images", _npz, ["a.npz"],
           lambda f: _built(f, path=f / "a.npz", problem="classification", classes=("a", "b"))),
    Parser("volumes", _volumes, ["images/*", "masks/*"],
           lambda f: _built(f, masks=MaskOptions(str(f / "masks")),
                            problem="segmentation", classes=tuple("abcdefghi"))),
    Parser("DICOM series", _series, ["images/*"], lambda f: _built(f, problem="segmentation")),
    Parser("COCO boxes", _boxes, ["t.json"],
           lambda f: _built(f, problem="detection", annotations=f / "t.json")),
    Parser("COCO poses", _persons, ["t.json", "s.yaml"],
           lambda f: _built(f, problem="pose", annotations=f / "t.json",
                            skeleton=read_skeleton(f / "s.yaml"))),
    Parser("VOC", _voc, ["voc/*"], lambda f: convert_voc(f / "voc", f / "coco.json")),
    Parser("YOLO", _yolo, ["yolo/*.txt", "yolo/*.yaml"],
           lambda f: convert_yolo(f / "yolo", f / "coco.json")),
    Parser("subset", _rows_manifest, ["m.yaml", "rows.csv"], _subset),
    Parser("Label Studio, classes", _request("classification", asking.exported), ["answers.*"],
           _taken),
    Parser("Label Studio, masks", _request("segmentation", asking.exported), ["answers.*"], _taken),
    Parser("Label Studio, boxes", _request("detection", asking.exported), ["answers.*"], _taken),
    Parser("Label Studio, joints", _request("pose", asking.exported), ["answers.*"], _taken),
    Parser("Label Studio, JSON-MIN", _request("detection", asking.least), ["answers.*"], _taken),
    Parser("CVAT, COCO", _request("detection", asking.coco), ["answers.*"], _taken),
    Parser("CVAT, XML", _request("detection", asking.xml), ["answers.*"], _taken),
    Parser("CVAT, masks", _request("segmentation", _painted), ["answers.*"], _taken),
    Parser("COCO masks", _request("segmentation", _polygons), ["answers.*"], _taken),
    Parser("answers, CSV", _request("detection", asking.filled), ["answers.*"], _taken),
    Parser("answers, masks", _request("segmentation", _table_of_masks), ["answers.*", "mask*.png"],
           _taken),
    Parser("request", _request("detection", asking.filled), ["ask/request.json"], _taken),
    Parser("audit", _audit, ["ask/audit.json"], _answered),
    Parser("audit, answers", _audit, ["answers.json"], _answered),
    Parser("audit, table", _audit_table, ["answers.csv"], _answered),
    Parser("weights, safetensors", _checkpoint("a.safetensors"), ["*"], _weights),
    Parser("weights, torch", _checkpoint("a.pt"), ["*"], _weights),
    Parser("weights, old torch", _checkpoint("legacy.pth"), ["*"], _weights),
    Parser("weights, npz", _checkpoint("a.npz"), ["*"], _weights),
    Parser("bundle", _bundle, ["model/*"], _opened_model),
    Parser("classes", lambda f: (f / "c.txt").write_text("cat\ndog\n"), ["c.txt"],
           lambda f: class_names(None, f / "c.txt")),
    Parser("classes, JSON", lambda f: (f / "c.json").write_text('{"names": ["cat", "dog"]}'),
           ["c.json"], lambda f: class_names(None, f / "c.json")),
    Parser("jobs", _yaml(JOBS), ["f.yaml"], lambda f: read_jobs(f / "f.yaml")),
    Parser("policy", _yaml(POLICY), ["f.yaml"], lambda f: read_policy(f / "f.yaml")),
    Parser("preset", _yaml(PRESET), ["f.yaml"], lambda f: presets.read(str(f / "f.yaml"))),
    Parser("input", _yaml(INPUT), ["f.yaml"],
           lambda f: stated_input("sfda:lenet", "classification", file=f / "f.yaml")),
    Parser("skeleton", _yaml(SKELETON), ["f.yaml"], lambda f: read_skeleton(f / "f.yaml")),
    Parser("regimes", _yaml(REGIMES), ["f.yaml"], lambda f: read_regimes(f / "f.yaml")),
    Parser("settings", _yaml(PRESET), ["f.yaml"],
           lambda f: read_settings([f"schedule=@{f / 'f.yaml'}"])),
    Parser("grid", _yaml({"aad": {"push": [1, 2]}}), ["f.yaml"], lambda f: _grid(f / "f.yaml")),
)  # fmt: skip
