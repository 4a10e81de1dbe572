"""What is gathered of a candidate before a verdict, from models and a pool as they lie on disk."""

from __future__ import annotations

import copy
import shlex
import subprocess
from pathlib import Path

import pytest
import small
import torch

from sfda.decision.gate import Verdict, decide
from sfda.decision.vetoes import Expected
from sfda.loading.opened import evaluation_split, manifest_ref
from sfda.policy import DecisionPolicy, VetoLimits
from sfda.refs import ModelRef, Version
from sfda.weights.bundle import write_bundle
from tasks.decide import Contest, Decision, gather_evidence, pool_for
from tasks.next_commands import next_commands, predict_command

LENIENT = VetoLimits(effective_classes=0.0, one_class=1.0, surest_agreement=0.0)


def disturbed(folder: Path, noise: float, seed: int) -> ModelRef:
    network = copy.deepcopy(small.source())
    torch.manual_seed(seed)
    for weight in network.parameters():
        weight.data += noise * torch.randn_like(weight)
    digest = write_bundle(folder, network, small.SPEC)
    spec = small.SPEC
    return ModelRef(
        uri=str(folder), sha256=digest, problem=spec.problem, arch=spec.arch, classes=spec.classes
    )


@pytest.fixture
def contest(home: Path, tmp_path: Path) -> Contest:
    """The source disturbed a little, against the source, on a target without labels."""
    arrays = small.arrays({"adapt": 60, "test": 30}, seed=2)
    path = small.write(tmp_path, "site", arrays, {"adapt": 60})
    return Contest(
        candidate=disturbed(tmp_path / "candidate", 0.5, 1),
        source=small.bundle(tmp_path / "source"),
        pool=pool_for(manifest_ref(path), "adapt", None),
        policy=DecisionPolicy(vetoes=LENIENT),
        expected=Expected(effective=3.0),
    )


def test_without_labels_only_the_change_is_known_unless_nobody_attends(contest, tmp_path):
    evidence = gather_evidence.fn(contest.source, contest)
    assert evidence.labelled is None
    assert evidence.preferences == ()
    assert evidence.change.answers == 30  # half of 60 are held out
    assert 0 < evidence.change.changed < 30
    alone = contest.model_copy(
        update={"policy": contest.policy.model_copy(update={"unattended": True})}
    )
    families = [one.family for one in gather_evidence.fn(contest.source, alone).preferences]
    assert families == ["dispersity", "perturbation"]  # two models are no ensemble
    other = disturbed(tmp_path / "other", 0.8, 2)
    more = alone.model_copy(update={"others": (other,), "minimised": ("nuclear_norm",)})
    families = [one.family for one in gather_evidence.fn(contest.source, more).preferences]
    assert families == ["ensemble", "perturbation"]  # what the method minimises has no vote


def test_a_veto_is_met_on_the_pool_too(contest):
    strict = contest.model_copy(
        update={"policy": DecisionPolicy(vetoes=LENIENT.model_copy(update={"one_class": 0.01}))}
    )
    moved = strict.policy.vetoes.model_copy(update={"one_class_before": 1.0})
    strict = strict.model_copy(
        update={"policy": strict.policy.model_copy(update={"vetoes": moved})}
    )
    evidence = gather_evidence.fn(contest.source, strict)
    assert any("of the answers are" in text for text in evidence.vetoes)


def test_labels_give_an_interval_and_one_against_the_source_of_another_champion(home, tmp_path):
    arrays = small.arrays({"adapt": 60, "test": 30}, seed=2)
    path = small.write(tmp_path, "site", arrays, {"adapt": 60, "test": 30})
    ref = manifest_ref(path)
    test = evaluation_split(ref, None)
    source, champion = small.bundle(tmp_path / "source"), disturbed(tmp_path / "bad", 1.0, 3)
    contest = Contest(
        candidate=disturbed(tmp_path / "candidate", 0.01, 1),
        source=source,
        pool=pool_for(ref, "adapt", test),
        policy=DecisionPolicy(vetoes=LENIENT),
        expected=Expected(effective=3.0),
    )
    alone = gather_evidence.fn(source, contest)
    assert alone.labelled is not None
    assert (alone.labelled.count, alone.labelled_source) == (30, None)
    both = gather_evidence.fn(champion, contest)
    assert both.labelled is not None
    assert both.labelled.low > 0  # the champion is a bad one
    assert both.labelled_source is not None
    assert both.labelled_source.after == both.labelled.after == alone.labelled.after


def test_a_few_labels_are_told_and_a_person_is_asked(home, tmp_path):
    sizes = {"adapt": 60, "test": 4}
    ref = manifest_ref(small.write(tmp_path, "site", small.arrays(sizes, seed=2), sizes))
    contest = Contest(
        candidate=disturbed(tmp_path / "candidate", 1.0, 3),
        source=small.bundle(tmp_path / "source"),
        pool=pool_for(ref, "adapt", evaluation_split(ref, None)),
        policy=DecisionPolicy(vetoes=LENIENT, unattended=True, max_change=1.0),
        expected=Expected(effective=3.0),
    )
    evidence = gather_evidence.fn(contest.source, contest)
    assert evidence.labelled is not None
    assert evidence.labelled.too_few
    assert evidence.preferences != ()  # scores are asked as where nothing is labelled
    attended = contest.policy.model_copy(update={"unattended": False})
    verdict = decide(evidence, attended)
    assert verdict.kind == "hold"
    assert "4 images of test are too few" in verdict.text


def test_a_verdict_by_labels_says_where_adaptation_has_seen_the_images(home, tmp_path):
    sizes = {"adapt": 48, "test": 30}
    ref = manifest_ref(small.write(tmp_path, "site", small.arrays(sizes, seed=2), sizes))
    test = evaluation_split(ref, None)
    assert pool_for(ref, "adapt", test).says == ""
    says = pool_for(ref, "test", test).says
    assert says == "all 30 images of the split 'test', which adaptation has seen"


def test_what_to_type_names_a_model_that_answers():
    version = Version(name="toy", version="2", uri="models:/toy/2")
    kept = Decision(
        verdict=Verdict(kind="keep", level=3, reason="x"),
        evidence=None,
        champion="models:/toy/1",
        promoted=False,
    )
    words = (version, "models:/other/1", "m.yaml", None)
    assert next_commands(kept, *words) == (
        "sfda predict --model models:/toy@champion --data m.yaml --out DIR",
    )
    first = kept.model_copy(update={"champion": "models:/other/1"})  # no champion of this name
    assert "--model models:/other/1 " in next_commands(first, *words)[0]
    promoted = first.model_copy(update={"promoted": True})
    assert "--model models:/toy@champion " in next_commands(promoted, *words)[0]


def test_a_printed_command_is_one_command_whatever_the_target_is_called() -> None:
    line = predict_command("models:/m/1", "t$(touch PWNED).yaml; id")
    words = ["sfda", "predict", "--model", "models:/m/1", "--data", "t$(touch PWNED).yaml; id"]
    assert shlex.split(line) == [*words, "--out", "DIR"]
    told = subprocess.run(  # what a shell makes of it
        ["sh", "-c", line.replace("sfda", "printf '%s\\n'", 1)], capture_output=True, text=True
    )
    assert told.stdout.splitlines() == [*words[1:], "--out", "DIR"]
