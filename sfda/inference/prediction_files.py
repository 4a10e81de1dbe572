"""Predictions of a model for every image of a set: a table, and masks where masks are predicted."""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from sfda.building_blocks.device import DeviceName, choose, to_device
from sfda.errors import BadInput
from sfda.loading.opened import open_ref, open_split
from sfda.manifests.write import partial_folder
from sfda.problems.registry import PROBLEMS
from sfda.refs import ManifestRef, ModelSpec
from sfda.state_folder import disk_errors, named_by_a_person

TABLE = "predictions.csv"
MASKS = ("file", "mask", "confidence")  # its first columns, before those of the classes


def write_predictions(
    network: nn.Module,
    spec: ModelSpec,
    target: ManifestRef,
    split: str,
    out: Path,
    device: DeviceName,
) -> tuple[int, Path]:
    """Write `predictions.csv` to a folder, and what the problem puts beside it; the count and the
    file. Raises BadInput.
    """
    chosen = choose(device)
    manifest = open_ref(target).unlabelled()
    if manifest.problem != spec.problem:
        raise BadInput(f"{target.path} is for {manifest.problem}, the model for {spec.problem}")
    opened = open_split(manifest, split, spec.input)
    to_device(network, chosen)
    file = out / TABLE
    with disk_errors(str(file), "free some space or name another folder"), _whole_in(out) as part:
        header, rows = PROBLEMS[spec.problem].prediction_table(network, spec, opened, chosen, part)
        _refuse_other_table(file, header)
        with (part / file.name).open("w", newline="", encoding="utf-8") as opened_file:
            writer = csv.writer(opened_file)
            writer.writerow(header)
            writer.writerows(rows)
    return len(opened.images), file


@contextmanager
def _whole_in(out: Path) -> Iterator[Path]:
    """A folder whose content takes its place in `out` when all of it is there, the table last;
    nothing is left of it otherwise.
    """
    if not out.is_dir() and os.path.lexists(out):
        raise BadInput(f"--out {out} is no folder; name another one")
    with named_by_a_person(out) as umask:
        out.mkdir(parents=True, exist_ok=True)
    _refuse_strangers(out, None)
    with partial_folder(out, "predictions") as part:
        yield part
        _refuse_strangers(out, part)
        for made in part.rglob("*"):
            made.chmod((0o777 if made.is_dir() else 0o666) & ~umask)
        for made in sorted(part.iterdir(), key=lambda path: (path.suffix == ".csv", path.name)):
            there = out / made.name
            if there.is_dir():
                shutil.rmtree(there)  # of an earlier call, as was made sure
            os.replace(made, there)


def _refuse_strangers(out: Path, part: Path | None) -> None:
    """Raise BadInput where what is made, in `part`, would take the place of what no earlier call
    has made: files that the table there does not name.
    """
    table = out / TABLE
    if table.is_dir():
        raise BadInput(f"{table} is a folder; name another folder than {out}")
    known: set[str] | None = None
    for made in part.iterdir() if part else ():
        there = out / made.name
        if made.is_file() or not os.path.lexists(there):
            continue
        if known is None:
            known = _cells(table)
        if there.is_symlink() or not there.is_dir():
            raise BadInput(f"{there} is no folder; name another folder than {out}")
        for file in there.rglob("*"):
            inner = str(file.relative_to(out))
            if not (file.is_dir() and not file.is_symlink()) and inner not in known:
                raise BadInput(
                    f"{file} was not made by `sfda predict`, which would replace {there}; move it "
                    f"away, or name another folder than {out}"
                )


def _refuse_other_table(table: Path, header: Sequence[str]) -> None:
    """Raise BadInput where a person's own files lie under the names of ours."""
    remedy = f"move it away, or name another folder than {table.parent}"
    if table.is_symlink():
        raise BadInput(f"{table} is a link; {remedy}")
    try:
        with table.open(newline="", encoding="utf-8") as opened:
            first = next(csv.reader(opened), [])
    except FileNotFoundError:
        if os.path.lexists(beside := table.with_suffix(".json")):
            raise BadInput(f"{beside} was not made by `sfda predict`; {remedy}") from None
        return
    except (ValueError, csv.Error):
        first = []
    if _form(first) != _form(header):
        raise BadInput(f"{table} was not made by `sfda predict` with such a model; {remedy}")


def _form(header: Sequence[str]) -> set[str]:
    """The columns of a table of predictions, whatever the classes are called."""
    if tuple(header[: len(MASKS)]) == MASKS:
        return set(MASKS)
    return {
        re.sub(r"^probability:.*", "probability", re.sub(r"^.*:(x|y|score)$", r"joint \1", column))
        for column in header
    }


def _cells(table: Path) -> set[str]:
    """All that a table of predictions says; nothing where there is none."""
    try:
        with table.open(newline="", encoding="utf-8") as opened:
            return {cell for line in csv.reader(opened) for cell in line}
    except (OSError, ValueError, csv.Error):
        return set()
