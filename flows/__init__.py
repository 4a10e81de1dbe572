"""One Prefect flow a file; each reads as the diagram of the stages it chains.

A worker imports a flow without our command line: what that sets before anything else is set here,
so telemetry stays off, our lines reach the page of the run, and its files are closed to others.
"""

from __future__ import annotations

import logging
import os

from sfda.state_folder import close_new_files
from tasks.prefect_runtime.home import DEFAULTS
from tasks.prefect_runtime.secrets import lock_own_server

for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)
logging.getLogger("sfda").setLevel(logging.INFO)
lock_own_server()
if "PREFECT__FLOW_RUN_ID" in os.environ:  # a process that was started for this run alone
    close_new_files()
