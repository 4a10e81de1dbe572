"""Images and masks as public data sets name them; masks drawn on a picture that EXIF turns."""

from __future__ import annotations

import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from sfda.authoring.from_folder import build_manifest
from sfda.authoring.from_masks import MaskOptions
from sfda.errors import BadInput
from sfda.formats.table import read_csv
from sfda.manifests.verify import verify_manifest

MASK = np.zeros((8, 12), np.uint8)
MASK[2:5, 3:7] = 1


def put(file: Path, *, mask: bool = False) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.name.endswith(".nii.gz"):
        values = np.stack([MASK] * 3, -1) * (1 if mask else 90)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), file)  # type: ignore[no-untyped-call]
    else:
        Image.fromarray(MASK if mask else MASK * 90).save(file)


def cityscapes(folder: Path) -> str:
    for city in ("ulm", "bonn"):
        for number in range(3):
            stem = f"{city}_{number:06d}_000019"
            put(folder / "leftImg8bit" / "val" / city / f"{stem}_leftImg8bit.png")
            below = folder / "gtFine" / "val" / city
            put(below / f"{stem}_gtFine_labelIds.png", mask=True)
            put(below / f"{stem}_gtFine_color.png")
            put(below / f"{stem}_gtFine_instanceIds.png", mask=True)
            (below / f"{stem}_gtFine_polygons.json").write_text("{}")
    return "gtFine"


def train_ids(folder: Path) -> str:
    for number in range(3):
        put(folder / "images" / f"a_{number}_leftImg8bit.png")
        put(folder / "masks" / f"a_{number}_gtCoarse_labelTrainIds.png", mask=True)
    return "masks"


def nnunet(folder: Path) -> str:
    for number in range(3):
        put(folder / "imagesTr" / f"heart_{number:03d}_0000.nii.gz")
        put(folder / "labelsTr" / f"heart_{number:03d}.nii.gz", mask=True)
    return "labelsTr"


def nnunet_pictures(folder: Path) -> str:
    for number in range(3):
        put(folder / "imagesTr" / f"road_{number:03d}_0000.png")
        put(folder / "labelsTr" / f"road_{number:03d}.png", mask=True)
    return "labelsTr"


def frames(folder: Path) -> str:
    """Numbers that are no channels."""
    for number in range(3):
        put(folder / "images" / f"frame_{number:04d}.png")
        put(folder / "masks" / f"frame_{number:04d}_mask.png", mask=True)
    return "masks"


def manifest(path: Path, masks: str) -> Path:
    return build_manifest(
        path, problem="segmentation", classes=("road", "car"), out=path.parent / "m.yaml",
        masks=MaskOptions(masks),
    )  # fmt: skip


@pytest.mark.parametrize("make", [cityscapes, train_ids, nnunet, nnunet_pictures, frames])
@pytest.mark.parametrize("packed", [False, True])
def test_every_image_has_its_mask(make, packed: bool, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    masks, path = make(folder), folder
    if packed:
        path = tmp_path / "data.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*.*")):
                archive.write(file, file.relative_to(folder))
    made = manifest(path, masks)
    report = verify_manifest(made)
    assert report.ok, report.faults
    rows, _ = read_csv(next(tmp_path.glob("m*.csv")))
    assert len(rows) == report.count == len({row["mask"] for row in rows})
    assert all("labelIds" in row["mask"] for row in rows) == (make is cityscapes)
    assert not any("color" in row["file"] or row["file"] == row["mask"] for row in rows)


def test_other_channels_are_named(tmp_path: Path) -> None:
    masks = nnunet_pictures(tmp_path / "data")
    put(tmp_path / "data" / "imagesTr" / "road_001_0001.png")
    with pytest.raises(BadInput, match=r"several channels, one a file \(.*road_001_0001\.png\)"):
        manifest(tmp_path / "data", masks)


@pytest.mark.parametrize("kind", ["jpg", "tif", "png"])
@pytest.mark.parametrize("orientation", [6, 8])
def test_a_mask_of_the_unturned_picture_is_told_from_one_of_another_size(
    kind: str, orientation: int, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for number in range(2):
        put(tmp_path / "data" / "masks" / f"{number}.png", mask=True)
        (tmp_path / "data" / "img").mkdir(exist_ok=True)
        Image.fromarray(MASK * 90).save(tmp_path / "data" / "img" / f"{number}.{kind}", exif=exif)
    faults = verify_manifest(manifest(tmp_path / "data", "masks")).faults
    assert len(faults) == 2
    assert f"turned by EXIF (orientation {orientation}) and its mask was drawn on" in faults[0]
