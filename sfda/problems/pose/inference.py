"""Crops to joints in pixels of the images they are from; and the joints of a scan, kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfda.augment.geometric import Moved, WarpMaker
from sfda.augment.photometric import Several
from sfda.building_blocks.heatmaps import joints_from_maps, peaks
from sfda.building_blocks.warps import maps_back
from sfda.images.crops import Crop, from_crop_frame
from sfda.images.preprocess import Stack, standardise
from sfda.images.store import Pictures
from sfda.inference.forward import infer, refuse_not_finite
from sfda.inference.predictions import HISTOGRAM_BINS
from sfda.inference.summaries import Summary
from sfda.loading.opened import Opened
from sfda.measures.tally import Tally
from sfda.problems.pose.labels import crops_of
from sfda.problems.pose.network import PoseNet, PoseOutput
from sfda.refs import InputSpec, ModelSpec, Profile
from sfda.types import Warp

CROPS_AT_ONCE = 64


class Crops(Protocol):
    """Where each row's crop lies in its image."""

    def crop(self, row: int) -> Crop:
        """That of one row."""
        ...


class Joints(NamedTuple):
    """Joints [K, 2] as (x, y) in pixels of the image, and the peak of each, about 0 to 1."""

    joints: np.ndarray
    scores: np.ndarray


def pose_all(
    network: nn.Module,
    images: Pictures | Stack,
    spec: InputSpec,
    crops: Crops | list[Crop],
    *,
    device: torch.device | str,
) -> Iterator[tuple[int, Joints]]:
    """(row, pose) of all prepared crops in order. Raises NotFinite."""
    device = torch.device(device)
    for start in range(0, len(images), CROPS_AT_ONCE):
        stored = torch.from_numpy(np.array(images[start : start + CROPS_AT_ONCE]))
        output = infer(network, standardise(stored, spec, device), device)
        refuse_not_finite(output.logits)
        joints, peak = joints_from_maps(output.heatmaps, image=spec.size)
        for row, (points, score) in enumerate(zip(joints, peak, strict=True), start):
            crop = crops[row] if isinstance(crops, list) else crops.crop(row)
            yield (
                row,
                Joints(from_crop_frame(points.cpu().numpy(), crop, spec.size), score.cpu().numpy()),
            )


SURE_PEAK = 0.5  # height of a peak


def infer_rows(
    network: nn.Module,
    opened: Opened,
    spec: ModelSpec,
    device: torch.device,
    span: tuple[int, int],
) -> Iterator[tuple[int, Joints]]:
    """(row, joints) of the rows of a span."""
    crops = crops_of(opened.split)
    own = [crops.crop(row) for row in range(*span)]
    for row, joints in pose_all(network, opened.part(*span), spec.input, own, device=device):
        yield row + span[0], joints


def at_once(spec: ModelSpec) -> int:
    """Four batches."""
    return 4 * CROPS_AT_ONCE


def to_arrays(output: tuple[int, Joints]) -> dict[str, np.ndarray[Any, Any]]:
    """Row, joints, scores."""
    row, joints = output
    return {"row": np.array(row)} | {n: np.asarray(v) for n, v in joints._asdict().items()}


def from_arrays(arrays: dict[str, Any], device: torch.device) -> tuple[int, Joints]:
    """The same back."""
    row = int(arrays.pop("row"))
    return row, Joints(**arrays)


def outputs_on_moved(
    network: PoseNet,
    maker: WarpMaker,
    stored: Several,
    epoch: int,
    rows: np.ndarray[Any, Any],
    spec: InputSpec,
    device: torch.device,
) -> tuple[PoseOutput, PoseOutput]:
    """What a network says of two moved views, its heatmaps in the frame of the images."""
    weak, strong = (
        _brought_back(network, view, spec, device)
        for view in maker.pair(np.asarray(stored), epoch, rows)
    )
    return weak, strong


def _brought_back(
    network: PoseNet, view: Moved, spec: InputSpec, device: torch.device
) -> PoseOutput:
    inputs = standardise(torch.from_numpy(view.views), spec, device)
    out: PoseOutput = infer(network, inputs, device)
    warp = Warp(*(torch.from_numpy(part).to(device) for part in (view.matrices, view.flipped)))
    maps = maps_back(out.heatmaps, warp, image=spec.size, pairs=network.pairs)
    return out._replace(heatmaps=maps)


