"""What in a heap of files tells for what problem they are: annotations, tables, arrays, folders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sfda.authoring.listing import Listing
from sfda.authoring.named_images import as_listed
from sfda.authoring.pairing import FOLDERS
from sfda.authoring.splits import usual_split
from sfda.bounds.files import Unreadable, open_regular
from sfda.errors import BadInput, listed, shell_command
from sfda.formats.coco import read_coco
from sfda.formats.readers import npz_array
from sfda.formats.table import read_csv
from sfda.problems.registry import PROBLEMS

FILES_LOOKED_AT, MASKS_LOOKED_AT = 50, 30
PLAIN_FOLDERS = {*FOLDERS, "image", "images", "img", "imgs", "jpegimages", "data", "photos"}
MOST_CLASS_FOLDERS = 1000
_VOC = re.compile(r"(<\?xml[^>]*>\s*)?<annotation\b")
_YOLO = re.compile(r"\d+( +-?\d*\.?\d+(e-?\d+)?){4,}")


@dataclass(frozen=True)
class Clue:
    """A problem that files may be for, why, and the options that make a manifest of them."""

    problem: str
    why: str
    words: tuple[str, ...]  # of the command, after the path
    options: dict[str, Any]  # the same for `build_manifest`
    sees: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    before: tuple[str, ...] = ()  # commands to type first
    weight: int = field(default=0, compare=False)


def problem_that(fits: Callable[[Any], bool]) -> str:
    return next(name for name, problem in PROBLEMS.items() if fits(problem))


def by_folders(listing: Listing) -> Clue | None:
    """Folders that are named like classes."""
    if listing.image:
        return None
    parts = [
        [p for p in key.split("/")[:-1] if not usual_split(p) and p.lower() not in PLAIN_FOLDERS]
        for key in listing.keys
    ]
    depth = 0
    while all(len(own) > depth + 1 and own[depth] == parts[0][depth] for own in parts):
        depth += 1
    if not all(len(own) > depth for own in parts):
        return None
    counts = Counter(own[depth] for own in parts)
    if not 1 < len(counts) <= MOST_CLASS_FOLDERS or any("," in name for name in counts):
        return None
    names = tuple(sorted(counts))
    problem = problem_that(
        lambda one: one.folders_name_classes and one.annotation_column == "class"
    )
    shown = listed([f"{name} ({counts[name]})" for name in names])
    return Clue(
        problem,
        "folders are named like classes",
        (*stated_problem(problem), "--classes", ",".join(names)),
        {"problem": problem, "classes": names},
        (f"{len(names)} folders that may be classes: {shown}",),
        ("if they are no classes, leave out --classes: adapting needs no labels",),
        weight=2,
    )


def by_documents(listing: Listing) -> Clue | None:
    """A COCO JSON among the files."""
    for file in files_near(listing, ".json"):
        try:
            document = read_coco(file)
        except BadInput:
            continue
        document = as_listed(document, listing, file)
        names = {str(image["file_name"]) for image in document["images"]}
        hits = len(names & set(listing.keys))
        if not hits:
            continue
        jointed = any("keypoints" in one for one in document["annotations"])
        kind = "keypoints" if jointed else "boxes"
        problem = problem_that(lambda one, kind=kind: one.annotations == kind)  # type: ignore[misc]
        count = len(document["annotations"])
        return Clue(
            problem,
            f"{file.name} is a COCO JSON of {kind}",
            (*stated_problem(problem), "--annotations", str(file)),
            {"problem": problem, "annotations": file},
            (f"{file.name}: {count} {kind} of {len(names)} images, {hits} of which are here",),
            weight=6,
        )
    return None


def by_boxes_beside(listing: Listing) -> Clue | None:
    """Pascal VOC's XML, or YOLO's text: they are converted first."""
    problem, clues = problem_that(lambda one: one.annotations == "boxes"), list[Clue]()
    for suffix, format_name, what, mark in (
        (".xml", "voc", "Pascal VOC's XML", _VOC),
        (".txt", "yolo", "YOLO's text files", _YOLO),
    ):
        files = [file for file in files_near(listing, suffix) if mark.match(head_of(file).strip())]
        if files:
            command = shell_command(
                "sfda", "convert", format_name, listing.path, "--out", "boxes.json"
            )
            clue = Clue(
                problem,
                f"boxes lie beside the images, in {what}",
                (*stated_problem(problem), "--annotations", "boxes.json"),
                {"problem": problem},
                (f"boxes in {what}: {listed([file.name for file in files[:3]])} ...",),
                before=(command,),
                weight=5,
            )
            clues.append(clue)
    if len(clues) < 2:
        return clues[0] if clues else None
    first, other = clues
    notes = (f"leave the boxes in YOLO's text files; `{other.before[0]}` takes those instead",)
    return replace(first, sees=first.sees + other.sees, notes=notes)


def by_table(listing: Listing) -> Clue | None:
    """A CSV that names images and their classes."""
    for file in files_near(listing, ".csv"):
        try:
            rows, header = read_csv(file)
        except BadInput:
            continue
        if listing.column not in header:
            continue
        for name, problem in PROBLEMS.items():
            column = problem.annotation_column
            if column in header and not problem.labels_are_files:
                return Clue(
                    name,
                    f"{file.name} names images and what they are",
                    (*stated_problem(name), "--labels", str(file)),
                    {"problem": name, "labels_csv": file},
                    (f"{file.name}: {len(rows)} rows of {', '.join(header)}",),
                    weight=3,
                )
    return None


def by_array(listing: Listing) -> Clue | None:
    """Labels in an npz."""
    name = next(
        (
            n
            for n in ("y", "labels", "label", "targets", "target")
            if listing.image and _has(listing, n)
        ),
        None,
    )
    if name is None:
        return None
    labels = npz_array(listing.path, name)
    several = labels.ndim == 2
    if labels.dtype.kind not in "biu" or labels.ndim > 2 or not len(labels):
        return None
    problem = problem_that(lambda one: one.annotation_column == ("classes" if several else "class"))
    count = labels.shape[1] if several else int(labels.max()) + 1
    names = tuple(f"class{number}" for number in range(count))
    return Clue(
        problem,
        f"array '{name}' holds numbers of classes",
        (*stated_problem(problem), "--classes", ",".join(names)),
        {"problem": problem, "classes": names},
        (f"labels in array '{name}', of {count} classes",),
        ("call the classes by their own names in --classes, in the order of their numbers",),
        weight=2,
    )


def _has(listing: Listing, name: str) -> bool:
    try:
        npz_array(listing.path, name)
    except BadInput:
        return False
    return True


def without_clues(listing: Listing) -> Clue:
    """Images and nothing else."""
    problem = problem_that(lambda one: one.annotation_column == "class")
    return Clue(
        problem,
        "there are images and nothing that says what they show, which adapting does not need",
        (),
        {"problem": problem},
        notes=("name the model's problem with --problem, or give --model, if it is another one",),
    )


def stated_problem(problem: str) -> tuple[str, ...]:
    return ("--problem", problem)


def files_near(listing: Listing, suffix: str) -> list[Path]:
    """Some files of a suffix that lie in a folder and up to two below it, in order."""
    if not listing.path.is_dir():
        return []
    patterns = (f"*{suffix}", f"*/*{suffix}", f"*/*/*{suffix}")
    files = [file for p in patterns for file in sorted(listing.path.glob(p)) if file.is_file()]
    own = [f for f in files if not f.name.startswith(".")][:FILES_LOOKED_AT]
    top = listing.path.resolve()
    return [file for file in own if file.resolve().is_relative_to(top)]  # no link to elsewhere


def head_of(file: Path) -> str:
    """How a text begins; '' where it cannot be read."""
    try:
        with open_regular(file) as opened:
            return opened.read(4096).decode("utf-8", "replace")
    except (OSError, Unreadable):
        return ""
