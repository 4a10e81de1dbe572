"""A manifest of persons for images with COCO's keypoint JSON beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sfda.authoring.from_coco import IMAGE_KEYS, absent, part_of, splits_of, with_groups
from sfda.authoring.groups import NO_GROUPS, Groups, hold_out_groups
from sfda.authoring.left_right import pairs_by_name
from sfda.authoring.listing import Listing, list_images
from sfda.authoring.named_images import as_listed
from sfda.authoring.splits import ALL_IMAGES, Portion, listing_splits
from sfda.authoring.write import Draft, put_manifest
from sfda.config import read_yaml, say_faults
from sfda.documents import json_bytes
from sfda.errors import BadInput, listed
from sfda.formats.coco import Document, document_faults, read_coco
from sfda.formats.keypoints import edges_of, joints_of, persons_of
from sfda.formats.plausibility.boxes import box_concerns
from sfda.formats.plausibility.joints import joint_concerns
from sfda.formats.plausibility.rewriting import CoordinateFormats, document_in_pixels, known_sizes
from sfda.manifests.digests import bytes_digest
from sfda.manifests.schema import Manifest
from sfda.manifests.write import refuse_other_suffix
from sfda.refs import Skeleton


def read_skeleton(path: Path) -> Skeleton:
    """A skeleton of a YAML or JSON file: `edges`, `pairs`, `groups`, `unit`, `sigmas`.

    A manifest's own entry `skeleton` is taken too. Raises BadInput.
    """
    document = read_yaml(path, "a skeleton is a YAML file with edges, pairs ...")
    if isinstance(document, dict) and "skeleton" in document:
        document = document["skeleton"]
    if isinstance(document, dict):
        document = {name: value for name, value in document.items() if value is not None}
    try:
        return Skeleton.model_validate({} if document is None else document)
    except ValidationError as error:
        raise BadInput(f"{path}: {say_faults(error, Skeleton, 'skeleton')}") from None


def write_pose_manifest(
    path: Path,
    annotations: Path,
    skeleton: Skeleton | None,
    joints: tuple[str, ...] | int | None,
    out: Path,
    official: Manifest | None,
    fraction: float,
    data_root: Path | None,
    problem: str,
    formats: CoordinateFormats,
    part: Portion = ALL_IMAGES,
    groups: Groups = NO_GROUPS,
    padding: float | None = None,
) -> Path:
    """A manifest of the persons in the images of `path`, the document beside it.

    Joints are those of the document's first category unless `joints` name some of them. Without a
    `skeleton` its edges are the document's, and left and right are told by the joints' names.
    Images whose entry says `split` keep it. Else, where all persons have keypoints, `fraction` of
    the images is held out: `adapt` (alias `train`) and `test` (alias `val`); where some have, their
    images are `test` and all others `adapt`. A person without a box, and an image without an entry,
    is seen whole. A crop's side is `padding` times the longer side of a person's box.

    Raises BadInput naming everything in the document that does not fit.
    """
    refuse_other_suffix(out)
    listing = list_images(path)
    if listing.image:
        raise BadInput(f"{path}: poses go with image files in a folder or a zip, not with an npz")
    document = as_listed(read_coco(annotations), listing, annotations)
    names = joints if isinstance(joints, tuple) else _joints(document, annotations)
    images = [dict(image) for image in document["images"]]
    document, odd_places = _in_pixels(document, images, listing, formats)
    _, boxes, entries, faults = persons_of(document, images)
    faults += odd_places
    posed = [(e, b) for e, b in zip(entries, boxes, strict=True) if "keypoints" in e]
    faults += joints_of(document, [e for e, _ in posed], [b for _, b in posed], names)[1]
    faults += document_faults(document) + absent(images, listing)
    if not entries:
        faults.append("it lists no person")
    if faults:
        raise BadInput(f"{annotations}: " + listed(faults, "; "))
    alias = not all("split" in image for image in images)
    document, images, listing = part_of(document, images, listing, part)
    ids = {image["id"] for image in images}
    entries = [entry for entry in entries if entry["image_id"] in ids]
    placed = with_groups(_placed(images, entries, listing, fraction, groups), groups)
    persons = [*document["annotations"], *(_whole(placed, document) if alias else ())]
    table = json_bytes(
        {
            "images": [{k: image[k] for k in IMAGE_KEYS if k in image} for image in placed],
            "annotations": persons,
            "categories": document["categories"],
        },
        annotations,
    )
    split = {image["id"]: str(image["split"]) for image in placed}
    rows = [
        (split[one["image_id"]], "keypoints" in one) for one in persons if not one.get("iscrowd")
    ]
    row_file = out.with_suffix(".rows.json")
    bones = skeleton or _skeleton_of(document, names)
    if "pairs" not in bones.model_fields_set:
        bones = bones.model_copy(update={"pairs": pairs_by_name(names)})
    if odd := bones.faults(names):
        raise BadInput(f"the skeleton names what is no joint: {listed(odd)}")
    splits = splits_of(rows, row_file.name, bytes_digest(table), alias=alias)
    draft = Draft(listing, problem, names, out, official, data_root)
    more: dict[str, Any] = {"skeleton": bones.model_dump(mode="json", exclude_defaults=True)}
    more |= {"padding": padding} if padding else {}
    return put_manifest({row_file: table}, splits, draft, more)


def _in_pixels(
    document: Document,
    images: list[dict[str, Any]],
    listing: Listing,
    formats: CoordinateFormats,
) -> tuple[Document, list[str]]:
    """The document with boxes and joints in pixels, and what is odd about them where nobody has
    said what they are. Where images are missing that is said elsewhere.
    """
    if document_faults(document) or absent(images, listing):
        return document, []
    sizes = known_sizes(images, listing.reader([str(i["file_name"]) for i in images]))
    document = document_in_pixels(document, formats, sizes)
    entries = [entry for entry in document["annotations"] if not entry.get("iscrowd")]
    faults = [] if formats.boxes else box_concerns(entries, sizes).faults
    return document, faults + ([] if formats.joints else joint_concerns(entries, sizes).faults)


def _joints(document: Document, annotations: Path) -> tuple[str, ...]:
    first: Mapping[str, Any] = next(iter(document["categories"]), {})
    names = tuple(str(name) for name in first.get("keypoints") or ())
    if not names:
        raise BadInput(
            f"{annotations}: its first category names no keypoints, so nobody knows the joints; "
            "add `keypoints`, the list of their names"
        )
    return names


def _skeleton_of(document: Document, joints: tuple[str, ...]) -> Skeleton:
    """Edges of the document between these joints, and pairs by their names."""
    edges = tuple(edge for edge in edges_of(document) if set(edge) <= set(joints))
    return Skeleton(edges=edges, pairs=pairs_by_name(joints))


def _placed(
    images: list[dict[str, Any]],
    entries: Sequence[Mapping[str, Any]],
    listing: Listing,
    fraction: float,
    groups: Groups,
) -> list[dict[str, Any]]:
    """Every image with its split; those count as labelled whose persons all have keypoints."""
    if all("split" in image for image in images):
        return images
    splits = listing_splits(listing, listing.keys)
    unposed = {entry["image_id"] for entry in entries if "keypoints" not in entry}
    some = {entry["image_id"] for entry in entries}
    whole = [str(image["file_name"]) for image in images if image["id"] in some - unposed]
    if len(whole) == len(listing.keys):
        held = hold_out_groups(listing, whole, [""] * len(whole), fraction, groups.of(whole))
        test = {name for name, out in zip(whole, held, strict=True) if out}
    else:
        test = set(whole)
    own = {str(image["file_name"]): image for image in images}
    free = max((image["id"] for image in images if isinstance(image["id"], int)), default=0) + 1
    split_of = dict(zip(listing.keys, splits, strict=False))
    return [
        own.get(name, {"id": free + position, "file_name": name})
        | {"split": split_of.get(name, "test" if name in test else "adapt")}
        for position, name in enumerate(listing.keys)
    ]


def _whole(placed: Sequence[Mapping[str, Any]], document: Document) -> list[dict[str, Any]]:
    """A person that fills the image, for images in which the document lists none."""
    known = {entry["image_id"] for entry in document["annotations"]}
    free = max(
        (a["id"] for a in document["annotations"] if isinstance(a.get("id"), int)), default=0
    )
    category = document["categories"][0]["id"]
    return [
        {"id": free + number, "image_id": image["id"], "category_id": category}
        for number, image in enumerate((i for i in placed if i["id"] not in known), start=1)
    ]
