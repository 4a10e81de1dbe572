"""Real networks in files of a format of their own, through adapters that a stranger wrote."""

from __future__ import annotations

import json
import os
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import graph_adapter
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sfda.adaptation.loop import adapt
from sfda.decision.evaluation import make_evaluator
from sfda.images.preprocess import prepare_image, standardise
from sfda.loading.batches import TargetLoader
from sfda.loading.opened import manifest_ref, open_ref, open_split
from sfda.loading.scan import scan
from sfda.methods.mean_teacher import MeanTeacher, MeanTeacherConfig
from sfda.networks.foreign.code import trust_word
from sfda.networks.foreign.trusted import TRUST_CODE
from sfda.problems.registry import PROBLEMS, read_bundle
from sfda.refs import InputSpec, ModelSpec
from sfda.types import EpochEnd, StepEnd, TargetInfo
from sfda.weights.bundle import write_bundle
from sfda.weights.checkpoints import read_weights

pytestmark = pytest.mark.slow  # real networks on a CPU, 10 s each
ADAPTER = Path(graph_adapter.__file__)
ROOT = ADAPTER.parents[1]
LIMBS = slice(5, 17)  # of COCO's 17 joints, the 12 of the manifest in the manifest's order


def data(name: str) -> Path:
    return Path(os.environ["SFDA_DATA"], name)


