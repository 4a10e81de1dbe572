"""One Prefect flow a file; each reads as the diagram of the stages it chains.

A worker imports a flow without our command line: what that sets before anything else is set here,
so telemetry stays off and our lines reach the page of the run. In a process that our own servers
and workers start for a run (`SFDA_DEPLOYED`), its files are closed to others, too.
"""

from __future__ import annotations

import logging
import os

from tasks.prefect_runtime.deployed import enter_run
from tasks.prefect_runtime.home import DEFAULTS
from tasks.prefect_runtime.loopback import spare_loopback
from tasks.prefect_runtime.secrets import lock_own_server

for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)
logging.getLogger("sfda").setLevel(logging.INFO)
spare_loopback()
lock_own_server()
enter_run()
