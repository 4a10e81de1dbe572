"""Whether verdicts are right: over 300 adaptations of targets that can be helped or cannot.

`python -m tests.bench decide`, or `python -m tests.bench.decide --runs 40 --out FOLDER` for some of
them; started again, either goes on where it was. One line a run lies in FOLDER/runs.jsonl, what the
models say and their weights beside it: verdicts are made anew from these (`--verdicts`).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tests.bench.decisions.ranked import choices_of_targets
from tests.bench.decisions.runs import Run, adapt_run, all_runs, some_runs
from tests.bench.decisions.sources import SOURCES, source_bundle
from tests.bench.decisions.table import table
from tests.bench.decisions.targets import KINDS, target_folder
from tests.bench.decisions.verdicts import judge_run


def measure(out: Path) -> dict[str, Any]:
    """All runs and their verdicts."""
    return carry_out(all_runs(), out / "decide")


def text(result: dict[str, Any]) -> str:
    """The tables of docs/benchmarks.md."""
    return table(result)


def carry_out(runs: Sequence[Run], folder: Path, workers: int = 2) -> dict[str, Any]:
    """Adapt where that is not done yet, then judge; each part goes on after an interruption."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes
    done = {_name(row): row for row in _lines(folder / "runs.jsonl")}
    left = [run for run in runs if run.name not in done]
    if left:
        _spread(prepare, sorted(parts_of(left)), folder, workers, None)
        _spread(adapt_run, left, folder, workers, folder / "runs.jsonl")
    done = {_name(row): row for row in _lines(folder / "runs.jsonl")}
    judged = {_name(row): row for row in _lines(folder / "verdicts.jsonl")}
    left = [run for run in runs if run.name not in judged]
    rows = [done[run.name] for run in left]
    _spread(judge_run, rows, folder, workers, folder / "verdicts.jsonl")
    judged = {_name(row): row for row in _lines(folder / "verdicts.jsonl")}
    own = [judged[run.name] for run in runs]
    return {"runs": own, "targets": choices_of_targets(own, folder)}


def parts_of(runs: Sequence[Run]) -> set[tuple[str, tuple[tuple[str, int], ...]]]:
    """What must be there beforehand, by spec of the network: its sources and targets together."""
    parts: dict[str, set[tuple[str, int]]] = {}
    for run in runs:
        own = KINDS[run.kind].source
        key = own if SOURCES[own][0].arch == "sfda:lenet" else "features"
        parts.setdefault(key, set()).add((run.kind, run.seed))
    return {(key, tuple(sorted(kinds))) for key, kinds in parts.items()}


def prepare(part: tuple[str, tuple[tuple[str, int], ...]], folder: Path) -> dict[str, Any]:
    """Source models and targets."""
    for kind, seed in part[1]:
        source_bundle(KINDS[kind].source, seed % 2, folder)
        target_folder(kind, seed, folder)
    return {}


def _spread(
    work: Callable[[Any, Path], dict[str, Any]],
    items: Sequence[Any],
    folder: Path,
    workers: int,
    file: Path | None,
) -> None:
    """Do it in some processes; a line each into the file as it is done."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
        futures = [pool.submit(work, item, folder) for item in items]
        for number, future in enumerate(as_completed(futures), start=1):
            line = json.dumps(future.result())
            if file:
                with file.open("a") as lines:
                    lines.write(line + "\n")
            print(f"{work.__name__} {number}/{len(futures)}", flush=True)


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """What was written; a line cut short by an interruption counts for nothing."""
    for line in file.read_text().splitlines() if file.is_file() else ():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _name(row: dict[str, Any]) -> str:
    return Run(**row["run"]).name


def main() -> None:
    """Some runs, and their table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.decide", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="at most so many")
    parser.add_argument("--out", type=Path, default=Path("bench/decide"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--verdicts", action="store_true", help="judge anew what was adapted")
    inputs = parser.parse_args()
    if inputs.verdicts:
        (inputs.out / "verdicts.jsonl").unlink(missing_ok=True)
    print(table(carry_out(some_runs(inputs.runs), inputs.out, inputs.workers)))


if __name__ == "__main__":
    main()
