"""A notebook gives the numbers of the flow, and takes models by their address in MLflow."""

from __future__ import annotations

import pytest
import small
from conftest import World
from conftest import sfda as command

import sfda
from tasks import tracking
from tasks.tracking.models import model_ref

pytestmark = pytest.mark.flow


def test_the_same_seed_gives_the_numbers_of_the_flow(world: World) -> None:
    words = ["--method", "shot", "--epochs", 2, "--seed", 3, "--set", "schedule.batch_size=8"]
    with world.home("numbers").entered():
        output = command(
            "adapt", "--source", world.bundle, "--target", world.target, *words, "--json"
        ).json
        result = sfda.adapt(
            world.bundle,
            world.target,
            method="shot",
            epochs=2,
            seed=3,
            settings={"schedule": {"batch_size": 8}},
        )
        assert result.model.sha256 == model_ref(output["uri"]).sha256
        assert (result.epoch, result.selected_by) == (
            output["selected_epoch"],
            output["selected_by"],
        )
        assert result.scores == output["scores"]
        # the version is the result, by any of its names
        assert tracking.canonical(f"models:/{world.bundle.name}@candidate") == output["uri"]
        version = sfda.load(f"models:/{world.bundle.name}@candidate")
        assert version.sha256 == result.model.sha256
        metrics = sfda.evaluate(version, world.target).metrics
        assert metrics == pytest.approx(output["metrics"]["adapted"])
        predicted = sfda.predict(version, world.target)
        assert len(predicted["label"]) == small.TARGET["adapt"]
