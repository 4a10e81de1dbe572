"""Where state lives, and what entry points set before anything heavy loads."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sfda.errors import BadInput
from sfda.state_folder import state_folder

DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "sfda",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_MODEL_CATALOG_URI": "",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "HF_HUB_OFFLINE": "1",
    "GIT_PYTHON_REFRESH": "quiet",
    # threads that wait must not spin: Prefect's server runs beside the training on the same cores
    "OMP_WAIT_POLICY": "PASSIVE",
}


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
REMEDY = (
    "free some space or point SFDA_HOME to another disk, then start the same command again: "
    "it goes on where it stopped"
)


def home() -> Path:
    """The folder `$SFDA_HOME` (default `.sfda`), made if absent.

    Raises BadInput where it cannot be written to.
    """
    found = state_folder()
    try:
        found.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=found):
            pass
    except OSError as error:
        raise BadInput(
            f"cannot write to SFDA_HOME {found} ({os.strerror(error.errno or errno.EIO)}); "
            "set SFDA_HOME to a folder you may write to"
        ) from error
    return found


def decoded_folder() -> Path:
    """Where decoded images are kept. It is not tried whether it can be written to."""
    return state_folder() / "decoded"


def prepare_environment() -> None:
    """Set what Prefect, MLflow and albumentations read at import: state below home, telemetry off.

    Whatever the user has set stays. `MLFLOW_TRACKING_URI` defaults to SQLite below home, Prefect to
    its ephemeral server with its database below home.
    """
    place = home()
    defaults = {
        **DEFAULTS,
        "PREFECT_HOME": str(place / "prefect"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{place / 'mlflow.db'}",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


@contextmanager
def disk_errors(what: str, remedy: str = REMEDY) -> Iterator[None]:
    """Turn a full or read-only disk into BadInput that names `what` was being written."""
    try:
        yield
    except shutil.Error as error:  # of a copied folder: it lists what it met, without a number
        raise BadInput(f"cannot write {what}: {error}; {remedy}") from error
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise BadInput(f"cannot write {what}: {os.strerror(error.errno or 0)}; {remedy}") from error


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Let no second process do the same work meanwhile: it waits, and then finds it done."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
