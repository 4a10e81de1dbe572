"""The command that does a run again: all that was asked for, and safe to paste."""

from __future__ import annotations

import itertools
import shlex

import yaml

from sfda.adaptation.plan import AdaptPlan
from sfda.policy import DecisionPolicy, read_policy
from sfda.refs import Views
from sfda.report.reproduce import adapt_command, compare_command, files_beside
from sfda.settings import AdaptSettings, RunSettings, Schedule

PLAN = AdaptPlan(
    seen="0" * 64,
    split="adapt",
    method="shot",
    config={},
    views=None,
    select_by="infomax",
    regime=None,
    seed=3,
)


def options(command: str) -> list[str]:
    words = shlex.split(command)
    return [f"{a} {b}" for a, b in itertools.pairwise(words) if a.startswith("--")]


def test_what_was_asked_for_and_what_was_chosen_is_in_it_and_nothing_usual():
    plain = adapt_command("models:/a/1", "site.yaml", PLAN, AdaptSettings())
    assert plain == (
        "sfda adapt --source models:/a/1 --target site.yaml --method shot --select-by infomax "
        "--seed 3"
    )
    asked = AdaptSettings(
        epochs=2,
        settings={"schedule": {"lr": 1e-3}},
        views=Views(flip=False),
        prior={"a cat": 0.25},
        test_split="val",
        budget="30m",
        decision=DecisionPolicy(alpha=0.1),
        promote=True,
    )
    command = adapt_command("models:/a/1", "my site; rm -rf ~.yaml", PLAN, asked)
    assert set(options(command)) >= {
        "--target my site; rm -rf ~.yaml",
        "--epochs 2",
        "--set schedule.lr=0.001",
        "--set views.flip=false",
        "--set views.crop=true",  # the model's own may be another
        "--prior a cat=0.25",
        "--test-split val",
        "--budget 30m",
        "--decision policy.yaml",
    }
    assert command.endswith(" --promote")
    schedule = adapt_command("a", "b", PLAN, AdaptSettings(schedule=Schedule(lr=0.5)))
    assert "--set schedule.lr=0.5" in options(schedule)


def test_a_policy_that_the_command_names_can_be_read_again(tmp_path):
    policy = DecisionPolicy(alpha=0.1, unattended=True)
    (tmp_path / "policy.yaml").write_text(
        files_beside(AdaptSettings(decision=policy))["policy.yaml"]
    )
    assert read_policy(tmp_path / "policy.yaml") == policy
    assert files_beside(AdaptSettings()) == {}


def test_a_comparison_has_settings_by_method():
    command = compare_command(
        "m",
        "t",
        ["aad", "shot"],
        [0, 1],
        {"shot": {"schedule": {"epochs": 3}}},
        RunSettings(epochs=2),
    )
    assert yaml.safe_load(command.rpartition("=")[2]) == 3
    assert "--methods aad,shot --seeds 0,1 --epochs 2 --set shot.schedule.epochs=3" in command
