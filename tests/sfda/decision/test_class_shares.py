"""Shares of the classes among the answers of two models."""

from __future__ import annotations

import torch

from sfda.decision.judge import class_shares
from sfda.decision.vetoes import FigureCounter
from sfda.measures.tally import Tally


def figures(*answers):
    counter = FigureCounter()
    counts = torch.tensor(answers, dtype=torch.double)
    counter.update(Tally(len(answers), counts, counts, float(counts.sum())))
    return counter.compute()


def test_each_class_has_its_share_before_and_after():
    shares = class_shares(figures(3, 1), figures(1, 1), ("cat", "dog"))
    assert shares == {"cat": (0.75, 0.5), "dog": (0.25, 0.5)}


def test_a_thousand_classes_are_listed_those_that_moved_most():
    names = tuple(map(str, range(1002)))
    before, after = torch.ones(1002), torch.ones(1002)
    after[0], after[500] = 50, 90
    shares = class_shares(figures(*before), figures(*after), names)
    assert len(shares) == 1000
    assert next(iter(shares)) == "0"
    assert "500" in shares


def test_nothing_is_listed_where_no_answer_has_a_class():
    assert class_shares(figures(), figures(), ("nose",)) == {}
