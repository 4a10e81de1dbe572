"""What a classifier says of a set: labels, confidences and features, kept and read again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from sfda.building_blocks.norm import measures
from sfda.building_blocks.rejection import UNKNOWN_NAME, predicted_labels
from sfda.inference import predictions
from sfda.inference.forward import refuse_not_finite
from sfda.inference.predictions import HISTOGRAM_BINS, ShardWriter
from sfda.inference.summaries import Summary, summarise
from sfda.loading.opened import Opened
from sfda.loading.scan import scan
from sfda.measures.tally import Tally
from sfda.problems.class_outputs import class_agreement, class_entropy, tally_classes
from sfda.problems.classification.network import ClassOutput
from sfda.refs import ModelSpec, PredictionsRef, Profile
from sfda.types import Scan, Seen
from sfda.weights.bundle import network_digest

SPLIT_IMAGES = 256  # images that a classifier is shown at once

entropy_sum, agreement_counts = class_entropy, class_agreement


def infer_rows(
    network: nn.Module,
    opened: Opened,
    spec: ModelSpec,
    device: torch.device,
    span: tuple[int, int],
) -> Iterator[Seen]:
    """Batches of the rows of a span."""
    for index, out in scan(opened.part(*span), spec.input, device=device)(network):
        yield Seen(index + span[0], out)


def at_once(spec: ModelSpec) -> int:
    """256."""
    return SPLIT_IMAGES


def to_arrays(output: Seen) -> dict[str, np.ndarray[Any, Any]]:
    """Rows, features and logits of a batch."""
    index, out = output
    return {
        "row": index.cpu().numpy(),
        "features": out.features.cpu().numpy(),
        "logits": out.logits.cpu().numpy(),
    }


def from_arrays(arrays: dict[str, Any], device: torch.device) -> Seen:
    """The same back."""
    row, features, logits = (
        torch.from_numpy(arrays[name]).to(device) for name in ("row", "features", "logits")
    )
    return Seen(row, ClassOutput(features, logits))


def summarise_output(output: ClassOutput) -> Summary:
    """By the probabilities of the image."""
    return summarise(output.features, output.logits)


def prediction_table(
    network: nn.Module, spec: ModelSpec, opened: Opened, device: torch.device, out: Path
) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    """File, label, and the likeliest class's probability, also where the label is "unknown"."""
    return ("file", "label", "confidence"), _lines(network, spec, opened, device)


def _lines(
    network: nn.Module, spec: ModelSpec, opened: Opened, device: torch.device
) -> Iterator[Sequence[Any]]:
    names = (*spec.classes, UNKNOWN_NAME)  # UNKNOWN is -1, the last
    for index, output in scan(opened.images, spec.input, device=device)(network):
        refuse_not_finite(output.logits)
        probs = output.logits.softmax(1)
        labels = predicted_labels(probs, spec.reject)
        for row, label, sure in zip(
            index.tolist(), labels.tolist(), probs.amax(1).tolist(), strict=True
        ):
            yield opened.split.names[row], names[label], f"{sure:.6f}"


def keep_outputs(outputs: Iterable[Seen], spec: ModelSpec, part: Path, size: int) -> Profile:
    """Rows in shards of 16,384: `features` [n, D], `logits` [n, C], `labels` [n] and `confidences`
    [n]. Memory does not grow with the target.
    """
    profile = ClassProfile(spec.classes)
    writer = ShardWriter(part, size)
    for index, out in outputs:
        probs = out.logits.float().softmax(1)
        top = probs.max(1)
        labels = top.indices.cpu().numpy()
        counts = np.bincount(labels, minlength=len(spec.classes))
        profile.update(counts, top.values.cpu().numpy())
        writer.write(
            index.cpu().numpy(),
            features=out.features.float().cpu().numpy(),
            logits=out.logits.float().cpu().numpy(),
            labels=labels,
            confidences=top.values.float().cpu().numpy(),
        )
    writer.close()
    return profile.compute()


class ClassProfile:
    """Class and confidence histograms of predictions; what may be shown of a target."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self.counts = np.zeros(len(classes), dtype=np.int64)
        self.bins = np.zeros(HISTOGRAM_BINS, dtype=np.int64)
        self.images, self.total = 0, 0.0

    def update(self, counts: np.ndarray, confidences: np.ndarray) -> None:
        """Take in how many of some images have each class, and how sure the model is of each."""
        self.counts += counts
        self.images += len(confidences)
        self.bins += np.histogram(confidences, bins=HISTOGRAM_BINS, range=(0, 1))[0]
        self.total += float(confidences.sum())

    def compute(self) -> Profile:
        """`classes` {name: count}, `confidence_histogram` (20 bins), `mean_confidence`."""
        return {
            "classes": dict(zip(self.classes, self.counts.tolist(), strict=True)),
            "confidence_histogram": self.bins.tolist(),
            "mean_confidence": self.total / self.images if self.images else 0.0,
        }


def replaying(scan: Scan, ref: PredictionsRef, spec: ModelSpec) -> Scan:
    """A scan that reads the kept predictions as long as the network is still the source model.

    The network's digest decides, so a network that has learnt anything is truly scanned.
    """

    def replay_or_scan(network: nn.Module, rows: Int[Tensor, " R"] | None = None) -> Iterator[Seen]:
        if rows is not None:
            return scan(network, rows)
        if measures(network) or network_digest(network, spec) != ref.source_sha256:
            return scan(network)
        device = next(network.parameters()).device
        return _replay(ref, device)

    return replay_or_scan


def _replay(ref: PredictionsRef, device: torch.device, batch: int = 1024) -> Iterator[Seen]:
    for shard in _shards(ref):
        for start in range(0, len(shard.logits), batch):
            stop = min(start + batch, len(shard.logits))
            features = torch.from_numpy(np.array(shard.features[start:stop])).to(device)
            logits = torch.from_numpy(np.array(shard.logits[start:stop])).to(device)
            index = torch.arange(shard.start + start, shard.start + stop, device=device)
            yield Seen(index, ClassOutput(features, logits))


def _shards(ref: PredictionsRef) -> Iterator[_Shard]:
    for number in range(-(-ref.count // predictions.SHARD)):
        load = [
            np.load(Path(ref.folder, f"{name}-{number:05d}.npy"), mmap_mode="r", allow_pickle=False)
            for name in ("features", "logits")
        ]
        yield _Shard(number * predictions.SHARD, load[0], load[1])


class _Shard(NamedTuple):
    start: int
    features: np.ndarray
    logits: np.ndarray


def tally(output: ClassOutput) -> Tally:
    """By image."""
    return tally_classes(output)


def surest_rows(ref: PredictionsRef, share: float) -> dict[int, int]:
    """Row -> class of the `share` of the images that the source model is surest of."""
    labels, sure = (_column(ref, name) for name in ("labels", "confidences"))
    count = round(len(sure) * share)
    rows = np.argsort(-sure, kind="stable")[:count]
    return dict(zip(rows.tolist(), labels[rows].tolist(), strict=True))


def answered(output: ClassOutput) -> list[int]:
    """The class of each image of a batch."""
    answers: list[int] = output.logits.argmax(1).tolist()
    return answers


def _column(ref: PredictionsRef, name: str) -> np.ndarray[Any, Any]:
    files = sorted(Path(ref.folder).glob(f"{name}-*.npy"))
    return np.concatenate([np.load(file, allow_pickle=False) for file in files])
