"""What all tests share: quiet libraries, a home of their own, one Prefect server."""

from __future__ import annotations

import os

os.environ.update(
    NO_ALBUMENTATIONS_UPDATE="1",
    DO_NOT_TRACK="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_LOGGING_TO_API_ENABLED="false",
    PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="CRITICAL",
    HF_HUB_OFFLINE="1",
    SFDA_CONFINE="off",  # a process for each adaptation takes seconds; its own tests switch it on
)

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# neither a person's home in the current folder nor their list of homes
OWN = tempfile.mkdtemp(prefix="sfda-tests-")
os.environ.update(XDG_STATE_HOME=OWN, SFDA_HOME=f"{OWN}/home")
torch.set_num_threads(1)  # two workers share two cores
collect_ignore = ["plugin"]  # a distribution of its own, which tests install


@pytest.fixture(scope="session")
def template_prefect(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PREFECT_HOME with a migrated, empty database, for copies: migrating one takes seconds. It
    is made once for all workers.
    """
    from tasks.prefect_runtime.served import make_database

    shared = tmp_path_factory.getbasetemp()
    folder = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "prefect"
    folder.mkdir(mode=0o700, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(folder))
        make_database()
    return folder


@pytest.fixture(scope="session")
def prefect_api(template_prefect: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Prefect server for all flow tests of this worker."""
    from prefect.settings import (
        PREFECT_API_BLOCKS_REGISTER_ON_START,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        temporary_settings,
    )
    from prefect.testing import utilities

    folder = tmp_path_factory.mktemp("prefect-server")
    shutil.copy(template_prefect / "prefect.db", folder / "prefect-test.db")
    with (
        pytest.MonkeyPatch.context() as patch,
        temporary_settings({PREFECT_API_BLOCKS_REGISTER_ON_START: False}),
    ):
        patch.setattr(utilities, "mkdtemp", lambda: str(folder))
        with (
            utilities.prefect_test_harness(server_startup_timeout=120),
            temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
        ):
            yield


@pytest.fixture(scope="session")
def template_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty MLflow database: copying it takes 0.03 s, migrating one takes seconds."""
    import mlflow

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def home(tmp_path: Path, template_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh SFDA_HOME with an empty MLflow store."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "made-here").touch()
    shutil.copy(template_store, folder / "mlflow.db")
    monkeypatch.setenv("SFDA_HOME", str(folder))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    return folder


LONGEST = ("test_serve.py", "test_kill_and_resume.py", "flows", "compat", "bench")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what cannot run here; files that take long come first, so that two
    workers end together.
    """
    items.sort(key=lambda item: [name not in item.path.parts for name in LONGEST])
    for item in items:
        needs_data = item.get_closest_marker("slow") and not item.get_closest_marker("stack")
        if needs_data and not os.environ.get("SFDA_DATA"):
            item.add_marker(pytest.mark.skip(reason="needs SFDA_DATA, the folder of real data"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
