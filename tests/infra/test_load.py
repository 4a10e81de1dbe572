"""Sixty scheduled jobs over four workers: all end, in order, never more at a time than allowed."""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
import small
import stacked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.stack,
    pytest.mark.skipif(stacked.why_not() is not None, reason=stacked.why_not() or ""),
]
JOBS, WORKERS, SLOTS = 60, 4, 3  # fewer slots than workers: the limit has to hold workers back
PATIENCE = 3000.0
SETTINGS = {"schedule": {**small.FAST, "epochs": 1}}


def test_sixty_jobs_over_four_workers_end_in_order_and_within_the_limit(tmp_path):
    small.bundle(tmp_path / "source")
    small.write(tmp_path, "target", small.target_arrays(), small.TARGET)
    with stacked.stack("--workers", str(WORKERS), "--slots", str(SLOTS)) as on:
        result = on.call("deployments/name/adapt/adapt")
        first = datetime.now(UTC) + timedelta(seconds=5)
        ids = [_order(on, result["id"], tmp_path, n, first) for n in range(JOBS)]
        begun, most, memory = time.monotonic(), 0, {"prefect": [0.0], "mlflow": [0.0]}
        while True:
            runs = on.runs(ids)
            taken = [r for r in runs if r["state_type"] in ("PENDING", "RUNNING")]
            most = max(most, len(taken))
            assert len(taken) <= SLOTS
            assert len(on.flows()) <= SLOTS + 1  # one may be ending while the next begins
            for name, seen in memory.items():
                seen.append(_memory_mb(on, name))
            if all(r["state_type"] in stacked.ENDED for r in runs):
                break
            assert time.monotonic() - begun < PATIENCE
            time.sleep(1)
        took = time.monotonic() - begun
        assert {r["state_type"] for r in runs} == {"COMPLETED"}
        assert most == SLOTS  # it was used
        by_plan = sorted(runs, key=lambda r: r["expected_start_time"])
        order = sorted(range(JOBS), key=lambda i: by_plan[i]["start_time"])
        overtaken = [abs(i - folder) for folder, i in enumerate(order)]
        assert max(overtaken) <= WORKERS + SLOTS  # what workers hold in hand at a time
        names = {r["parameters"]["name"] for r in runs}
        assert len(names) == JOBS
        print(
            f"\n{JOBS} jobs in {took:.0f} s; order: median {statistics.median(overtaken):g}, "
            f"most {max(overtaken)} places; memory in MB, median and most: "
            + ", ".join(
                f"{name} {statistics.median(seen[1:]):.0f}, {max(seen):.0f}"
                for name, seen in memory.items()
            )
        )


def _order(on: stacked.Stacked, deployment: str, folder: Path, n: int, first: datetime) -> str:
    """A run that is scheduled a tenth of a second after the one before."""
    when = (first + timedelta(seconds=0.1 * n)).isoformat()
    body = {
        "parameters": {
            "source": str(folder / "source"), "target": str(folder / "target.yaml"),
            "method": "shot", "settings": SETTINGS, "seed": n, "name": f"load-{n}",
        },
        "state": {"type": "SCHEDULED", "state_details": {"scheduled_time": when}},
    }  # fmt: skip
    return str(on.call(f"deployments/{deployment}/create_flow_run", body)["id"])


def _memory_mb(on: stacked.Stacked, name: str) -> float:
    """Resident memory of a server and of the processes it started."""
    part = on.parts().get(name)
    total = 0.0
    for process in [part, *part.children(recursive=True)] if part else []:
        try:
            total += process.memory_info().rss / 1e6
        except psutil.NoSuchProcess:
            continue
    return total
