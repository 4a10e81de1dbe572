"""Neighbours in the memory bank: time and memory of a step's search, exact and approximate.

The bank stands in the middle of an epoch: the index was built at its start, half of the rows have
been written since, and the features have drifted. They are drawn like those of a network that has
learnt twelve classes: a mean each, variation along 32 directions of the class's own, and some noise
in all directions. Exact and approximate searches take turns on the same bank and the same batches,
so that a slow minute of the machine hits both. Every size runs in a process of its own, whose peak
of resident memory is reset before what is measured.
"""

from __future__ import annotations

import ctypes
import json
import math
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sfda.building_blocks.bank import MemoryBank

SIZES = (10_000, 100_000, 1_000_000)
STEPS = {10_000: 100, 100_000: 40, 1_000_000: 12}
DIM, CLASSES, BATCH, K = 256, 12, 64, 5
WARM_UP = 3  # steps that are not counted
CHUNK = 20_000  # rows drawn at once


def measure(out: Path) -> dict[str, Any]:
    """Every size in a fresh process."""
    return {"sizes": [in_a_process(size) for size in SIZES]}


def in_a_process(size: int) -> dict[str, Any]:
    command = [sys.executable, __file__, str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the search among {size} rows failed: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


class Drawn:
    """Features of a target by chunks of rows, before and after a drift of the network."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.generator = torch.Generator().manual_seed(0)
        self.means = self.normal(CLASSES, DIM)
        self.directions = self.normal(CLASSES, 32, DIM) / 32**0.5
        self.labels = torch.randint(CLASSES, (size,), generator=self.generator)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def fill_(self, bank: MemoryBank) -> None:
        """Write every row as the network sees it at the start of the epoch."""
        for rows in torch.arange(self.size).split(CHUNK):
            labels, inside = self.labels[rows], self.normal(len(rows), 32)
            features = self.means[labels] + 0.3 * self.normal(len(rows), DIM)
            for label in range(CLASSES):
                of_class = labels == label
                features[of_class] += 0.8 * inside[of_class] @ self.directions[label]
            bank.update(rows, features, F.one_hot(labels, CLASSES).float())

    def drifted(self, features: Tensor, rows: Tensor) -> Tensor:
        """These rows some steps later: towards another class and with noise, cosine about 0.95."""
        towards = F.normalize(self.means.roll(1, 0)[self.labels[rows]], dim=1)
        return features + 0.1 * towards + 0.02 * self.normal(len(rows), DIM)


def case(size: int) -> dict[str, Any]:
    """One size: memory of each search and of the index, then times in turns, then the recall."""
    drawn = Drawn(size)
    approximate = MemoryBank(size, DIM, CLASSES, approximate=True)
    exact = MemoryBank(size, DIM, CLASSES)
    exact.features, exact.probs = approximate.features, approximate.probs  # one bank, two searches
    small = MemoryBank(5000, DIM, CLASSES, approximate=True)  # loads what a first search loads
    small.update(torch.arange(5000), drawn.normal(5000, DIM), torch.ones(5000, CLASSES))
    for _ in range(2):
        step(small, torch.arange(BATCH), small.features[:BATCH], drawn.labels)
        small.index_()
    drawn.fill_(approximate)

    queries = [(b, approximate.features[b]) for b in batches(drawn)]
    exact_mb = peak_mb(lambda: step(exact, *queries[0], drawn.labels))
    before, started = resident_mb(), time.perf_counter()
    build_peak_mb = peak_mb(approximate.index_)
    build_s = time.perf_counter() - started
    index_mb = resident_mb() - before
    approximate_mb = peak_mb(lambda: step(approximate, *queries[0], drawn.labels))

    half = torch.randperm(size, generator=drawn.generator)[: size // 2]
    for rows in half.split(CHUNK):
        moved = drawn.drifted(approximate.features[rows], rows)
        approximate.update(rows, moved, approximate.probs[rows])
    times: dict[str, list[float]] = {"exact": [], "approximate": []}
    hits = 0
    for rows, features in queries:
        now = drawn.drifted(features, rows)
        result = {}
        for name, bank in (("exact", exact), ("approximate", approximate)):
            started = time.perf_counter()
            result[name] = step(bank, rows, now, drawn.labels)
            times[name].append(1000 * (time.perf_counter() - started))
        hits += int((result["approximate"][:, :, None] == result["exact"][:, None]).sum())
    return {
        "size": size,
        "threads": torch.get_num_threads(),
        "exact_ms": times["exact"][WARM_UP:],
        "approximate_ms": times["approximate"][WARM_UP:],
        "exact_mb": exact_mb,
        "approximate_mb": approximate_mb,
        "index_mb": index_mb,
        "build_peak_mb": build_peak_mb,
        "build_s": build_s,
        "recall": hits / (len(queries) * BATCH * K),
    }


def batches(drawn: Drawn) -> tuple[Tensor, ...]:
    order = torch.randperm(drawn.size, generator=drawn.generator)
    parts: tuple[Tensor, ...] = order.split(BATCH)
    return parts[: STEPS[drawn.size] + WARM_UP]


def step(bank: MemoryBank, rows: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """What a method asks of its bank in one step."""
    bank.update(rows, features, F.one_hot(labels[rows], CLASSES).float())
    return bank.neighbours(rows, features, K)


def peak_mb(work: Any) -> float:
    """Most resident memory while it works, over what was resident before. Linux alone."""
    ctypes.CDLL(None).malloc_trim(0)  # or what was freed before would be taken again unseen
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_mb()
    work()
    return resident_mb("VmHWM") - before


def resident_mb(field: str = "VmRSS") -> float:
    result = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert result, f"/proc/self/status has no {field}"
    return int(result[1]) / 1024


def text(result: dict[str, Any]) -> str:
    lines = [
        f"Search and update of one step, {BATCH} rows of width {DIM}, K = {K}, "
        f"{result['sizes'][0]['threads']} threads.",
        "",
        "| rows | search | ms a step, median (min to max) | memory of a search, MB "
        "| index: build s, MB kept, MB at most | recall@5 |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for row in result["sizes"]:
        index = f"{row['build_s']:.1f}, {row['index_mb']:.0f}, {row['build_peak_mb']:.0f}"
        lines += [
            line(row, "exact", "none", "1"),
            line(row, "approximate", index, f"{row['recall']:.3f}"),
        ]
    return "\n".join([*lines, "", verdict(result["sizes"])])


def line(row: dict[str, Any], name: str, index: str, recall: str) -> str:
    times = row[f"{name}_ms"]
    return (
        f"| {row['size']:,} | {name} | {statistics.median(times):.1f} ({min(times):.1f} to "
        f"{max(times):.1f}) | {row[f'{name}_mb']:.1f} | {index} | {recall} |"
    )


def verdict(sizes: list[dict[str, Any]]) -> str:
    """How both grow, and from where on the index pays."""
    medians = {
        name: [statistics.median(row[f"{name}_ms"]) for row in sizes]
        for name in ("exact", "approximate")
    }
    tenfold = math.log10(sizes[-1]["size"] / sizes[-2]["size"])
    growth = {n: math.log10(m[-1] / m[-2]) / tenfold for n, m in medians.items()}
    output = (
        f"From {sizes[-2]['size']:,} to {sizes[-1]['size']:,} rows the exact search grows with "
        f"N^{growth['exact']:.2f}, the approximate one with N^{growth['approximate']:.2f}. "
    )
    won = [row for row in sizes if epoch_s(row, "approximate") < epoch_s(row, "exact")]
    if not won:
        return f"{output}The approximate search nowhere makes up for its index."
    ratios = [epoch_s(row, "exact") / epoch_s(row, "approximate") for row in (won[0], won[-1])]
    return (
        f"{output}Of the sizes here the approximate search wins from {won[0]['size']:,} rows on: "
        f"over an epoch, index included, {ratios[0]:.1f} times faster there and {ratios[1]:.1f} "
        f"times at {won[-1]['size']:,}."
    )


def epoch_s(row: dict[str, Any], name: str) -> float:
    """Seconds of all the epoch's searches, and of the index they need."""
    steps = math.ceil(row["size"] / BATCH)
    build = row["build_s"] if name == "approximate" else 0.0
    return float(build + steps * statistics.median(row[f"{name}_ms"]) / 1000)


if __name__ == "__main__":
    print(json.dumps(case(int(sys.argv[1]))))
