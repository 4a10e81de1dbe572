"""A stage is tried again where a server failed, and only there."""

from __future__ import annotations

import httpx
import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from prefect.states import Failed

from sfda.errors import BadInput
from sfda.sandbox.process import ProcessDied
from tasks.prefect_runtime.retry import passes_by


def failed(error: BaseException) -> bool:
    return passes_by(None, None, Failed(data=error))


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectionError("refused"),
        httpx.ConnectError("refused"),
        MlflowException("down", TEMPORARILY_UNAVAILABLE),
        ProcessDied("killed"),
        caused(RuntimeError("while logging"), requests.Timeout("slow")),
    ],
)
def test_what_may_pass_is_tried_again(error, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert failed(error)


@pytest.mark.parametrize(
    "error",
    [
        BadInput("no such file"),
        MemoryError(),
        ValueError("a bug"),
        MlflowException("wrong name", INVALID_PARAMETER_VALUE),
    ],
)
def test_what_would_fail_again_is_not_tried_again(error, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert not failed(error)


def test_a_store_on_this_disk_is_no_server(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert not failed(MlflowException("disk is full", TEMPORARILY_UNAVAILABLE))
