"""`sfda serve`: servers, deployments, schedules and their runs on one machine, from one command."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.prefect_runtime.deployed import private_current_folder
from tasks.prefect_runtime.pages import servers
from tasks.prefect_runtime.secrets import CLIENT, prefect_secret

HEARTBEAT = 30  # seconds, the least that Prefect allows
POLL = 2  # seconds between two looks for runs that are due: all is on one machine


def serve(
    jobs: Path | None,
    limit: int,
    notify: str | None,
    ports: tuple[int, int],
    on_ready: Callable[[dict[str, Any]], None],
) -> None:
    """Serve until Ctrl-C. At most `limit` runs at a time; with one GPU that is 1.

    `on_ready` is called once all is up, with addresses and names. Runs are processes of their own;
    a killed one goes on where it stopped. Raises BadInput for a faulty file of jobs or block.
    """
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", str(HEARTBEAT))
    with servers(*ports) as urls:
        if not os.environ.get("PREFECT_API_URL"):
            os.environ[CLIENT] = prefect_secret()
            os.environ.setdefault("PREFECT_UI_URL", urls["prefect_address"])
            os.environ["PREFECT_API_URL"] = urls["prefect_api"]  # before prefect reads it
        from prefect.exceptions import TerminationSignal
        from prefect.runner import Runner

        from flows.deployments import Jobs, deployments, read_schedule
        from tasks.prefect_runtime.automations import install

        schedule = read_schedule(jobs) if jobs else Jobs()
        offered = deployments(schedule.jobs, schedule.clean)
        installed = install(notify)
        runner = Runner(limit=limit, query_seconds=POLL)
        for deployment in offered:
            runner.add_deployment(deployment)
        names = [f"{d.flow_name}/{d.name}" for d in offered]
        on_ready({**urls, "deployments": names, "automations": installed, "limit": limit})
        with private_current_folder(), suppress(KeyboardInterrupt, TerminationSignal):
            asyncio.run(runner.start())
