"""Registration: bundles as versions of a registered model."""

from __future__ import annotations

import tempfile
from pathlib import Path

from prefect import task

from sfda.errors import BadInput
from sfda.networks.foreign.code import distribution
from sfda.refs import ModelRef, ModelSpec, Version
from sfda.sandbox.crossing import copy_within
from sfda.weights.bundle import bundle_digest, check_card, read_spec
from sfda.weights.bundle_files import CARD_FILE, CODE_FILE, MOST_BYTES, SPEC, WEIGHTS
from tasks import tracking
from tasks.champion import champion_if_first
from tasks.prefect_runtime.cache import code_digest
from tasks.prefect_runtime.retry import SERVERS
from tasks.tracking.models import locate
from tasks.tracking.registry import WORK

PACKAGES_BY_ARCH = {"smp": ("segmentation-models-pytorch",), "mmdet": ("mmdet", "mmcv-lite")}


@task(name="registration", **SERVERS)
def register_model(
    model: ModelRef,
    name: str,
    run_id: str,
    tags: dict[str, str],
    alias: str,
    source: ModelRef | None = None,
) -> Version:
    """A version of `name` with these weights, which `alias` names: that of a run that has finished
    the same work by the same code, where there is one, else a new one.

    An adapted model carries its source's card on, since the source data are gone; it must be the
    card that its spec states, if that states one.
    """
    folder = locate(model.uri)
    tags = {"sha256": model.sha256, WORK: _work(model, run_id, tags), **tags}
    if same := tracking.version_of_work(name, tags):
        tracking.set_alias(same, alias)
        return same
    with tempfile.TemporaryDirectory() as scratch:
        bundle = _copied(folder, Path(scratch, "bundle"), model)
        cards = [*([locate(source.uri).resolve()] if source else []), folder]
        if card := next((p for p in cards if (p / CARD_FILE).exists()), None):
            copy_within(card, CARD_FILE, bundle / CARD_FILE, limit=MOST_BYTES[CARD_FILE])
            check_card(bundle, read_spec(bundle))
        version = tracking.register_bundle(
            run_id,
            bundle,
            name,
            depth=read_spec(bundle).input.depth,
            tags=tags,
            needs=_needs(read_spec(bundle)),
        )
    tracking.set_alias(version, alias)
    return version


def _work(model: ModelRef, run_id: str, tags: dict[str, str]) -> str:
    """A digest of all that a version comes from: the run's own work, models, data and code."""
    origin = [tags.get(name) for name in ("source.sha256", "manifest.sha256", "step", "trial")]
    return tracking.run_key(tracking.key_of_run(run_id), model.sha256, origin, code_digest())


def _copied(folder: Path, bundle: Path, model: ModelRef) -> Path:
    """The bundle in `folder` anew: its files by name, no link followed, with the model's digest."""
    bundle.mkdir()
    has_source = (folder / CODE_FILE).exists()
    for name in (SPEC, WEIGHTS, *([CODE_FILE] if has_source else [])):
        copy_within(folder, name, bundle / name, limit=MOST_BYTES[name])
    if (digest := bundle_digest(bundle)) != model.sha256:
        raise BadInput(f"{folder} holds model {digest[:12]}, not {model.sha256[:12]}")
    return bundle


def _needs(spec: ModelSpec) -> tuple[str, ...]:
    """Packages that the network needs, beyond those of all models."""
    if spec.code is None:
        return PACKAGES_BY_ARCH.get(spec.arch.partition(":")[0], ())
    name = distribution(spec.code.name) if spec.code.kind == "package" else None
    return (name,) if name else ()


def register_source(model: ModelRef, name: str, run_id: str, tags: dict[str, str]) -> Version:
    """A version that the alias `source` names; the first of its name is champion at once."""
    version = register_model(model, name, run_id, tags, "source")
    champion_if_first(version)
    return version
