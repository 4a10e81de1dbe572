"""One Prefect flow a file; each reads as the diagram of the stages it chains.

A worker imports a flow without our command line: what that sets before anything else is set here,
so telemetry stays off and our lines reach the page of the run.
"""

from __future__ import annotations

import logging
import os

from tasks.prefect_runtime.home import DEFAULTS

for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)
logging.getLogger("sfda").setLevel(logging.INFO)
