"""Whole images to boxes in their own pixels, and what is kept of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import box_iou

from sfda.building_blocks.boxes import Boxes
from sfda.images.preprocess import Stack, standardise
from sfda.images.store import Pictures, Ragged
from sfda.inference.forward import Size, images_at_once, infer, refuse_not_finite
from sfda.inference.predictions import HISTOGRAM_BINS
from sfda.inference.summaries import Summary
from sfda.loading.labels import ImageSizes
from sfda.loading.opened import Opened
from sfda.measures.tally import Tally
from sfda.networks.detector import Detector, DetOutput
from sfda.problems.detection.labels import boxes_from_frame
from sfda.problems.detection.metrics import BoxesOf, matched
from sfda.refs import InputSpec, ModelSpec, Profile
from sfda.types import Images

BOX_FLOOR = 0.1  # score below which a box says nothing


def detect_all(
    network: nn.Module,
    images: Pictures | Stack,
    spec: InputSpec,
    *,
    device: torch.device | str,
    sizes: Sequence[Size],
) -> Iterator[tuple[int, Boxes]]:
    """(row, boxes in pixels of the image) of all prepared images in order, the surest box first.

    `sizes` are those of the images as they came. Raises NotFinite.
    """
    device = torch.device(device)
    assert not isinstance(images, Ragged)  # of tiled inputs, which detectors have none of
    at_once = images_at_once((images.shape[1], images.shape[2]))
    for start in range(0, len(images), at_once):
        stored = torch.from_numpy(np.array(images[start : start + at_once]))
        output = infer(network, standardise(stored, spec, device), device)
        refuse_not_finite(output.logits)
        for row, boxes in enumerate(output.boxes, start):
            order = boxes.scores.argsort(descending=True, stable=True)
            yield row, boxes_from_frame(Boxes(*(part[order] for part in boxes)), sizes[row], spec)


def infer_rows(
    network: nn.Module,
    opened: Opened,
    spec: ModelSpec,
    device: torch.device,
    span: tuple[int, int],
) -> Iterator[tuple[int, Boxes]]:
    """(row, boxes) of the rows of a span."""
    images, sizes = opened.part(*span), ImageSizes(opened.split, span[0])
    for row, boxes in detect_all(network, images, spec.input, device=device, sizes=sizes):
        yield row + span[0], boxes


def at_once(spec: ModelSpec) -> int:
    """Frames of a batch."""
    return images_at_once(spec.input.stored)


def to_arrays(output: tuple[int, Boxes]) -> dict[str, np.ndarray[Any, Any]]:
    """Row, boxes, labels, scores."""
    row, boxes = output
    return {"row": np.array(row)} | {n: part.cpu().numpy() for n, part in boxes._asdict().items()}


def from_arrays(arrays: dict[str, Any], device: torch.device) -> tuple[int, Boxes]:
    """The same back."""
    row = int(arrays.pop("row"))
    return row, Boxes(**{name: torch.from_numpy(value) for name, value in arrays.items()})


def box_arrays(boxes: Boxes) -> BoxesOf:
    """Boxes as metrics and pictures take them."""
    return BoxesOf(boxes.boxes.numpy(), boxes.labels.numpy(), boxes.scores.numpy())


def summarise_output(output: Summary) -> Summary:
    """What `BoxSummariser` gives."""
    return output


def summarise_boxes(
    features: Float[Tensor, "B D"], boxes: Sequence[Boxes], classes: int
) -> Summary:
    """The summary of a batch of images by the boxes found in them that score at least 0.1.

    A score s stands for the class against nothing: its entropy is that of (s, 1 - s), its margin
    |2 s - 1|, and an image's are the means over its boxes (the "average" of Brust et al.,
    arXiv:1809.09875, who also try sum and maximum). An image without a box is sure of nothing.
    """
    rows = []
    for one in boxes:
        scored = one.where(one.scores >= BOX_FLOOR)
        probs = features.new_zeros(max(1, len(scored.scores)), classes + 1)
        probs[:, -1] = 1
        if len(scored.scores):
            probs[:, -1] -= scored.scores
            probs.scatter_(1, scored.labels[:, None], scored.scores[:, None].to(probs))
        sure = 1 - probs[:, -1]
        both = torch.stack([sure, probs[:, -1]], 1)
        entropy = -torch.xlogy(both, both).sum(1)
        margin = (2 * sure - 1).abs()
        rows.append((probs.mean(0), entropy.mean(), margin.mean()))
    every, entropies, margins = (torch.stack(part) for part in zip(*rows, strict=True))
    return Summary(features.float(), every, entropies, margins, entropies[:, None])


class BoxSummariser(nn.Module):
    """A detector whose output is the summary of its boxes, from one pass of its backbone."""

    problem: ClassVar[str] = "detection"

    def __init__(self, network: Detector) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Images) -> Summary:
        """Means of the backbone's maps, level by level, and what the boxes say."""
        maps = self.network.features(images)
        levels = list(maps.values()) if isinstance(maps, dict) else list(maps)
        pooled = torch.cat([level.float().mean((2, 3)) for level in levels], 1)
        if self.network.two_stage:
            boxes = self.network.regions(images, features=maps).detections
        else:
            boxes = self.network(images).boxes
        return summarise_boxes(pooled, boxes, self.network.num_classes)


