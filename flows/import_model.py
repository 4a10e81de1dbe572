"""A checkpoint trained elsewhere -> a registered source model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from sfda.config import Config
from sfda.refs import InputSpec, ProblemName, Skeleton, Version
from tasks import tracking
from tasks.import_model import import_checkpoint, seen_by_probe
from tasks.register import register_source


class ImportResult(Config):
    """What an import tells at its end."""

    flow_run_id: str
    mlflow_run_id: str
    version: Version
    sha256: str
    taken: str = ""  # which tensors of the file, and what was left out
    preprocessing: str = ""  # how the network gets its images
    network: str = ""  # of somebody's own class: where it was cut, its input, its code


def _title() -> str:
    return f"import {flow_run.parameters['name']}"


@flow(name="import-model", flow_run_name=_title)
def import_model(
    weights: str,
    arch: str,
    classes: tuple[str, ...],
    name: str,
    problem: ProblemName = "classification",
    input: InputSpec | None = None,
    skeleton: Skeleton | None = None,
    arch_settings: dict[str, Any] | None = None,
    head: str | None = None,
    again: bool = False,
    weights_key: str | None = None,
    padding: float | None = None,
) -> ImportResult:
    """Read a checkpoint without running anything in it, and register it as source model `name`.

    `skeleton` says of a pose model how its joints hang together. `arch` may be a class of one's
    own, `package.module:Class` or `FILE.py:Class`, which is imported and made with
    `arch_settings`; `head` names the layer that gives its logits, if a probe pass cannot tell.
    `padding` is that of the crops that a pose model was trained on (a side by the longer side of
    its box). `weights_key` says which of several sets of weights in the file. The same import gives
    the version that there is, but for one that is to be made `again`.
    """
    tracking.check_name(name)
    path = str(Path(weights).absolute())
    own: tuple[Any, ...] = (arch_settings, head) if arch_settings or head else ()
    own = (*own, *(("key", weights_key) if weights_key else ()), *((padding,) if padding else ()))
    work = ("import", path, problem, arch, classes, name, input, skeleton, *own)
    key = tracking.run_key(*work, again=str(flow_run.id) if again else None)
    tags = {"prefect.flow_run_id": str(flow_run.id)}
    params = {"weights": path, "arch": arch, "classes": ", ".join(classes)}
    with tracking.run(_title(), key=key, tags=tags, params=params) as run_id:
        more: tuple[Any, ...] = (skeleton, arch_settings, head, weights_key, padding)
        imported = import_checkpoint(path, problem, arch, classes, input, *more)
        model = imported.model
        version = register_source(model, name, run_id, {"source": path, "arch": model.arch})
    return ImportResult(
        flow_run_id=str(flow_run.id),
        mlflow_run_id=run_id,
        version=version,
        sha256=model.sha256,
        taken=imported.taken,
        preprocessing=imported.preprocessing,
        network=seen_by_probe(model),
    )
