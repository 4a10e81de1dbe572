"""`make gpu`: measure on a GPU, write bench/gpu.json after every part, print it as a table.

Exit code 1 where a part failed, 2 where there is no GPU. `--table` prints what is there.
`--device cpu --tiny` tries the script itself.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sfda.building_blocks.device import choose
from tests.bench.gpu import epochs, numerics, switches
from tests.bench.gpu.cases import CASES, TINY, Bench, Case, Target
from tests.bench.gpu.table import text
from tests.bench.gpu.waits import blamed

OUT = Path("bench/gpu.json")
REPEATS = 5
LIMIT = 450.0  # seconds: with the start of Python and torch below eight minutes
NO_GPU = (
    "make gpu needs a GPU, and torch sees none: run it on a machine with a CUDA device and its "
    "driver, or try the script with `python -m tests.bench.gpu --device cpu --tiny`\n"
)
Measure = Callable[[float], dict[str, Any]]


class Section(NamedTuple):
    """One kind of measurement, its share of the time, and its parts by name."""

    name: str
    share: float
    parts: dict[str, Measure]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure or print; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks, few images")
    parser.add_argument("--seconds", type=float, default=LIMIT, help="after which nothing begins")
    parser.add_argument("--workers", type=int, help="of the loader; by default by the cores")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--commit", default="", help="what is measured, where git cannot tell")
    parser.add_argument("--only", nargs="*", default=[], help="sections; others stay as they were")
    parser.add_argument("--methods", nargs="*", default=[], help="methods; by default all")
    parser.add_argument("--table", action="store_true", help="print the results that there are")
    options = parser.parse_args(arguments)
    if options.table:
        print(text(json.loads(options.out.read_text())))
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, NO_GPU)
    started = time.monotonic()
    device = choose(options.device)
    workers = _workers(options.workers, device)
    results = _header(options, workers)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of operators that have no deterministic kind
        bench = Bench(Path(folder), device, workers, 2 if options.tiny else REPEATS)
        sections = _sections(options, bench)
        faults = _run(sections, results, options.out, started + options.seconds)
    results["seconds"] = round(time.monotonic() - started)
    _write(results, options.out)
    print(text(results))
    return int(faults > 0)


def _sections(options: argparse.Namespace, bench: Bench) -> list[Section]:
    """What is measured, the quick and telling first, and what starts workers last."""
    cases = [
        c
        for c in (TINY if options.tiny else CASES)
        if c.method in options.methods or not options.methods
    ]
    # the default method of each problem, and a teacher of whole images and of pixels
    several = [
        c
        for c in cases
        if c.method in ("shot", "lpld", "post")
        or (c.method == "mean_teacher" and c.problem != "detection")
    ]

    def on_target(measure: Any, case: Case, until: float) -> dict[str, Any]:
        numbers: dict[str, Any] = measure(Target(case, bench), until)
        return {"problem": case.problem, "method": case.method, **numbers}

    def each(measure: Any, some: Sequence[Case]) -> dict[str, Measure]:
        return {case.name: partial(on_target, measure, case) for case in some}

    def short(measure: Any, some: Sequence[Case]) -> dict[str, Measure]:
        return each(measure, [replace(case, rows=case.few) for case in some])

    many = partial(numerics.many_classes, bench, options.tiny)
    sections = [
        Section("many_classes", 2, {"sfda2, C = 345": many}),
        Section("waits", 10, short(epochs.waits, cases)),
        Section("precision", 15, short(numerics.precision, cases)),
        Section("ddp", 8, short(numerics.ddp, several)),
        Section("loading", 8, each(epochs.loading, several)),
        Section("epochs", 45, each(epochs.epochs, cases)),
        Section("switches", 14, each(switches.switches, cases[:1])),
    ]
    return [section for section in sections if section.name in options.only or not options.only]


def _workers(number: int | None, device: torch.device) -> int:
    if number is not None:
        return number
    return 0 if device.type == "cpu" else max(0, min(12, (os.cpu_count() or 1) - 2))


def _header(options: argparse.Namespace, workers: int) -> dict[str, Any]:
    cuda = options.device == "cuda"
    before = json.loads(options.out.read_text()) if options.only and options.out.is_file() else {}
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "cores": os.cpu_count(),
        "workers": workers,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": options.commit or _commit(),
        "tiny": options.tiny,
        "limit": options.seconds,
        "sections": before.get("sections", {}),
    }


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _run(sections: list[Section], results: dict[str, Any], out: Path, end: float) -> int:
    """Measure part by part within the time; the number of faults."""
    faults = 0
    for n, section in enumerate(sections):
        shares = [later.share for later in sections[n:]]
        stop = time.monotonic() + (end - time.monotonic()) * section.share / sum(shares)
        rows = results["sections"][section.name] = {}
        for m, (name, measure) in enumerate(section.parts.items()):
            now = time.monotonic()
            if now >= stop:
                rows[name] = {"not_run": "time"}
                continue
            rows[name] = _measured(measure, now + (stop - now) / (len(section.parts) - m))
            faults += "error" in rows[name]
            outcome = rows[name].get("error", "")
            print(f"{section.name}: {name}: {time.monotonic() - now:.1f} s {outcome}", flush=True)
            _write(results, out)
    return faults


def _measured(measure: Measure, until: float) -> dict[str, Any]:
    try:
        return measure(until)
    except Exception as error:  # the other parts are worth having
        message = (str(error).strip() or "no message").splitlines()[0]
        return {"error": f"{type(error).__name__}: {message} (at {blamed(error)})"}
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _write(results: dict[str, Any], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
