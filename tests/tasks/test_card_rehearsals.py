"""Rehearsals go into the card, and a decision says where a candidate lies among them."""

from __future__ import annotations

from pathlib import Path

import pytest
import small
from five_problems import two_models
from test_decide import LENIENT, disturbed

from sfda.adaptation.source_card import copy_with_card
from sfda.decision.gate import decide
from sfda.decision.vetoes import Expected
from sfda.loading.opened import manifest_ref
from sfda.policy import DecisionPolicy
from sfda.problems.registry import read_bundle
from sfda.refs import ModelRef, Report
from sfda.rehearsal.plan import AdaptedWith, method_digest, plan_rehearsals
from sfda.weights.rehearsals import Rehearsals
from sfda.weights.source_card import Card, CardFacts, read_card
from tasks.decide import Contest, gather_evidence, pool_for
from tasks.rehearse import keep_rehearsals, rehearse

PLAN = plan_rehearsals("classification", count=5, method="bn")
FACTS = {
    "classes": small.CLASSES, "source_sha256": "a" * 64, "manifest": "toy", "manifest_sha256":
    "b" * 64, "split": "val", "count": 90, "metrics": {"macro_accuracy": 0.9}, "temperature": 1.0,
}  # fmt: skip


@pytest.fixture
def rehearsed(home: Path, tmp_path: Path) -> ModelRef:
    """A source whose card has five rehearsals of batch-norm statistics."""
    bare = small.bundle(tmp_path / "source")
    card = Card(CardFacts.model_validate(FACTS), {})
    digest = copy_with_card(Path(bare.uri), card, tmp_path / "carded")
    model = bare.model_copy(update={"uri": str(tmp_path / "carded"), "sha256": digest})
    path = small.write(tmp_path, "own", small.arrays({"val": 90}, seed=5), {"val": 90})
    done = rehearse.fn(model, manifest_ref(path), "val", PLAN, "cpu")
    report = Report(split="val", count=90, metrics={}, per_class={}, confusion=[])
    return keep_rehearsals.fn(model, done, manifest_ref(path), "val", report)


def contest(source: ModelRef, folder: Path, method: str = "bn", **changes: object) -> Contest:
    path = small.write(folder, "site", small.arrays({"adapt": 60}, seed=2), {"adapt": 60})
    digest = method_digest(PLAN.method, PLAN.config)
    usual = {
        "candidate": disturbed(folder / "candidate", 0.5, 1),
        "source": source,
        "pool": pool_for(manifest_ref(path), "adapt", None),
        "policy": DecisionPolicy(vetoes=LENIENT),
        "expected": Expected(effective=3.0),
        "by": AdaptedWith(name=method, settings_sha256=digest),
    }
    return Contest(**{**usual, **changes})


def test_the_card_has_them_and_a_decision_tells_of_them_and_is_the_same(rehearsed, tmp_path):
    done = read_card(Path(rehearsed.uri)).facts.rehearsals
    assert (len(done.pairs), done.method) == (5, "bn")
    asked = contest(rehearsed, tmp_path)
    evidence = gather_evidence.fn(rehearsed, asked)
    assert evidence.rehearsed is not None
    assert (evidence.rehearsed.rehearsals, evidence.rehearsed.other_settings) == (5, False)
    without = evidence.model_copy(update={"rehearsed": None})
    assert decide(evidence, asked.policy) == decide(without, asked.policy)
    other = asked.by.model_copy(update={"settings_sha256": "f" * 64})
    seen = gather_evidence.fn(rehearsed, asked.model_copy(update={"by": other})).rehearsed
    assert seen.other_settings


def test_another_method_another_model_and_no_change_are_compared_with_none(rehearsed, tmp_path):
    def seen(asked: Contest):
        return gather_evidence.fn(asked.source, asked).rehearsed

    assert seen(contest(rehearsed, tmp_path, "shot")) is None
    assert seen(contest(rehearsed, tmp_path, by=None)) is None
    assert seen(contest(rehearsed, tmp_path, candidate=rehearsed)) is None
    # an adapted model carries the card of its source, whose rehearsals are not its own
    other = disturbed(tmp_path / "other", 0.1, 3)
    card = read_card(Path(rehearsed.uri))
    digest = copy_with_card(Path(other.uri), card, tmp_path / "other-carded")
    carded = other.model_copy(update={"uri": str(tmp_path / "other-carded"), "sha256": digest})
    assert seen(contest(carded, tmp_path)) is None
    assert seen(contest(small.bundle(tmp_path / "bare"), tmp_path)) is None


@pytest.mark.parametrize("problem", ["pose", "multilabel"])
def test_where_there_is_no_card_it_holds_the_rehearsals_alone(home, tmp_path, problem):
    two = two_models(problem, tmp_path)
    done = Rehearsals(
        problem=problem, method="bn", settings_sha256="a" * 64, model_sha256="b" * 64, epochs=1,
        planned=2, stopped=2, predicted=0, right=0, seconds=1.0, pairs=(),
    )  # fmt: skip
    report = Report(split="test", count=12, metrics={"x": 0.5}, per_class={}, confusion=[], note="")
    carded = keep_rehearsals.fn(two.source, done, two.manifest, "test", report)
    card = read_card(Path(carded.uri))
    assert (card.facts.rehearsals, card.facts.count, card.tensors) == (done, 12, {})
    assert read_bundle(Path(carded.uri), sha256=carded.sha256)
