"""What a source model says of a target, kept: files with an index, large arrays in shards."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from sfda.errors import BadInput
from sfda.manifests.digests import hash_file
from sfda.refs import PredictionsRef, Profile

SHARD = 16_384  # rows
HISTOGRAM_BINS = 20


def start_predictions(folder: Path) -> Path:
    """An empty folder beside the one that predictions will lie in once they are complete."""
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def put_predictions(
    part: Path, folder: Path, profile: Profile, *, size: int, source_sha256: str
) -> PredictionsRef:
    """Write the index, which names the digest of every file, and move all to its place."""
    files = {
        file.relative_to(part).as_posix(): hash_file(file)
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


def verify_predictions(ref: PredictionsRef) -> None:
    """Raise BadInput unless every shard is there with its digest."""
    folder = Path(ref.folder)
    index = folder / "index.json"
    if not index.is_file() or hash_file(index) != ref.sha256:
        raise BadInput(f"the kept predictions in {folder} are incomplete; delete that folder")
    for name, digest in json.loads(index.read_text())["files"].items():
        file = folder / name
        if not file.is_file() or hash_file(file) != digest:
            raise BadInput(f"{file} was altered; delete {folder} and start again")
