"""What a profile says before an adaptation, of targets that can be helped and of hopeless ones.

`python -m tests.bench profile`, or `python -m tests.bench.profile --folder FOLDER` where sources
and targets of `bench decide` lie. Limits were fixed while looking at targets of seeds 0, 2 and 3;
what is reported is of SEEDS, which were not looked at.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sfda.adaptation.plan import make_plan
from sfda.loading.opened import manifest_ref
from sfda.profiling.findings import TargetProfile
from sfda.profiling.target import profile_part
from sfda.refs import ModelRef
from sfda.state_folder import temporary_state
from sfda.weights.bundle import bundle_digest
from tests.bench.decisions.runs import Run, settings_of
from tests.bench.decisions.sources import read_network, source_bundle
from tests.bench.decisions.targets import KINDS, target_folder

SEEDS = (1, 4, 5)
HARMFUL = (
    "no shift", "label shift 80 %", "2 of 10 classes", "open set 50 %", "20 images", "one class",
    "rate x 100", "all duplicates", "half corrupted", "another domain",
)  # fmt: skip
CPU = torch.device("cpu")


class Row(NamedTuple):
    """What the profile of one target says."""

    kind: str
    seed: int
    helpful: bool
    against: list[str]
    recommendation: str


def measure(out: Path, seeds: Iterable[int] = SEEDS) -> dict[str, Any]:
    """Profiles of every kind of target, by one thread."""
    torch.set_num_threads(1)
    folder = out / "decide"
    rows = []
    for seed in seeds:
        for kind in KINDS:
            profile = profile_of(kind, seed, folder)
            row = Row(
                kind, seed, KINDS[kind].helpful, list(profile.against), profile.recommendation.text
            )
            rows.append(row._asdict())
            print(kind, seed, row.against, row.recommendation, flush=True)
    return {"rows": rows}


def profile_of(kind: str, seed: int, folder: Path) -> TargetProfile:
    """The profile of a target that `sfda adapt --method shot` would see."""
    bundle = source_bundle(KINDS[kind].source, seed % 2, folder)
    network, spec = read_network(bundle)
    target = target_folder(kind, seed, folder)
    with temporary_state():
        manifest = manifest_ref(target / "target.yaml")
        source = ModelRef(
            uri=str(bundle),
            sha256=bundle_digest(bundle),
            problem=spec.problem,
            arch=spec.arch,
            classes=spec.classes,
        )
        asked = settings_of(Run(kind, "shot", seed))
        part = make_plan(source, manifest, asked, bundle=bundle).on(manifest)
        return profile_part(network, spec, None, part, asked, CPU)


def text(result: dict[str, Any]) -> str:
    """The table of docs/benchmarks.md."""
    rows = [Row(**row) for row in result["rows"]]
    lines = [
        "| target | can be helped | named | by | recommended |",
        "|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(row.kind for row in rows):
        own = [row for row in rows if row.kind == kind]
        named = sum(bool(row.against) for row in own)
        names = Counter(name for row in own for name in row.against)
        advice = Counter(row.recommendation for row in own)
        lines.append(
            f"| {kind} | {'yes' if own[0].helpful else 'no'} | {named} of {len(own)} | "
            f"{_counted(names, len(own))} | {_counted(advice, len(own))} |"
        )
    by_kind = {kind: [row for row in rows if row.kind == kind] for kind in HARMFUL}
    always = sum(all(row.against for row in own) for own in by_kind.values())
    wrong = sum(bool(row.against) for row in rows if row.helpful)
    helpful = sum(row.helpful for row in rows)
    closing = (
        f"{always} of {len(HARMFUL)} kinds of harmful or hopeless targets are named at every seed; "
        f"{wrong} of {helpful} helpful targets are."
    )
    return "\n".join([*lines, "", closing])


def _counted(names: Counter[str], of: int) -> str:
    return ", ".join(
        name if count == of else f"{name} ({count})" for name, count in names.most_common()
    )


def main() -> None:
    """Targets of a folder, and their table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("bench/decide"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    inputs = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        inputs.folder.mkdir(parents=True, exist_ok=True)
        Path(scratch, "decide").symlink_to(inputs.folder.absolute())
        print(text(measure(Path(scratch), inputs.seeds)))


if __name__ == "__main__":
    main()
