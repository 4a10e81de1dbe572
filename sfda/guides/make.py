"""Making a guide's table of a target, once; what lies there already is taken as it is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from sfda.guides.answers import csv_table
from sfda.guides.encoder import GuideNetwork, gathered, load_guide_network, look_with
from sfda.guides.origin import GuideOrigin
from sfda.guides.table import GuideTable, all_answered, stored_digest, write_table
from sfda.loading.opened import open_part, open_ref
from sfda.loading.scan import scan
from sfda.manifests.rows import read_split
from sfda.refs import ModelSpec, SplitRef
from sfda.state_folder import disk_errors, home, one_at_a_time
from sfda.types import Seen


def table_folder(origin: GuideOrigin, target: SplitRef, spec: ModelSpec, source: str) -> Path:
    """Where the table of a guide on a target lies, below the home. `source` is the source model's
    digest, which counts where the table holds its features.
    """
    more = {"source": source} if origin.kind == "self" else {}
    seen = {"seen": target.seen, "split": target.split, "rows": target.rows}
    return home() / "guides" / origin.key(classes=spec.classes, **seen, **more)[:24]


def kept_table(
    origin: GuideOrigin,
    target: SplitRef,
    spec: ModelSpec,
    source: str,
    seen: Iterable[Seen],
    device: torch.device,
) -> tuple[Path, str]:
    """The folder and the digest of a guide's table of a target for a model of this spec, made where
    it is not there yet. `seen` is what the source model makes of all rows. Raises BadInput.
    """
    folder = table_folder(origin, target, spec, source)
    with disk_errors(f"the guide's table in {folder}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(folder):
            if digest := stored_digest(folder):
                return folder, digest
            table = _made(origin, target, spec, seen, device)
            about = origin.model_dump(mode="json", exclude={"file", "class_file"})
            return folder, write_table(table, folder, {"origin": about, "seen": target.seen})


def _made(
    origin: GuideOrigin,
    target: SplitRef,
    spec: ModelSpec,
    seen: Iterable[Seen],
    device: torch.device,
) -> GuideTable:
    if origin.kind in ("csv", "self"):
        opened = open_part(target, spec)
        names = opened.split.names
        if origin.kind == "self":
            answered, covers = all_answered(len(names), len(spec.classes))
            table = GuideTable(answered, covers, None, gathered(seen, len(names))[0])
        else:
            others = _names_beside(target)
            ids = opened.split.row_ids
            table = csv_table(Path(origin.file), spec.classes, names, ids, others)
        table.check(names)
        return table
    guide = _network(origin, spec)
    # classes are matched elsewhere: the images alone are opened here
    shown = guide.spec.model_copy(update={"classes": spec.classes, "problem": spec.problem})
    opened = open_part(target, shown)
    look = scan(opened.images, guide.spec.input, device=device)
    guide.network.to(device)
    table = look_with(guide, origin, look, len(opened.split), spec.classes)
    table.check(opened.split.names)
    return table


def _network(origin: GuideOrigin, spec: ModelSpec) -> GuideNetwork:
    if origin.kind != "clip":
        return load_guide_network(origin, spec.problem)
    from sfda.guides.clip import load_clip  # open_clip is asked for by clip alone

    return load_clip(origin, spec.classes)


def _names_beside(target: SplitRef) -> set[str]:
    """Names of all images of the manifest, in whichever split: a CSV may speak of those, too."""
    manifest = open_ref(target.manifest).unlabelled()
    names: set[str] = set()
    for split in manifest.splits:
        rows = read_split(manifest, split)
        names |= {*rows.names, *rows.row_ids}
    return names