def prediction_table(
    network: nn.Module, spec: ModelSpec, opened: Opened, device: torch.device, out: Path
) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    """File, label, confidence and corners in pixels, one row a box; the same as COCO JSON in
    `predictions.json`, where images without any stand too.
    """
    header = ("file", "label", "confidence", "x1", "y1", "x2", "y2")
    return header, _lines(network, spec, opened, device, out)


def _lines(
    network: nn.Module, spec: ModelSpec, opened: Opened, device: torch.device, out: Path
) -> Iterator[Sequence[Any]]:
    sizes = ImageSizes(opened.split)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for row, boxes in infer_rows(network, opened, spec, device, (0, len(opened.images))):
        height, width = sizes[row]
        name = opened.split.names[row]
        images.append({"id": row + 1, "file_name": name, "width": width, "height": height})
        for box, label, score in zip(*(part.tolist() for part in boxes), strict=True):
            corners = [round(v, 2) for v in box]
            x1, y1, x2, y2 = corners
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": row + 1,
                    "category_id": label + 1,
                    "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                    "area": round((x2 - x1) * (y2 - y1), 2),
                    "iscrowd": 0,
                    "score": round(score, 6),
                }
            )
            yield name, spec.classes[label], f"{score:.6f}", *(f"{v:.2f}" for v in corners)
    categories = [{"id": i, "name": name} for i, name in enumerate(spec.classes, start=1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (out / "predictions.json").write_text(json.dumps(document), encoding="utf-8")


def keep_outputs(
    outputs: Iterable[tuple[int, Boxes]], spec: ModelSpec, part: Path, size: int
) -> Profile:
    """`boxes.npz`: `boxes` [M, 4] as x1, y1, x2, y2 in pixels of the images, `labels` [M], `scores`
    [M] and `image` [M], the row that each belongs to.
    """
    rows = list(outputs)
    image = np.repeat([row for row, _ in rows], [len(boxes.labels) for _, boxes in rows])
    columns = [np.concatenate([np.asarray(boxes[n]) for _, boxes in rows]) for n in range(3)]
    np.savez(
        part / "boxes.npz",
        boxes=columns[0],
        labels=columns[1],
        scores=columns[2],
        image=image.astype(np.int64),
    )
    return box_profile(columns[1], columns[2], spec.classes, size)


def box_profile(
    labels: np.ndarray[Any, Any], scores: np.ndarray[Any, Any], classes: tuple[str, ...], size: int
) -> Profile:
    """`classes` {name: boxes}, `confidence_histogram` (20 bins), `mean_confidence`, `unit`, and
    `per_image`, the mean number of boxes.
    """
    counts = np.bincount(labels, minlength=len(classes))
    bin_of = np.minimum((scores * HISTOGRAM_BINS).astype(int), HISTOGRAM_BINS - 1)
    return {
        "classes": dict(zip(classes, counts.tolist(), strict=True)),
        "confidence_histogram": np.bincount(bin_of, minlength=HISTOGRAM_BINS).tolist(),
        "mean_confidence": float(scores.mean()) if len(scores) else 0.0,
        "per_image": len(scores) / max(1, size),
        "unit": "boxes",
    }


def entropy_sum(output: DetOutput) -> tuple[float, int]:
    """Sum of the entropies of every box's score, as a probability of yes and no; how many boxes."""
    total, count = 0.0, 0
    for boxes in output.boxes:
        p = boxes.scores.double().clamp(1e-12, 1 - 1e-12)
        total += float(-(p * p.log() + (1 - p) * (1 - p).log()).sum())
        count += len(p)
    return total, count


def agreement_counts(
    weak: DetOutput, strong: DetOutput, classes: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each image, by class: half the sum of both views' scores, and the sum of the smaller score
    of every pair of boxes, one to one, that overlap by an IoU of at least 0.5.
    """
    for one, other in zip(weak.boxes, strong.boxes, strict=True):
        yield _counts(one, other, classes)


def _counts(weak: Boxes, strong: Boxes, classes: int) -> tuple[Tensor, Tensor]:
    iou = box_iou(weak.boxes.float(), strong.boxes.float())
    iou[weak.labels[:, None] != strong.labels[None]] = 0
    pairs = matched(iou.cpu().numpy(), 0.5)
    labels = torch.cat([weak.labels, strong.labels]).cpu()
    scores = torch.cat([weak.scores, strong.scores]).double().cpu() / 2
    classes = max(int(labels.max()) + 1 if len(labels) else 0, classes)
    seen, same = torch.zeros(2, classes, dtype=torch.double)
    seen.index_add_(0, labels, scores)
    for one, other in pairs:
        same[int(weak.labels[one])] += min(float(weak.scores[one]), float(strong.scores[other]))
    return seen, same


def tally(output: DetOutput) -> Tally:
    """By box, whatever its score, as the profile of the source model counts them."""
    labels = torch.cat([boxes.labels for boxes in output.boxes])
    scores = torch.cat([boxes.scores for boxes in output.boxes]).double()
    classes = output.logits.shape[-1] - 1 if output.logits.ndim else 0
    most = max(classes, int(labels.max()) + 1 if len(labels) else 0)
    mass = scores.new_zeros(most).index_add_(0, labels, scores)
    count = float(len(labels))
    return Tally(len(output.boxes), mass, labels.bincount(minlength=most).double(), count, count)
