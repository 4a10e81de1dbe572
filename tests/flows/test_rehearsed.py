"""A card with rehearsals, made by command; what `sfda adapt` then says of them, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small
from conftest import World, sfda

from flows.cli.source import with_number

pytestmark = pytest.mark.flow

SIZES = {"train": 30, "val": 60}


@pytest.fixture(scope="module")
def home(world: World):
    made = world.home("rehearsed")
    with made.entered():
        yield made


@pytest.fixture(scope="module")
def carded(world: World, home: Any) -> Any:
    own = small.write(home.path, "own", small.arrays(SIZES, seed=5), SIZES)
    return sfda(
        "card", "--model", world.bundle, "--data", own, "--name", "toy", "--rehearse", "5",
        "--method", "bn", "--budget", "10m", "--json",
    ).json  # fmt: skip


def test_the_card_command_tells_what_the_rehearsals_came_to(carded: Any) -> None:
    done = carded["rehearsals"]
    assert (done["planned"], len(done["pairs"]), done["method"]) == (5, 5, "bn")
    assert {"noise", "blur", "few_classes"} <= {pair["kind"] for pair in done["pairs"]}


def test_adapt_tells_where_its_scores_lie_among_them_in_json_in_words_and_on_the_page(
    world: World, carded: Any
) -> None:
    command = [
        "adapt", "--source", carded["uri"], "--target", world.target, "--method", "bn",
        "--name", "toy",
    ]  # fmt: skip
    output = sfda(*command, "--json").json
    text = output["rehearsed"]["text"]
    assert "5 rehearsals" in text
    assert output["rehearsed"]["rehearsals"] == 5
    assert text in Path(output["report"]).read_text()
    assert text in sfda(*command).out
    assert text not in output["verdict"]


def test_options_of_rehearsals_need_one(world: World, home: Any) -> None:
    refused = sfda("card", "--model", world.bundle, "--data", world.source, "--epochs", "3")
    assert refused.code == 2
    assert "of --rehearse: add it" in refused.err


def test_rehearse_may_stand_without_a_number() -> None:
    words = ["--model", "m", "--rehearse"]
    assert with_number(words) == [*words, "24"]
    assert with_number(["--rehearse", "--json"]) == ["--rehearse", "24", "--json"]
    assert with_number(["--rehearse", "8", "--json"]) == ["--rehearse", "8", "--json"]
    assert with_number(["--rehearse=8"]) == ["--rehearse=8"]
