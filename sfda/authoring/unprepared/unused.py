"""Annotations and tables in a heap of files that no manifest can be made of as they are, with what
would make them fit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from sfda.authoring.listing import Listing
from sfda.authoring.named_images import as_listed
from sfda.authoring.unprepared.clues import files_near, head_of
from sfda.bounds.files import read_bounded
from sfda.bounds.limits import EXPORT_BYTES
from sfda.documents import cut_off, parse_json
from sfda.errors import BadInput, listed
from sfda.formats.coco import read_coco
from sfda.formats.table import read_csv

MOST_TOLD = 4  # files of a kind
LABEL_STUDIO = (
    "Label Studio's own JSON; export it anew as COCO for --annotations, or let `sfda query` ask "
    "about these images: `sfda answer` takes this file"
)


def unused(listing: Listing) -> tuple[str, ...]:
    """A line for each file or kind of files that is not used, with the remedy."""
    lines = dict[str, None]()  # one for all files of which the same is to be told
    for file in files_near(listing, ".json"):
        if text := _of_json(file, listing):
            lines[text] = None
    for file in files_near(listing, ".xml"):
        if "<annotations>" in head_of(file)[:400]:
            lines[f"{file.name}: CVAT's own XML; export it anew as COCO 1.0 for --annotations"] = (
                None
            )
    for file in files_near(listing, ".csv"):
        if text := _of_table(file, listing):
            lines[text] = None
    return tuple(list(lines)[: 3 * MOST_TOLD])


def _of_json(file: Path, listing: Listing) -> str:
    """What a JSON is, if that is known and it is not used; '' of all others."""
    try:
        document = parse_json(read_bounded(file, EXPORT_BYTES))
    except (OSError, ValueError):
        return ""
    name = file.relative_to(listing.path).as_posix()
    if isinstance(document, list) and document and _is_task(document[0]):
        kinds = Counter(
            str(result.get("type"))
            for task in document
            if isinstance(task, Mapping)
            for one in task.get("annotations") or ()
            if isinstance(one, Mapping)
            for result in one.get("result") or ()
            if isinstance(result, Mapping)
        )
        shown = listed([f"{count} {kind}" for kind, count in kinds.most_common(MOST_TOLD)])
        return f"{name}: {len(document)} tasks ({shown or 'none annotated'}) in {LABEL_STUDIO}"
    if isinstance(document, Mapping) and {"shapes", "imagePath"} <= document.keys():
        return "LabelMe's JSON beside the images; convert it to COCO JSON for --annotations"
    return _of_coco(file, listing)


def _of_coco(file: Path, listing: Listing) -> str:
    """A COCO JSON of other images."""
    try:
        document = read_coco(file)
    except BadInput:
        return ""
    names = {str(image["file_name"]) for image in as_listed(document, listing, file)["images"]}
    if not names or names & set(listing.keys):
        return ""
    here, name = listing.keys[0], file.relative_to(listing.path).as_posix()
    return (
        f"{name}: a COCO JSON of {len(names)} images, such as {cut_off(min(names))}, none of which "
        f"is here, where they are called {here}: name the folder that they lie in"
    )


def _is_task(entry: object) -> bool:
    return isinstance(entry, Mapping) and "data" in entry and "annotations" in entry


def _of_table(file: Path, listing: Listing) -> str:
    """A table whose columns do not say what `--labels` needs; '' for another."""
    try:
        rows, header = read_csv(file)
    except BadInput:
        return ""
    labels = {"class", "classes", "label"}
    if not len(rows) or (
        listing.column in header
        and any(name in labels or name.startswith("label:") for name in header)
    ):
        return ""
    name = file.relative_to(listing.path).as_posix()
    return (
        f"{name}: {len(rows)} rows of {cut_off(', '.join(header))}; as --labels a table has the "
        f"columns {listing.column},class, the file below {listing.path}"
    )
