"""Inference over big targets in parts, on whatever engine a Prefect task runner brings.

`SFDA_SHARDS` says how many parts; 1, the default, keeps it whole. `SFDA_TASK_RUNNER` is `threads`,
`ray` or `dask`, and `SFDA_TASK_RUNNER_ADDRESS` the cluster's address; all its machines must see
`$SFDA_HOME` and the data. The outputs are those of one part, so none of this is in a cache's key.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from sfda.building_blocks.device import DeviceName, choose, to_device
from sfda.errors import BadInput
from sfda.inference.over_split import infer_split, read_parts, spans, write_part
from sfda.loading.opened import Opened, open_part
from sfda.manifests.digests import key_of
from sfda.problems._outputs import SplitInference
from sfda.refs import ManifestRef, ModelRef, ModelSpec, SplitRef
from sfda.state_folder import home, one_at_a_time
from tasks.prefect_runtime.cache import code_digest
from tasks.prefect_runtime.retry import SERVERS
from tasks.tracking.models import open_model

RUNNERS = ("threads", "ray", "dask")


def shard_count() -> int:
    """`SFDA_SHARDS`. Raises BadInput for what is no number from 1."""
    text = os.environ.get("SFDA_SHARDS", "1")
    if not text.isdigit() or int(text) < 1:
        raise BadInput(f"SFDA_SHARDS={text} should be a number of parts, 1 or more")
    return int(text)


def make_runner(parts: int) -> TaskRunner[Any]:
    """The task runner that `SFDA_TASK_RUNNER` names. Raises BadInput, also where it is missing."""
    name = os.environ.get("SFDA_TASK_RUNNER", "threads")
    address = os.environ.get("SFDA_TASK_RUNNER_ADDRESS") or None
    if name not in RUNNERS:
        raise BadInput(f"SFDA_TASK_RUNNER={name} should be one of {', '.join(RUNNERS)}")
    if name == "threads":
        return ThreadPoolTaskRunner(max_workers=min(parts, os.cpu_count() or 1))
    try:
        if name == "ray":
            from prefect_ray import RayTaskRunner as Runner
        else:
            from prefect_dask import DaskTaskRunner as Runner
    except ImportError:
        raise BadInput(
            f"SFDA_TASK_RUNNER={name} needs the package prefect-{name}: pip install prefect-{name}"
        ) from None
    runner: TaskRunner[Any] = Runner(address=address) if address else Runner()
    return runner


@contextmanager
def inference_over(
    model: ModelRef,
    manifest: ManifestRef,
    opened: Opened,
    spec: ModelSpec,
    device: DeviceName,
) -> Iterator[SplitInference]:
    """How to infer over a split with this model; where it is to be done in parts, they are ready.

    What comes is called with the network, and may be called again.
    """
    chosen, parts = choose(device), shard_count()
    ranges = spans(len(opened.images), parts, spec)
    if parts == 1 or len(ranges) == 1:
        yield lambda network: infer_split(network, opened, spec, chosen)
        return
    target = opened.ref(manifest)
    key = key_of(
        model=model.sha256,
        target=target.model_dump(exclude={"manifest"}),
        spans=ranges,
        device=chosen.type,
        code=code_digest(),
    )
    folder = home() / "parts" / key[:24]
    with one_at_a_time(folder):
        files = [folder / f"{first:09d}.npz" for first, _ in ranges]
        with make_runner(len(ranges)) as runner:
            same = {"model": model, "target": target, "device": device}
            waiting = [
                runner.submit(infer_part, parameters={**same, "span": span, "file": str(file)})
                for span, file in zip(ranges, files, strict=True)
            ]
            for one in waiting:
                one.result()
        yield lambda _network: read_parts(files, spec.problem, chosen)
        shutil.rmtree(folder, ignore_errors=True)


@task(
    name="inference over a part",
    task_run_name="rows {span[0]} to {span[1]}",
    cache_policy=NO_CACHE,
    **SERVERS,
)
def infer_part(
    model: ModelRef,
    target: SplitRef,
    span: tuple[int, int],
    file: str,
    device: DeviceName,
) -> None:
    """Outputs for the rows of `span`, kept in `file`; one that is there already stays."""
    if Path(file).is_file():
        return
    network, spec = open_model(model)
    chosen = choose(device)
    opened = open_part(target, spec)
    outputs = infer_split(to_device(network, chosen), opened, spec, chosen, (span[0], span[1]))
    with torch.inference_mode():
        write_part(Path(file), outputs, spec.problem)
