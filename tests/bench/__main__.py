"""`make bench`: run what has no result yet, print what there is. `--fresh` measures all anew."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import time
from pathlib import Path

NAMES = (
    "overhead", "throughput", "methods", "neighbours", "clustering", "large_image", "queries",
    "figures", "camvid", "lpld_step", "bloodcells", "pose_step", "many_files",
    "decide_statistics", "decide", "profile", "rehearsed",
)  # fmt: skip
WITHOUT_DATA = {"decide_statistics", "rehearsed"}  # simulated, and the demo's
OUT = Path("bench")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}; none: all")
    parser.add_argument("--fresh", action="store_true", help="measure anew")
    inputs = parser.parse_args()
    needs_data = not WITHOUT_DATA.issuperset(inputs.names or NAMES)
    if needs_data and not os.environ.get("SFDA_DATA"):
        parser.exit(2, "make bench needs SFDA_DATA, the folder of real data (docs/benchmarks.md)\n")
    OUT.mkdir(exist_ok=True)
    for name in inputs.names or NAMES:
        module = importlib.import_module(f"tests.bench.{name}")
        file = OUT / f"{name}.json"
        if inputs.fresh:
            file.unlink(missing_ok=True)
        if not file.is_file():
            started = time.time()
            result = module.measure(OUT)
            result |= {"machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} "
                      "cores", "took_s": round(time.time() - started)}  # fmt: skip
            file.write_text(json.dumps(result, indent=1))
        print(f"## {name}\n\n{module.text(json.loads(file.read_text()))}\n", flush=True)


if __name__ == "__main__":
    main()
