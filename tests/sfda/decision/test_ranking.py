"""The order of candidates without labels, by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from test_evidence import CPU, look, pool

from sfda.decision.evidence import SOURCE_NAME
from sfda.decision.ranking import Contender, look_at_all, mean_ranks, rank


def test_the_mean_of_the_ranks_decides() -> None:
    looks = {
        "a": look(0, 1, 2, 0, 1, 2),
        SOURCE_NAME: look(0, 0, 2, 0, 1, 2, stays=[1, 0, 1, 0, 1, 1]),
        "b": look(0, 0, 2, 0, 0, 2, stays=[1, 1, 1, 1, 0, 1]),
    }
    ranking = rank(looks)
    best = ranking.candidates[0]
    assert ranking.best == "a"
    assert not ranking.keeps_source
    assert set(best.scores) == {"ensv", "nuclear_norm", "agreement"}
    # the consensus is that of the source, since the third class is as frequent in all
    assert [one.name for one in ranking.candidates] == ["a", SOURCE_NAME, "b"]
    assert ranking.text.startswith("a ranks first of 3 (ensv ")


def test_of_equals_the_source_comes_first() -> None:
    ranking = rank({"a": look(0, 1, 2), SOURCE_NAME: look(0, 1, 2)})
    assert ranking.keeps_source
    assert ranking.text == "keep the source: no candidate ranks above it"
    assert [one.mean_rank for one in ranking.candidates] == [1.5, 1.5]


def test_a_veto_is_worse_than_any_rank() -> None:
    looks = {SOURCE_NAME: look(0, 0, 1, stays=[0, 0, 0]), "a": look(0, 1, 2), "b": look(0, 1, 1)}
    assert rank(looks).best == "a"
    ranking = rank(looks, {"a": ["1.0 effective classes"], "b": ()})
    assert ranking.best == "b"
    last = ranking.candidates[-1]
    assert (last.name, last.mean_rank, last.vetoes) == ("a", None, ("1.0 effective classes",))
    everything = rank(looks, {"a": ["x"], "b": ["y"], SOURCE_NAME: ["z"]})
    assert everything.keeps_source
    assert len(everything.candidates) == 3


def test_a_vetoed_model_is_no_member_of_the_ensemble() -> None:
    looks = {SOURCE_NAME: look(0, 0, 1), "a": look(0, 1, 2), "b": look(2, 2, 2)}
    assert "ensv" in rank(looks).candidates[0].scores
    assert "ensv" not in rank(looks, {"b": ["collapsed"]}).candidates[0].scores


def test_a_score_that_is_minimised_has_no_vote() -> None:
    looks = {SOURCE_NAME: look(0, 0, 1), "a": look(0, 1, 2, stays=[0, 1, 1])}
    assert rank(looks).candidates[0].scores.keys() == {"nuclear_norm", "agreement"}
    ranking = rank(looks, minimised={"nuclear_norm"})
    assert ranking.candidates[0].scores.keys() == {"agreement"}


def test_the_source_always_takes_part() -> None:
    with pytest.raises(ValueError, match="source"):
        rank({"a": look(0, 1, 2)})


def test_no_scores_leave_the_order() -> None:
    assert mean_ranks({}, ["x", "y"]) == {"x": 1.0, "y": 1.0}


def test_contenders_are_looked_at_one_after_the_other() -> None:
    network, spec, opened = pool("classification")
    broken = copy.deepcopy(network)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    looked = look_at_all(
        iter(
            [
                (SOURCE_NAME, Contender(network, spec, opened, ("collapsed",))),
                ("a", Contender(broken, spec, opened)),
                ("b", Contender(network, spec, opened, ("unknown",))),
            ]
        ),
        CPU,
    )
    assert list(looked.looks) == [SOURCE_NAME], "the source is looked at whatever it is like"
    assert looked.vetoes["b"] == ("unknown",)
    assert "not finite" in looked.vetoes["a"][0]
    assert rank(looked.looks, looked.vetoes).keeps_source
