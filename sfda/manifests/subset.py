"""A manifest of some classes of another, and the benchmarks' lists of which classes those are."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from sfda.bounds.files import Unreadable, read_bounded
from sfda.bounds.limits import YAML_BYTES
from sfda.config import Config
from sfda.documents import parse_yaml
from sfda.errors import BadInput, listed
from sfda.formats.table import csv_bytes, read_csv
from sfda.manifests.digests import bytes_digest, file_digest
from sfda.manifests.inspection import inspect_split
from sfda.manifests.opening import open_manifest
from sfda.manifests.schema import REMAKE, Manifest
from sfda.manifests.write import refuse_other_suffix, relative_root, write_files
from sfda.problems.registry import PROBLEMS
from sfda.types import Regime

LabelledKeys = list[tuple[str, tuple[str, ...]]]  # key and classes of every row of a split


class Sides(Config):
    """Class names of the source and of the target in one regime, in the order of their indices."""

    source: tuple[str, ...]
    target: tuple[str, ...]

    @property
    def regime(self) -> Regime:
        """What two such lists make."""
        lacks, opens = set(self.source) - set(self.target), set(self.target) - set(self.source)
        if lacks:
            return "open-partial" if opens else "partial"
        return "open" if opens else "closed"


def read_regimes(path: Path) -> dict[Regime, Sides]:
    """The regimes in a YAML file, each with both lists of classes. Raises BadInput."""
    try:
        raw = parse_yaml(read_bounded(path, YAML_BYTES))
        sides_of = TypeAdapter(dict[Regime, Sides]).validate_python(raw)
    except FileNotFoundError:
        raise BadInput(
            f"no file {path}; data_manifests/office31/regimes.yaml is one, and "
            "data_manifests/README.md says how to write one"
        ) from None
    except (OSError, Unreadable) as error:
        raise BadInput(f"{path} cannot be read: {error}") from None
    except ValidationError as error:
        faults = [f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()]
        raise BadInput(
            f"{path} is no file of regimes ({listed(faults, '; ')}); write `open: "
            "{source: [a, b], target: [a, b, c]}`, and so for partial, open-partial and closed"
        ) from None
    wrong = [f"{name} ({sides.regime})" for name, sides in sides_of.items() if sides.regime != name]
    if wrong:
        raise BadInput(f"{path}: regimes that are others by their lists: {', '.join(wrong)}")
    return sides_of


def side_of(path: Path, regime: Regime, side: Literal["source", "target"]) -> tuple[str, ...]:
    """The classes of one side of a regime in a file. Raises BadInput if it is not there."""
    regimes = read_regimes(path)
    if regime not in regimes:
        raise BadInput(f"{path} has no regime '{regime}'; there are {', '.join(regimes)}")
    sides = regimes[regime]
    return sides.source if side == "source" else sides.target


def write_subset(
    path: Path,
    *,
    classes: Sequence[str],
    out: Path,
    suffix: str | None = None,
    data_root: Path | None = None,
) -> Path:
    """Write to `out` a manifest of those images of `path` that belong to `classes`.

    Every split is kept, the row file lies beside `out`, images stay where they are under the same
    row ids. Labels are written by name; `classes` keep the order given. Of several classes an image
    those in `classes` stay, and an image goes that shows others alone. Answers that people gave to
    rows that stay are kept by the same rule. `suffix` follows the set's name in parentheses.

    Raises BadInput naming every class that is unknown or has no images, every split that has no
    labels or is left without images, and all else that is wrong with the manifest.
    """
    refuse_other_suffix(out)
    manifest = open_manifest(path, data_root=data_root)
    _check_labels(manifest)
    _check_names(manifest, classes)
    splits = _splits(manifest)
    chosen = {
        name: [(key, left) for key, own in rows if (left := _left(own, classes)) is not None]
        for name, rows in splits.items()
    }
    _check_chosen(manifest, classes, chosen)
    row_file = out.with_suffix(".rows.csv")
    _refuse_overwriting(manifest, out, row_file)
    table, entries = _table(manifest, row_file.name, chosen)
    annotation_files = _annotations(manifest, classes, chosen, entries, out)
    document = _document(manifest, classes, suffix, out) | {"splits": entries}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    write_files({row_file: table, **annotation_files, out: text.encode()}, out)
    return out


def _left(own: Sequence[str], classes: Sequence[str]) -> tuple[str, ...] | None:
    """What is left of a row's classes; None: others alone, so the row goes.

    >>> _left(("cat", "dog"), ("dog", "owl")), _left((), ("dog",)), _left(("cat",), ("dog",))
    (('dog',), (), None)
    """
    left = tuple(name for name in own if name in classes)
    return left if left or not own else None


def _names(manifest: Manifest) -> tuple[str, ...]:
    """Class names; those of a bare number are "0", "1" ..., as training calls them."""
    if manifest.classes is None:
        raise BadInput(f"{manifest.path} names no classes, so none can be chosen; add `classes`")
    if isinstance(manifest.classes, int):
        return tuple(str(i) for i in range(manifest.classes))
    return manifest.classes


def _check_labels(manifest: Manifest) -> None:
    kind = PROBLEMS[manifest.problem]
    if kind.labels_are_files or kind.annotations:
        raise BadInput(
            f"{manifest.path} is for {manifest.problem}: its {kind.label_word} are of parts of "
            "images, and a subset is of whole images by their classes; make a manifest of "
            f"{kind.label_word} of those classes alone with `sfda manifest`"
        )


def _check_names(manifest: Manifest, classes: Sequence[str]) -> None:
    known = _names(manifest)
    faults = []
    for name in dict.fromkeys(classes):
        if classes.count(name) > 1:
            faults.append(f"'{name}' is named twice")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            faults.append(f"no class '{name}'" + (f" (did you mean '{near[0]}'?)" if near else ""))
    if faults:
        raise BadInput(f"{manifest.path}: {'; '.join(faults)}; its classes are {listed(known)}")
    if len(classes) < 2:
        raise BadInput(f"{manifest.path}: choose at least two classes: one alone is no choice")


def _splits(manifest: Manifest) -> dict[str, LabelledKeys]:
    """Key and classes of every row, by split. Raises BadInput naming all that is wrong."""
    names = _names(manifest)
    faults: list[str] = []
    splits: dict[str, LabelledKeys] = {}
    for split in manifest.splits:
        content = inspect_split(manifest, split)
        faults += content.faults
        labels = content.labels.row_classes() if content.labels else None
        if labels is not None:
            own = [tuple(names[i] for i in row) for row in labels]
            splits[split] = list(zip(content.keys, own, strict=True))
        elif not content.faults:
            faults.append(f"split '{split}' has no labels, and classes are chosen by them")
    if faults:
        raise BadInput(f"{manifest.path}: " + listed(faults, "; "))
    return splits


def _check_chosen(
    manifest: Manifest, classes: Sequence[str], chosen: dict[str, LabelledKeys]
) -> None:
    there = {name for rows in chosen.values() for _, own in rows for name in own}
    faults = [f"no images of class '{name}'" for name in classes if name not in there]
    faults += [
        f"split '{name}' has none of these classes" for name, rows in chosen.items() if not rows
    ]
    if faults:
        raise BadInput(f"{manifest.path}: " + "; ".join(faults))


def _refuse_overwriting(manifest: Manifest, out: Path, row_file: Path) -> None:
    used = {manifest.path, *(manifest.rows_path(spec) for spec in manifest.splits.values())}
    own = {path.resolve() for path in used if path}
    if taken := [str(path) for path in (out, row_file) if path.resolve() in own]:
        raise BadInput(
            f"{', '.join(taken)} would be overwritten while it is read; name another --out"
        )


def _table(
    manifest: Manifest, row_file: str, chosen: dict[str, LabelledKeys]
) -> tuple[bytes, dict[str, Any]]:
    """The row file, and the entries of the splits in it; splits of the same rows share them."""
    kind = PROBLEMS[manifest.problem]
    lines: list[tuple[str, ...]] = [(manifest.key_column, _column(manifest), "split")]
    stands_for: dict[str, str] = {}
    for name, rows in chosen.items():
        twin = next((old for old in stands_for if chosen[old] == rows), name)
        stands_for[name] = twin
        if twin == name:
            lines += [(key, kind.label_of(own), name) for key, own in rows]
    table = csv_bytes(lines)
    entry = {"rows": row_file, "sha256": bytes_digest(table)}
    return table, {
        name: entry | {"where": twin, "count": len(chosen[name])}
        for name, twin in stands_for.items()
    }


def _annotations(
    manifest: Manifest,
    classes: Sequence[str],
    chosen: dict[str, LabelledKeys],
    entries: dict[str, Any],
    out: Path,
) -> dict[Path, bytes]:
    """Files of the answers that stay, each beside `out`, and their mention in `entries`."""
    key, column, kind = manifest.key_column, _column(manifest), PROBLEMS[manifest.problem]
    files = {}
    for name, spec in manifest.splits.items():
        if spec.answers is None:
            continue
        there = {own for own, _ in chosen[name]}
        old, _ = read_csv(manifest.path.parent / spec.answers.rows)
        rows = [
            (r[key], kind.label_of(left))
            for r in old
            if r[key] in there and (left := _left(kind.classes_in(r[column]), classes)) is not None
        ]
        if not rows:
            continue
        file = out.with_suffix(f".{name}.answers.csv")
        files[file] = csv_bytes([(key, column), *rows])
        entries[name]["answers"] = {
            "rows": file.name,
            "sha256": bytes_digest(files[file]),
            "count": len(rows),
            "classes": list(classes),
        }
    return files


def _column(manifest: Manifest) -> str:
    """The column of a row file that names classes."""
    column = PROBLEMS[manifest.problem].annotation_column
    assert column  # labels that name classes of rows were read
    return column


def _document(
    manifest: Manifest, classes: Sequence[str], suffix: str | None, out: Path
) -> dict[str, Any]:
    suffix = suffix or f"{len(classes)} of {manifest.num_classes} classes"
    document: dict[str, Any] = {
        "name": f"{manifest.name} ({suffix})",
        "problem": manifest.problem,
        "version": manifest.version,
        "origin": manifest.origin,
    }
    if manifest.licence:
        document["licence"] = manifest.licence
    document |= {"root": _root(manifest, out), "classes": list(classes)}
    if manifest.archive:
        document["archive"] = {"file": manifest.archive.file, "sha256": _archive_digest(manifest)}
    if manifest.arrays:  # labels and splits stand in the row file now
        document["arrays"] = {"image": manifest.arrays.image}
    return document


def _archive_digest(manifest: Manifest) -> str:
    assert manifest.archive is not None
    path = manifest.location / manifest.archive.file
    if not path.is_file():
        raise BadInput(f"archive {path} is missing; set SFDA_DATA to the folder of your data sets")
    digest = file_digest(path)
    if digest != manifest.archive.sha256:
        raise BadInput(
            f"archive {path} is not the one {manifest.path} was made with (other sha256); {REMAKE}"
        )
    return digest


def _root(manifest: Manifest, out: Path) -> str:
    """As it was where it lies below the data folder, else relative to the new file."""
    if not manifest.root.startswith(".") and not PurePosixPath(manifest.root).is_absolute():
        return manifest.root
    return relative_root(manifest.location.resolve(), out.resolve().parent)
