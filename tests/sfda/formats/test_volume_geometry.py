"""A mask that does not lie where its image does is named, and brought there on request alone."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from sfda.authoring.from_folder import build_manifest
from sfda.authoring.from_masks import MaskOptions
from sfda.errors import BadInput
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.manifests.verify import verify_manifest

SHAPE = (16, 12, 4)
RNG = np.random.default_rng(0)
ORGAN = np.zeros(SHAPE, np.uint8)
ORGAN[4:9, 3:8, 1:] = 1


def affine(*, scale: Any = (1, 1, 1), shift: Any = (0, 0, 0), turn: float = 0.0) -> Any:
    made = np.diag([*scale, 1.0])
    made[:3, 3] = shift
    cos, sin = np.cos(turn), np.sin(turn)
    return np.array([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ made


def written(file: Path, values: Any, lies: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, lies), file)  # type: ignore[no-untyped-call]


def case(
    tmp_path: Path, mask: Any, mask_lies: Any, image_lies: Any = None, shape: Any = SHAPE
) -> Path:
    for name in ("a", "b"):
        image = RNG.integers(0, 200, shape).astype(np.int16)
        written(
            tmp_path / "img" / f"{name}.nii.gz",
            image,
            affine() if image_lies is None else image_lies,
        )
        written(tmp_path / "labels" / f"{name}.nii.gz", mask, mask_lies)
    return tmp_path


def made(folder: Path, **options: Any) -> Path:
    return build_manifest(
        folder, problem="segmentation", classes=("tissue", "organ"), out=folder / "m.yaml",
        masks=MaskOptions("labels", **options),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("lies", "words"),
    [
        (affine(scale=(-1, 1, 1)), "mirrored along axis 0: affine [-1 0 0 0; 0 1 0 0; 0 0 1 0]"),
        (affine(scale=(1, -1, -1)), "mirrored along axis 1, 2"),
        (affine(shift=(50, 0, 0)), "lies 50 mm away: affine [1 0 0 50;"),
        (affine(turn=0.3), "it is turned"),
        (affine(scale=(2, 2, 3)), "its voxels are 3 x 2 x 2 mm, and those of the image 1 x 1 x 1"),
    ],
)
def test_other_geometry_is_named_with_both_affines(lies: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        made(case(tmp_path, ORGAN, lies))
    assert words in str(error.value)
    assert "and of the image [1 0 0 0; 0 1 0 0; 0 0 1 0]" in str(error.value)
    assert ("--resample" in str(error.value)) != ("50 mm" in words), "it would not help there"
    assert not (tmp_path / "m.yaml").exists()


def test_a_manifest_that_is_there_has_faults(tmp_path: Path) -> None:
    manifest = made(case(tmp_path, ORGAN, affine()))
    assert verify_manifest(manifest).ok
    written(tmp_path / "labels" / "a.nii.gz", ORGAN, affine(shift=(0, 7, 0)))
    faults = verify_manifest(manifest).faults
    assert len(faults) == 4, "one a slice of the volume that was changed"
    assert "a.nii.gz does not lie where its image" in faults[0].replace("#0", "")
    split = read_split(open_manifest(manifest), "test")
    rows = [row for row, name in enumerate(split.names) if "a.nii" in name]
    if rows:
        with pytest.raises(BadInput, match="lies 7 mm away"):
            split.labels.mask(rows[0])  # type: ignore[union-attr]


def test_float_noise_and_headers_that_say_nothing_are_no_fault(tmp_path: Path) -> None:
    noisy = affine() + 1e-4
    assert verify_manifest(made(case(tmp_path / "noise", ORGAN, noisy))).ok
    folder = case(tmp_path / "silent", ORGAN, affine())
    for file in (folder / "labels").iterdir():
        image = nibabel.Nifti1Image(ORGAN, None)  # type: ignore[no-untyped-call]
        nibabel.save(image, file)
    assert verify_manifest(made(folder)).ok


def test_resampled_masks_lie_where_their_images_do(tmp_path: Path) -> None:
    """An image of half the spacing: every voxel of the mask becomes 2 x 2 of it."""
    fine = (32, 24, 4)
    lies = affine(scale=(0.5, 0.5, 1), shift=(-0.25, -0.25, 0))
    folder = case(tmp_path / "cases", ORGAN, affine(), lies, fine)
    manifest = made(folder, resample=True)
    assert verify_manifest(manifest).ok
    before = ORGAN.repeat(2, 0).repeat(2, 1)
    seen = 0
    for split in ("adapt", "test"):
        rows = read_split(open_manifest(manifest), split)
        for row, name in enumerate(rows.names):
            if rows.labels is not None:
                at = int(name.rpartition("#")[2])
                assert np.array_equal(rows.labels.mask(row), before[:, :, at].T)  # type: ignore[attr-defined]
                seen += 1
    assert seen
    assert (tmp_path / "cases-labels-resampled" / "a.nii.gz").is_file()
    assert nibabel.load(folder / "labels" / "a.nii.gz").shape == SHAPE, "theirs stay as they were"
    with pytest.raises(BadInput, match="is there already"):
        made(folder, resample=True)
    masks, classes = MaskOptions(tmp_path / "cases-labels-resampled"), ("tissue", "organ")
    again = build_manifest(
        folder / "img",
        problem="segmentation",
        classes=classes,
        out=tmp_path / "n.yaml",
        masks=masks,
    )
    assert verify_manifest(again).count == verify_manifest(manifest).count == 8


def test_what_a_mask_does_not_reach_does_not_count(tmp_path: Path) -> None:
    folder = case(tmp_path, ORGAN, affine(shift=(4, 0, 0)))
    rows = read_split(open_manifest(made(folder, resample=True)), "test")
    mask = rows.labels.mask(0)  # type: ignore[union-attr]
    assert (mask[:, :4] == 255).all()
    assert (mask[:, 4:] != 255).all()


def test_a_mask_of_elsewhere_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    folder = case(tmp_path, ORGAN, affine(shift=(500, 0, 0)))
    with pytest.raises(BadInput, match="nothing of it lies on its image; if both are of the same"):
        made(folder, resample=True)
    assert sorted(path.name for path in folder.iterdir()) == ["img", "labels"]


@pytest.mark.parametrize(
    ("lies", "words"),
    [(affine(scale=(-1, 1, 1)), "6%"), (affine(shift=(9, 0, 0)), "44%"), (affine(turn=0.1), "")],
)
def test_a_mask_that_reaches_little_of_its_image_is_told(
    lies: Any, words: str, tmp_path: Path, caplog: Any
) -> None:
    striped = np.zeros(SHAPE, np.uint8)
    striped[:, ::2] = 1
    folder = case(tmp_path, striped, lies)
    with pytest.raises(BadInput, match="same voxels, save the mask with its image's affine") as no:
        made(folder)
    assert ("of its image alone" in str(no.value)) == bool(words)
    assert words in str(no.value)
    made(folder, resample=True)
    told = [one.getMessage() for one in caplog.records if "reaches" in one.getMessage()]
    assert len(told) == (2 if words else 0)
    assert all(words in one for one in told)


def test_an_image_that_is_a_header_alone_is_no_grid_to_fill(tmp_path: Path) -> None:
    folder = case(tmp_path, ORGAN, affine())
    header = nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), affine()).header  # type: ignore[no-untyped-call]
    header.set_data_shape((600, 600, 600))
    for file in (folder / "img").iterdir():
        file.write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    with pytest.raises(BadInput, match="claims 216000000 bytes, far more than it holds"):
        made(folder, resample=True)
