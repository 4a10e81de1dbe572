"""Which mask belongs to which image, by their names."""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

from sfda.authoring.listing import Listing, list_images
from sfda.errors import BadInput, listed
from sfda.formats.volumes import slice_of

IMAGE_ENDINGS = ("_leftImg8bit", "_0000")  # of Cityscapes' and nnU-Net's images
LABEL_ENDINGS = tuple(
    f"_{kind}_label{ids}" for kind in ("gtFine", "gtCoarse") for ids in ("Ids", "TrainIds")
)
# of other things that lie beside Cityscapes' masks
BESIDE_MASKS = tuple(
    f"_{kind}_{what}" for kind in ("gtFine", "gtCoarse") for what in ("color", "instanceIds")
)
CHANNEL = re.compile(r"_000[1-9](#\d+)?$")  # another channel of nnU-Net's image
ENDINGS = (*LABEL_ENDINGS, "_mask", "_masks", "_gt", "_label", "_labels", "_seg", "_segmentation")
FOLDERS = ("annotations", "gt", "label", "labels", "mask", "masks", "segmentations")


def pair_masks(
    listing: Listing, masks: Path | str | None, *, firsts: bool = False
) -> tuple[Listing, dict[str, str]]:
    """The images of a listing alone, and the mask of each that has one.

    `masks` is a folder below the listing's, or in the zip, or beside it; "." means that masks lie
    beside their images and end in `_mask`, `_gt`, `_label` or `_seg`; None that there are none.
    An image and its mask have the same path in their folders, suffixes aside.

    With `firsts` first slices of volumes stand for all of them.

    Raises BadInput where no mask is found, or naming all masks that fit no image or one twice.
    """
    if masks is None:
        return _without_masks(listing), {}
    inside = _inside(listing, masks)
    if inside is None:
        return _beside(listing, Path(masks), firsts=firsts)
    if inside == "":
        images, own = _by_ending(listing.keys)
    else:
        own = [key for key in listing.keys if key.startswith(f"{inside}/")]
        images = [key for key in listing.keys if not key.startswith(f"{inside}/")]
    if not own:
        raise BadInput(
            f"{listing.path} holds no masks at '{masks}': name a folder in it, or '.' if they lie "
            f"beside their images and end in {', '.join(ENDINGS[len(LABEL_ENDINGS) :])}"
        )
    if not images:
        raise BadInput(f"{listing.path} holds nothing but what lies in '{masks}': no images")
    top = _shared_top(images)
    names = {key: _plain(key.removeprefix(top)) for key in images}
    below = f"{inside}/" if inside else ""
    mask_names = {key: _plain(key.removeprefix(below)) for key in own}
    taken = dataclasses.replace(listing, keys=tuple(images))
    bare = {_without_ending(name, ()) for name in mask_names.values()}
    if not {_without_image_ending(name, bare) for name in names.values()} & bare:
        names = {key: _plain(key) for key in images}
    return taken, _match(names, mask_names, str(masks))


def pair_volumes(listing: Listing, masks: Path | str) -> tuple[Listing, dict[str, str]]:
    """As `pair_masks`, of whole volumes: the first slice stands for all. Of pictures nothing."""
    firsts = dataclasses.replace(listing, keys=_firsts(listing.keys))
    if not firsts.keys:
        return firsts, {}
    return pair_masks(firsts, masks, firsts=True)


