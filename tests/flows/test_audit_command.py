"""`sfda audit`: it asks, takes answers in parts, and says what they decide."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from conftest import World, sfda

from sfda.annotation.audit.page import ANSWERS_FORMAT
from sfda.annotation.audit.questions import AuditRequest, read_audit
from sfda.errors import BadInput
from sfda.manifests.digests import row_id
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.refs import Version
from sfda.weights.bundle import write_bundle
from tasks import tracking
from tasks.audit import model_before

pytestmark = pytest.mark.flow
TARGET = {"adapt": 24, "test": 120}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target of 120 images that are asked about, a model, and two that answer otherwise."""
    path = tmp_path_factory.mktemp("audited")
    small.write(path, "target", small.arrays(TARGET, seed=2, dull=True), TARGET)
    lenient = {"surest_agreement": 0, "effective_classes": 0, "one_class": 1}
    (path / "no_vetoes.yaml").write_text(json.dumps({"vetoes": lenient}))
    small.bundle(path / "bad")  # right in two fifths
    for name, seed in (("good", 1), ("fair", 2)):
        network = copy.deepcopy(small.source())
        torch.manual_seed(seed)
        for weight in network.parameters():  # by chance, noise brings it nearer to the target
            weight.data += 0.8 * weight.data.std() * torch.randn_like(weight)
        write_bundle(path / name, network, small.SPEC)
    return path


def ask(folder: Path, out: Path, candidate: str, against: str, *words: object) -> Any:
    more = () if "--decision" in words else ("--decision", folder / "no_vetoes.yaml")
    return sfda("audit", "--candidate", folder / candidate, "--against", folder / against,
                "--target", folder / "target.yaml", "--out", out, *more, *words)  # fmt: skip


def truth(request: AuditRequest) -> dict[str, str]:
    """The right answer to each question."""
    labels = small.arrays(TARGET, seed=2, dull=True)["y"]
    return {q.id: small.CLASSES[labels[int(q.key)]] for q in request.questions}


def saved(path: Path, request: AuditRequest, answers: dict[str, str]) -> Path:
    document = {"format": ANSWERS_FORMAT, "audit": request.id, "answers": answers}
    path.write_text(json.dumps(document))
    return path


