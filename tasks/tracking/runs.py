"""Runs: opened, continued after a kill, given metrics and files, and ended."""

from __future__ import annotations

import getpass
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from sfda.config import Config
from sfda.manifests.digests import key_of
from sfda.refs import ManifestRef, MetricPoint
from tasks.tracking.store import client, experiment, store_uri

KEY_TAG = "sfda.key"  # tag of a run: a digest of its work
RUN_FOLDER = "sfda.run_folder"  # tag of a run: the folder below runs/ that its weights lie in


class RunSummary(Config):
    """One run, for a list."""

    name: str
    run_id: str
    status: str
    started: float  # seconds since the epoch
    seconds: float | None  # None: not finished
    verdict: str | None


def recent_runs(limit: int) -> list[RunSummary]:
    """The last runs of our experiment, the newest first."""
    runs = client().search_runs(
        [experiment()], max_results=limit, order_by=["attributes.start_time DESC"]
    )
    return [
        RunSummary(
            name=one.info.run_name or "",
            run_id=one.info.run_id,
            status=one.info.status.lower(),
            started=one.info.start_time / 1000,
            seconds=(one.info.end_time - one.info.start_time) / 1000 if one.info.end_time else None,
            verdict=one.data.tags.get("verdict"),
        )
        for one in runs
    ]


@contextmanager
def run(name: str, *, key: str, tags: dict[str, str], params: dict[str, Any]) -> Iterator[str]:
    """One run, by id: finished at the end, failed on an error.

    An interrupt ends it as killed. A run of the same `key` that was killed, or whose process died
    without a word, is continued by the next start of the same work.
    """
    run_id = _open_run(name, key=key, tags=tags, params=params)
    try:
        yield run_id
    except Exception:
        client().set_terminated(run_id, "FAILED")
        raise
    except (KeyboardInterrupt, SystemExit):
        client().set_terminated(run_id, "KILLED")
        raise
    client().set_terminated(run_id, "FINISHED")


def run_key(*work: object, again: str | None = None) -> str:
    """What a run is looked up by after a kill, and its version by a second start: a digest of the
    work it does; of work that is to be done `again` its own flow run counts, too.
    """
    return key_of(work=(*work, again) if again else work)


def key_of_run(run_id: str) -> str:
    """The key of a run's work; of a run without one its id, which no other has."""
    return str(client().get_run(run_id).data.tags.get(KEY_TAG, run_id))


def _open_run(name: str, *, key: str, tags: dict[str, str], params: dict[str, Any]) -> str:
    for status in ("RUNNING", "KILLED"):
        where = f"tags.`{KEY_TAG}` = '{key}' AND attributes.status = '{status}'"
        for run in client().search_runs([experiment()], where, max_results=1):
            client().update_run(run.info.run_id, status="RUNNING")
            client().log_batch(run.info.run_id, tags=[RunTag(k, v) for k, v in tags.items()])
            return str(run.info.run_id)
    who = {"mlflow.user": _user(), "mlflow.source.name": "sfda"}
    made = client().create_run(experiment(), run_name=name, tags={KEY_TAG: key, **who, **tags})
    flat = [Param(k, str(v)[:6000]) for k, v in _nameable(flatten(params)).items()]
    client().log_batch(made.info.run_id, params=flat)
    return str(made.info.run_id)


def _nameable(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters under names that MLflow takes: classes stand in them, and may be called anything.

    >>> _nameable({"ratios.bar & post": 1, "ratios.bar + post": 2, "lr": 3})
    {'ratios.bar _ post': 1, 'ratios.bar _ post 2': 2, 'lr': 3}
    """
    renamed: dict[str, Any] = {}
    for key, value in params.items():
        plain = name = re.sub(r"[^\w.\- :]", "_", key)
        number = 1
        while name in renamed:
            number += 1
            name = f"{plain} {number}"
        renamed[name] = value
    return renamed


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return str(os.getuid())


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names.

    >>> flatten({"schedule": {"lr": 0.1}, "k": 5})
    {'schedule.lr': 0.1, 'k': 5}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def log_points(run_id: str, points: Iterable[MetricPoint]) -> None:
    """Metrics with steps. A value that is not finite is refused: stores read NaN back as 0."""
    now = int(time.time() * 1000)
    metrics = [Metric(name, value, now, step) for name, value, step in points]
    if bad := sorted({m.key for m in metrics if not np.isfinite(m.value)}):
        raise ValueError(f"not finite: {', '.join(bad)}")
    for start in range(0, len(metrics), 1000):
        client().log_batch(run_id, metrics=metrics[start : start + 1000])


def last_step(run_id: str, name: str) -> int:
    """The highest step logged for a metric; -1 if none was."""
    return max((m.step for m in client().get_metric_history(run_id, name)), default=-1)


def set_tags(run_id: str, tags: dict[str, str]) -> None:
    """Set or replace tags of a run."""
    client().log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])


def log_file(run_id: str, path: Path, folder: str | None = None) -> None:
    """Keep a file with the run."""
    client().log_artifact(run_id, str(path), folder)


def artifacts_page(run_id: str) -> str | None:
    """The address at which a browser shows a run's files; None where the store is a local file."""
    store = urlsplit(store_uri())
    if store.scheme not in ("http", "https"):
        return None
    bare = store._replace(netloc=store.netloc.rpartition("@")[2], query="", fragment="").geturl()
    return f"{bare.rstrip('/')}/#/experiments/{experiment()}/runs/{run_id}/artifacts"


def log_json(run_id: str, name: str, value: dict[str, Any]) -> None:
    """Keep a JSON document with the run."""
    client().log_dict(run_id, value, name)


def read_json(run_id: str, name: str) -> dict[str, Any] | None:
    """A JSON document that was kept with the run; None where there is none."""
    if name not in {artifact.path for artifact in client().list_artifacts(run_id)}:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        path = client().download_artifacts(run_id, name, scratch)
        document: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        return document


def log_manifest(run_id: str, name: str, manifest: ManifestRef, context: str) -> None:
    """Log a manifest as the run's dataset, by address and digest; no data travel."""
    entity = Dataset(
        name=name,
        digest=manifest.sha256[:32],  # MLflow takes 36 characters at most
        source_type="local",
        source=json.dumps({"uri": manifest.path}),
    )
    tags = [InputTag("mlflow.data.context", context), InputTag("sha256", manifest.sha256)]
    client().log_inputs(run_id, datasets=[DatasetInput(entity, tags)])


@contextmanager
def system_metrics(run_id: str) -> Iterator[None]:
    """Log processor, memory and GPU use to the run while the block lasts."""
    monitor = SystemMetricsMonitor(
        run_id, sampling_interval=2, samples_before_logging=1, resume_logging=True
    )
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
