"""Which rows of a split a part of it has, and which rows of a manifest are left out: files below
the home that are named by what they say.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sfda.bounds.files import read_bounded
from sfda.bounds.limits import LIST_BYTES
from sfda.errors import BadInput
from sfda.formats.readers import BROKEN, Indices
from sfda.manifests.write import put
from sfda.state_folder import disk_errors, home, state_folder


def rows_file(digest: str) -> Path:
    """Where the rows of this digest are kept. It is not tried whether they are."""
    return state_folder() / "pools" / f"rows-{digest}.npy"


def keep_rows(rows: Indices) -> str:
    """Keep which rows a part has, in order; their digest, by which it is told of."""
    content = np.ascontiguousarray(rows, dtype="<i8")
    digest = hashlib.sha256(content.tobytes()).hexdigest()
    home()
    file = rows_file(digest)
    with disk_errors(f"the rows of a part in {file}"):
        file.parent.mkdir(exist_ok=True)
        if not file.is_file():
            buffer = io.BytesIO()
            np.save(buffer, content)
            put({file: buffer.getvalue()})
    return digest


def read_rows(digest: str, size: int) -> Indices:
    """The rows of a part of a split of `size` rows. Raises BadInput where they are not there, or
    are not what their digest says.
    """
    file = rows_file(digest)
    try:
        rows: Indices = np.load(file, allow_pickle=False)
        intact = hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest() == digest
        if not intact or not len(rows) or rows.min() < 0 or rows.max() >= size:
            raise ValueError("they are not those that were written")
    except BROKEN as error:
        raise BadInput(
            f"the rows of a part, {file}, cannot be read ({error}); delete the file if there is "
            "one, and start the job again"
        ) from None
    return rows


def keep_names(names: Iterable[str]) -> str:
    """Keep the names of rows that are left out; their digest, by which they are told of."""
    content = json.dumps(sorted(names)).encode()
    digest = hashlib.sha256(content).hexdigest()
    file = home() / "pools" / f"names-{digest}.json"
    with disk_errors(f"the names of rows in {file}"):
        file.parent.mkdir(exist_ok=True)
        if not file.is_file():
            put({file: content})
    return digest


def read_names(digest: str) -> tuple[str, ...]:
    """The names of this digest. Raises BadInput where they are not there, or others."""
    file = state_folder() / "pools" / f"names-{digest}.json"
    try:
        content = read_bounded(file, LIST_BYTES)
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError("they are not those that were written")
    except BROKEN as error:
        raise BadInput(
            f"the names of rows that are left out, {file}, cannot be read ({error}); delete the "
            "file if there is one, and start the job again"
        ) from None
    return tuple(json.loads(content))
