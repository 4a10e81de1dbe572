"""One scan of the target, kept: labels, confidences and features in memory-mapped shards."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from sfda.building_blocks.norm import measures
from sfda.errors import BadInput
from sfda.problems.classification.network import ClassOutput
from sfda.refs import ModelSpec, PredictionsRef
from sfda.types import Scan, Seen
from sfda.weights.bundle import network_digest

SHARD = 16_384  # rows
HISTOGRAM_BINS = 20


class _Shard(NamedTuple):
    start: int
    features: np.ndarray
    logits: np.ndarray


def keep_predictions(
    scan: Scan, network: nn.Module, spec: ModelSpec, folder: Path, *, size: int, source_sha256: str
) -> PredictionsRef:
    """Scan the target once with the source model and keep what it says below `folder`.

    Rows are written in shards of 16,384: `features` [n, D], `logits` [n, C], `labels` [n] and
    `confidences` [n]. Memory does not grow with the target. The folder appears when it is complete.
    """
    part = start_predictions(folder)
    profile = ClassProfile(spec.classes)
    writer = ShardWriter(part, size)
    for index, out in scan(network):
        probs = out.logits.float().softmax(1)
        top = probs.max(1)
        profile.update(top.indices.cpu().numpy(), top.values.cpu().numpy())
        writer.write(
            index.cpu().numpy(),
            features=out.features.float().cpu().numpy(),
            logits=out.logits.float().cpu().numpy(),
            labels=top.indices.cpu().numpy(),
            confidences=top.values.float().cpu().numpy(),
        )
    writer.close()
    return put_predictions(part, folder, profile.compute(), size=size, source_sha256=source_sha256)


def start_predictions(folder: Path) -> Path:
    """An empty folder beside the one that predictions will lie in once they are complete."""
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def put_predictions(
    part: Path, folder: Path, profile: dict[str, Any], *, size: int, source_sha256: str
) -> PredictionsRef:
    """Write the index, which names the digest of every file, and move all to its place."""
    files = {
        file.relative_to(part).as_posix(): _file_digest(file)
        for file in sorted(part.rglob("*"))
        if file.is_file()
    }
    text = json.dumps(
        {"source": source_sha256, "count": size, "files": files, "profile": profile}, indent=1
    )
    (part / "index.json").write_text(text)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return PredictionsRef(
        folder=str(folder),
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        source_sha256=source_sha256,
        count=size,
        profile=profile,
    )


class ClassProfile:
    """Class and confidence histograms of predictions; what may be shown of a target."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self.labels = np.zeros(len(classes), dtype=np.int64)
        self.bins = np.zeros(HISTOGRAM_BINS, dtype=np.int64)
        self.total = 0.0

    def update(self, labels: np.ndarray, confidences: np.ndarray) -> None:
        """Take in predicted classes and their probabilities."""
        self.labels += np.bincount(labels, minlength=len(self.classes))
        self.bins += np.histogram(confidences, bins=HISTOGRAM_BINS, range=(0, 1))[0]
        self.total += float(confidences.sum())

    def compute(self) -> dict[str, Any]:
        """`classes` {name: count}, `confidence_histogram` (20 bins), `mean_confidence`."""
        count = int(self.labels.sum())
        return {
            "classes": dict(zip(self.classes, self.labels.tolist(), strict=True)),
            "confidence_histogram": self.bins.tolist(),
            "mean_confidence": self.total / count if count else 0.0,
        }


class ShardWriter:
    """Arrays of all rows, written shard by shard through memory maps."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        self.maps: dict[tuple[str, int], np.memmap[Any, Any]] = {}
        self.names: set[str] = set()

    def write(self, index: np.ndarray, **columns: np.ndarray) -> None:
        for name, values in columns.items():
            for shard in np.unique(index // SHARD).tolist():
                inside = index // SHARD == shard
                self._map(name, shard, values)[index[inside] - shard * SHARD] = values[inside]

    def _map(self, name: str, shard: int, like: np.ndarray) -> np.memmap[Any, Any]:
        if (name, shard) not in self.maps:
            rows = min(SHARD, self.size - shard * SHARD)
            file = self.folder / f"{name}-{shard:05d}.npy"
            mapped = np.lib.format.open_memmap(
                file, mode="w+", dtype=like.dtype, shape=(rows, *like.shape[1:])
            )
            with file.open("r+b") as opened:  # a full disk speaks here; a map would die of it
                os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
            self.maps[name, shard] = mapped
        return self.maps[name, shard]

    def close(self) -> None:
        for mapped in self.maps.values():
            mapped.flush()
        self.maps.clear()


def _file_digest(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def verify_predictions(ref: PredictionsRef) -> None:
    """Raise BadInput unless every shard is there with its digest."""
    folder = Path(ref.folder)
    index = folder / "index.json"
    if not index.is_file() or _file_digest(index) != ref.sha256:
        raise BadInput(f"the kept predictions in {folder} are incomplete; delete that folder")
    for name, digest in json.loads(index.read_text())["files"].items():
        file = folder / name
        if not file.is_file() or _file_digest(file) != digest:
            raise BadInput(f"{file} was altered; delete {folder} and start again")


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
    for number in range(-(-ref.count // SHARD)):
        load = [
            np.load(Path(ref.folder, f"{name}-{number:05d}.npy"), mmap_mode="r", allow_pickle=False)
            for name in ("features", "logits")
        ]
        yield _Shard(number * SHARD, load[0], load[1])
