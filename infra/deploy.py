"""Pools, deployments, jobs and automations on the Prefect server of `PREFECT_API_URL`.

Run from the root of the checkout; running it again brings everything up to date.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from flows.deployments import deploy_jobs, read_jobs
from sfda.errors import BadInput
from tasks.prefect_runtime.automations import START, install

HERE = Path(__file__).parent
POOLS = {"gpu": "process", "cpu": "process"}


def prefect(*words: str) -> None:
    """Call Prefect's command line. Raises BadInput with its last words where it fails."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent)
    if done.returncode:
        raise BadInput(f"prefect {' '.join(words)}: {(done.stderr or done.stdout).strip()[-800:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=1, help="GPUs: so many jobs run at a time")
    parser.add_argument("--jobs", type=Path, help="YAML of scheduled jobs, as for `sfda serve`")
    parser.add_argument("--notify", help="a Prefect block: slack-webhook/ops")
    parser.add_argument(
        "--start", type=int, default=START, help="seconds a run may take to begin (a pod: 900)"
    )
    parser.add_argument("--type", default="process", help="of the pool gpu: process, kubernetes")
    parser.add_argument("--template", help="JSON of the pool's job template")
    inputs = parser.parse_args()
    os.environ.setdefault("SFDA_CODE", str(HERE.parent.resolve()))
    more = ["--base-job-template", inputs.template] if inputs.template else []
    try:
        jobs = read_jobs(inputs.jobs) if inputs.jobs else ()
        prefect("work-pool", "create", "gpu", "--type", inputs.type, "--overwrite", *more)
        prefect("work-pool", "create", "cpu", "--type", "process", "--overwrite")
        prefect("work-pool", "set-concurrency-limit", "gpu", str(inputs.slots))
        prefect("deploy", "--all", "--prefect-file", str(HERE / "prefect.yaml"))
        names = deploy_jobs(jobs, "gpu")
        install(inputs.notify, inputs.start)
    except BadInput as error:
        sys.exit(f"infra/deploy.py: {error}")
    print("\n".join(["deployed infra/prefect.yaml", *names]))


if __name__ == "__main__":
    main()
