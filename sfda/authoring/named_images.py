"""Images that a document names in another way than they lie here: told by their file names."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

from sfda.authoring.listing import Listing
from sfda.formats.coco import Document

log = logging.getLogger("sfda")
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an upload


def as_listed(document: Document, listing: Listing, source: Path) -> Document:
    """A COCO document whose images have the names of the listing. Where there is none of a name,
    the one of that file name is meant, whatever folders and suffix are written there; of several
    that which shares most folders at its end. How many were told so is said in the log.
    """
    there = set(listing.keys)
    stated = [str(image["file_name"]) for image in document["images"]]
    others = [name for name in stated if name not in there]
    if not others:
        return document
    renamed = _renamed(others, [key for key in listing.keys if key not in set(stated)])
    if not renamed:
        return document
    first = next(name for name in others if name in renamed)
    log.warning(
        "%s: %d of %d images are named otherwise than here, and told by file names (%s is %s)",
        *(source, len(renamed), len(stated), first, renamed[first]),
    )
    images: list[Any] = [
        {**image, "file_name": renamed.get(str(image["file_name"]), image["file_name"])}
        for image in document["images"]
    ]
    return {**document, "images": images}


def _renamed(names: list[str], keys: list[str]) -> dict[str, str]:
    """For each name the key that is meant, where that is sure and no other name means it too."""
    of_file, of_stem = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for key in keys:
        path = PurePosixPath(key)
        of_file[path.name].append(key)
        of_stem[path.stem].append(key)
    meant: dict[str, str] = {}
    for name in dict.fromkeys(names):
        path = PurePosixPath(name.replace("\\", "/"))
        bare = PurePosixPath(_UPLOADED.sub("", path.name, count=1))
        own = of_file[path.name] or of_stem[path.stem] or of_file[bare.name] or of_stem[bare.stem]
        if nearest := _nearest(path, own):
            meant[name] = nearest
    times = Counter(meant.values())
    return {name: key for name, key in meant.items() if times[key] == 1}


def _nearest(path: PurePosixPath, keys: list[str]) -> str | None:
    """The key that ends in most of a path's folders; None where several do."""

    def shared(key: str) -> int:
        ours, theirs = path.parts[-2::-1], PurePosixPath(key).parts[-2::-1]
        pairs = zip(ours, theirs, strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))

    ranked = sorted(keys, key=shared, reverse=True)
    if len(ranked) > 1 and shared(ranked[0]) == shared(ranked[1]):
        return None
    return ranked[0] if ranked else None
