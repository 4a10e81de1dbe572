"""A part of the fuzzing, and that the fuzzer sees what it looks for."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from sfda.errors import BadInput
from tests.fuzz.parsers import PARSERS, Parser
from tests.fuzz.runner import outcomes, table


def test_damaged_files_are_refused_in_one_line_or_accepted() -> None:
    """200 of the inputs of `python -m tests.fuzz`, of every parser some."""
    done = list(outcomes(PARSERS, 200, seed=0))
    assert not [one for one in done if one.fault]
    assert len(done) == 200
    assert {one.parser for one in done} == {parser.name for parser in PARSERS}
    assert sum(one.result == "refused" for one in done) > 100, table(PARSERS, done)
    assert sum(one.result == "accepted" for one in done) > 10, table(PARSERS, done)


def _ends(_: Path) -> NoReturn:
    os.kill(os.getpid(), 11)
    raise AssertionError


def _stays(folder: Path) -> NoReturn:
    (folder / "left").touch()
    raise BadInput("no")


def _litters(_: Path) -> None:
    Path(os.environ["TMPDIR"], "left").touch()


def _speaks(_: Path) -> NoReturn:
    raise BadInput("one\ntwo")


def _grows(_: Path) -> None:
    np.ones(3 << 26)


PLANTED = {
    "KeyError": lambda _: {}["a"],
    "takes more than 3 s": lambda _: time.sleep(20),
    "the process ended with -11": _ends,
    "files are left": _stays,
    "temporary files are left": _litters,
    "several lines": _speaks,
    "it took 1.": _grows,
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_seen(fault: str) -> None:
    def make(folder: Path) -> None:
        (folder / "a.txt").write_text("a")

    planted = Parser("planted", make, ["a.txt"], PLANTED[fault])  # type: ignore[arg-type]
    good = Parser("good", make, ["a.txt"], lambda _: None)
    first, second = outcomes([planted, good], 2, seed=0, seconds=3 if "takes" in fault else 20)
    assert fault in first.fault
    assert (second.parser, second.result, second.fault) == ("good", "accepted", "")


def test_a_seed_names_its_inputs() -> None:
    once, again, other = (
        [one[:4] for one in outcomes(PARSERS[-9:], 27, seed)] for seed in (1, 1, 2)
    )
    assert once == again != other
