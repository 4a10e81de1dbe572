"""ModelRef <-> network: find a model's bundle, verify it, open it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sfda.errors import BadInput, no_model, shell_command
from sfda.problems.registry import read_bundle
from sfda.refs import ModelRef, ModelSpec
from sfda.weights.bundle import opened_digest, read_spec


def locate(uri: str) -> Path:
    """The local folder of the bundle at `models:/...`, `runs:/...` or in a folder.

    Raises BadInput where nothing is there, or raw weights that were not imported.
    """
    if uri.startswith(("models:/", "runs:/")):
        from tasks import tracking  # slow to import, and not wanted where nothing is fetched

        return tracking.fetch_bundle(uri)
    path = Path(uri)
    if path.is_file():
        raise BadInput(
            f"{path} holds bare weights; register them first with "
            f"`{shell_command('sfda', 'import-model', path)} --arch ... --problem ... "
            "--classes ... --name ...` and use the address it prints"
        )
    if not (path / "spec.json").is_file():
        raise no_model(uri)
    return path.absolute()


def model_ref(uri: str) -> ModelRef:
    """The model at an address, its alias resolved and its content digested."""
    from tasks import tracking

    fixed = tracking.canonical(uri)
    folder = locate(fixed)
    spec = read_spec(folder)
    return ModelRef(
        uri=fixed if ":/" in fixed else str(folder),
        sha256=opened_digest(folder),
        problem=spec.problem,
        arch=spec.arch,
        classes=spec.classes,
    )


def open_model(ref: ModelRef) -> tuple[Any, ModelSpec]:
    """The network and its spec. Raises BadInput if the content is no longer the one referred to."""
    return read_bundle(locate(ref.uri), sha256=ref.sha256)


def open_spec(uri: str) -> ModelSpec:
    """What is stated of the model at an address, without its weights."""
    from tasks import tracking

    return read_spec(locate(tracking.canonical(uri)))
