"""A Prefect server for one command, which starts while torch is still being imported.

Prefect would start one too, but only at the first request, and would first import the whole server
into this process.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from sfda.state_folder import log_file
from tasks.prefect_runtime.secrets import CLIENT, SERVER, prefect_secret
from tasks.prefect_runtime.stated import packages, states_address

PATIENCE = 3.0  # seconds to end politely; a command is to be gone in five
END_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
ENDS_WITH_COMMAND = "SFDA_SERVER_ENDS_WITH_COMMAND"  # in the environment: nobody can look later
OWN = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "0",  # seconds in a new home, for the pages' forms
}


def start_server(log: Path) -> subprocess.Popen[bytes] | None:
    """Its process; None where the user's own server, or one of this process, serves already.

    It demands this home's secret, which this process and its children have in their environment.
    It listens before it is ready: a request that comes too early waits instead of failing. Its
    words go to `log`. It ends with this process, after Prefect has sent its last logs: what is
    registered first is called last. On Linux it ends as well where this process is killed.
    """
    if "prefect" in sys.modules or states_address():
        return None
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        os.environ[ENDS_WITH_COMMAND] = "1"
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        log.parent.mkdir(parents=True, exist_ok=True)
        secret = prefect_secret()
        os.environ[CLIENT] = secret
        with log_file(log) as output:
            process = subprocess.Popen(
                server_command(listener),
                env={**os.environ, **OWN, SERVER: secret},
                pass_fds=[listener.fileno()],
                stdout=output,
                stderr=output,
                umask=0o077,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
    atexit.register(_stop, process)
    return process


def server_command(listener: socket.socket, *more: str) -> list[str]:
    """Prefect's server on a socket that listens already; `more` goes to `served`."""
    return [
        *(sys.executable, "-P", "-m", "tasks.prefect_runtime.served", *more),
        *("uvicorn", "--app-dir", str(packages())),
        *("--factory", "prefect.server.api.server:create_app", "--fd", str(listener.fileno())),
        *("--log-level", "error", "--lifespan", "on"),
    ]


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(END_SIGNAL, signal.SIGTERM)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
