"""Processes that our own servers and workers start, each for one run.

Prefect reads settings and imports modules from the folder that such a process starts in. So it
starts in a private one, and goes to the folder of `sfda serve` once Prefect is imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from sfda.images.imports import SEARCHED, whole_folders
from sfda.state_folder import close_new_files, data_folder, home, private_folder, state_folder
from tasks.prefect_runtime.folder_settings import ignore_folder_settings

DEPLOYED = "SFDA_DEPLOYED"  # from which folder a run's relative paths go; empty: from where it is
RUN = "PREFECT__FLOW_RUN_ID"  # which Prefect sets for the process of one run
OWN_PATHS = ("PREFECT_HOME", "PREFECT_PROFILES_PATH")
SAFE_PATH = "PYTHONSAFEPATH"  # Python looks for no module in the current folder


@contextmanager
def private_current_folder() -> Iterator[None]:
    """The current folder is a private one meanwhile, for this process and those of runs that it
    starts; what they are told of folders stays true."""
    before = os.getcwd()
    own = home() / "run"
    private_folder(own)
    stated = {name: os.path.abspath(os.environ[name]) for name in OWN_PATHS if os.environ.get(name)}
    stated |= {"SFDA_HOME": str(state_folder()), "SFDA_DATA": str(data_folder())}
    searched = {name: whole_folders(os.environ[name]) for name in SEARCHED if name in os.environ}
    os.environ.update(stated | searched | {DEPLOYED: before, SAFE_PATH: "1"})
    os.chdir(own)
    try:
        yield
    finally:
        os.chdir(before)
        del os.environ[DEPLOYED]


def enter_run() -> None:
    """Where this process is there for one run of ours: close its files to others, and go to the
    folder that the run's paths count from. Elsewhere nothing is done."""
    folder = os.environ.get(DEPLOYED)
    if folder is None or RUN not in os.environ:
        return
    close_new_files()
    ignore_folder_settings()
    if folder:
        os.chdir(folder)
