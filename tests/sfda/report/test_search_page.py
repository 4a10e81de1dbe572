"""The page of a search: what comes from files is tame, and nothing that was left out is hidden."""

from __future__ import annotations

from sfda.adaptation.run_folder import Epoch
from sfda.decision.evidence import SOURCE_NAME
from sfda.decision.ranking import Ranked, Ranking
from sfda.report.reproduce import files_beside, tune_command
from sfda.report.search_page import SearchReport, TrialLine, search_page
from sfda.settings import RunSettings

HOSTILE = "<script>alert(1)</script>\u202e"


def report(**changes: object) -> SearchReport:
    history = [
        Epoch(
            epoch=n, steps=[1], losses={}, rate=[0.1], last_step=1, images=8, seconds=1.0,
            scores={"infomax": 0.5 + n / 10}, sha256="0" * 64, weights=None,
        )
        for n in range(2)
    ]  # fmt: skip
    ranking = Ranking(
        candidates=(
            Ranked(name=f"shot{HOSTILE}, epoch 2", scores={"ensv": 0.75}, mean_rank=1.0),
            Ranked(name=SOURCE_NAME, scores={"ensv": 0.5}, mean_rank=2.0),
            Ranked(name="bn, epoch 1", vetoes=("one class everywhere",)),
        )
    )
    inputs = {
        "title": HOSTILE, "made": "today", "state": "Held", "kind": "hold", "sentence": HOSTILE,
        "next": (f"sfda audit {HOSTILE}",), "ranking": ranking,
        "trials": [TrialLine("shot", 1, "aetta", ("epoch 1: few classes",), 2.0, history)],
        "left_out": ("nrc",), "lineage": {"source": HOSTILE}, "command": "sfda tune", "files": {},
    }  # fmt: skip
    return SearchReport(**(inputs | changes))  # type: ignore[arg-type]


def test_what_comes_from_files_is_text_and_nothing_else() -> None:
    page = search_page(report())
    assert "<script" not in page
    assert "\u202e" not in page
    assert page.count("&lt;script&gt;") >= 5


def test_vetoes_and_trials_without_time_are_on_the_page() -> None:
    page = search_page(report())
    for text in ("one class everywhere", "epoch 1: few classes", "No time was left for: nrc"):
        assert text in page
    assert page.index("Held") < page.index("Ranking") < page.index("Trials")
    assert "infomax" in page  # its curve


def test_a_search_without_any_epoch_has_a_page() -> None:
    page = search_page(report(trials=[], left_out=(), next=()))
    assert "No time" not in page
    assert "<svg" not in page


def test_the_command_names_what_is_not_usual_and_the_files_say_what_it_needs() -> None:
    asked, grid = RunSettings(epochs=3), {"shot": {"schedule.lr": [0.1, 0.01]}}
    own = {"seed": 1, "name": "toy", "promote": True}
    command = tune_command("toy", "a b.yaml", ["shot", "bn"], grid, "30m", own, asked)
    assert command == (
        "sfda tune --source toy --target 'a b.yaml' --budget 30m --methods shot,bn "
        "--grid grid.yaml --seed 1 --name toy --epochs 3 --promote"
    )
    assert files_beside(asked, grid) == {"grid.yaml": "shot:\n  schedule.lr:\n  - 0.1\n  - 0.01\n"}
