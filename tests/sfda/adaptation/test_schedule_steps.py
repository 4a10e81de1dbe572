"""Runs told in steps: how many epochs they have, and who is heard last."""

from __future__ import annotations

import pytest

from sfda.adaptation.plan import settings_for
from sfda.errors import BadInput
from sfda.rehearsal.plan import plan_rehearsals


@pytest.mark.parametrize(
    ("stated", "asked", "epochs", "steps"),
    [
        ({}, None, 15, 40),
        ({"steps": 1000}, None, 15, 67),  # 15 looks at the network, 1005 steps
        ({"steps": 1000}, 4, 4, 250),
        ({"steps_per_epoch": 7}, None, 15, 7),
        ({"steps": 1000, "steps_per_epoch": 300}, None, 4, 300),
        ({"steps": 1000, "steps_per_epoch": 300}, 2, 2, 300),
        ({"steps": 1000, "steps_per_epoch": 300, "epochs": 9}, None, 4, 300),
    ],
)
def test_steps_and_epochs(stated, asked, epochs, steps):
    schedule = settings_for("aad", "classification", {"schedule": stated}, asked).schedule
    assert (schedule.epochs, schedule.epoch_steps(40)) == (epochs, steps)
    again = settings_for("aad", "classification", {"schedule": schedule.model_dump()}).schedule
    assert again == schedule  # as a plan is read


@pytest.mark.parametrize("name", ["steps", "steps_per_epoch"])
@pytest.mark.parametrize("value", [0, -3, "many"])
def test_no_other_numbers_of_steps(name, value):
    with pytest.raises(BadInput, match=f"schedule.{name} = "):
        settings_for("aad", "classification", {"schedule": {name: value}})


def test_rehearsals_have_fewer_epochs_of_as_many_steps():
    stated = {"schedule": {"steps": 4000, "steps_per_epoch": 100}}
    plan = plan_rehearsals("classification", method="aad", settings=stated)
    assert plan.config["schedule"]["epochs"] == 15
    config = settings_for("aad", "classification", plan.config)
    assert config.schedule.epochs == 15
