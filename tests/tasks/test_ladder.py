"""Smaller steps towards a candidate: which is taken, how strictly, and what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small
import torch

from sfda.decision.change import ChangeReport
from sfda.decision.gate import Evidence, Preference
from sfda.decision.vetoes import Expected
from sfda.policy import DecisionPolicy
from sfda.problems.registry import read_bundle
from sfda.refs import ManifestRef, ModelRef, SplitRef, Version
from sfda.settings import AdaptSettings
from sfda.weights.bundle import write_bundle
from tasks import decide, ladder

FAMILIES = ("dispersity", "perturbation")


def evidence(changed: int, alpha: float) -> Evidence:
    """So many of 1,000 answers change, and two families of scores are for it."""
    change = ChangeReport(
        answers=1000, changed=changed, share=changed / 1000, images=1000, images_changed=changed,
        units="images", metric="accuracy", by_class={},
    )  # fmt: skip
    preferences = tuple(
        Preference(family=family, score=f"{alpha:g}", gain=0.1, low=0.0) for family in FAMILIES
    )
    return Evidence(change=change, preferences=preferences)


@pytest.fixture
def models(tmp_path: Path) -> tuple[ModelRef, ModelRef]:
    """A source, and a candidate whose weights are otherwise."""
    source = small.bundle(tmp_path / "source")
    network, spec = read_bundle(Path(source.uri))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    digest = write_bundle(tmp_path / "candidate", network, spec)
    return source, source.model_copy(update={"uri": str(tmp_path / "candidate"), "sha256": digest})


def contest(models: tuple[ModelRef, ModelRef], **policy: Any) -> decide.Contest:
    target = SplitRef(manifest=ManifestRef(path="m.yaml", sha256="0" * 64), split="s", seen="0")
    return decide.Contest(
        candidate=models[1], source=models[0], pool=decide.DecisionPool(target=target),
        policy=DecisionPolicy(unattended=True, **policy), expected=Expected(),
    )  # fmt: skip


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> list[ModelRef]:
    """What was registered; no server is asked. The whole step changes 40 % of the answers, smaller
    ones so much less.
    """
    made: list[ModelRef] = []
    changes = iter((300, 200, 90))

    def register(model: ModelRef, name: str, *_: Any, **__: Any) -> Version:
        made.append(model)
        return Version(name=name, version="2", uri=f"models:/{name}/2")

    def known(champion: ModelRef, asked: decide.Contest, _: object) -> Evidence:
        return evidence(next(changes), asked.policy.alpha)

    def settle(version: Version, asked: decide.Contest, *_: Any) -> decide.Decision:
        whole = version.version == "1"
        return decide.Decision(
            verdict=ladder.decide(evidence(400 if whole else 90, asked.policy.alpha), asked.policy),
            evidence=None, champion=asked.source.uri, promoted=not whole,
        )  # fmt: skip

    monkeypatch.setattr(ladder, "register_model", register)
    monkeypatch.setattr(ladder, "gather_evidence", known)
    monkeypatch.setattr(ladder, "settle", settle)
    monkeypatch.setattr(ladder, "model_ref", lambda uri: small_ref(uri))
    monkeypatch.setattr(ladder, "rung", ladder.rung.fn)
    return made


def small_ref(uri: str) -> ModelRef:
    from sfda.weights.bundle import bundle_digest, read_spec

    spec = read_spec(Path(uri))
    return ModelRef(
        uri=uri, sha256=bundle_digest(Path(uri)), problem=spec.problem, arch=spec.arch,
        classes=spec.classes,
    )  # fmt: skip


WHOLE = Version(name="toy", version="1", uri="models:/toy/1")


def test_without_a_ladder_a_held_version_stays_held(home, models, registry) -> None:
    version, decision = ladder.settle_by_steps(
        WHOLE, contest(models), {}, AdaptSettings(promote=True), "run"
    )
    assert (version, decision.verdict.kind) == (WHOLE, "hold")
    assert not registry


def test_the_first_step_that_is_promoted_is_taken_at_its_own_alpha(home, models, registry) -> None:
    version, decision = ladder.settle_by_steps(
        WHOLE, contest(models, ladder=True), {}, AdaptSettings(promote=True), "run"
    )
    assert version.version == "2"
    assert decision.promoted
    assert "0.00625 +0.1000" in decision.verdict.text  # the third rung: 0.05 / 8
    (taken,) = registry
    stepped, _ = read_bundle(Path(taken.uri), sha256=taken.sha256)
    before, _ = read_bundle(Path(models[0].uri))
    for now, then in zip(stepped.parameters(), before.parameters(), strict=True):
        assert torch.allclose(now - then, torch.full_like(now, 0.25), atol=1e-5)
