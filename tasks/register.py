"""Registration and promotion: versions, aliases, and the history of champions."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact

from sfda.building_blocks.device import DeviceName
from sfda.config import Config
from sfda.decision.gate import extended, promotion_verdict
from sfda.errors import BadInput
from sfda.networks.foreign.code import distribution
from sfda.refs import ManifestRef, ModelRef, ModelSpec, Report, SideBySide, Version
from sfda.sandbox.crossing import copy_within
from sfda.state_folder import home, one_at_a_time
from sfda.weights.bundle import bundle_digest, check_card, read_spec
from sfda.weights.bundle_files import CARD_FILE, CODE_FILE, MOST_BYTES, SPEC, WEIGHTS
from tasks import tracking
from tasks.evaluate import evaluate_model
from tasks.prefect_runtime.retry import SERVERS
from tasks.tracking.models import locate, model_ref

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
    """A new version of `name` with these weights, which `alias` names.

    An adapted model carries its source's card on, since the source data are gone; it must be the
    card that its spec states, if that states one.
    """
    folder = locate(model.uri)
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
            tags={"sha256": model.sha256, **tags},
            needs=_needs(read_spec(bundle)),
        )
    tracking.set_alias(version, alias)
    return version


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


def champion_if_first(version: Version) -> bool:
    """A first version of a name becomes champion: there is nothing it could be worse than."""
    if tracking.by_alias(version.name, "champion"):
        return False
    tracking.set_champion(version, [version.version])
    return True


@task(name="promotion", **SERVERS)
def promote_if_better(
    version: Version,
    sides: SideBySide,
    source: ModelRef,
    manifest: ManifestRef,
    requested: bool,
    run_id: str,
    device: DeviceName = "auto",
) -> bool:
    """Promote the new version if that was asked for and labels show it better than all before.

    Better: a higher macro accuracy on the labelled split (H-score, if it has unknown samples) than
    the source model's and than the present champion's. Without labels there is no evidence, and
    nothing changes.
    """
    name_digest = hashlib.sha256(version.name.encode()).hexdigest()[:16]
    with one_at_a_time(home() / "promotions" / name_digest):
        while True:
            before = tracking.by_alias(version.name, "champion")
            report = _champion_report(before, version, sides, source, manifest, device)
            verdict = promotion_verdict(version, sides, before, report, requested=requested)
            if _number(tracking.by_alias(version.name, "champion")) == _number(before):
                break  # else another machine has promoted meanwhile
        if verdict.promoted:
            history = extended(tracking.champions(version.name), version.version)
            tracking.set_champion(version, history)
    tracking.tag_version(version, {"verdict": verdict.text})
    tracking.set_tags(run_id, {"verdict": verdict.text})
    text = f"### {version.name} {version.version}\n\n{verdict.text}"
    create_markdown_artifact(text, key="promotion-verdict")
    return verdict.promoted


def _number(version: Version | None) -> str | None:
    return version.version if version else None


def _champion_report(
    champion: Version | None,
    version: Version,
    sides: SideBySide,
    source: ModelRef,
    manifest: ManifestRef,
    device: DeviceName,
) -> Callable[[], Report] | None:
    """How to evaluate the champion on the split of these reports; None where that tells nothing."""
    if champion is None or champion.version == version.version:
        return None
    if sides.source is None or sides.split is None:
        return None
    ref, report = model_ref(champion.uri), sides.source
    if ref.sha256 == source.sha256:
        return lambda: report
    return partial(evaluate_model, ref, manifest, sides.split, device)


class ChampionMove(Config):
    """Which version is champion now, and which was before."""

    name: str
    version: str
    previous: str | None


@task(name="promotion")
def move_champion(name: str, version: str | None) -> ChampionMove:
    """Make this version the champion, or with None the champion before the present one."""
    moved, before = promote(name, version) if version else rollback(name)
    return ChampionMove(name=name, version=moved.version, previous=before)


def promote(name: str, version: str) -> tuple[Version, str | None]:
    """A person's explicit move of the champion; the version, and the champion before it."""
    chosen = tracking.find_version(name, version)
    history = tracking.champions(name)
    previous = history[-1] if history else None
    tracking.set_champion(chosen, extended(history, chosen.version))
    return chosen, previous


def rollback(name: str) -> tuple[Version, str]:
    """Back to the champion before this one. Raises BadInput where there was none."""
    if not tracking.versions(name):
        tracking.find_version(name, "1")  # says which models there are
    history = tracking.champions(name)
    if len(history) < 2:
        raise BadInput(f"'{name}' has had no champion before this one; nothing to go back to")
    before = tracking.find_version(name, history[-2])
    tracking.set_champion(before, history[:-1])
    return before, history[-1]
