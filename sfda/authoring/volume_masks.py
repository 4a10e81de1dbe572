"""Masks of volumes: they lie where their images do, or are brought there on request."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sfda.authoring.listing import Listing
from sfda.authoring.pairing import pair_volumes
from sfda.errors import BadInput, listed
from sfda.formats.readers import BROKEN
from sfda.formats.volumes import Grid, difference_of_grids, slice_of
from sfda.manifests.write import partial_folder
from sfda.state_folder import disk_errors, named_by_a_person

log = logging.getLogger("sfda")
MOST_TIMES = 1100  # of a file's size gzip can stand for
MOST_OF_IT = 0.5  # of an image: a mask that reaches less is told
SAME_VOXELS = "if both are of the same voxels, save the mask with its image's affine"
RESAMPLED = "-resampled"  # ends the name of the folder of masks that were brought to their images


def refuse_masks_elsewhere(listing: Listing, folder: Path | str) -> None:
    """Raise BadInput where masks of volumes lie elsewhere than their images by their headers."""
    moved, pairs = _pairs(listing, folder)
    apart, reached = list[str](), 1.0
    for image, mask in pairs.items():
        ours, theirs = _grid(moved, image), _grid(moved, mask)
        if lies := difference_of_grids(ours, theirs):
            apart.append(f"{mask}: {lies}")
            reached = min(reached, share_reached(ours, theirs))
    if apart:
        remedy = "add --resample, which writes masks that do"
        if not reached:
            remedy = "where one meets nothing of its image it is another's, or its header is wrong"
        elif reached < MOST_OF_IT:
            remedy += f", though one reaches {reached:.0%} of its image alone"
        raise BadInput(
            f"{len(apart)} of {len(pairs)} masks do not lie where their images do "
            f"({listed(apart, '; ')}); {SAME_VOXELS}, or {remedy}"
        )


def resampled_masks(
    listing: Listing, folder: Path | str, outside: int
) -> tuple[Listing, dict[str, str]]:
    """All slices of a folder's volumes, and for each the slice of a mask that was brought to its
    image, in a new folder beside that of the masks. `outside` is the value where a mask ends.

    Raises BadInput where there is nothing to resample, or that folder is there already.
    """
    if not listing.path.is_dir():
        raise BadInput(f"--resample writes masks beside others: unpack {listing.path} first")
    moved, pairs = pair_volumes(listing, folder)
    if not pairs:
        raise BadInput("--resample is for masks of volumes, and there are none")
    above, old = moved.path, _common([_file(mask) for mask in pairs.values()])
    new = PurePosixPath(f"{old}{RESAMPLED}")
    if moved.path == listing.path:  # among the images, where it would be listed as some more
        above = moved.path.absolute().parent
        new = PurePosixPath(f"{moved.path.absolute().name}-{old.name or 'masks'}{RESAMPLED}")
    target, inner = above / new, moved.path.absolute().relative_to(above.absolute())
    if target.exists():
        raise BadInput(f"{target} is there already; use it with --masks, or remove it")
    made = {first: PurePosixPath(_file(mask)).relative_to(old) for first, mask in pairs.items()}
    with (
        disk_errors(str(target)),
        named_by_a_person(target) as umask,
        partial_folder(target.parent, target.name) as unfinished,
    ):
        unfinished.chmod(0o777 & ~umask)
        for first, mask in pairs.items():
            ours, theirs = moved.path / _file(first), moved.path / _file(mask)
            reached = share_reached(_grid(moved, first), _grid(moved, mask))
            if 0 < reached < MOST_OF_IT:
                log.warning(
                    "mask %s reaches %.0f%% of its image, and beyond it nothing counts; %s",
                    theirs,
                    100 * reached,
                    SAME_VOXELS,
                )
            try:
                resample_mask(theirs, ours, unfinished / made[first], outside)
            except BROKEN as error:
                raise BadInput(f"mask {theirs} cannot be resampled: {error}") from None
        unfinished.rename(target)
    keys, masks = list[str](), dict[str, str]()
    for first in moved.keys:
        for at in range(_grid(moved, first).shape[0]):
            keys.append(str(inner / f"{_file(first)}#{at}"))
            if first in made:
                masks[keys[-1]] = f"{new / made[first]}#{at}"
    return dataclasses.replace(moved, path=above, keys=tuple(keys)), masks


def resample_mask(mask: Path, image: Path, out: Path, outside: int) -> None:
    """Write a mask as its image's voxels lie, each the nearest of the mask's; what the mask does
    not reach is `outside`. Raises OSError, or ValueError for what is no volume of three axes.
    """
    import nibabel
    from nibabel.processing import resample_from_to

    resample: Any = resample_from_to
    kind: Any = nibabel.Nifti1Image
    grid: Any = nibabel.load(image)
    drawn: Any = nibabel.load(mask)
    shape, values = tuple(map(int, grid.shape[:3])), np.asanyarray(drawn.dataobj)
    if len(shape) < 3 or values.ndim < 3 or math.prod(values.shape) != math.prod(values.shape[:3]):
        raise ValueError("masks and images of three axes alone can be resampled")
    claimed = math.prod(shape) * grid.get_data_dtype().itemsize
    if claimed > MOST_TIMES * image.stat().st_size:
        raise ValueError(f"its image {image} claims {claimed} bytes, far more than it holds")
    whole = kind(values.reshape(values.shape[:3]).astype(np.uint16), drawn.affine)
    moved = resample(whole, (shape, grid.affine), order=0, mode="grid-constant", cval=outside)
    here = np.asanyarray(moved.dataobj)
    if (here == outside).all() and not (values == outside).all():
        raise ValueError(f"nothing of it lies on its image; {SAME_VOXELS}")
    out.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(kind(here, grid.affine), out)


def share_reached(image: Grid, mask: Grid) -> float:
    """The share of an image's voxels that lie in a mask's, by some of them; 1 where a header does
    not say where its voxels lie.

    >>> def grid(shift):
    ...     return Grid((4, 4, 10), (1.0, 1.0, 1.0), ((1, 0, 0, shift), *np.eye(4).tolist()[1:]))
    >>> [share_reached(grid(0), grid(shift)) for shift in (0, 8, 50)]
    [1.0, 0.2, 0.0]
    """
    if image.affine is None or mask.affine is None:
        return 1.0
    sides = [np.linspace(0, side - 1, min(side, 32)) for side in image.shape[::-1]]
    voxels = np.stack(np.meshgrid(*sides, [1.0], indexing="ij")).reshape(4, -1)
    there = (np.linalg.inv(mask.affine) @ np.array(image.affine) @ voxels)[:3]
    ends = np.array(mask.shape[::-1])[:, None] - 0.5
    return float(((there >= -0.5) & (there <= ends)).all(0).mean())


def _pairs(listing: Listing, folder: Path | str) -> tuple[Listing, dict[str, str]]:
    try:
        return pair_volumes(listing, folder)
    except BadInput:
        return listing, {}  # pairing all slices says it


def _grid(listing: Listing, key: str) -> Grid:
    whole = listing.reader([key]).grid(0)
    assert whole is not None, f"{key} is a slice"
    return whole


def _file(key: str) -> str:
    part = slice_of(key)
    return part.file if part else key


def _common(files: list[str]) -> PurePosixPath:
    """The deepest folder that all files lie in."""
    common = PurePosixPath(files[0]).parent
    while not all(PurePosixPath(file).is_relative_to(common) for file in files):
        common = common.parent
    return common
