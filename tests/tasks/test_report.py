"""The page of a run of every problem, with labels and without, and a disk that takes nothing."""

from __future__ import annotations

import html
import logging
from datetime import datetime
from pathlib import Path

import pytest
from five_problems import TwoModels, two_models

from sfda.adaptation.plan import make_plan
from sfda.adaptation.run_folder import Epoch, write_history
from sfda.decision.gate import decide
from sfda.problem_names import PROBLEM_NAMES
from sfda.refs import Adaptation, Candidate, LabelledSplit, Version
from sfda.report.model_card import model_card
from sfda.report.page import run_page
from sfda.settings import AdaptSettings
from tasks.decide import Contest, Decision, gather_evidence, pool_for
from tasks.evaluate import evaluate
from tasks.report import RunFacts, report_of, write_page

NOW = datetime(2026, 3, 9, 7, 5)
SETTINGS = AdaptSettings(epochs=1, prior=None)


def adaptation(folder: Path, models: TwoModels) -> Adaptation:
    folder.mkdir()
    epoch = Epoch(
        epoch=0,
        steps=[1, 2],
        losses={"entropy": [1.0, 0.5]},
        rate=[0.1, 0.1],
        last_step=2,
        images=24,
        seconds=1.0,
        scores={"agreement": 0.5},
        sha256=models.adapted.sha256,
        weights=models.adapted.uri,
    )
    return Adaptation(
        folder=str(folder),
        history_sha256=write_history(folder, [epoch]),
        candidates=(chosen(models),),
        seconds=1.0,
        images_per_second=24.0,
        peak_memory_mb=100.0,
    )


def chosen(models: TwoModels) -> Candidate:
    return Candidate(epoch=0, scores={}, weights=models.adapted.uri, sha256=models.adapted.sha256)


def facts_of(models: TwoModels, test: LabelledSplit | None, folder: Path) -> RunFacts:
    plan = make_plan(models.source, models.manifest, SETTINGS, bundle=Path(models.source.uri))
    part = plan.on(models.manifest)
    contest = Contest(
        candidate=models.adapted,
        source=models.source,
        pool=pool_for(models.manifest, "adapt", test),
        policy=SETTINGS.decision,
        expected=plan.expected,
    )
    evidence = gather_evidence.fn(models.source, contest)
    verdict = decide(evidence, contest.policy)
    return RunFacts(
        title="adapt a to b",
        target="a/b",
        stated=(models.source.uri, str(models.path)),
        asked=SETTINGS,
        plan=plan,
        source=models.source,
        manifest=models.manifest,
        profile=None,
        adaptation=adaptation(folder, models),
        chosen=chosen(models),
        sides=evaluate.fn(models.source, models.adapted, part, test, "adapt a to b"),
        version=Version(name="toy", version="2", uri="models:/toy/2"),
        decision=Decision(
            verdict=verdict, evidence=evidence, champion=models.source.uri, promoted=False
        ),
        next=("sfda predict",),
        run_id="run",
        flow_run_id="flow run",
    )


@pytest.mark.parametrize("problem", PROBLEM_NAMES)
def test_every_problem_has_a_page_and_a_card_with_labels_and_without(problem, home, tmp_path):
    models = two_models(problem, tmp_path)
    for labelled in (True, False):
        facts = facts_of(models, models.test if labelled else None, tmp_path / str(labelled))
        report = report_of(facts, NOW)
        page, card = run_page(report), model_card(report, models.source)
        assert facts.decision.text in html.unescape(page)
        assert "Images whose answers changed most" in page
        assert page.count("data:image/png;base64,") == 1 + labelled, "the panel, and both models"
        assert ("so neither model could be measured" in page) is not labelled
        assert ("how good it is there is not known" in card) is not labelled
        assert models.source.sha256 in page
        assert f"--method {facts.plan.method}" in page


def test_a_disk_that_takes_nothing_is_one_message_and_the_verdict_stands(home, monkeypatch, caplog):
    make = Path.mkdir

    def refuse(self, *args, **options):
        if self.parent.name == "reports":
            raise OSError(28, "No space left on device")
        make(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with caplog.at_level(logging.ERROR, "sfda"):
        assert write_page("a/b", "shot", "page", NOW) is None
    (message,) = caplog.messages
    assert "no report was written: cannot write" in message
    assert "No space left on device; free some space" in message
    assert list((home / "reports").iterdir()) == []
