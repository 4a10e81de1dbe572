"""A small target of each problem with two models for it that differ, both as bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import small
import small_det
import small_multi
import small_pose
import small_seg
import torch

from sfda.demo import figures
from sfda.loading.opened import evaluation_split, manifest_ref
from sfda.problems.registry import PROBLEMS
from sfda.refs import LabelledSplit, ManifestRef, ModelRef, ModelSpec, Skeleton
from sfda.weights.bundle import write_bundle

SIZES = {"adapt": 24, "test": 12}


class TwoModels(NamedTuple):
    """A target, and a model before and after."""

    source: ModelRef
    adapted: ModelRef
    manifest: ManifestRef
    path: Path

    @property
    def test(self) -> LabelledSplit | None:
        return evaluation_split(self.manifest, "test")


def two_models(problem: str, folder: Path, **changes: Any) -> TwoModels:
    """Where networks are trained quickly a trained one and the same disturbed, else random ones."""
    path = _target(problem, folder / "data", changes)
    torch.manual_seed(0)
    spec = _spec(problem)
    networks = [_network(problem, spec), _network(problem, spec)]
    with torch.no_grad():
        for weight in networks[1].parameters():
            weight += (0.1 + 2 * weight.std(unbiased=False)) * torch.randn_like(weight)
    refs = []
    for name, network in zip(("source", "adapted"), networks, strict=True):
        digest = write_bundle(folder / name, network, spec)
        refs.append(
            ModelRef(
                uri=str(folder / name),
                sha256=digest,
                problem=spec.problem,
                arch=spec.arch,
                classes=spec.classes,
            )
        )
    return TwoModels(*refs, manifest_ref(path), path)


def _target(problem: str, folder: Path, changes: dict[str, Any]) -> Path:
    if problem == "classification":
        inputs = small.arrays(SIZES, seed=2)
        return small.write(folder, "site", inputs, SIZES, **changes)
    folder.mkdir(parents=True, exist_ok=True)
    if problem == "pose":
        return small_pose.write(folder, "site", SIZES, night=True, **changes)
    write = {"multilabel": small_multi, "segmentation": small_seg, "detection": small_det}
    return write[problem].write(folder, "site", SIZES, seed=2, **changes)


def _spec(problem: str) -> ModelSpec:
    specs = {
        "classification": small.SPEC,
        "multilabel": small_multi.SPEC,
        "segmentation": small_seg.SPEC,
    }
    if problem in specs:
        return specs[problem]
    if problem == "detection":
        return PROBLEMS[problem].make_spec("sfda:tinyrcnn", small_det.CLASSES)
    skeleton = Skeleton(edges=figures.EDGES, pairs=figures.PAIRS)
    return PROBLEMS[problem].make_spec("sfda:tiny", figures.JOINTS, skeleton=skeleton)


def _network(problem: str, spec: ModelSpec) -> Any:
    trained = {
        "classification": small.source,
        "multilabel": small_multi.source,
        "segmentation": small_seg.source,
    }
    if problem in trained:
        return trained[problem]()
    return PROBLEMS[problem].build_from_spec(spec).eval()
