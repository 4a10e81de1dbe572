"""What `bench decide` counts, on rows made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfda.measures.change import NONE_OF_THESE
from tests.bench.decisions.ranked import summary
from tests.bench.decisions.runs import Run, all_runs, some_runs
from tests.bench.decisions.table import table
from tests.bench.decisions.targets import KINDS, target_folder
from tests.bench.decisions.verdicts import _misled


def row(kind: str, gain: float, verdict: str) -> dict[str, Any]:
    """A run whose candidate changes a tenth of the answers and gets one verdict everywhere."""
    audit = {"kind": verdict, "level": 2, "asked": 12}
    candidate = {
        "epoch": "0",
        "change": 0.1,
        "vetoes": [],
        "gain": gain,
        "gain_pool": gain,
        "audits": [audit],
        "erring": [audit],
        "unattended": {"kind": verdict, "level": 1, "by limit": {"0.1": verdict}},
        "labels": {"kind": verdict, "level": 3},
        "labels as deployed": {"kind": verdict, "level": 3},
    }
    return {
        "run": {"kind": kind, "method": "shot", "seed": 0},
        "accuracy": {"source": [0.5, 0.5], "0": [0.5 + gain, 0.5 + gain]},
        "source": {"effective answers": 2.5, "classes": 10, "collapsed": kind == "one class"},
        "choice": {"ranking": "0", "last epoch": "0"},
        "chosen": candidate,
        "last": candidate,
    }


def test_a_promotion_without_gain_and_a_rejection_of_one_are_wrong() -> None:
    rows = [
        row("noise", 0.1, "promote"),
        row("blur", 0.1, "reject"),
        row("no shift", -0.1, "promote"),
        row("one class", -0.1, "reject"),
    ]
    text = table({"runs": rows, "targets": []})
    assert "| answers: wrong direction on the pool | 2 of 4 (50.0 %) |" in text
    assert "change at most 15 %: promoted | 1 of 2 (50.0 %) |" in text
    assert "| answers: harm above 5 points: rejected | 1 of 2 (50.0 %) |" in text
    assert "at most 10 % changed: promoted, harmful | 1 of 2 (50.0 %) |" in text
    assert "promoted with nobody asked: no shift, shot, 0 (-10.0)." in text
    assert "| no shift * | 1 | 2.5 of 10 | 10.0 | -10.0 (-10.0 to -10.0) | 1 |" in text


def test_regret_is_below_the_best_the_source_among_it() -> None:
    gains = {"source": 0.0, "0": 0.04, "1": -0.03}
    lines = {
        line["by"]: line
        for line in summary([("a", {"x": "0", "y": "1"}, gains), ("b", {"x": "source"}, gains)])
    }
    assert lines["x"]["regret"] == pytest.approx(2.0)
    assert lines["y"]["regret"] == pytest.approx(7.0)
    assert lines["y"]["harmful"] == ["a: 1 (-3.0)"]
    assert lines["x"]["source"] == 1


def test_who_errs_says_what_a_model_says_that_is_wrong() -> None:
    rng = np.random.default_rng(0)
    assert _misled("3", ["3", "5"], rng) == "5"
    assert _misled("4", ["3", "unknown"], rng) in ("3", NONE_OF_THESE)
    assert _misled(NONE_OF_THESE, ["unknown", "7"], rng) == "7"


def test_some_runs_are_of_all_and_in_both_halves() -> None:
    runs = some_runs(20)
    assert len(set(runs)) == 20
    assert {run.seed for run in runs} == {run.seed for run in all_runs()}
    assert len({run.name for run in all_runs()}) == len(all_runs()) >= 200
    assert Run("rate x 100", "bn", 0) not in all_runs()


def test_the_labels_of_a_target_are_not_in_what_is_adapted_to(tmp_path: Path) -> None:
    folder = target_folder("other scanner", 0, tmp_path)
    with np.load(folder / "target.npz") as arrays:
        assert arrays.files == ["x"]
    assert "label" not in (folder / "target.yaml").read_text()
    assert KINDS["other scanner"].helpful
