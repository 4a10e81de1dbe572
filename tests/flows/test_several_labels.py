"""The main job with several labels an image: the same commands, other data."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import small_multi
from conftest import Home, World, flow_artifacts, sfda

from tasks import tracking

pytestmark = pytest.mark.flow

QUICK = [
    word
    for name, value in (small.FAST | {"lr": 0.05}).items()
    for word in ("--set", f"schedule.{name}={value}")
]


@dataclass
class Shop:
    """Data, a home, and a source model trained by command."""

    home: Home
    folder: Path
    target: Path
    trained: Any

    def adapt(self, target: Path) -> Any:
        return sfda(
            "adapt", "--source", "models:/bars@source", "--target", target, "--name", "bars",
            "--epochs", "2", "--set", "schedule.batch_size=8", "--promote", "--json",
        ).json  # fmt: skip


@pytest.fixture(scope="module")
def shop(world: World) -> Iterator[Shop]:
    folder = world.folder / "multilabel"
    source = small_multi.write(folder, "source", small_multi.SOURCE, seed=1)
    target = small_multi.write(folder, "target", small_multi.TARGET, seed=2, dull=True)
    home = world.home("multilabel")
    with home.entered():
        trained = sfda(
            "train-source", "--data", source, "--arch", "sfda:tiny", "--name", "bars", *QUICK,
            "--epochs", "8", "--set", "lr_scale.backbone=1", "--json",
        ).json  # fmt: skip
        yield Shop(home, folder, target, trained)


@pytest.fixture(scope="module")
def adapted(shop: Shop) -> Any:
    return shop.adapt(shop.target)


def test_a_source_is_trained_and_adaptation_helps(shop: Shop, adapted: Any) -> None:
    assert shop.trained["metrics"]["macro_f1"] > 0.8
    before, after = (adapted["metrics"][side]["macro_f1"] for side in ("source", "adapted"))
    assert after > before
    assert adapted["promoted"] is True
    assert adapted["selected_by"] == "agreement"
    assert set(adapted["scores"]) >= {"agreement", "entropy"}
    artifacts = flow_artifacts(adapted["flow_run_id"])
    assert "| bar |" in artifacts["adaptation-report"]
    assert "48 images, mean confidence" in artifacts["pseudo-labels"]


def test_predictions_have_names_and_a_probability_a_class(shop: Shop, adapted: Any) -> None:
    out = shop.folder / "predicted"
    sfda("predict", "--model", "models:/bars@champion", "--data", shop.target, "--split", "test",
         "--out", out)  # fmt: skip
    with (out / "predictions.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == 30
    for row in rows:
        shown = [n for n in small_multi.CLASSES if float(row[f"probability:{n}"]) >= 0.5]
        assert row["labels"] == ";".join(shown)


@pytest.mark.slow  # a second adaptation, in a process of its own
def test_other_labels_change_nothing_but_the_evaluation(shop: Shop, adapted: Any) -> None:
    inputs = small_multi.arrays(small_multi.TARGET, seed=2, dull=True)
    inputs["y"] = np.roll(inputs["y"], 1, axis=0)
    other = small.write(shop.folder, "permuted", inputs, small_multi.TARGET,
                        problem="multilabel", classes=list(small_multi.CLASSES))  # fmt: skip
    output = shop.adapt(other)
    assert digest(output) == digest(adapted)
    assert output["scores"] == adapted["scores"]
    assert output["metrics"] != adapted["metrics"]


def digest(output: Any) -> str:
    version = tracking.find_version(output["name"], output["version"])
    return tracking.version_tags(version)["sha256"]
