"""Making a manifest from what lies on the user's disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path

from sfda.authoring.from_coco import write_coco_manifest
from sfda.authoring.from_csv import Stated, labels_from_csv
from sfda.authoring.from_keypoints import write_pose_manifest
from sfda.authoring.from_masks import MaskOptions, mask_rows
from sfda.authoring.groups import Groups, assigned_splits
from sfda.authoring.listing import Listing, list_images
from sfda.authoring.splits import ALL_IMAGES, Portion, listing_splits, stated_splits
from sfda.authoring.write import Draft, RowTable, write_manifest
from sfda.errors import BadInput, listed
from sfda.formats.plausibility.rewriting import CoordinateFormats
from sfda.manifests.opening import parse_manifest
from sfda.manifests.schema import Manifest
from sfda.problems.registry import PROBLEMS
from sfda.refs import ProblemName, Skeleton

ClassNames = Sequence[str] | int | None
AS_MEANT = CoordinateFormats()


def build_manifest(
    path: Path | str,
    *,
    problem: ProblemName,
    out: Path | str,
    classes: ClassNames = None,
    labels_csv: Path | None = None,
    template: Path | None = None,
    masks: MaskOptions | None = None,
    annotations: Path | None = None,
    formats: CoordinateFormats = AS_MEANT,
    skeleton: Skeleton | None = None,
    test_fraction: float = 0.2,
    data_root: Path | None = None,
    skip: frozenset[str] = frozenset(),
    version: int = 1,
    part: Portion = ALL_IMAGES,
    groups: str | None = None,
    padding: float | None = None,
) -> Path:
    """Write a manifest of the images in a folder, zip or npz to `out`, its row file beside it.

    Labels are taken only if asked for: from `labels_csv` (columns file, or index, and class; where
    an image has several, classes, or one column of 0 and 1 a class), or,
    with `classes` or `template`, from folders named like classes or the npz's label array. With
    labels everywhere each class is split into `adapt` (alias `train`) and `test` (alias `val`);
    with labels for some images those are `test` and the others `adapt`; without, all are `adapt`.
    For segmentation `masks` says where masks lie and what they hold; they stand for labels. For
    detection and pose `annotations` is a COCO JSON, whose boxes or keypoints stand for them, in
    `formats`; the joints' `skeleton` is for pose. Files in `skip` are left out, and all but a
    `part`.

    Folders called train, val and test, a column `split` of the CSV and an array `split` of the npz
    state the splits instead. `groups` says which images stay on one side of a split (a regular
    expression with one group, a glob, or "folder"); `padding` is that of a pose model.

    Raises BadInput if there are no images, or naming all labels, and all of what a template says,
    that do not fit.
    """
    path = Path(path)
    if not 0 < test_fraction < 1:
        raise BadInput(f"test fraction {test_fraction} must lie between 0 and 1, both excluded")
    official = _template(template, problem)
    names = _class_names(classes, official)
    kind = PROBLEMS[problem]
    if kind.labels_are_files:
        if labels_csv:
            raise BadInput(
                f"{problem} learns from {kind.label_word}, not labels: leave out --labels"
            )
        options = masks or MaskOptions()
        options = replace(options, groups=groups) if groups else options
        rows, listing = mask_rows(
            path, options, classes=names, fraction=test_fraction, skip=skip, part=part
        )
        if official:
            _compare_count(official, rows.keys)
        more = options.keys(names) | {"version": version}
        draft = Draft(listing, problem, names, Path(out), official, data_root)
        return write_manifest(rows, draft, more)
    if annotations:
        if not kind.annotations or labels_csv:
            raise BadInput(
                "--annotations is a COCO JSON of boxes or keypoints, for detection and pose; it "
                "goes without --labels"
            )
        formats.check()
        own = (formats, part, Groups(groups))
        where = (names, Path(out), official, test_fraction, data_root, problem, *own)
        if kind.annotations == "keypoints":
            return write_pose_manifest(path, Path(annotations), skeleton, *where, padding)
        return write_coco_manifest(path, Path(annotations), *where)
    if masks and masks != MaskOptions():
        raise BadInput(
            f"masks are for segmentation; this is {problem}: leave out what says of them"
        )
    listing = list_images(path, skip=skip)
    stated = _labels(listing, names, labels_csv, problem)
    class_of = stated.labels
    counts = Counter(name for label in class_of.values() for name in kind.classes_in(label))
    if labels_csv and names is None:
        names = tuple(sorted({*counts, *stated.classes}))
    _known(counts, names)
    keys = tuple(class_of) if official and labels_csv else listing.keys
    if official:
        _compare(official, names, keys, counts)
    rarest = {
        key: min(kind.classes_in(label), key=lambda name: (counts[name], name), default="")
        for key, label in class_of.items()
    }
    splits = _stated_splits(listing, keys, stated, names, labels_csv)
    kinds = [
        f"{rarest.get(key)} {own}"
        for key, own in zip(keys, splits or ("",) * len(keys), strict=True)
    ]
    stays = part.of([listing.name(key) for key in keys], kinds)
    keys, splits = tuple(compress(keys, stays)), tuple(compress(splits, stays))
    class_of = {key: class_of[key] for key in keys if key in class_of}
    if groups and listing.image:
        raise BadInput(f"--groups goes by names of files, and images of {path} have none")
    own_groups = Groups(groups).of(keys)
    rows = RowTable(
        keys,
        tuple(class_of.get(key, kind.unlabelled_cell) for key in keys),
        splits
        or assigned_splits(
            listing, keys, {key: rarest[key] for key in class_of}, test_fraction, own_groups
        ),
        groups=own_groups,
        label_column=kind.annotation_column or "class",
        unlabelled=kind.unlabelled_cell,
    )
    draft = Draft(listing, problem, names, Path(out), official, data_root)
    return write_manifest(rows, draft, {"version": version})


def _refuse_labels_for(problem: ProblemName) -> None:
    if PROBLEMS[problem].annotation_column is None:
        read = [
            n for n, one in PROBLEMS.items() if one.annotation_column and not one.labels_are_files
        ]
        raise BadInput(
            f"labels are read for {' and '.join(read)} so far, not for {problem}; leave out "
            "--classes, --labels and --template to make a manifest without labels"
        )


def _template(path: Path | None, problem: ProblemName) -> Manifest | None:
    if path is None:
        return None
    official = parse_manifest(Path(path))
    if official.problem != problem:
        raise BadInput(f"{path} is for {official.problem}, not for {problem}")
    return official


def _class_names(classes: ClassNames, official: Manifest | None) -> tuple[str, ...] | int | None:
    if isinstance(classes, int):
        if official and official.num_classes != classes:
            raise BadInput(f"{official.name} has {official.num_classes} classes, not {classes}")
        return official.classes if official else classes
    if official is None:
        return tuple(classes) if classes else None
    if classes and tuple(classes) != official.classes:
        raise BadInput(
            f"the classes given are not those of {official.name}, in its order; leave out "
            "--classes, the template brings them"
        )
    return official.classes


def _labels(
    listing: Listing,
    names: tuple[str, ...] | int | None,
    labels_csv: Path | None,
    problem: ProblemName,
) -> Stated:
    """What a row file says of each labelled key; for classes without names the number as text."""
    kind = PROBLEMS[problem]
    if labels_csv:
        _refuse_labels_for(problem)
        return labels_from_csv(listing, Path(labels_csv), problem)
    if listing.labels is not None and names is not None:
        _refuse_labels_for(problem)
        what = f"{listing.path}: array '{listing.label}'"
        texts = kind.labels_from_array(listing.labels, names, what)
        return Stated(dict(zip(listing.keys, texts, strict=True)), (), {})
    if not isinstance(names, tuple) or not kind.folders_name_classes:
        return Stated({}, (), {})
    if class_of := _from_folders(listing, names):
        _refuse_labels_for(problem)
    return Stated(class_of, (), {})


def _stated_splits(
    listing: Listing,
    keys: Sequence[str],
    stated: Stated,
    names: tuple[str, ...] | int | None,
    labels_csv: Path | None,
) -> tuple[str, ...]:
    """The split of each row as a table, an array or folders say it; () where none does."""
    if stated.splits:
        own = [stated.splits.get(key, "") for key in keys]
        return stated_splits(own, f"column 'split' of {labels_csv}")
    return listing_splits(listing, keys, names if isinstance(names, tuple) else ())


def _known(counts: Mapping[str, int], names: tuple[str, ...] | int | None) -> None:
    if names is None:
        return
    known = set(names) if isinstance(names, tuple) else {str(i) for i in range(names)}
    odd = sorted(set(counts) - known)
    if odd:
        raise BadInput(
            f"labels name classes that are not in the list of classes: {listed(odd)}; "
            "add them to --classes, or correct the labels"
        )


def _from_folders(listing: Listing, names: tuple[str, ...]) -> dict[str, str]:
    """The first folder on an image's path that is named like a class; none at all: no labels."""
    known = set(names)
    class_of: dict[str, str] = {}
    stray: Counter[str] = Counter()
    for key in listing.keys:
        folders = key.split("/")[:-1]
        name = next((folder for folder in folders if folder in known), None)
        if name is None:
            stray["/".join(folders) or "the top folder"] += 1
        else:
            class_of[key] = name
    if class_of and stray:
        without = [
            f"{folder_name} ({count} images)" for folder_name, count in sorted(stray.items())
        ]
        raise BadInput(
            f"images of {listing.path} lie in no folder named like a class: {listed(without)}; "
            "add their classes to --classes, move them away, or give --labels"
        )
    return class_of


def _compare(
    official: Manifest,
    names: tuple[str, ...] | int | None,
    keys: Sequence[str],
    counts: Mapping[str, int],
) -> None:
    """Raise BadInput naming every way in which the data are not what the template says."""
    faults = []
    if isinstance(official.classes, tuple) and not counts:
        faults.append(f"no folder is named like one of its classes ({listed(official.classes)})")
    elif isinstance(names, tuple):
        faults += [f"class {name}: no images" for name in names if not counts[name]]
    if isinstance(official.counts, int) and official.counts != len(keys):
        faults.append(f"{len(keys)} images, officially {official.counts}")
    if isinstance(official.counts, dict):
        faults += [
            f"class {name}: {counts[name]} images, officially {count}"
            for name, count in official.counts.items()
            if counts[name] != count and counts[name]
        ]
    if faults:
        raise BadInput(f"these are not the data of {official.name}: " + "; ".join(faults))


def _compare_count(official: Manifest, keys: Sequence[str]) -> None:
    if isinstance(official.counts, int) and official.counts != len(keys):
        raise BadInput(
            f"these are not the data of {official.name}: {len(keys)} images, officially "
            f"{official.counts}"
        )
