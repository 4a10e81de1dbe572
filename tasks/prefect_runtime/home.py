"""Where state lives, and what entry points set before anything heavy loads."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from sfda.state_folder import home, named_by_a_person, private_file
from tasks.prefect_runtime.folder_settings import ignore_folder_settings
from tasks.prefect_runtime.loopback import spare_loopback
from tasks.prefect_runtime.secrets import know_own_server, lock_own_server
from tasks.prefect_runtime.stated import URL, address_in_folder

log = logging.getLogger("sfda")

DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,orphans",  # rows that no flow run has
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "sfda",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_MODEL_CATALOG_URI": "",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # else uv's files of the current folder go into every version, and say what it needs installed
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_LOG_UV_FILES": "false",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "HF_HUB_OFFLINE": "1",
    "GIT_PYTHON_REFRESH": "quiet",
    # threads that wait must not spin: Prefect's server runs beside the training on the same cores
    "OMP_WAIT_POLICY": "PASSIVE",
}


def prepare_environment() -> None:
    """Set what Prefect, MLflow and albumentations read at import: state below home, telemetry off.

    Whatever the user has set stays, but for what files of the current folder say to Prefect.
    `MLFLOW_TRACKING_URI` defaults to SQLite below home, Prefect to its ephemeral server with its
    database below home.
    """
    ignore_folder_settings()
    spare_loopback()
    if not os.environ.get(URL) and (file := address_in_folder()):
        log.warning("%s names a Prefect server and is not read; export %s to use it", file, URL)
    folder = home()
    defaults = {
        **DEFAULTS,
        "PREFECT_HOME": str(folder / "prefect"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if os.environ["MLFLOW_TRACKING_URI"] == defaults["MLFLOW_TRACKING_URI"]:
        private_file(folder / "mlflow.db")  # SQLite takes its mode for its journals, too
    else:
        _make_store(os.environ["MLFLOW_TRACKING_URI"])
    know_own_server()
    lock_own_server()


def _make_store(address: str) -> None:
    """A store that a person names has the modes of that person's umask: SQLite's file is made."""
    start, _, path = address.partition(":///")
    file = Path(path.partition("?")[0])
    if start == "sqlite" and file.name and file.parent.is_dir() and not file.exists():
        with named_by_a_person(file):
            file.touch()