def _firsts(keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(key for key in keys if (part := slice_of(key)) and part.at == 0)


def _beside(listing: Listing, folder: Path, *, firsts: bool) -> tuple[Listing, dict[str, str]]:
    """Masks in a folder of their own: both are named below what they share."""
    if not listing.path.is_dir():
        raise BadInput(
            f"there are no masks at '{folder}' in {listing.path}; masks of images in one file must "
            "lie in the same file"
        )
    mask_listing = list_images(folder, volumes=True)
    if firsts:
        mask_listing = dataclasses.replace(mask_listing, keys=_firsts(mask_listing.keys))
    here, there = listing.path.resolve(), mask_listing.path.resolve()
    above = Path(os.path.commonpath([here, there]))
    if above == Path(above.anchor):
        raise BadInput(f"{here} and {there} share no folder that could be the manifest's root")
    prefixes = (here.relative_to(above).as_posix(), there.relative_to(above).as_posix())
    image, mask = (PurePosixPath(prefix) for prefix in prefixes)
    names = {str(image / key): _plain(key) for key in listing.keys}
    mask_names = {str(mask / key): _plain(key) for key in mask_listing.keys}
    moved = dataclasses.replace(listing, path=above, keys=tuple(names))
    return moved, _match(names, mask_names, str(folder))


def _without_masks(listing: Listing) -> Listing:
    """The listing less what by its name is the mask of an image in it.

    That is a file beside its image, or one in a folder called `masks`, `labels` or the like that
    has an image's name.
    """
    images, _ = _by_ending(listing.keys)
    for top in FOLDERS:
        others = [key for key in images if not key.startswith(f"{top}/")]
        shared = _shared_top(others)
        names = {_plain(key.removeprefix(shared)) for key in others}
        names |= {_plain(key) for key in others}
        images = [
            key
            for key in images
            if not key.startswith(f"{top}/")
            or _without_ending(_plain(key.removeprefix(f"{top}/")), names) not in names
        ]
    return dataclasses.replace(listing, keys=tuple(images))


def _inside(listing: Listing, masks: Path | str) -> str | None:
    """`masks` as a folder in the listing, "" for the listing itself; None if it lies elsewhere."""
    named = PurePosixPath(str(masks).replace(os.sep, "/"))
    below = "" if str(named) == "." else str(named)
    if not below or any(key.startswith(f"{below}/") for key in listing.keys):
        return below
    here, there = listing.path.resolve(), Path(masks).resolve()
    if here == there:
        return ""
    return there.relative_to(here).as_posix() if there.is_relative_to(here) else None


def _by_ending(keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Images, and what is named like one of them and ends as masks do."""
    there = {_plain(key) for key in keys}
    stem_of = {key: _without_ending(_plain(key), ()) for key in keys}
    own = {key for key in keys if stem_of[key] != _plain(key) and stem_of[key] in there}
    return [key for key in keys if key not in own], [key for key in keys if key in own]


def _match(names: Mapping[str, str], mask_names: Mapping[str, str], where: str) -> dict[str, str]:
    """The mask of each image, from both sides' plain names."""
    mask_names = {
        mask: name
        for mask, name in mask_names.items()
        if not name.partition("#")[0].endswith(BESIDE_MASKS)
    }
    bare = {_without_ending(name, ()) for name in mask_names.values()}
    names = {key: _without_image_ending(name, bare) for key, name in names.items()}
    there = Counter(names.values())
    channels = {key: name for key, name in names.items() if CHANNEL.search(name)}
    if several := [key for key, name in channels.items() if CHANNEL.sub(r"\1", name) in there]:
        raise BadInput(
            f"images of several channels, one a file ({listed(several)}): one channel is read; "
            "move the others away"
        )
    masks: dict[str, list[str]] = {}
    for mask, name in mask_names.items():
        masks.setdefault(_without_ending(name, there), []).append(mask)
    stray = [mask for name, own in masks.items() if name not in there for mask in own]
    twice = [mask for name, own in masks.items() if len(own) > 1 for mask in own]
    unsure = [key for key, name in names.items() if name in masks and there[name] > 1]
    faults = [
        f"{what}: {listed(keys)}"
        for what, keys in (
            ("masks without an image", stray),
            ("several masks for one image", twice),
            ("several images for one mask", unsure),
        )
        if keys
    ]
    if faults:
        raise BadInput(
            f"the masks in {where} do not fit the images ({'; '.join(faults)}); an image and its "
            "mask have the same path in their folders, suffixes aside"
        )
    return {key: masks[name][0] for key, name in names.items() if name in masks}


def _shared_top(keys: Sequence[str]) -> str:
    """The first folder with its slash, if all lie in it; else ''."""
    tops = {key.split("/")[0] if "/" in key else "" for key in keys}
    top = next(iter(tops)) if len(tops) == 1 else ""
    return f"{top}/" if top else ""


def _plain(key: str) -> str:
    """A path without its suffix; a slice keeps its number.

    >>> _plain("a/case01.nii.gz#12")
    'a/case01#12'
    """
    file, mark, index = key.rpartition("#") if ".nii" in key.lower() else (key, "", "")
    path = PurePosixPath(file)
    stem = path.stem[:-4] if file.lower().endswith(".nii.gz") else path.stem
    return f"{path.with_name(stem)}{mark}{index}"


def _without_image_ending(name: str, masks: Collection[str]) -> str:
    """An image's plain name as its mask has it, where one has.

    >>> _without_image_ending("a/x_leftImg8bit", {"a/x"})
    'a/x'
    """
    stem, mark, index = name.partition("#")
    ending = next((end for end in IMAGE_ENDINGS if stem.endswith(end)), "")
    bare = stem.removesuffix(ending) + mark + index
    return bare if name not in masks and bare in masks else name


def _without_ending(name: str, images: Collection[str]) -> str:
    """A mask's plain name as its image has it: without `_mask` and the like.

    Unless an image is called just so.
    """
    stem, mark, index = name.partition("#")
    ending = next((end for end in ENDINGS if stem.endswith(end)), "")
    return name if name in images else stem.removesuffix(ending) + mark + index
