"""A target as an adapting process is handed it: images as they are decoded, and no label.

Row files, archives, annotation documents and paths hold or spell labels, also those of other
splits. So a restricted process reads none of them: the parent opens and verifies them, and writes
what may be seen to a folder of its own, which that process reads. Nothing of it comes back.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import NoReturn

import numpy as np

from sfda.config import Config
from sfda.errors import BadInput
from sfda.images.decode import decoded_images
from sfda.images.intensity_window import Window
from sfda.images.store import images_at
from sfda.loading.annotated_rows import FramedRows, framed_rows
from sfda.loading.opened import Opened, decode_key, open_stamped
from sfda.loading.parts import read_rows
from sfda.manifests.labels import Indices
from sfda.manifests.rows import Split
from sfda.refs import ModelSpec, SplitRef
from sfda.state_folder import decoded_folder

TARGET, PRIORS, ROWS, ANSWERS = "target.json", "priors.npy", "rows.npy", "answers.pickle"


class _Facts(Config):
    """What is known of the rows, as JSON."""

    manifest: str
    problem: str
    name: str
    row_ids: tuple[str, ...]
    classes: tuple[str, ...] | int | None
    groups: tuple[str, ...] | None
    seen: str
    rows: str | None
    key: str  # of the decoded images
    decoded: int  # how many they are, of which `ROWS` picks


def seal(
    target: SplitRef, stamps: str, spec: ModelSpec, folder: Path, *, answers: bool
) -> list[Path]:
    """Open a target as `open_stamped` does and write to an empty folder what an adaptation may see
    of it; with `answers` also what people said of single rows, in the frame of the network.

    The files that its decoded images lie in. Raises BadInput.
    """
    whole = open_stamped(target.model_copy(update={"rows": None}), stamps, spec.input)
    opened, key = whole.only(target.rows), decode_key(target.seen, spec.input)
    split, shown = opened.split, opened.split.unnamed()
    facts = _Facts(
        manifest=split.manifest,
        problem=split.problem,
        name=split.name,
        row_ids=shown.row_ids,
        classes=split.classes,
        groups=shown.groups,
        seen=opened.seen,
        rows=opened.rows,
        key=key,
        decoded=len(whole.split),
    )
    (folder / TARGET).write_text(facts.model_dump_json())
    if target.rows:
        np.save(folder / ROWS, read_rows(target.rows, len(whole.split)))
    if split.priors is not None:
        np.save(folder / PRIORS, split.priors)
    if answers and (framed := framed_rows(split, spec, folder / "answers")):
        with (folder / ANSWERS).open("wb") as file:
            pickle.dump(framed, file)
    return sorted(decoded_folder().glob(f"{key}.*"))


def open_sealed(folder: Path, spec: ModelSpec) -> tuple[Opened, FramedRows | None]:
    """The target of a folder that the parent has made, and the answers to its rows, if any.

    Raises BadInput where the decoded images are gone.
    """
    facts = _Facts.model_validate_json((folder / TARGET).read_bytes())
    priors = folder / PRIORS
    split = Split(
        manifest=facts.manifest,
        problem=facts.problem,
        name=facts.name,
        row_ids=facts.row_ids,
        names=facts.row_ids,
        classes=facts.classes,
        reader=_NoFiles(),
        groups=facts.groups,
        priors=np.load(priors, allow_pickle=False) if priors.is_file() else None,
    )
    images = decoded_images(facts.decoded, spec.input, decoded_folder(), facts.key)
    if images is None:
        raise BadInput(
            f"the decoded images of {facts.manifest} were removed while the job ran; start the "
            "job again"
        )
    if facts.rows:
        images = images_at(images, np.load(folder / ROWS, allow_pickle=False))
    framed = None
    if (folder / ANSWERS).is_file():
        with (folder / ANSWERS).open("rb") as file:
            framed = pickle.load(file)
    return Opened(split, images, facts.seen, facts.rows), framed


class _NoFiles:
    """Stands where other processes have a reader of image files."""

    def image(self, row: int, window: Window = None) -> NoReturn:
        """None can be had: BadInput."""
        raise BadInput("an adapting process has decoded images alone, not the files they are from")

    raw = values = size = grid = name_of = image

    def take(self, rows: Indices) -> _NoFiles:
        """The same."""
        return self
