"""Rows of a segmentation's new manifest: images with their masks, volumes and spacings."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from sfda.authoring.dicom_series import Series, in_series
from sfda.authoring.groups import Groups, hold_out_groups
from sfda.authoring.listing import Listing, list_images
from sfda.authoring.pairing import pair_masks
from sfda.authoring.splits import ALL_IMAGES, Portion, listing_splits
from sfda.authoring.volume_masks import refuse_masks_elsewhere, resampled_masks
from sfda.authoring.write import RowTable
from sfda.errors import BadInput, listed
from sfda.formats.masks import IGNORE, one_value, values_concerns
from sfda.formats.readers import NpzReader, Reader, npz_array
from sfda.formats.volumes import grid, slice_of
from sfda.manifests.columns import parse_spacing

log = logging.getLogger("sfda")
MASKS_LOOKED_AT = 200  # of all, evenly spread, when a manifest is made


@dataclass(frozen=True)
class MaskOptions:
    """Where masks lie and what they hold.

    `folder` lies below the images' folder, in their zip, or beside them; "." means beside each
    image as `NAME_mask`, `NAME_gt`, `NAME_label` or `NAME_seg`; of an npz it is an array. `values`
    are those of the classes, in their order; `ignore` one that does not count. `groups`
    says what belongs together, see `Groups`; `spacing` is in mm, "0.5x0.5".
    """

    folder: Path | str | None = None
    values: tuple[int, ...] | None = None
    ignore: int | None = 255
    ignore_is_said: bool = False  # a person named it
    groups: str | None = None
    spacing: str | None = None
    resample: bool = False  # bring masks of volumes to where their images lie

    @classmethod
    def from_text(
        cls,
        folder: str | None,
        values: str | None,
        ignore: str | None,
        groups: str | None,
        spacing: str | None,
        *,
        resample: bool = False,
    ) -> MaskOptions:
        """Options as they are typed: values "0,255", ignore a number or "none".

        Without `ignore` it is 255, or none where a class has that value. Raises BadInput.
        """
        try:
            numbers = tuple(int(text) for text in values.split(",")) if values else None
            usual = None if numbers and 255 in numbers else 255
            number = None if ignore == "none" else usual if ignore is None else int(ignore)
        except ValueError:
            raise BadInput(
                f"the values of masks are whole numbers: --values {values or '0,255'} must be like "
                f"0,255 and --ignore {ignore or 255} a number or none"
            ) from None
        return cls(folder, numbers, number, ignore is not None, groups, spacing, resample)

    def keys(self, classes: tuple[str, ...] | int | None) -> dict[str, Any]:
        """What the manifest says of its masks."""
        entries: dict[str, Any] = {} if classes is None else {"ignore": self.ignore}
        return entries | ({"values": list(self.values)} if self.values else {})


def mask_rows(
    path: Path,
    options: MaskOptions,
    *,
    classes: tuple[str, ...] | int | None,
    fraction: float,
    skip: frozenset[str] = frozenset(),
    part: Portion = ALL_IMAGES,
) -> tuple[RowTable, Listing]:
    """Images in `path` with their masks, if `options` say where those are and what `classes` are.

    With masks everywhere `fraction` of the images, or of the volumes and videos, is held out for
    `test`; with masks for some those are `test`. Folders called train, val and test, or an array
    `split`, state the splits instead. Of a `part` volumes and videos are whole.

    Raises BadInput where masks are missing, do not fit, have no classes, or other values than these
    by what some of them show.
    """
    if options.spacing and not parse_spacing(options.spacing):
        raise BadInput(
            f"spacing {options.spacing} is not millimetres such as 0.5x0.5 (row x column) or "
            "2x0.5x0.5 (slice x row x column)"
        )
    listing, named = list_images(path, volumes=True, skip=skip), classes is not None
    if listing.image:
        listing = _array(listing, options, named=named)
        masks = dict.fromkeys(listing.keys, listing.mask) if listing.mask else {}
    elif options.resample and options.folder is not None:
        outside = 0 if options.ignore is None else options.ignore
        listing, masks = resampled_masks(listing, options.folder, outside)
    else:
        if options.folder is not None:
            refuse_masks_elsewhere(listing, options.folder)
        listing, masks = pair_masks(listing, options.folder)
    if masks and not named:
        raise BadInput(
            "masks need the names of their classes, in the order of their values: give "
            "--classes a,b,c or --model; leave out --masks to make a manifest without masks"
        )
    if masks and classes is not None and options.values is None:
        _refuse_values(listing, masks, options, classes)
    listing, series = in_series(listing)
    groups = _groups(listing, options, series)
    splits = listing_splits(listing, listing.keys) or _assign(listing, masks, groups, fraction)
    stays = _stays(listing, masks, groups or listing.keys, splits, part)
    listing = replace(listing, keys=tuple(compress(listing.keys, stays)), splits=())
    groups = tuple(compress(groups, stays))
    splits = tuple(compress(splits, stays))
    rows = RowTable(
        listing.keys,
        ("",) * len(listing.keys),
        splits,
        tuple(masks.get(key) or "" for key in listing.keys) if masks else (),
        () if listing.group else groups,
        _spacings(listing, options, series),
    )
    return rows, listing


def _refuse_values(
    listing: Listing, masks: dict[str, Any], options: MaskOptions, classes: tuple[str, ...] | int
) -> None:
    """Raise BadInput where masks show values that are not 0, 1, 2 ... of the classes, or leave a
    class out that the ignored value may be.
    """
    names = classes if isinstance(classes, tuple) else tuple(map(str, range(classes)))
    stored = _stored(listing, masks)
    pixels, odd = np.zeros(256, dtype=np.int64), set[float]()
    for row in np.unique(
        np.linspace(0, len(masks) - 1, min(len(masks), MASKS_LOOKED_AT), dtype=int)
    ):
        try:
            values, counts = np.unique(one_value(stored.values(int(row))), return_counts=True)
        except BadInput:
            continue  # `check` says it, with all others
        fits = np.isin(values, [*range(len(names)), *([] if options.ignore is None else [IGNORE])])
        pixels[values[fits].astype(int)] += counts[fits]
        odd |= set(values[~fits].tolist())
    shown = sorted({*np.flatnonzero(pixels).tolist(), *odd})
    if odd:
        if len(shown) == len(names) and all(value == int(value) >= 0 for value in shown):
            typed = ",".join(str(int(value)) for value in shown)
            raise BadInput(
                f"the masks hold the values {typed.replace(',', ', ')}, and not 0 to "
                f"{len(names) - 1} of the {len(names)} classes: give the value of each class, in "
                f"the classes' order, as in --values {typed}"
            )
        return
    usual = tuple(range(len(names)))
    if options.ignore_is_said:
        return
    concerns = values_concerns(pixels, names, usual, IGNORE)
    for fault in concerns.faults:
        raise BadInput(f"{fault}; or --ignore 255, if it truly says nothing")
    for note in concerns.notes:
        log.warning("%s", note)


def _stored(listing: Listing, masks: dict[str, Any]) -> Reader:
    """The masks of a listing, one after the other."""
    if listing.image:
        return NpzReader(listing.path, str(listing.mask), np.arange(len(masks)))
    return replace(listing.reader(tuple(masks.values())), what="mask")


def _stays(
    listing: Listing,
    masks: dict[str, Any],
    owners: tuple[str, ...],
    splits: tuple[str, ...],
    part: Portion,
) -> tuple[bool, ...]:
    """Which images stay in a part, whole groups of them, alike of every split."""
    kind_of = {
        owner: f"{split} {key in masks}"
        for owner, key, split in zip(owners, listing.keys, splits, strict=True)
    }
    units = tuple(kind_of)
    limit = part.limit and max(1, part.limit * len(units) // len(owners))  # images to groups
    stays = replace(part, limit=limit).of(units, tuple(kind_of.values()))
    taken = set(compress(units, stays))
    return tuple(owner in taken for owner in owners)


def _array(listing: Listing, options: MaskOptions, *, named: bool) -> Listing:
    """The listing of an npz with the mask array that was asked for, by name or by its classes."""
    if options.folder is None:
        return listing if named else replace(listing, mask=None)
    return replace(listing, mask=str(options.folder))


def _groups(listing: Listing, options: MaskOptions, series: Series) -> tuple[str, ...]:
    """The group of each row; () where there are none."""
    if listing.group:
        named = npz_array(listing.path, listing.group)
        if named.shape != (len(listing.keys),):
            raise BadInput(
                f"{listing.path}: array '{listing.group}' is {list(named.shape)}, not one group "
                f"for each of {len(listing.keys)} images"
            )
        return tuple(str(name) for name in named)
    volumes = [
        part.file if (part := slice_of(key)) else series.groups.get(key, "") for key in listing.keys
    ]
    if any(volumes):
        return tuple(file or key for file, key in zip(volumes, listing.keys, strict=True))
    return () if listing.image else Groups(options.groups).of(listing.keys)


def _spacings(listing: Listing, options: MaskOptions, series: Series) -> tuple[str, ...]:
    """What was given, or what the headers of volumes say, as text; () where nothing is known."""
    if options.spacing:
        return (options.spacing,) * len(listing.keys)
    parts = [None if listing.image else slice_of(key) for key in listing.keys]
    files, texts = listing.reader(()).files, list[str]()
    for key, part in zip(listing.keys, parts, strict=True):
        if part is None:
            if key not in series.spacings:
                return ()  # pictures do not say
            texts.append(series.spacings[key])
            continue
        sizes = grid(files.address(part.file)).spacing
        texts.append("x".join(f"{size:.6g}" for size in sizes))
    return tuple(texts)


def _assign(
    listing: Listing, masks: dict[str, Any], groups: tuple[str, ...], fraction: float
) -> tuple[str, ...]:
    """The split of each row; all '' where there is one only. No group is on both sides."""
    if not masks:
        return ("",) * len(listing.keys)
    owners = groups or listing.keys
    if len(masks) < len(listing.keys):
        pairs = list(zip(owners, listing.keys, strict=True))
        whole = {owner for owner, key in pairs if key in masks}
        if torn := sorted({owner for owner, key in pairs if key not in masks} & whole):
            raise BadInput(
                f"some images of one group have masks and others none: {listed(torn)}; a group is "
                "tested whole or not at all, so add the masks or move the images away"
            )
        return tuple("test" if key in masks else "adapt" for key in listing.keys)
    held = hold_out_groups(listing, listing.keys, [""] * len(owners), fraction, groups)
    return tuple("test" if out else "adapt" for out in held)
