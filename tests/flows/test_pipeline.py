"""The whole line in one run: import, adaptation, audit, promotion."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small
from conftest import World

from flows import pipeline as pipelines
from flows.pipeline import pipeline
from sfda.annotation.audit.page import ANSWERS_FORMAT
from sfda.annotation.audit.questions import read_audit
from sfda.annotation.waiting import waiting
from sfda.errors import BadInput
from sfda.settings import AdaptSettings
from tasks import tracking
from tasks.audit import AuditStanding, standing, take_part
from tasks.register import register_source
from tasks.tracking.models import model_ref

pytestmark = pytest.mark.flow

FAST = AdaptSettings(
    method="shot", epochs=2, name="toy", promote=True,
    settings={"schedule": dict(small.FAST), "lr_scale": {"backbone": 1.0}},
)  # fmt: skip


@pytest.fixture
def home(world: World, request: pytest.FixtureRequest):
    made = world.home(request.node.name)
    with made.entered():
        yield made


def unlabelled(world: World, folder: Path) -> Path:
    inputs = small.target_arrays()
    own = inputs["split"] == 0
    bare = {"x": inputs["x"][own], "split": inputs["split"][own]}
    return small.write(folder, "bare", bare, {"adapt": int(own.sum())}, classes=None)


def answered(folder: Path) -> Path:
    """What a person who knows the classes answers to every question of an audit."""
    request, inputs = read_audit(folder), small.target_arrays()
    truth = inputs["y"][inputs["split"] == 0]
    answers = {one.id: small.CLASSES[int(truth[int(one.key)])] for one in request.questions}
    document = {"format": ANSWERS_FORMAT, "audit": request.id, "answers": answers}
    file = folder.with_suffix(".json")
    file.write_text(json.dumps(document))
    return file


def test_a_run_that_cannot_wait_ends_with_what_to_type(world: World, home: Any, prefect_api: None):
    result: Any = pipeline(str(world.bundle), str(unlabelled(world, home.path)), adaptation=FAST)
    assert (result.kind, result.promoted) == ("hold", False)
    assert result.next == result.adapted.next
    assert result.next[0].startswith("open ")


def test_a_run_that_waits_promotes_what_the_answers_show_better(
    world: World, home: Any, prefect_api: None, monkeypatch: pytest.MonkeyPatch
):
    """Suspension itself is Prefect's: here the answers come where the run would wait."""

    def waits(folder: Path, patience: float) -> AuditStanding:
        assert standing(folder).kind == "hold"
        assert [one.folder for one in waiting()] == [str(folder)]
        take_part(folder, answered(folder))
        return standing(folder)

    monkeypatch.setattr(pipelines, "deployment", SimpleNamespace(id="deployed"))
    monkeypatch.setattr(pipelines, "wait_for_verdict", waits)
    with tracking.run("job", key="first", tags={}, params={}) as run_id:
        register_source(model_ref(str(world.bundle)), "toy", run_id, {})
    target = str(unlabelled(world, home.path))
    result: Any = pipeline("models:/toy@source", target, adaptation=FAST)
    assert (result.adapted.kind, result.kind, result.promoted) == ("hold", "promote", True)
    assert result.verdict.startswith("promoted: changes")
    assert tracking.champions("toy") == ["1", result.adapted.version.version]
    assert waiting() == []


def test_weights_need_their_architecture(world: World, home: Any, prefect_api: None):
    with pytest.raises(BadInput, match="name both"):
        pipeline("toy", str(unlabelled(world, home.path)), weights="w.pt", adaptation=FAST)
