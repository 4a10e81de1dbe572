"""What a query of 100,000 samples costs: seconds and memory from cached features, by every query.

Each query has a process of its own: summaries are memory-mapped from disk as a scan leaves them,
and the peak is of the whole process, its libraries and the mapped pages included.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SIZE, CLASSES, DIM, SHARD = 100_000, 12, 256, 16_384
BUDGETS = (0.01, 0.05)

CHILD = """
import json, resource, sys, time
from pathlib import Path
import numpy as np, torch
from sfda import plugins
from sfda.queries._base import Pool, Summary
folder, name, budget = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
shards, start = [], 0
while (folder / f"features-{start}.npy").is_file():
    load = [torch.from_numpy(np.load(folder / f"{f}-{start}.npy", mmap_mode="c"))
            for f in Summary._fields]
    shards.append((start, Summary(*load)))
    start += len(load[0])
pool = Pool(shards, np.arange(0, start, 100))
kind = plugins.load("queries", name)
began = time.perf_counter()
rows = kind(kind.Config()).choose(pool, budget, seed=0)
took = time.perf_counter() - began
assert len(set(rows.tolist()) - set(pool.labelled.tolist())) == budget
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": took, "peak_mb": peak}))
"""


def measure(out: Path) -> dict[str, Any]:
    """Every query with both budgets; 1 % of the target has labels already."""
    from sfda import plugins

    folder = out / "queries"
    write(folder)
    result: dict[str, Any] = {}
    for name in plugins.names("queries"):
        for share in BUDGETS:
            done = subprocess.run(
                [sys.executable, "-c", CHILD, str(folder), name, str(round(SIZE * share))],
                stdout=subprocess.PIPE, check=True, text=True, env=os.environ,
            )  # fmt: skip
            result[f"{name} {share:.0%}"] = json.loads(done.stdout)
    return {"queries": result, "shape": {"N": SIZE, "C": CLASSES, "D": DIM}}


def write(folder: Path) -> None:
    """Summaries of drawn features and logits, as shards on disk."""
    import numpy as np
    import torch

    from sfda.inference.summaries import Summary, summarise

    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, SIZE, SHARD):
        generator = torch.Generator().manual_seed(start)
        count = min(SHARD, SIZE - start)
        features = torch.randn(count, DIM, generator=generator)
        logits = features[:, :CLASSES] * 2
        for name, part in zip(Summary._fields, summarise(features, logits), strict=True):
            np.save(folder / f"{name}-{start}.npy", part.numpy())


def text(result: dict[str, Any]) -> str:
    shape = result["shape"]
    lines = [
        f"N = {shape['N']}, C = {shape['C']}, D = {shape['D']}, features on disk", "",
        "| query, budget | seconds | peak of the process, MB |", "|---|---:|---:|",
    ]  # fmt: skip
    lines += [
        f"| {name} | {row['seconds']:.1f} | {row['peak_mb']:.0f} |"
        for name, row in result["queries"].items()
    ]
    return "\n".join(lines)
