"""The work of one `sfda adapt` as plain calls of the library: no Prefect, no MLflow."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from sfda import plugins
from sfda.adaptation.loop import adapt
from sfda.adaptation.scoring import score_unlabelled
from sfda.images.decode import decode_images
from sfda.loading.batches import TargetLoader
from sfda.loading.labels import labels_in
from sfda.loading.opened import decode_key
from sfda.loading.scan import labelled_scan, scan
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split, unlabelled_digest
from sfda.problems.classification.evaluation import classification_report
from sfda.problems.registry import read_bundle
from sfda.types import EpochEnd, SeenViews, TargetInfo

CPU = torch.device("cpu")
SCORES = ("entropy", "infomax", "nuclear_norm")


def main(target: str, bundle: str, seed: int, scratch: Path) -> None:
    """Scan, one epoch of SHOT, scores, and both models evaluated."""
    network, spec = read_bundle(Path(bundle))
    manifest = open_manifest(Path(target))
    images, rows = {}, {}
    for name in ("adapt", "test"):
        split = read_split(manifest, name)
        key = decode_key(unlabelled_digest(manifest, name), spec.input)
        images[name] = decode_images(split, spec.input, scratch, key=key)
        rows[name] = split.row_ids
    kind = plugins.load("methods", "shot")
    config = kind.Config.from_settings({"schedule": {"epochs": 1}})
    look = scan(images["adapt"], spec.input, device=CPU)
    list(look(network))
    method = kind(network, TargetInfo(len(rows["adapt"]), rows["adapt"]), config)
    loader = TargetLoader(
        images["adapt"], spec.input, spec.views, strong=False, batch_size=64, seed=seed, device=CPU
    )
    for event in adapt(method, loader, look, config.schedule, seed=seed):
        if isinstance(event, EpochEnd):
            seen = (SeenViews(*part) for part in look(event.adapted))
            score_unlabelled(seen, {name: plugins.load("validators", name)() for name in SCORES})
    truth = labels_in(read_split(manifest, "test"), spec.classes).index
    both = labelled_scan(images["test"], truth, spec.input, device=CPU)
    for model in (network, method.adapted):
        classification_report(both(model), spec.classes, split="test")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
