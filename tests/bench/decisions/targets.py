"""Targets of `bench decide`: shifts that adaptation should help with, and others that it cannot.

Each has rows without labels, of which some are held out for the decision, and further ones that
nothing but the truth is measured on.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from tests.bench.decisions import images
from tests.bench.decisions.images import NONE, Labelled, joined
from tests.bench.decisions.sources import SOURCES

ROWS, TRUTH = 1500, 1500
Rng = np.random.Generator


class Kind(NamedTuple):
    """A kind of target: by which source model, whether it can be helped, and how it is made."""

    source: str
    helpful: bool
    make: Callable[[Rng, int], tuple[Labelled, ...]]  # rows, and rows for the truth
    declared: bool = False  # whether its manifest names the classes
    faster: float = 1.0  # times the methods' own rates


def drawn(data: Labelled, rng: Rng, rows: int = ROWS, truth: int = TRUTH) -> tuple[Labelled, ...]:
    """Some rows, and other ones."""
    order = rng.permutation(len(data.labels))[: rows + truth]
    return data.take(order[:rows]), data.take(order[rows:])


def _changed(shift: Any, rng: Rng, seed: int) -> tuple[Labelled, ...]:
    """MNIST under a shift."""
    return tuple(one.shifted(shift, rng) for one in drawn(images.mnist(source=False), rng))


def _scanned(rng: Rng, seed: int) -> tuple[Labelled, ...]:
    return tuple(images.drawn_digits(target=True, held_out=flag) for flag in (False, True))


def _domain(data: Callable[[], Labelled], rng: Rng, seed: int) -> tuple[Labelled, ...]:
    every = data()
    rows = min(ROWS, len(every.labels) * 2 // 3)
    return drawn(every, rng, rows)


def _base(rng: Rng, seed: int) -> Labelled:
    """Digits that a source of MNIST can be adapted to: of the other scanner, or of USPS."""
    if seed % 2:
        return images.usps()
    rows = images.mnist(source=False)
    return rows.take(rng.permutation(len(rows.labels))[:12_000])


def _shown(part: Labelled, rng: Rng, seed: int) -> Labelled:
    return part if seed % 2 else part.shifted(images.restyled, rng)


def _shares(wanted: dict[int, float], rows: int, rng: Rng, seed: int) -> tuple[Labelled, ...]:
    """Classes in these shares, in the rows and in those for the truth alike."""
    data = _base(rng, seed)
    order = [rng.permutation(np.flatnonzero(data.labels == label)) for label in wanted]
    parts = []
    for part in range(2):
        chosen = [
            own[part * round(share * rows) : (part + 1) * round(share * rows)]
            for own, share in zip(order, wanted.values(), strict=True)
        ]
        parts.append(_shown(data.take(rng.permutation(np.concatenate(chosen))), rng, seed))
    return tuple(parts)


def _one_frequent(rng: Rng, seed: int) -> tuple[Labelled, ...]:
    most = (3, 0, 7, 1)[seed % 4]
    others = {label: 0.2 / 9 for label in range(10) if label != most}
    return _shares({most: 0.8} | others, 600, rng, seed)


def _two_classes(rng: Rng, seed: int) -> tuple[Labelled, ...]:
    one, other = ((3, 8), (0, 1), (4, 9), (2, 7))[seed % 4]
    return _shares({one: 0.5, other: 0.5}, 600, rng, seed)


def _one_class(rng: Rng, seed: int) -> tuple[Labelled, ...]:
    return _shares({(2, 0, 5, 1)[seed % 4]: 1.0}, 500, rng, seed)


def _open_set(rng: Rng, seed: int) -> tuple[Labelled, ...]:
    """Half of the images are of four classes that the source never saw."""
    shares = dict.fromkeys(range(6), 0.5 / 6) | dict.fromkeys(range(6, 10), 0.5 / 4)
    return tuple(
        one._replace(labels=np.where(one.labels < 6, one.labels, NONE))
        for one in _shares(shares, 1200, rng, seed)
    )


def _few(rng: Rng, seed: int) -> tuple[Labelled, ...]:
    return tuple(_shown(one, rng, seed) for one in drawn(_base(rng, seed), rng, 20, TRUTH))


def _plenty(rng: Rng, seed: int) -> tuple[Labelled, ...]:
    return tuple(_shown(one, rng, seed) for one in drawn(_base(rng, seed), rng))


def _duplicates(rng: Rng, seed: int) -> tuple[Labelled, ...]:
    """One image 320 times, or eight 40 times each; the truth is of other images."""
    rows, truth = drawn(_base(rng, seed), rng, 8 if seed % 2 else 1)
    rows = _shown(rows, rng, seed)
    return rows.take(np.tile(np.arange(len(rows.labels)), 320 // len(rows.labels))), _shown(
        truth, rng, seed
    )


def _half_corrupted(rng: Rng, seed: int) -> tuple[Labelled, ...]:
    """Every other image is lost in noise."""
    return tuple(
        joined(
            one.take(np.arange(0, len(one.labels), 2)),
            _of_none(one.take(np.arange(1, len(one.labels), 2)).shifted(images.static, rng)),
        )
        for one in _plenty(rng, seed)
    )


def _of_none(data: Labelled) -> Labelled:
    return data._replace(labels=np.full(len(data.labels), NONE))


def _pair(kind: Callable[..., Any], *inputs: Any) -> Callable[[Rng, int], Any]:
    return partial(kind, *inputs)


KINDS: dict[str, Kind] = {
    "other scanner": Kind("drawn", True, _scanned, True),
    "MNIST to USPS": Kind("mnist", True, _pair(_domain, images.usps), True),
    "USPS to MNIST": Kind("usps", True, _pair(_changed, images.plain), True),
    "photo to art": Kind("photo", True, _pair(_domain, partial(images.objects, "art_painting"))),
    "art to photo": Kind("art_painting", True, _pair(_domain, partial(images.objects, "photo"))),
    "noise": Kind("mnist", True, _pair(_changed, images.noisy)),
    "blur": Kind("mnist", True, _pair(_changed, images.blurred), True),
    "contrast": Kind("mnist", True, _pair(_changed, images.pale)),
    "style": Kind("mnist", True, _pair(_changed, images.restyled), True),
    "no shift": Kind("mnist", False, _pair(_changed, images.plain)),
    "label shift 80 %": Kind("mnist", False, _one_frequent),
    "2 of 10 classes": Kind("mnist", False, _two_classes),
    "open set 50 %": Kind("mnist06", False, _open_set),
    "20 images": Kind("mnist", False, _few),
    "one class": Kind("mnist", False, _one_class),
    "rate x 100": Kind("mnist", False, _plenty, faster=100.0),
    "all duplicates": Kind("mnist", False, _duplicates),
    "half corrupted": Kind("mnist", False, _half_corrupted),
    "another domain": Kind("mnist", False, _pair(_domain, images.thumbnails)),
    "upside down": Kind("mnist", False, _pair(_changed, images.turned)),
}


def target_folder(kind: str, seed: int, folder: Path) -> Path:
    """The folder of a target, made where it is not there yet."""
    target = folder / "targets" / f"{kind.replace(' ', '_').replace('%', '')}-{seed}"
    if not target.is_dir():
        part = target.with_name(f".{target.name}.{os.getpid()}")
        part.mkdir(parents=True)
        rng = np.random.default_rng([2027, seed, *kind.encode()])
        rows, truth = KINDS[kind].make(rng, seed)
        classes = list(SOURCES[KINDS[kind].source][0].classes)
        _write(part / "target.yaml", {"x": rows.images}, classes * KINDS[kind].declared)
        named = np.where(rows.labels == NONE, len(classes), rows.labels)
        _write(part / "truth.yaml", {"x": rows.images, "y": named}, [*classes, "other"])
        np.savez_compressed(part / "truth_rows.npz", x=truth.images, y=truth.labels)
        try:
            part.rename(target)
        except OSError:  # another process was faster
            assert target.is_dir()
    return target


def _write(file: Path, arrays: dict[str, Any], classes: list[str]) -> None:
    """Arrays and the manifest of them: all of them adapted to, or with labels."""
    archive = file.with_suffix(".npz")
    np.savez(archive, **arrays)
    document: dict[str, Any] = {
        "name": f"bench/{file.stem}",
        "problem": "classification",
        "origin": "made by tests/bench/decisions",
        "root": ".",
        "archive": {
            "file": archive.name,
            "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        },
        "arrays": {"image": "x"} | ({"label": "y"} if "y" in arrays else {}),
        "splits": {"adapt": {"count": len(arrays["x"])}},
    }
    if classes:
        document["classes"] = classes
    file.write_text(yaml.safe_dump(document))