def test_answers_in_parts_lead_to_a_verdict_and_swapped_models_to_its_reverse(
    world: World, folder: Path, tmp_path: Path
) -> None:
    with world.home("audit").entered():
        verdicts = {}
        for out, candidate, against in (("a", "good", "bad"), ("b", "bad", "good")):
            made = ask(folder, tmp_path / out, candidate, against, "--json").json
            request = read_audit(tmp_path / out)
            assert made["kind"] == "hold"
            assert made["questions"] == len(request.questions) > 20
            assert {q.row for q in request.questions} <= {
                row_id(f"x:{n}") for n in range(24, 144)
            }, "what was adapted to is not asked about"
            answers = truth(request)
            half = [*answers][: len(answers) // 2]
            first = saved(tmp_path / f"{out}1.json", request, {k: answers[k] for k in half})
            second = saved(tmp_path / f"{out}2.json", request, answers)
            ended = sfda("audit", tmp_path / out, first, second)
            assert ended.code == 0, ended.err
            assert f"{len(half)} new answers" in ended.out
            assert ended.out.count("still needed") == 2
            last = sfda("audit", tmp_path / out, "--json").json
            verdict, command = ended.out.strip().splitlines()[-2:]
            assert (verdict, [command.strip()]) == (last["verdict"], last["next"])
            assert f"--model {folder / 'good'} " in command  # the better one, whichever is new
            again = sfda("audit", tmp_path / out, first, "--json").json
            assert again["parts"] == [{"name": f"{out}1.json", "answers": 0, "again": True}]
            assert again["state"] == last["state"]
            verdicts[out] = last
        assert (verdicts["a"]["kind"], verdicts["b"]["kind"]) == ("promote", "reject")
        assert verdicts["a"]["state"]["better"] == verdicts["b"]["state"]["worse"]
        pages = [(tmp_path / out / "audit.html").read_bytes() for out in "ab"]
        assert pages[0] == pages[1], "nothing tells which model is which"


def test_a_veto_decides_before_anybody_has_answered(
    world: World, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "policy.yaml").write_text("alpha: 0.1")
    with world.home("audit-veto").entered():
        words = ("--decision", tmp_path / "policy.yaml", "--json")
        made = ask(folder, tmp_path / "a", "bad", "good", *words).json
    assert made["kind"] == "reject"
    assert "above 80" in made["verdict"]


def test_faults_end_with_one_message(world: World, folder: Path, tmp_path: Path) -> None:
    with world.home("audit-faults").entered():
        assert ask(folder, tmp_path / "a", "good", "bad").code == 0
        request = read_audit(tmp_path / "a")
        wrong = saved(
            tmp_path / "wrong.json", request, {"ffff": "cat", request.questions[0].id: "x"}
        )
        (tmp_path / "policy.yaml").write_text("alhpa: 0.1")
        (tmp_path / "empty").mkdir()
        words: dict[str, tuple[object, ...]] = {
            "does not ask: ffff": (tmp_path / "a", wrong),
            "holds no audit": (tmp_path / "empty",),
            "cannot be read": (tmp_path / "a", tmp_path / "none.json"),
            "an audit needs --candidate": ("--candidate", folder / "good"),
            "not both": (tmp_path / "a", "--candidate", folder / "good"),
            "go with an audit's folder": ("--candidate", folder / "good", "--promote"),
            "write a name": (tmp_path / "a", wrong, "--person", "../x"),
        }
        for message, own in words.items():
            ended = sfda("audit", *own)
            assert (ended.code, message in ended.err) == (2, True), ended.err
        again = ask(folder, tmp_path / "a", "good", "bad")
        assert (again.code, "done already" in again.out) == (0, True), again.out
        for message, out, own in (
            ("holds another request already", "a", ("--seed", 5)),
            ("did you mean 'alpha'", "b", ("--decision", tmp_path / "policy.yaml")),
            ("no split 'x'", "b", ("--split", "x")),
            ("holds no audit", "b", ("--before", tmp_path / "empty")),
        ):
            ended = ask(folder, tmp_path / out, "good", "bad", *own)
            assert (ended.code, message in ended.err) == (2, True), ended.err
            assert not (tmp_path / "b").exists()
        same = ask(folder, tmp_path / "b", "good", "good")
        assert "are the same model" in same.err


def test_a_budget_and_a_policy_are_kept_with_the_audit(
    world: World, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "policy.yaml").write_text("alpha: 0.1\nbudget: 9\nmargin: 0.01\n")
    with world.home("audit-policy").entered():
        words = ("--decision", tmp_path / "policy.yaml", "--budget", 4, "--seed", 3)
        assert ask(folder, tmp_path / "a", "good", "bad", *words).code == 0
    request = read_audit(tmp_path / "a")
    assert (request.plan.alpha, request.plan.budget, request.plan.margin) == (0.1, 4, 0.01)
    assert [q.changed for q in request.questions].count(True) == 8
    assert [q.changed for q in request.questions].count(False) == 1


def test_answers_become_labels_and_count_for_another_candidate(
    world: World, folder: Path, tmp_path: Path
) -> None:
    with world.home("audit-again").entered():
        assert ask(folder, tmp_path / "a", "good", "bad").code == 0
        first = read_audit(tmp_path / "a")
        answers = truth(first)
        path = saved(tmp_path / "answers.json", first, answers)
        taken = sfda("audit", tmp_path / "a", path, "--write-manifest", "--json").json
        manifest = open_manifest(taken["manifest"])
        split = read_split(manifest, "test")
        assert split.annotations is not None
        assert len(split.annotations.rows) == len(answers)
        again = sfda("audit", tmp_path / "a", "--write-manifest")
        assert (again.code, taken["manifest"] in again.out) == (0, True), again.err
        other = ask(folder, tmp_path / "b", "fair", "bad", "--before", tmp_path / "a")
        assert other.code == 0, other.err
        assert "more were answered before" in other.out
        second = read_audit(tmp_path / "b")
        assert second.known
        assert second.plan.known == len(second.known)
        assert not {k.row for k in second.known} & {q.row for q in second.questions if q.changed}, (
            "what is known is not asked again"
        )
        assert {k.row for k in second.known} <= {q.row for q in first.questions}


def test_an_audit_of_an_audit_knows_what_the_first_knew(
    world: World, folder: Path, tmp_path: Path
) -> None:
    with world.home("audit-chain").entered():
        assert ask(folder, tmp_path / "a", "good", "bad").code == 0
        first = read_audit(tmp_path / "a")
        path = saved(tmp_path / "answers.json", first, truth(first))
        sfda("audit", tmp_path / "a", path)
        ask(folder, tmp_path / "b", "good", "bad", "--before", tmp_path / "a")
        ended = ask(folder, tmp_path / "c", "good", "bad", "--before", tmp_path / "b")
        assert ended.code == 0, ended.err
        second, third = read_audit(tmp_path / "b"), read_audit(tmp_path / "c")
        assert third.known == second.known
        assert not [q for q in second.questions if q.changed], "all of them are known"
        assert sfda("audit", tmp_path / "b", "--json").json["kind"] == "promote"


def registered(folder: Path, **tags: str) -> Version:
    """A version of `toy` with the weights in a folder."""
    with tracking.run(folder.name, key=folder.name, tags={}, params={}) as run_id:
        return tracking.register_bundle(
            run_id, folder, "toy", depth=1, tags={"sha256": "0", **tags}
        )


def test_a_better_candidate_becomes_champion_where_that_is_asked_for(
    world: World, folder: Path, tmp_path: Path
) -> None:
    with world.home("audit-promote").entered():
        before, candidate, other = (registered(folder / n) for n in ("bad", "good", "fair"))
        tracking.set_champion(before, [before.version])
        tracking.set_alias(candidate, "candidate")
        made = sfda("audit", "--candidate", "models:/toy@candidate", "--target",
                    folder / "target.yaml", "--out", tmp_path / "a", "--decision",
                    folder / "no_vetoes.yaml")  # fmt: skip
        assert made.code == 0, made.err
        request = read_audit(tmp_path / "a")
        assert (request.before.uri, request.candidate.uri) == (before.uri, candidate.uri)
        answers = saved(tmp_path / "answers.json", request, truth(request))
        ended = sfda("audit", tmp_path / "a", answers)
        assert ended.out.strip().splitlines()[-1].strip() == f"sfda promote toy {candidate.version}"
        assert tracking.version_tags(candidate)["verdict.kind"] == "promote"
        assert tracking.champions("toy") == [before.version]
        tracking.set_champion(other, [before.version, other.version])
        late = sfda("audit", tmp_path / "a", "--promote")
        assert (late.code, f"the champion is {other.uri} now" in late.err) == (2, True), late.err
        tracking.set_champion(before, [before.version])
        ended = sfda("audit", tmp_path / "a", "--promote", "--json").json
        assert ended["promoted"]
        assert ended["verdict"].startswith("promoted: changes ")
        assert tracking.champions("toy") == [before.version, candidate.version]
        assert tracking.version_tags(candidate)["verdict"] == ended["verdict"]


def test_the_model_before_is_the_champion_or_the_source(world: World, folder: Path) -> None:
    with world.home("audit-before").entered():
        versions = (
            registered(folder / "good", source="models:/origin/1"),
            registered(folder / "bad"),
        )
        with pytest.raises(BadInput, match="nobody noted its source"):
            model_before(versions[1].uri)
        tracking.set_alias(versions[0], "champion")
        tracking.set_alias(versions[1], "candidate")
        assert model_before("models:/toy@candidate") == versions[0].uri
        assert model_before("models:/toy@champion") == "models:/origin/1"
        with pytest.raises(BadInput, match="say what it is held against"):
            model_before(str(folder / "good"))
