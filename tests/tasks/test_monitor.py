"""A champion that does harm is found by a few answers a week, and the one before comes back."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import small
import torch

from sfda.annotation.audit.page import ANSWERS_FORMAT
from sfda.annotation.audit.questions import AuditRequest
from sfda.decision.audit import AuditPlan, audit_state
from sfda.decision.monitor import monitor_state
from sfda.errors import BadInput
from sfda.loading.opened import manifest_ref
from sfda.policy import DecisionPolicy
from sfda.refs import ManifestRef
from sfda.weights.bundle import write_bundle
from tasks import champion, tracking
from tasks.audit import conclude, standing, take_part
from tasks.monitor import ask_week, conclude_weeks

SIZES = {"adapt": 120}
POLICY = DecisionPolicy(weekly=4)


@pytest.fixture
def target(tmp_path: Path) -> ManifestRef:
    arrays = small.arrays(SIZES, seed=2)
    return manifest_ref(small.write(tmp_path, "site", arrays, SIZES))


def register(folder: Path, noise: float) -> str:
    """A version whose weights are disturbed, which becomes champion; its number."""
    network = copy.deepcopy(small.source())
    torch.manual_seed(0)
    for weight in network.parameters():
        weight.data += noise * torch.randn_like(weight)
    digest = write_bundle(folder, network, small.SPEC)
    with tracking.run("job", key=str(folder), tags={}, params={}) as run_id:
        version = tracking.register_bundle(run_id, folder, "toy", depth=1, tags={"sha256": digest})
    champion.make_champion(version)
    return version.version


def answered(request: AuditRequest, file: Path) -> Path:
    labels = small.arrays(SIZES, seed=2)["y"]
    answers = {one.id: small.CLASSES[int(labels[int(one.key)])] for one in request.questions}
    document = {"format": ANSWERS_FORMAT, "audit": request.id, "answers": answers}
    file.write_text(json.dumps(document))
    return file


def test_a_champion_that_does_harm_is_rolled_back(home: Path, tmp_path: Path, target: ManifestRef):
    good, bad = register(tmp_path / "good", 0.0), register(tmp_path / "bad", 1.0)
    for week in range(1, 6):
        folder, request = ask_week("toy", target, "adapt", POLICY, None)
        assert folder == home / "audits" / f"toy-{bad}-week{week}"
        assert len(request.questions) == 4
        assert ask_week("toy", target, "adapt", POLICY, None) == (folder, request)  # killed before
        before = conclude_weeks("toy")
        assert not before.state.fires
        assert before.sentence.startswith(f"champion models:/toy/{bad} stays")
        take_part(folder, answered(request, tmp_path / f"{week}.json"))
        alone = conclude(standing(folder), promote=False)
        assert alone.next_commands == ("sfda monitor toy",)
        assert alone.sentence.startswith("this week: 4 of ")
        assert "verdict" not in tracking.version_tags(tracking.find_version("toy", bad))
        with pytest.raises(BadInput, match="promote nothing"):
            conclude(standing(folder), promote=True)
        now = conclude_weeks("toy")
        if now.rolled_back_to:
            break
    assert now.rolled_back_to == good
    assert now.state.weeks == week > 1  # one week of so few answers cannot decide
    assert tracking.champions("toy") == [good]
    assert tracking.version_tags(tracking.find_version("toy", bad))["verdict.kind"] == "reject"
    watched = tracking.find_version("toy", bad)
    for tag in ("verdict", "verdict.kind"):  # killed between the rollback and its verdict
        tracking.client().delete_model_version_tag("toy", bad, tag)
    assert conclude_weeks("toy").rolled_back_to == good
    assert tracking.version_tags(watched)["verdict.kind"] == "reject"
    again = conclude_weeks("toy")  # nothing more: another version is champion
    assert again.rolled_back_to is None
    assert tracking.champions("toy") == [good]


def test_there_is_nothing_to_watch_without_a_champion_before(
    home: Path, tmp_path: Path, target: ManifestRef
):
    with pytest.raises(BadInput, match="nobody watches 'toy' yet"):
        conclude_weeks("toy")
    register(tmp_path / "good", 0.0)
    with pytest.raises(BadInput, match="no champion before this one"):
        ask_week("toy", target, "adapt", POLICY, None)
    with pytest.raises(BadInput, match="asks no questions"):
        ask_week("toy", target, "adapt", DecisionPolicy(weekly=0), None)


def test_weeks_multiply() -> None:
    plan = AuditPlan(units=400, answers=1000, metric="accuracy", most=5)
    bad = audit_state(plan, [-1.0] * 5)
    alone = monitor_state(0.05, [bad])
    assert not alone.fires
    both = monitor_state(0.05, [bad, bad])
    assert float(both.product) == pytest.approx(float(alone.product) ** 2)
    assert both.fires
    good = audit_state(plan, [1.0] * 5)
    mixed = monitor_state(0.05, [bad, good])
    assert float(mixed.product) < float(alone.product)
    assert (mixed.better, mixed.worse, mixed.answered) == (5, 5, 10)
    assert "10 answers in 2 weeks: 5 better, 5 worse" in mixed.text
