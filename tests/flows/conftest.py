"""What flow tests share: a home with a trained source model, and `sfda` called in this process."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import small
from patience import eventually


@dataclass(frozen=True)
class CommandResult:
    """What one call of `sfda` left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on stdout."""
        assert self.code == 0, self.err
        return json.loads(self.out)


def sfda(*words: object) -> CommandResult:
    """Call the command line in this process, with file descriptors of its own."""
    from flows.cli.app import app

    environment, log = dict(os.environ), logging.getLogger("sfda")
    code = 0
    with _descriptors() as (out, err):
        try:
            app([str(word) for word in words])
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            log.handlers.clear()  # ours writes to this call's stderr
            os.environ.clear()
            os.environ.update(environment)
    return CommandResult(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _descriptors() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """Descriptors 1 and 2 and Python's streams over them lead to files, read at the end."""
    texts = (io.StringIO(), io.StringIO())
    remaining = [(number, os.dup(number)) for number in (1, 2)]
    streams = (sys.stdout, sys.stderr)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            for number, file in ((1, out), (2, err)):
                os.dup2(file.fileno(), number)
            sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))  # noqa: SIM115
            yield texts
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            sys.stdout, sys.stderr = streams
            for number, old in remaining:
                os.dup2(old, number)
                os.close(old)
            for file, text in ((out, texts[0]), (err, texts[1])):
                file.seek(0)
                text.write(file.read().decode())


@dataclass(frozen=True)
class Home:
    """A folder for state, with an empty MLflow store and no kept results."""

    path: Path

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """MLflow's store and Prefect's kept results are this home's; the test server stays."""
        from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

        with (
            pytest.MonkeyPatch.context() as patch,
            temporary_settings({PREFECT_LOCAL_STORAGE_PATH: self.path / "results"}),
        ):
            patch.setenv("SFDA_HOME", str(self.path))
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{self.path / 'mlflow.db'}")
            yield


class World:
    """Data, a source bundle and homes to work in."""

    def __init__(self, folder: Path, store: Path, prefect: Path) -> None:
        self.folder, self._store, self._prefect = folder, store, prefect
        self.source = small.write(folder, "source", small.source_arrays(), small.SOURCE)
        self.target = small.write(folder, "target", small.target_arrays(), small.TARGET)
        self.bundle = folder / "toy"
        self.model = small.bundle(self.bundle)

    def home(self, name: str) -> Home:
        """A new home."""
        made = Home(self.folder / "homes" / name)
        made.path.mkdir(parents=True)
        shutil.copy(self._store, made.path / "mlflow.db")
        return made

    def used_home(self, name: str) -> Home:
        """The same after a first command: with Prefect's database, too."""
        made = self.home(name)
        shutil.copytree(self._prefect, made.path / "prefect")
        return made


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    template_store: Path,
    template_prefect: Path,
    prefect_api: None,
) -> World:
    """One for all flow tests of this worker."""
    return World(tmp_path_factory.mktemp("world"), template_store, template_prefect)


Stages = list[tuple[str, str]]


def flow_stages(flow_run_id: str, fits: Callable[[Stages], object]) -> Stages:
    """Name and state of every stage of a flow run, in order, once they fit.

    Flows send the states of stages as events, which the server records later.
    """
    return eventually(lambda: _stages(flow_run_id), fits)


def completed_stages(flow_run_id: str, count: int) -> list[str]:
    """Names of the stages that a flow run completed, in order, once there are so many."""

    def names(stages: Stages) -> list[str]:
        return [name for name, state in stages if state == "Completed"]

    return names(flow_stages(flow_run_id, lambda stages: len(names(stages)) >= count))


def _stages(flow_run_id: str) -> Stages:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
        )
    runs.sort(key=lambda run: run.start_time or run.expected_start_time)
    return [(run.name.rsplit("-", 1)[0], run.state_name) for run in runs]


def flow_artifacts(flow_run_id: str) -> dict[str, str]:
    """Content of every artifact of a flow run by key."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    with get_client(sync_client=True) as client:
        result = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
        )
    return {artifact.key: str(artifact.data) for artifact in result}
