"""What the row file of a split says, with every fault that it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sfda.documents import cut_off
from sfda.errors import BadInput, listed
from sfda.formats.coco import document_faults, images_of, read_coco
from sfda.formats.readers import (
    npz_array,
    npz_count,
)
from sfda.formats.table import read_csv
from sfda.manifests.columns import CsvRows, bad_paths, read_groups, slice_faults
from sfda.manifests.digests import file_digest
from sfda.manifests.labels import SplitContent
from sfda.manifests.schema import REMAKE, Manifest, SplitSpec
from sfda.problems.registry import PROBLEMS


def inspect_split(manifest: Manifest, split: str) -> SplitContent:
    """Rows and labels of a split, as far as they can be had, with every fault that is met."""
    if split not in manifest.splits:
        raise BadInput(
            f"{manifest.path} has no split '{split}'; there are {', '.join(manifest.splits)}"
        )
    spec = manifest.splits[split]
    try:
        content = _rows(manifest, spec)
    except BadInput as error:
        return SplitContent(faults=[f"split '{split}': {error}"])
    twice = _twice(content.keys)
    if twice:
        content.faults.append(f"named twice: {listed(twice)}")
    if not content.keys and not content.faults:
        content.faults.append("it has no rows, so there is nothing to read")
    elif len(content.keys) != spec.count:
        content.faults.append(f"{len(content.keys)} rows, but the manifest counts {spec.count}")
    content.faults = [f"split '{split}': {fault}" for fault in content.faults]
    return content


def _rows(manifest: Manifest, spec: SplitSpec) -> SplitContent:
    if not spec.rows:
        return _from_arrays(manifest, spec)
    path = manifest.rows_path(spec)
    if path is None or not path.is_file():
        raise BadInput(f"row file {path} is missing; {REMAKE}")
    content = SplitContent()
    if file_digest(path) != spec.sha256:
        content.faults.append(
            f"row file {path} is not the one this manifest was made with (other sha256); {REMAKE}"
        )
    read = _from_coco if path.suffix.lower() == ".json" else _from_csv
    return read(manifest, spec, path, content)


def _from_coco(
    manifest: Manifest, spec: SplitSpec, path: Path, content: SplitContent
) -> SplitContent:
    """Images by file name, and their labels where those may be read."""
    document = read_coco(path)
    images = images_of(document, spec.where)
    problem = PROBLEMS[manifest.problem]
    more = problem.read_document(manifest, content, document, images)
    group_of = {str(i["file_name"]): str(i["group"]) for i in images if i.get("group")}
    if group_of:
        groups = tuple(group_of.get(problem.row_file(key)) or key for key in content.keys)
        content.more = content.more._replace(groups=groups)
    content.faults += document_faults(document) + _odd_keys(manifest, content.keys) + more
    return content


def _from_csv(
    manifest: Manifest, spec: SplitSpec, path: Path, content: SplitContent
) -> SplitContent:
    key = manifest.key_column
    rows, header = read_csv(path)
    needed = [key] + (["split"] if spec.where is not None else [])
    missing = [column for column in needed if column not in header]
    if missing:
        raise BadInput(
            f"row file {path} has no column '{missing[0]}', only {cut_off(', '.join(header))}"
        )
    if spec.where is not None:
        rows = rows.where("split", spec.where)
    content.keys = list(map(_plain, rows.columns[key]) if manifest.arrays else rows.columns[key])
    odd = _odd_keys(manifest, content.keys)
    content.faults += odd
    if content.keys and not (manifest.arrays and odd):
        PROBLEMS[manifest.problem].read_columns(manifest, content, rows, header)
        _add_groups(manifest, content, rows if "group" in header else None)
    return content


def _from_arrays(manifest: Manifest, spec: SplitSpec) -> SplitContent:
    path, arrays = manifest.archive_path, manifest.arrays
    assert path is not None  # the schema demands both where `rows` is absent
    assert arrays is not None
    if spec.equals is None:
        indices = np.arange(npz_count(path, arrays.image))
    else:
        assert arrays.split is not None
        indices = np.flatnonzero(npz_array(path, arrays.split) == spec.equals)
    content = SplitContent(keys=[str(i) for i in indices])
    if content.keys:
        PROBLEMS[manifest.problem].read_columns(manifest, content, None, ())
        _add_groups(manifest, content, None)
    return content


def _add_groups(manifest: Manifest, content: SplitContent, rows: CsvRows | None) -> None:
    """Groups, which rows of every problem may have, where the problem has not read them."""
    if content.more.groups is None:
        content.more = content.more._replace(groups=read_groups(manifest, content, rows))


def _odd_keys(manifest: Manifest, keys: Sequence[str]) -> list[str]:
    """Faults of the `index` or `file` column; a path that leaves the data folder is one."""
    if manifest.arrays is None:
        odd = bad_paths(keys)
        return ([f"not a path below the root: {listed(odd)}"] if odd else []) + slice_faults(keys)
    assert manifest.archive_path is not None
    size = npz_count(manifest.archive_path, manifest.arrays.image)
    odd = [key for key in keys if not key.isdecimal() or int(key) >= size]
    return [f"index not in 0..{size - 1}: {listed(odd)}"] if odd else []


def _plain(index: str) -> str:
    return str(int(index)) if index.isdecimal() else index


def _twice(keys: Sequence[str]) -> list[str]:
    if len(np.unique(np.fromiter(map(hash, keys), np.int64, len(keys)))) == len(keys):
        return []  # a count of a million names takes 80 MB
    return sorted(key for key, times in Counter(keys).items() if times > 1)