def graph_of(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A graph whose layers say what their weights' shapes say, and the weights."""
    graph = json.loads(data(f"weights/{name}.json").read_text())
    weights = load_file(data(f"weights/{name}.safetensors"))
    for layer in graph["layers"]:
        if layer["op"] == "conv":
            shape = weights[f"{layer['name']}.weight"].shape
            layer |= {"width": shape[0], "kernel": list(shape[2:])}
    return {part: graph[part] for part in ("layers", "outputs")}, weights


def stored(problem: str, kind: str, file: Path, tmp_path: Path, **how: Any) -> ModelSpec:
    """What `sfda import-model` does with a checkpoint, up to the bundle."""
    network, spec = PROBLEMS[problem].load_network(
        read_weights(file), arch=f"{ADAPTER}:{kind}", **how
    )
    write_bundle(tmp_path / "model", network, spec)
    return spec


def mean_teacher(network: Any, spec: ModelSpec, images: np.ndarray, **settings: Any) -> Any:
    """The network after one epoch on the images, and the terms of every step."""
    problem = PROBLEMS[spec.problem]
    config = MeanTeacherConfig.from_settings({**MeanTeacher.defaults_for(spec.problem), **settings})
    info = TargetInfo(len(images), tuple(map(str, range(len(images)))))
    loader = TargetLoader(
        images,
        spec.input,
        spec.views,
        strong=True,
        batch_size=2,
        seed=0,
        device="cpu",
        smallest=problem.smallest_batch,
        geometric=problem.geometric,
    )
    torch.manual_seed(0)
    method = MeanTeacher(network, info, config)
    schedule = config.schedule.model_copy(update={"epochs": 1})
    look = scan(images, spec.input, device="cpu", batch_size=2)
    terms, adapted = [], None
    for event in adapt(method, loader, look, schedule):
        if isinstance(event, StepEnd):
            terms.append({name: float(value) for name, value in event.losses.items()})
        if isinstance(event, EpochEnd):
            adapted = event.adapted
    return adapted, terms


def moved(before: dict[str, torch.Tensor], network: Any) -> float:
    """The largest change of a weight."""
    after = network.state_dict()
    return max(float((after[k] - v).abs().max()) for k, v in before.items())


def test_a_pose_network_of_a_graph_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers as recorded, finds three quarters of COCO's joints, and a teacher moves it."""
    graph, weights = graph_of("posenet_mbv1_075_coco17")
    named = {}
    for key, value in weights.items():
        layer, _, part = key.partition(".")
        if layer == "conv27":
            named[f"head.0.{part}"] = value[LIMBS].contiguous()
        elif layer != "conv28":  # offsets, which heatmaps have no use for
            named[f"backbone.{key}"] = value
    save_file(named, tmp_path / "pose.safetensors")
    manifest = open_ref(manifest_ref(ROOT / "data_manifests/human/coco.yaml"))
    spec = stored(
        "pose",
        "GraphPose",
        tmp_path / "pose.safetensors",
        tmp_path,
        classes=manifest.classes,
        input=InputSpec(size=(257, 257), mean=(0.5,) * 3, std=(0.5,) * 3),
        skeleton=manifest.skeleton,
        arch_settings={"graph": graph},
    )
    assert spec.cut == ("backbone", "neck", "head")
    assert spec.code is not None
    monkeypatch.setenv(TRUST_CODE, trust_word(spec.code))
    network, _ = read_bundle(tmp_path / "model")
    record = np.load(data("weights/posenet_mbv1_075_coco17_io.npz"))
    images = torch.from_numpy(record["images"]).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        maps = network(images).heatmaps
    expected = torch.from_numpy(record["out_heatmap"])[:, LIMBS].sigmoid()
    assert torch.allclose(maps, expected, atol=2e-3)
    opened = open_split(manifest, "test", spec.input)
    report = make_evaluator(opened, spec, torch.device("cpu"))(network, None)
    assert report.metrics["pck_at_0.2"] > 0.75  # 0.791 measured
    before = {k: v.clone() for k, v in network.state_dict().items()}
    adapted, terms = mean_teacher(network, spec, np.array(opened.images[:8]))
    assert all(term["prediction"] > 0 for term in terms)
    assert 0 < moved(before, adapted) < 0.1


def test_a_detector_of_a_graph_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers as recorded, finds people in photographs of COCO, and learns from its boxes."""
    graph, weights = graph_of("nanodet_g_coco80")
    named = {f"backbone.{key}": value for key, value in weights.items()}
    save_file(named, tmp_path / "detector.safetensors")
    labels = json.loads(data("weights/nanodet_g_coco80.json").read_text())["labels"]
    spec = stored(
        "detection",
        "GraphDetector",
        tmp_path / "detector.safetensors",
        tmp_path,
        classes=tuple(labels),
        input=InputSpec(
            size=(416, 416),
            letterbox=True,
            channels="bgr",
            scale=1.0,
            mean=(103.53, 116.28, 123.675),
            std=(57.375, 57.12, 58.395),
        ),
        arch_settings={"graph": graph},
    )
    assert spec.code is not None
    monkeypatch.setenv(TRUST_CODE, trust_word(spec.code))
    network, _ = read_bundle(tmp_path / "model")
    record = np.load(data("weights/nanodet_g_coco80_io.npz"))
    seen_as_bgr = np.stack([prepare_image(image, spec.input) for image in record["images"]])
    with torch.no_grad():
        maps = network.features(standardise(torch.from_numpy(seen_as_bgr), spec.input, "cpu"))
    for name, seen in maps.items():
        assert torch.allclose(seen, torch.from_numpy(record[f"out_{name}"]), atol=2e-3), name
    photographs = photographs_of_people(8)
    images = np.stack([prepare_image(picture, spec.input) for picture in photographs])
    with torch.no_grad():
        out = network(standardise(torch.from_numpy(images), spec.input, "cpu"))
    assert sum(bool(((b.labels == 0) & (b.scores > 0.3)).any()) for b in out.boxes) >= 6
    before = {k: v.clone() for k, v in network.state_dict().items()}
    adapted, terms = mean_teacher(network, spec, images, threshold=0.4)
    assert all({"class", "box"} <= set(term) for term in terms)
    assert any(term["box"] > 0 for term in terms)
    assert 0 < moved(before, adapted) < 0.1


def photographs_of_people(count: int) -> list[Any]:
    """The first photographs of the archive."""
    with zipfile.ZipFile(data("pose/human/coco_a.zip")) as archive:
        names = [n for n in sorted(archive.namelist()) if n.endswith((".jpg", ".png"))][:count]
        return [np.array(Image.open(BytesIO(archive.read(n))).convert("RGB")) for n in names]
