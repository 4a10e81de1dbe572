"""A run that is done, with its models and the truth, opened for verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from sfda.building_blocks.rejection import predicted_labels
from sfda.decision.change import Side
from sfda.decision.evidence import SOURCE_NAME
from sfda.decision.vetoes import AS_BEFORE
from sfda.loading.opened import Opened, manifest_ref, open_labelled, open_part
from sfda.loading.pool import pool_of
from tests.bench.decisions.images import NONE
from tests.bench.decisions.runs import Run, run_folder
from tests.bench.decisions.sources import read_network

Answers = np.ndarray[Any, Any]


class Kept(NamedTuple):
    """A model of a run: its answers to the pool and to the rows for the truth; -1: "unknown"."""

    pool: Answers
    truth: Answers


class Case:
    """A run, its models, and the truth."""

    def __init__(self, row: Mapping[str, Any], folder: Path) -> None:
        self.row, self.run = row, Run(**row["run"])
        self.folder = run_folder(self.run, folder)
        self.target = Path(row["target"])
        self.epochs = row["epochs"]
        with np.load(self.folder / "kept.npz") as arrays:
            self.kept = dict(arrays)
        with np.load(self.target / "truth_rows.npz") as arrays:
            self.truth = arrays["y"]
        self.seen = row["pool"]["kind"] == "all"
        _, self.spec = read_network(Path(row["source"]))
        with np.load(self.target / "truth.npz") as arrays:
            named = arrays["y"][self.kept["pool_rows"]]
        self.labels = np.where(named == len(self.spec.classes), NONE, named)

    @cached_property
    def pool(self) -> Opened:
        """The pool, without labels."""
        return open_part(
            pool_of(manifest_ref(self.target / "target.yaml"), "adapt").part, self.spec
        )

    @cached_property
    def labelled(self) -> Opened:
        """The same rows with their labels."""
        truth = manifest_ref(self.target / "truth.yaml")
        return open_labelled(truth, "adapt", self.spec).only(self.pool.rows)

    def side(self, name: str, *, labelled: bool = False) -> Side:
        """A model of the run on the pool."""
        folder = self.row["source"] if name == SOURCE_NAME else self.epochs[int(name)]["weights"]
        network, spec = read_network(Path(folder))
        return Side(network, spec, self.labelled if labelled else self.pool)

    @property
    def names(self) -> list[str]:
        """The source and all epochs."""
        return [SOURCE_NAME, *(str(one["epoch"]) for one in self.epochs)]

    def answers(self, name: str) -> Kept:
        """What a model answers."""
        reject = float(self.kept[f"{name}/reject"])
        probs = torch.from_numpy(self.kept[f"{name}/logits"]).softmax(1)
        own = predicted_labels(probs, None if np.isnan(reject) else reject).numpy()
        return Kept(own, self.kept[f"{name}/truth"].astype(np.int64))

    def accuracy(self, name: str) -> tuple[float, float]:
        """On the pool, and on all rows that adaptation has not seen."""
        own = self.answers(name)
        right, others = own.pool == self.labels, own.truth == self.truth
        whole = others if self.seen else np.concatenate([right, others])
        return float(right.mean()), float(whole.mean())

    def off_prior(self, name: str) -> float:
        """Distance (total variation) of the shares of a model's answers from the true ones."""
        classes = len(self.spec.classes)
        with np.load(self.target / "truth.npz") as arrays:
            true = arrays["y"][arrays["y"] < classes]
        answers = self.kept[f"{name}/logits"].argmax(1)
        shares = [
            np.bincount(some, minlength=classes) / max(1, len(some)) for some in (true, answers)
        ]
        return float(abs(shares[0] - shares[1]).sum() / 2)

    def chosen(self) -> str:
        """The epoch that `sfda adapt` would register, the source where there is none."""
        best, highest = SOURCE_NAME, -np.inf
        for one in self.epochs:
            if one["vetoes"]:
                if all(text.startswith(AS_BEFORE) for text in one["vetoes"]):
                    continue
                break  # the run ends here
            score = one["scores"].get(self.row["select_by"], float(one["epoch"]))
            if score > highest:
                best, highest = str(one["epoch"]), score
        return best
