"""What the image of each row is by its bytes, as a number: equal numbers are equal images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sfda.errors import BadInput
from sfda.formats.readers import npz_images, open_zip
from sfda.manifests.digests import archive_stamp, kept_digest
from sfda.manifests.rows import Sight, Split, row_files
from sfda.manifests.schema import Manifest
from sfda.problems.registry import PROBLEMS

Numbers = np.ndarray[Any, np.dtype[np.uint64]]
DIGEST_BYTES = 8  # of a digest that make up a number


def image_numbers(manifest: Manifest, rows: Split, look: Sight) -> Numbers:
    """[N]: the first 64 bits of a digest of each row's image, as large as they are random.

    The digest is of a file's bytes, of the size and checksum of a file in a zip, or of the pixels
    of an entry of an array. Rows of one file, persons of a picture or slices of a volume, have
    one number. Images that look alike and are other bytes have others. `look` is one at these
    rows. Raises BadInput.
    """
    path = manifest.archive_path
    if manifest.arrays and path:
        entries = [int(name.rpartition(":")[2]) for name in rows.names]
        return _entry_numbers(path, manifest.arrays.image)[entries]
    row_file = PROBLEMS[manifest.problem].row_file
    files = row_files(manifest, rows)
    numbers = _member_numbers(path, files) if path else look.files
    index_of = {name: number for number, name in enumerate(files)}
    return numbers[[index_of[row_file(name)] for name in rows.names]]


def _member_numbers(path: Path, names: tuple[str, ...]) -> Numbers:
    """Of files in a zip, whose directory alone is read: their bytes are checked against it whenever
    they are.
    """
    with open_zip(path) as archive:
        members = archive.NameToInfo
        if gone := next((name for name in names if name not in members), None):
            raise BadInput(f"image {gone} is missing from {path}")
        about = [members[name] for name in names]
    return _numbers(hashlib.sha256(b"%d %d" % (one.CRC, one.file_size)).digest() for one in about)


def _entry_numbers(path: Path, name: str) -> Numbers:
    """Of all images of an array; they are read again only when the file has changed."""
    stamp = archive_stamp(path)
    digests = kept_digest(path.absolute(), stamp, f"entries {name}", lambda: _entries(path, name))
    return np.frombuffer(bytes.fromhex(digests), dtype=">u8").astype(np.uint64)


def _entries(path: Path, name: str) -> str:
    images = npz_images(path, name)
    shape = f"{images.shape[1:]}".encode()
    every = (hashlib.sha256(shape + image.tobytes()).digest()[:DIGEST_BYTES] for image in images)
    return b"".join(every).hex()


def _numbers(digests: Iterable[bytes]) -> Numbers:
    return np.array([int.from_bytes(one[:DIGEST_BYTES]) for one in digests], dtype=np.uint64)
