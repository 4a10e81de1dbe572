"""What the command line and the platform cost: `sfda --help`, and one whole job over its bare work.

The job is the demo's: `sfda adapt` on the drawn digits for one epoch. Its bare work is the same
calls of the library in one process: scan, one epoch, scores, evaluation. The first start, which
makes Prefect's and MLflow's databases, is reported apart. The job's adapting process is restricted,
where the kernel can (docs/operations.md, Source-free).
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SFDA = str(Path(sys.executable).with_name("sfda"))
BARE = str(Path(__file__).with_name("bare.py"))
ROUNDS = 5


def measure(out: Path) -> dict[str, Any]:
    helps = [seconds([SFDA, "--help"]) for _ in range(ROUNDS)]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "home")
        env = {**os.environ, "SFDA_HOME": str(home)}
        call("demo", env=env)
        first = json.loads((home / "demo" / "first.json").read_text())
        jobs, bare = [], []
        for seed in range(1, ROUNDS + 1):
            job = job_seconds(home, env, seed)
            bare.append(bare_seconds(home, env, seed))
            jobs.append(job)
        ticks = [tick_seconds(home, env) for _ in range(ROUNDS + 1)]  # the first one adapts
        shutil.rmtree(home, ignore_errors=True)
    return {
        "help_s": helps,
        "first_train_source_s": first,
        "job_s": jobs,
        "bare_s": bare,
        "tick_s": ticks[1:],
        "added_s": [a - b for a, b in zip(jobs, bare, strict=True)],
    }


def call(name: str, env: dict[str, str]) -> None:
    """Make the demo's data and a source model; the first start of everything."""
    home = Path(env["SFDA_HOME"])
    make = "from sfda.demo.digits import write_demo; from pathlib import Path; import sys\n"
    make += "write_demo(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", make, str(home / name)], check=True, env=env)
    took = seconds(
        [SFDA, "train-source", "--data", str(home / name / "digits_source.yaml"), "--arch",
         "sfda:lenet", "--name", "digits", "--epochs", "5"], env
    )  # fmt: skip
    (home / name / "first.json").write_text(json.dumps(took))


def job_seconds(home: Path, env: dict[str, str], seed: int) -> float:
    target = str(home / "demo" / "digits_target.yaml")
    return seconds(
        [SFDA, "adapt", "--source", "models:/digits@source", "--target", target, "--epochs", "1",
         "--seed", str(seed), "--select-by", "last", "--json"], env
    )  # fmt: skip


def tick_seconds(home: Path, env: dict[str, str]) -> float:
    """One look at a target that grows, which finds nothing new after the first time."""
    target = str(home / "demo" / "digits_target.yaml")
    return seconds(
        [SFDA, "refresh", target, "--source", "models:/digits@source", "--epochs", "1", "--json"],
        env,
    )


def bare_seconds(home: Path, env: dict[str, str], seed: int) -> float:
    bundle = next((home / "cards").glob("*/spec.json")).parent
    target = str(home / "demo" / "digits_target.yaml")
    with tempfile.TemporaryDirectory() as scratch:
        return seconds([sys.executable, BARE, target, str(bundle), str(seed), scratch], env)


def seconds(command: list[str], env: dict[str, str] | None = None) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} failed: {done.stderr[-2000:]}")
    return time.perf_counter() - started


def text(result: dict[str, Any]) -> str:
    def line(name: str, values: list[float]) -> str:
        return (
            f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f} |"
        )

    return "\n".join(
        [
            "| seconds | median | min to max |",
            "|---|---:|---:|",
            line("`sfda --help`", result["help_s"]),
            line("`sfda adapt`, one epoch, existing databases", result["job_s"]),
            line("the same work as a plain Python process", result["bare_s"]),
            line("added by Prefect, MLflow and the command line", result["added_s"]),
            line("`sfda refresh`, nothing has changed", result["tick_s"]),
            "",
            f"First `sfda train-source` (5 epochs), databases made: "
            f"{result['first_train_source_s']:.1f} s.",
        ]
    )
