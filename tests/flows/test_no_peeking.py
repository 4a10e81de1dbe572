"""No peeking: the target's labels, there or not, right or permuted, change only the evaluation."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
from conftest import World, completed_stages, sfda

from tasks.tracking.models import model_ref

pytestmark = pytest.mark.flow

ADAPT = ["adapt", "--method", "shot", "--name", "toy", "--epochs", 2, "--json"] + [
    word for name, value in small.FAST.items() for word in ("--set", f"schedule.{name}={value}")
]


def adapted(world: World, name: str, target: Path) -> dict[str, Any]:
    """An adaptation in a home of its own, where nothing can come from a cache."""
    home = world.home(name)
    with home.entered():
        output = sfda(*ADAPT, "--source", world.bundle, "--target", target).json
        stages = completed_stages(output["flow_run_id"], 8)
        assert {"pseudo-labelling of the target", "adaptation"} <= set(stages)
        (history,) = home.path.glob("runs/*/history.json")
        of_time = ("seconds", "spent", "weights")
        epochs = [
            {key: value for key, value in epoch.items() if key not in of_time}
            for epoch in json.loads(history.read_text())
        ]
        sha256 = model_ref(output["uri"]).sha256
    return {
        "chosen": {
            "epochs": epochs,  # losses, scores and weights of all of them
            "sha256": sha256,
            "scores": output["scores"],
            "selected_epoch": output["selected_epoch"],
        },
        "metrics": output["metrics"],
    }


def permuted(labels: np.ndarray) -> np.ndarray:
    """The same labels on other rows."""
    return np.random.default_rng(5).permutation(labels)


def with_rows(folder: Path, labels: np.ndarray | None) -> Path:
    """The target with a CSV of its rows, and labels in it if there are some."""
    inputs, folder = small.target_arrays(), folder.absolute()
    folder.mkdir()
    rows = folder / "rows.csv"
    with rows.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "split"] + ["class"] * (labels is not None))
        for i, split in enumerate(inputs["split"]):
            own = [] if labels is None else [small.CLASSES[labels[i]]]
            writer.writerow([i, "adapt" if split == 0 else "test", *own])
    entry = {"rows": "rows.csv", "sha256": small.sha256(rows)}
    splits = {name: entry | {"where": name, "count": n} for name, n in small.TARGET.items()}
    return small.write(folder, "target", {"x": inputs["x"]}, small.TARGET, splits=splits)


@pytest.fixture(scope="module")
def labelled(world: World) -> dict[str, Any]:
    return adapted(world, "labelled", world.target)


def test_a_target_without_any_label_gives_the_same_weights(world, labelled):
    inputs = small.target_arrays()
    bare = small.write(
        world.folder / "none", "target", {n: inputs[n] for n in ("x", "split")}, small.TARGET
    )
    result = adapted(world, "none", bare)
    assert result["chosen"] == labelled["chosen"]
    assert result["metrics"] == {"source": None, "adapted": None}
    assert labelled["metrics"]["adapted"]["overall_accuracy"] > 0.5


def test_permuted_labels_in_the_archive_change_nothing_but_the_evaluation(world, labelled):
    inputs = small.target_arrays()
    other = inputs | {"y": permuted(inputs["y"])}
    assert (other["y"] != inputs["y"]).mean() > 0.5
    result = adapted(world, "npz", small.write(world.folder / "npz", "target", other, small.TARGET))
    assert result["chosen"] == labelled["chosen"]
    assert result["metrics"]["source"] != labelled["metrics"]["source"]
    assert result["metrics"]["adapted"] != labelled["metrics"]["adapted"]


def test_permuted_labels_in_a_row_file_change_nothing_but_the_evaluation(world, labelled):
    labels = small.target_arrays()["y"]
    result = adapted(world, "csv", with_rows(world.folder / "csv", permuted(labels)))
    assert result["chosen"] == labelled["chosen"]
    assert result["metrics"]["adapted"] != labelled["metrics"]["adapted"]


def test_other_images_do_change_the_weights(world, labelled):
    inputs = small.target_arrays()
    inputs["x"][0, 0, 0] ^= 64
    result = adapted(
        world, "image", small.write(world.folder / "image", "target", inputs, small.TARGET)
    )
    assert result["chosen"]["sha256"] != labelled["chosen"]["sha256"]
