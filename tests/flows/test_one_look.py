"""In one adaptation every file is read as often as it has to be, and no more."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import opens
import pytest
import small
import yaml
from conftest import World, sfda
from PIL import Image

from sfda.formats.table import csv_bytes
from sfda.manifests import digests, opening
from sfda.problems.classification.panel import SHOWN
from sfda.weights import bundle
from sfda.weights.tensor_file import TensorFile

WORDS = ["adapt", "--method", "shot", "--name", "toy", "--epochs", 2, "--json", "--device", "cpu"]
WORDS += [
    word for name, value in small.FAST.items() for word in ("--set", f"schedule.{name}={value}")
]


class Target:
    """48 images to adapt to and 30 to test on, as files, with a labelled manifest and a model."""

    def __init__(self, folder: Path) -> None:
        self.images, self.model = folder / "images", folder / "model"
        self.images.mkdir(parents=True)
        arrays = small.target_arrays()
        rows = [("file", "class", "split")]
        for n, (image, label, split) in enumerate(
            zip(arrays["x"], arrays["y"], arrays["split"], strict=True)
        ):
            Image.fromarray(np.asarray(image)).save(self.images / f"{n:02d}.png")
            rows.append((f"{n:02d}.png", small.CLASSES[label], list(small.TARGET)[split]))
        table = csv_bytes(rows)
        (folder / "rows.csv").write_bytes(table)
        entry = {"rows": "rows.csv", "sha256": hashlib.sha256(table).hexdigest()}
        document = {
            "name": "toy/files",
            "problem": "classification",
            "origin": "made by a test",
            "root": "./images",
            "classes": list(small.CLASSES),
            "splits": {
                split: entry | {"where": split, "count": count}
                for split, count in small.TARGET.items()
            },
        }
        self.manifest = folder / "files.yaml"
        self.manifest.write_text(yaml.safe_dump(document))
        small.bundle(self.model)
        self.weights = self.model / "weights.safetensors"

    def files(self) -> list[str]:
        """All images."""
        return [str(file) for file in sorted(self.images.iterdir())]

    def adapt(self, **more: object) -> Any:
        """The command's answer."""
        words = [word for name, value in more.items() for word in (f"--{name}", value)]
        answer = sfda(*WORDS, "--source", self.model, "--target", self.manifest, *words)
        assert answer.code == 0, answer.err
        return answer.json


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    made = Target(tmp_path_factory.mktemp("one-look"))
    time.sleep(2.1)  # files so young are read again, in case of another change
    return made


class Counts:
    """What this process has done with a target's files."""

    def __init__(self) -> None:
        self.hashed: Counter[str] = Counter()  # files, by path
        self.parsed: Counter[bytes] = Counter()  # texts as YAML
        self.whole: Counter[str] = Counter()  # weights of which all tensors were read
        self.headers: Counter[str] = Counter()  # weights that were opened for whatever purpose


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counts]:
    """Counters on what digests and parses, and on what reads tensors."""
    counts = Counts()
    digest, parse = hashlib.file_digest, opening.parse_yaml
    hash_file = digests.hash_file
    begin, tensor, pieces = TensorFile.__init__, TensorFile.tensor, TensorFile.pieces

    def note(file: TensorFile, name: str) -> None:
        if name == max(file.entries):
            counts.whole[os.readlink(f"/proc/self/fd/{file._file.fileno()}")] += 1

    def init(self: TensorFile, file: Any) -> None:
        counts.headers[os.readlink(f"/proc/self/fd/{file.fileno()}")] += 1
        begin(self, file)

    def file_digest(handle: Any, kind: Any) -> Any:
        counts.hashed[os.readlink(f"/proc/self/fd/{handle.fileno()}")] += 1
        return digest(handle, kind)

    def hashed_file(path: Path | str) -> str:
        counts.hashed[os.path.abspath(path)] += 1
        return hash_file(path)

    def parse_yaml(content: bytes, *more: Any) -> Any:
        counts.parsed[content] += 1
        return parse(content, *more)

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", file_digest)
        patch.setattr(digests, "hash_file", hashed_file)
        patch.setattr(opening, "parse_yaml", parse_yaml)
        patch.setattr(TensorFile, "__init__", init)
        patch.setattr(TensorFile, "tensor", lambda f, name: (note(f, name), tensor(f, name))[1])
        patch.setattr(TensorFile, "pieces", lambda f, name: (note(f, name), pieces(f, name))[1])
        bundle._read_once.cache_clear()
        yield counts


def test_each_file_is_read_once_and_after_that_only_if_it_has_changed(
    world: World, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, weights = target.manifest.read_bytes(), str(target.weights)
    with world.home("one-look").entered():
        with counted(monkeypatch) as counts, opens.own_opens() as here:  # all in this process
            first = target.adapt()
        assert {counts.hashed[file] for file in target.files()} == {1}
        assert here[str(target.manifest)] == 1
        assert counts.parsed[manifest] == 1
        assert counts.hashed[str(target.manifest)] <= 1
        assert counts.whole[weights] == 1

        monkeypatch.delenv("SFDA_CONFINE")  # now the adaptation has a process of its own
        folders = target.images, target.manifest.parent, target.model
        with (
            opens.all_opens(*folders) as everywhere,
            opens.own_opens() as here,
            counted(monkeypatch) as counts,
        ):
            second = target.adapt(seed=1)
        assert second["mlflow_run_id"] != first["mlflow_run_id"]
        shown = [file for file in target.files() if everywhere[file]]  # by the panel, once each
        assert len(shown) <= SHOWN
        assert {everywhere[file] for file in shown} <= {1}
        assert counts.parsed[manifest] <= 1
        assert everywhere[str(target.manifest)] == here[str(target.manifest)]
        assert counts.whole[weights] == 1
        assert everywhere[weights] - counts.headers[weights] == 1
