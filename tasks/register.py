"""Registration and promotion: versions, aliases, and the history of champions."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact

from sfda.building_blocks.device import DeviceName
from sfda.errors import BadInput
from sfda.problems.classification.metrics import main_metric
from sfda.refs import ManifestRef, ModelRef, SideBySide, Version
from sfda.state_folder import home, one_at_a_time
from sfda.weights.bundle import read_spec
from sfda.weights.source_card import FILE as CARD
from tasks import tracking
from tasks.evaluate import evaluate_model
from tasks.prefect_runtime.retry import SERVERS
from tasks.tracking.models import locate, refer

NEEDS = {"smp": ("segmentation-models-pytorch",), "mmdet": ("mmdet", "mmcv-lite")}


@task(name="registration", **SERVERS)
def register(
    model: ModelRef,
    name: str,
    run_id: str,
    tags: dict[str, str],
    alias: str,
    source: ModelRef | None = None,
) -> Version:
    """A new version of `name` with these weights, found by `alias`.

    An adapted model carries its source's card on, since the source data are gone.
    """
    folder = locate(model.uri)
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(scratch, "bundle")
        shutil.copytree(folder, bundle)
        if source and (card := locate(source.uri) / CARD).is_file():
            shutil.copy2(card, bundle / CARD)
        found = tracking.register(
            run_id,
            bundle,
            name,
            depth=read_spec(folder).input.depth,
            tags={"sha256": model.sha256, **tags},
            needs=NEEDS.get(model.arch.partition(":")[0], ()),
        )
    tracking.set_alias(found, alias)
    return found


def crown_if_first(found: Version) -> bool:
    """A first version of a name becomes champion: there is nothing it could be worse than."""
    if tracking.by_alias(found.name, "champion"):
        return False
    tracking.set_champion(found, [found.version])
    return True


@task(name="promotion", **SERVERS)
def promote_if_better(
    found: Version,
    sides: SideBySide,
    source: ModelRef,
    manifest: ManifestRef,
    wanted: bool,
    run_id: str,
    device: DeviceName = "auto",
) -> bool:
    """Let the new version reign if that was asked for and labels show it better than all before.

    Better: a higher macro accuracy on the labelled split (H-score, if it has unknown samples) than
    the source model's and than the reigning champion's. Without labels there is no evidence, and
    nothing changes.
    """
    place = hashlib.sha256(found.name.encode()).hexdigest()[:16]
    with one_at_a_time(home() / "promotions" / place):
        while True:
            before = _champion(found.name)
            verdict, promoted = _verdict(found, sides, source, manifest, wanted, device)
            if _champion(found.name) == before:
                break  # else another machine has promoted meanwhile
        if promoted:
            tracking.set_champion(found, _then(tracking.champions(found.name), found.version))
    tracking.tag_version(found, {"verdict": verdict})
    tracking.set_tags(run_id, {"verdict": verdict})
    text = f"### {found.name} {found.version}\n\n{verdict}"
    create_markdown_artifact(text, key="promotion-verdict")
    return promoted


def _champion(name: str) -> str | None:
    """The version that reigns."""
    champion = tracking.by_alias(name, "champion")
    return champion.version if champion else None


def _then(history: list[str], version: str) -> list[str]:
    """A history of champions that ends with this version."""
    return history if history[-1:] == [version] else [*history, version]


def _verdict(
    found: Version,
    sides: SideBySide,
    source: ModelRef,
    manifest: ManifestRef,
    wanted: bool,
    device: DeviceName,
) -> tuple[str, bool]:
    if sides.source is None or sides.adapted is None or sides.split is None:
        return "held: the target has no labelled test split, so there is no evidence", False
    champion = tracking.by_alias(found.name, "champion")
    if champion and champion.version == found.version:
        return "champion already", True
    metric = main_metric(sides.adapted.metrics)
    ours, before = sides.adapted.metrics[metric], sides.source.metrics[metric]
    reigning = None
    if champion:
        ref = refer(champion.uri)
        same = ref.sha256 == source.sha256
        try:
            report = sides.source if same else evaluate_model(ref, manifest, sides.split, device)
        except BadInput as error:
            return f"held: champion {champion.uri} cannot be compared ({error})", False
        reigning = report.metrics[metric]
    said = f"{metric.replace('_', ' ')} {ours:.4f}, source {before:.4f}"
    if champion:
        said += f", champion (version {champion.version}) {reigning:.4f}"
    if ours <= before or (reigning is not None and ours <= reigning):
        return f"held: not better ({said})", False
    if not wanted:
        return f"better, but promotion was not asked for ({said})", False
    return f"promoted: {said}", True


def promote(name: str, version: str) -> tuple[Version, str | None]:
    """A person's explicit move of the champion; the version and the one that reigned before."""
    found = tracking.find_version(name, version)
    history = tracking.champions(name)
    previous = history[-1] if history else None
    tracking.set_champion(found, _then(history, found.version))
    return found, previous


def rollback(name: str) -> tuple[Version, str]:
    """Back to the champion before this one. Raises BadInput where there was none."""
    if not tracking.versions(name):
        tracking.find_version(name, "1")  # says which models there are
    history = tracking.champions(name)
    if len(history) < 2:
        raise BadInput(f"'{name}' has had no champion before this one; nothing to go back to")
    found = tracking.find_version(name, history[-2])
    tracking.set_champion(found, history[:-1])
    return found, history[-1]


def report_tag(sides: SideBySide) -> str:
    """The report as it is kept with a version: scalars alone."""
    return json.dumps(
        {
            "split": sides.split,
            "source": sides.source.metrics if sides.source else None,
            "adapted": sides.adapted.metrics if sides.adapted else None,
        }
    )