def summarise_output(output: PoseOutput) -> Summary:
    """How its heatmaps spread."""
    return summarise_poses(output.features, output.heatmaps)


def summarise_poses(
    features: Float[Tensor, "B D h w"], heatmaps: Float[Tensor, "B K H W"]
) -> Summary:
    """The summary of a batch of persons by how their heatmaps spread.

    A map's entropy is that of its positive part as a distribution over places; its margin the
    highest peak less the next one (several peaks: Liu and Ferrari, ICCV 2017). Means over joints.
    """
    maps = heatmaps.float().clamp(min=0)
    size = maps.shape[-1] * maps.shape[-2]
    total = maps.sum((2, 3))
    spread = (maps / total.clamp(min=1e-12)[..., None, None]).flatten(2)
    spread = torch.where((total > 0)[..., None], spread, torch.full_like(spread, 1 / size))
    entropy = -torch.xlogy(spread, spread).sum(-1).mean(1)
    peak = F.max_pool2d(maps, 3, stride=1, padding=1) == maps
    top = torch.where(peak, maps, 0.0).flatten(2).topk(2, dim=-1).values.clamp(max=1)
    sure = top[..., 0].mean(1)
    return Summary(
        features.float().mean((2, 3)),
        torch.stack([sure, 1 - sure], 1),
        entropy,
        (top[..., 0] - top[..., 1]).mean(1),
        entropy[:, None],
    )


def prediction_table(
    network: nn.Module, spec: ModelSpec, opened: Opened, device: torch.device, out: Path
) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    """File, and x, y and score of every joint."""
    header = ("file", *(f"{j}:{k}" for j in spec.classes for k in ("x", "y", "score")))
    return header, _lines(network, spec, opened, device)


def _lines(
    network: nn.Module, spec: ModelSpec, opened: Opened, device: torch.device
) -> Iterator[Sequence[Any]]:
    for row, joints in infer_rows(network, opened, spec, device, (0, len(opened.images))):
        table = np.column_stack([joints.joints, joints.scores]).ravel()
        yield opened.split.names[row], *(f"{value:.4f}" for value in table)


def keep_outputs(
    outputs: Iterable[tuple[int, Joints]], spec: ModelSpec, part: Path, size: int
) -> Profile:
    """`poses.npz`: `joints` [N, K, 2] in pixels of the images, and `scores` [N, K]."""
    joints = np.zeros((size, len(spec.classes), 2), np.float32)
    scores = np.zeros((size, len(spec.classes)), np.float32)
    for row, pose in outputs:
        joints[row], scores[row] = pose
    np.savez(part / "poses.npz", joints=joints, scores=scores)
    bin_of = np.clip((scores * HISTOGRAM_BINS).astype(int), 0, HISTOGRAM_BINS - 1)
    return {
        "classes": dict(zip(spec.classes, (scores >= SURE_PEAK).sum(0).tolist(), strict=True)),
        "confidence_histogram": np.bincount(bin_of.ravel(), minlength=HISTOGRAM_BINS).tolist(),
        "mean_confidence": float(scores.mean()) if size else 0.0,
        "unit": "sure joints",
    }


PEAKS_NEAR = 0.05  # of a heatmap's side


def entropy_sum(output: PoseOutput) -> tuple[float, int]:
    """Sum over persons of their joints' mean entropy: of each map, what is below 0 left out, as a
    distribution over its pixels. How many persons.
    """
    maps = output.heatmaps
    flat = maps.double().clamp(min=0).flatten(2) + 1e-12
    share = flat / flat.sum(-1, keepdim=True)
    return float(-(share * share.log()).sum()) / maps.shape[1], len(maps)


def agreement_counts(
    weak: PoseOutput, strong: PoseOutput, classes: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """By joint: how many persons, and of how many the two peaks lie within a twentieth of the side
    of their heatmaps.
    """
    maps = weak.heatmaps
    near = PEAKS_NEAR * maps.shape[-1]
    one, other = (peaks(view.heatmaps)[0].double() for view in (weak, strong))
    same = ((one - other).norm(dim=-1) <= near).sum(0)
    yield torch.full_like(same, len(maps)), same


def tally(output: PoseOutput) -> Tally:
    """By person."""
    none = output.heatmaps.new_zeros(0).double()
    return Tally(len(output.heatmaps), none, none, 0.0)
