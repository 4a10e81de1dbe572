"""Pseudo-labelling of the target: one scan with the source model, kept for all that follows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact

from sfda.building_blocks.device import DeviceName, choose, place
from sfda.inference.detection_predictions import keep_boxes
from sfda.inference.pose_predictions import keep_poses
from sfda.inference.predictions import keep_predictions
from sfda.inference.segmentation_predictions import keep_masks
from sfda.loading import opened as manifests
from sfda.loading.opened import ClassShift
from sfda.manifests.digests import key_of
from sfda.refs import ManifestRef, ModelRef, PredictionsRef
from sfda.state_folder import disk_errors, home, one_at_a_time
from tasks.prefect_runtime.cache import SameWork
from tasks.prefect_runtime.retry import SERVERS
from tasks.shards import looks
from tasks.tracking.models import open_model

KEEP: Mapping[str, Callable[..., PredictionsRef]] = MappingProxyType(
    {"segmentation": keep_masks, "detection": keep_boxes, "pose": keep_poses}
)
log = logging.getLogger("sfda")


@task(
    name="pseudo-labelling of the target",
    cache_policy=SameWork(ignore=("target",)),
    persist_result=True,
    result_serializer="json",
    **SERVERS,
)
def pseudo_label(
    source: ModelRef, target: ManifestRef, seen: str, split: str, device: DeviceName = "auto"
) -> PredictionsRef:
    """Labels, confidences and features of every target image, in the eyes of the source model.

    For segmentation: a mask, its confidences and its class ratios; for detection: boxes.
    `seen` is the digest of what can be seen of the split; labels are not, so they do not count.
    """
    network, spec = open_model(source)
    chosen = choose(device)
    manifest = manifests.open_ref(target).unlabelled()
    manifests.class_map(manifest.classes, source.classes, manifest.name)
    opened = manifests.open_split(manifest, split, spec.input)
    key = key_of(source=source.sha256, seen=seen, split=split, device=chosen.type)
    folder = home() / "predictions" / key[:24]
    place(network, chosen)
    with (
        disk_errors(f"predictions in {folder}"),
        one_at_a_time(folder),
        looks(source, target, opened, split, spec, device) as look,
    ):
        whole: dict[str, Any] = {"size": len(opened.images), "source_sha256": source.sha256}
        if spec.problem == "classification":
            return keep_predictions(lambda n, _=None: look(n), network, spec, folder, **whole)
        return KEEP[spec.problem](look(network), spec, folder, **whole)


def show_profile(name: str, found: PredictionsRef, shift: ClassShift) -> None:
    """The profile as an artifact of the flow run, also where the scan came from the cache.

    What the target's classes lack or have beyond the model's is also said in the log.
    """
    if shift.text():
        log.warning("%s: %s", name, shift.text())
    create_markdown_artifact(profile_text(name, found, shift.text()), key="pseudo-labels")


def profile_text(name: str, found: PredictionsRef, shift: str = "") -> str:
    """Class and confidence histograms of a target as markdown."""
    profile = found.profile
    unit, total = profile.get("unit", "images"), sum(profile["classes"].values()) or 1
    lines = [
        f"### What the source model sees in {name}",
        "",
        *([shift[:1].upper() + shift[1:], ""] if shift else []),
        f"{found.count} images, mean confidence {profile['mean_confidence']:.3f}",
        "",
        f"| class | {unit} | share |",
        "|---|---:|---|",
    ]
    lines += [
        f"| {label} | {count} | {_bar(count / total)} |"
        for label, count in profile["classes"].items()
    ]
    histogram: list[Any] = profile["confidence_histogram"]
    width = 1 / len(histogram)
    lines += ["", f"| confidence | {unit} | share |", "|---|---:|---|"]
    lines += [
        f"| {i * width:.2f} to {(i + 1) * width:.2f} | {count} | {_bar(count / total)} |"
        for i, count in enumerate(histogram)
        if count
    ]
    return "\n".join(lines)


def _bar(share: float) -> str:
    return f"{'█' * round(20 * share)} {share:.1%}"
