"""Pseudo-labelling of the target: one scan with the source model, kept for all that follows."""

from __future__ import annotations

import logging

from prefect import task

from sfda.building_blocks.device import DeviceName, choose, to_device
from sfda.inference.pseudo_labels import keep_pseudo_labels
from sfda.loading.opened import open_part
from sfda.manifests.class_matching import ClassShift
from sfda.manifests.digests import key_of
from sfda.refs import ModelRef, PredictionsRef, SplitRef
from sfda.report.profile_text import profile_text
from sfda.state_folder import disk_errors, home, one_at_a_time
from tasks.prefect_runtime.cache import SameWork
from tasks.prefect_runtime.retry import SERVERS
from tasks.prefect_runtime.tame_artifacts import create_markdown_artifact
from tasks.shards import inference_over
from tasks.tracking.models import open_model

log = logging.getLogger("sfda")


@task(
    name="pseudo-labelling of the target",
    cache_policy=SameWork(seen_alone=("target",)),
    persist_result=True,
    result_serializer="json",
    **SERVERS,
)
def pseudo_label(source: ModelRef, target: SplitRef, device: DeviceName = "auto") -> PredictionsRef:
    """Labels, confidences and features of every target image, in the eyes of the source model.

    For segmentation: a mask, its confidences and its class ratios; for detection: boxes.
    Labels of the target cannot be seen, so they do not count: a manifest that gains some finds the
    same predictions. Of a part of a split the rest is not looked at.
    """
    network, spec = open_model(source)
    chosen = choose(device)
    opened = open_part(target, spec)
    seen = {"seen": target.seen, "split": target.split, "rows": target.rows}
    key = key_of(source=source.sha256, device=chosen.type, **seen)
    folder = home() / "predictions" / key[:24]
    to_device(network, chosen)
    with (
        disk_errors(f"predictions in {folder}"),
        one_at_a_time(folder),
        inference_over(source, target.manifest, opened, spec, device) as infer,
    ):
        return keep_pseudo_labels(
            infer, network, spec, folder, size=len(opened.images), source_sha256=source.sha256
        )


def show_profile(name: str, predictions: PredictionsRef, shift: ClassShift) -> None:
    """The profile as an artifact of the flow run, also where the scan came from the cache.

    What the target's classes lack or have beyond the model's stands in the log too.
    """
    if shift.text():
        log.warning("%s: %s", name, shift.text())
    create_markdown_artifact(profile_text(name, predictions, shift.text()), key="pseudo-labels")
