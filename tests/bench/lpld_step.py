"""One step of LPLD over the sum of its bare parts, in turns, on blood-cell images.

Bare: the teacher's forward pass with its detections, the student's backbone, its losses on the same
boxes, its regions on the teacher's proposals, backward and step. The step adds sorting out boxes,
mining and distilling.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sfda import plugins
from sfda.adaptation.schedule import make_optimizer
from sfda.images.decode import decode_images
from sfda.loading.batches import TargetLoader
from sfda.loading.opened import decode_key
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split, unlabelled_digest
from sfda.problems.detection import loss as detection_loss
from sfda.problems.detection import network as detection
from sfda.problems.detection.teaching import sorted_out
from sfda.refs import InputSpec
from sfda.types import Clock, TargetInfo

ROUNDS, STEPS = 7, 8
LOOSE = {"threshold": 0.3, "confidence": 0.5, "background": 1.0}  # random heads are never sure


def measure(out: Path) -> dict[str, Any]:
    """Steps a second, bare and whole."""
    spec = detection.make_spec(
        "torchvision:fasterrcnn_squeezenet1_1_fpn", ("WBC", "RBC", "Platelets"),
        input=InputSpec(size=(192, 192), letterbox=True, mean=(0.5,) * 3, std=(0.5,) * 3),
    )  # fmt: skip
    opened = open_manifest(Path("data_manifests/bloodcells/pbc.yaml")).unlabelled()
    split = read_split(opened, "adapt")
    images = decode_images(
        split,
        spec.input,
        out / "decoded",
        key=decode_key(unlabelled_digest(opened, "adapt"), spec.input),
    )
    torch.manual_seed(0)
    source: Any = detection.build_from_spec(spec).eval()
    with torch.no_grad():  # so that some boxes are sure, as of a trained one
        source.roi_heads.box_predictor.cls_score.weight.mul_(12)
    kind = plugins.load("methods", "lpld")
    config = kind.Config.from_settings(LOOSE)
    method = kind(source, TargetInfo(len(images), split.row_ids, classes=spec.classes), config)
    method.train()
    loader = TargetLoader(
        images, spec.input, spec.views, strong=True, batch_size=1, seed=0, device="cpu", smallest=1
    )
    batches = [batch for batch, _ in zip(loader.epoch(0), range(STEPS), strict=False)]
    optimizer = make_optimizer(config.schedule, method.parameter_groups(config.schedule))
    assert optimizer is not None
    # nothing is learnt, so that every round has the same boxes
    for group in optimizer.param_groups:
        group["lr"] = 0.0

    def bare(batch: Any) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            taught = method.teacher.regions(batch.weak)
        sure, doubtful = sorted_out(taught.detections, config.threshold, config.boxes)
        features = method.student.features(batch.strong)
        losses = detection_loss.loss(
            method.student, batch.strong, sure, features=features, doubtful=doubtful, empty="skip"
        )
        seen = method.student.regions(batch.strong, taught.proposals, features)
        return losses | {"seen": 1e-3 * seen.logits.square().mean()}

    def whole(batch: Any) -> dict[str, torch.Tensor]:
        result: dict[str, torch.Tensor] = method.losses(batch, Clock(0, STEPS, 1))
        return result

    def timed(losses: Callable[[Any], dict[str, torch.Tensor]]) -> float:
        torch.manual_seed(1)
        started = time.perf_counter()
        for batch in batches:
            total = torch.stack(list(losses(batch).values())).sum()
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()
        return (time.perf_counter() - started) / STEPS

    timed(bare)
    timed(whole)
    rounds = [(timed(bare), timed(whole)) for _ in range(ROUNDS)]
    distilled = sum(float(whole(batch)["distil"].detach()) > 0 for batch in batches)
    return {
        "bare_s": [b for b, _ in rounds],
        "step_s": [w for _, w in rounds],
        "ratios": [w / b for b, w in rounds],
        "distilled": f"{distilled} of {STEPS} images",
    }


def spread(values: list[float]) -> str:
    """Median, and the least and the most."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def text(result: dict[str, Any]) -> str:
    return (
        f"one step {spread(result['step_s'])} s, bare parts {spread(result['bare_s'])} s, "
        f"ratio {spread(result['ratios'])}; {result['distilled']} with something to distil"
    )
