"""A manifest for images with a COCO JSON beside them, and Pascal VOC's XML as such a JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

from sfda.authoring.groups import NO_GROUPS, Groups, hold_out_groups
from sfda.authoring.listing import Listing, list_images
from sfda.authoring.named_images import as_listed
from sfda.authoring.splits import ALL_IMAGES, Portion, listing_splits
from sfda.authoring.write import ALIASES, Draft, put_manifest
from sfda.documents import json_bytes
from sfda.errors import BadInput, listed
from sfda.formats.coco import Document, box_table, document_faults, read_coco, size_faults
from sfda.formats.plausibility.rewriting import (
    CoordinateFormats,
    concerns_of,
    document_in_pixels,
    known_sizes,
)
from sfda.manifests.digests import bytes_digest
from sfda.manifests.schema import Manifest
from sfda.manifests.write import refuse_other_suffix

# of an image's entry
IMAGE_KEYS = ("id", "file_name", "width", "height", "split", "labelled", "group")


def write_coco_manifest(
    path: Path,
    annotations: Path,
    classes: tuple[str, ...] | int | None,
    out: Path,
    official: Manifest | None,
    fraction: float,
    data_root: Path | None,
    problem: str,
    formats: CoordinateFormats,
    part: Portion = ALL_IMAGES,
    groups: Groups = NO_GROUPS,
) -> Path:
    """A manifest of the images in `path`, their boxes copied beside it as `<out>.rows.json`.

    Classes are the document's, in the order of their ids, unless `classes` name them. Images whose
    entry says `split` keep it; else folders called train, val and test state it. Else, with entries
    for all images, `fraction` of those is held out: `adapt` (alias `train`) and `test` (alias
    `val`); images without an entry are `adapt`, and those with one are `test`. Boxes in one of
    `formats` become x, y, width and height in pixels.

    Raises BadInput naming everything in the document that does not fit.
    """
    refuse_other_suffix(out)
    listing = list_images(path)
    if listing.image:
        raise BadInput(f"{path}: boxes go with image files in a folder or a zip, not with an npz")
    document = as_listed(read_coco(annotations), listing, annotations)
    names = classes if isinstance(classes, tuple) else _names(document, annotations)
    images = [dict(image) for image in document["images"]]
    faults = document_faults(document) + absent(images, listing)
    if not faults:
        reader = listing.reader([str(i["file_name"]) for i in images])
        sizes = known_sizes(images, reader)
        document = document_in_pixels(document, formats, sizes)
        faults = size_faults(images, reader)
        if formats.boxes is None:
            faults += concerns_of(document["annotations"], sizes).faults
    faults = box_table(document, images, names)[1] + faults
    if faults:
        raise BadInput(f"{annotations}: " + listed(faults, "; "))
    document, images, listing = part_of(document, images, listing, part)
    entries = with_groups(_with_splits(images, listing, fraction, groups), groups)
    table = json_bytes(
        {
            "images": [{k: image[k] for k in IMAGE_KEYS if k in image} for image in entries],
            "annotations": document["annotations"],
            "categories": document["categories"],
        },
        annotations,
    )
    row_file = out.with_suffix(".rows.json")
    splits = splits_of(
        [(str(i["split"]), i.get("labelled", True)) for i in entries],
        row_file.name,
        bytes_digest(table),
        alias="split" not in images[0],
    )
    draft = Draft(listing, problem, names, out, official, data_root)
    return put_manifest({row_file: table}, splits, draft)


def _names(document: Mapping[str, Any], annotations: Path) -> tuple[str, ...]:
    if not document["categories"]:
        raise BadInput(
            f"{annotations} lists no category, so nobody knows the classes; name them: "
            "--classes a,b,c"
        )
    ordered = sorted(document["categories"], key=lambda c: (isinstance(c["id"], str), c["id"]))
    return tuple(str(category["name"]) for category in ordered)


def absent(images: Sequence[Mapping[str, Any]], listing: Listing) -> list[str]:
    """The fault of naming images that are not there, if it is one."""
    there = set(listing.keys)
    gone = [str(i["file_name"]) for i in images if str(i["file_name"]) not in there]
    if not gone:
        return []
    here = f", where they are called {listed(listing.keys[:3])}" if len(gone) == len(images) else ""
    return [f"images that are not in {listing.path}{here}: {listed(gone)}"]


def part_of(
    document: Document, images: list[dict[str, Any]], listing: Listing, part: Portion
) -> tuple[Document, list[dict[str, Any]], Listing]:
    """The same of a part of the images, alike of every category and split."""
    names = {image["id"]: str(image["file_name"]) for image in images}
    kind_of = {str(image["file_name"]): str(image.get("split", "")) for image in images}
    first: dict[str, str] = {}
    for one in document["annotations"]:
        name = names.get(one["image_id"], "")
        first[name] = min(first.get(name, "~"), str(one["category_id"]))
    kinds = [f"{kind_of.get(key, '~')} {first.get(key, '')}" for key in listing.keys]
    stays = part.of(listing.keys, kinds)
    taken = set(compress(listing.keys, stays))
    few = [image for image in images if str(image["file_name"]) in taken]
    ids = {image["id"] for image in few}
    own = [one for one in document["annotations"] if one["image_id"] in ids]
    listing = replace(listing, keys=tuple(key for key in listing.keys if key in taken))
    return {**document, "annotations": own}, few, listing


def _with_splits(
    images: list[dict[str, Any]], listing: Listing, fraction: float, groups: Groups
) -> list[dict[str, Any]]:
    """Every image of the listing, each with its split."""
    listed_images = {str(image["file_name"]): image for image in images}
    if not images:
        raise BadInput("the annotations list no images")
    if all("split" in image for image in images):
        return images
    free = max((i["id"] for i in images if isinstance(i["id"], int)), default=0) + 1
    rest = [name for name in listing.keys if name not in listed_images]
    if splits := listing_splits(listing, listing.keys):
        split_of = dict(zip(listing.keys, splits, strict=True))
        named = [{**image, "split": split_of[str(image["file_name"])]} for image in images]
        return named + [
            {"id": free + at, "file_name": name, "split": split_of[name], "labelled": False}
            for at, name in enumerate(rest)
        ]
    if not rest:
        names = list(listed_images)
        held = hold_out_groups(listing, names, [""] * len(names), fraction, groups.of(names))
        return [
            {**listed_images[name], "split": "test" if out else "adapt"}
            for name, out in zip(names, held, strict=True)
        ]
    more = [
        {"id": free + position, "file_name": name, "split": "adapt", "labelled": False}
        for position, name in enumerate(rest)
    ]
    return [{**image, "split": "test"} for image in images] + more


def with_groups(images: list[dict[str, Any]], groups: Groups) -> list[dict[str, Any]]:
    """The images with the group of each, where their names state them."""
    own = groups.of([str(image["file_name"]) for image in images])
    if not own:
        return images
    return [{**image, "group": group} for image, group in zip(images, own, strict=True)]


def splits_of(
    rows: Sequence[tuple[str, bool]], row_file: str, sha256: str, *, alias: bool
) -> dict[str, dict[str, Any]]:
    """Entries of a manifest's splits, of the split of each row and whether it has its labels."""
    entry = {"rows": row_file, "sha256": sha256}
    splits: dict[str, dict[str, Any]] = {}
    whole = all(labelled for _, labelled in rows)
    for name in dict.fromkeys(name for name, _ in rows):
        count = sum(own == name for own, _ in rows)
        for split in (name, ALIASES[name]) if alias and whole and name in ALIASES else (name,):
            splits[split] = entry | {"where": name, "count": count}
    return splits
