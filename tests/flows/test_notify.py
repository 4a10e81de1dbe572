"""People hear of a verdict through a block of Prefect's; a service that fails costs nothing."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import small
import torch
from conftest import World, sfda
from prefect import flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret

from sfda.annotation.audit.page import ANSWERS_FORMAT
from sfda.annotation.audit.questions import read_audit
from sfda.errors import BadInput
from sfda.weights.bundle import write_bundle
from tasks import champion, tracking
from tasks.prefect_runtime.notify import check_block, notify, notify_verdict
from tasks.prefect_runtime.server import ENDS_WITH_COMMAND

pytestmark = pytest.mark.flow


class Ear(BaseHTTPRequestHandler):
    """A webhook that keeps what it hears."""

    heard: list[bytes] = []

    def do_POST(self) -> None:
        """Keep the body."""
        self.heard.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing to a terminal."""


@pytest.fixture
def address() -> Iterator[str]:
    Ear.heard = []
    server = HTTPServer(("127.0.0.1", 0), Ear)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()


def webhook(address: str, name: str) -> str:
    body = {"title": "{{subject}}", "text": "{{body}}"}
    block = CustomWebhookNotificationBlock(name=name, url=address, method="POST", json_data=body)
    block.save(name, overwrite=True)
    return f"custom-webhook/{name}"


def test_a_message_goes_out_with_the_sentence(prefect_api, address, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    name = webhook(address, "ear")
    check_block(name)
    assert notify(name, "toy 3", "held: changes 3 of 9 answers")
    (body,) = Ear.heard
    assert b"toy 3" in body
    assert b"held: changes 3 of 9 answers" in body


def test_a_service_that_is_away_is_no_reason_to_fail(prefect_api, caplog):
    assert notify(webhook("http://127.0.0.1:1/", "away"), "toy 3", "held") is False
    assert "nobody was told by custom-webhook/away" in caplog.text


def test_nobody_is_told_without_a_block():
    assert notify(None, "toy 3", "held") is False


@pytest.mark.parametrize(
    ("name", "word"), [("team", "TYPE/NAME"), ("slack-webhook/none-such", "there is no block")]
)
def test_a_block_that_is_not_there_is_refused_before_any_work(prefect_api, name, word):
    with pytest.raises(BadInput, match=word):
        check_block(name)


def test_a_block_that_notifies_nobody_is_refused(prefect_api):
    Secret(value="x").save("mute", overwrite=True)
    with pytest.raises(BadInput, match="notifies nobody"):
        check_block("secret/mute")


def test_a_message_has_what_to_type_and_the_page_of_a_server_that_stays(
    prefect_api, address, monkeypatch
):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    name = webhook(address, "ear")

    @flow
    def telling() -> None:
        notify_verdict(name, "toy 3", "held: it changes", ("sfda audit DIR ANSWERS",))

    telling()
    monkeypatch.setenv(ENDS_WITH_COMMAND, "1")
    telling()
    lasting, ending = (json.loads(body)["text"].splitlines() for body in Ear.heard)
    assert lasting[:2] == ending == ["held: it changes", "sfda audit DIR ANSWERS"]
    assert "/flow-runs/flow-run/" in lasting[2]


def registered(folder: Path, noise: float) -> str:
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


def answered(folder: Path, labels: list[int]) -> Path:
    """Right answers to every question of an audit."""
    request = read_audit(folder)
    answers = {one.id: small.CLASSES[labels[int(one.key)]] for one in request.questions}
    document = {"format": ANSWERS_FORMAT, "audit": request.id, "answers": answers}
    file = folder.with_suffix(".json")
    file.write_text(json.dumps(document))
    return file


def test_people_hear_of_questions_a_rejection_and_a_rollback(
    world: World, prefect_api, address, monkeypatch, tmp_path
):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    name, inputs = webhook(address, "ear"), small.arrays({"adapt": 120}, seed=2)
    target = small.write(tmp_path, "site", inputs, {"adapt": 120})
    with world.home("told").entered():
        good, bad = registered(tmp_path / "good", 0.0), registered(tmp_path / "bad", 1.0)
        words = ("--target", target, "--notify", name)
        lenient = tmp_path / "lenient.yaml"
        lenient.write_text(
            "vetoes: {surest_agreement: 0, effective_classes: 0, one_class: 1}\nweekly: 30\n"
        )
        asked = sfda("audit", "--candidate", f"models:/toy/{bad}", "--against",
                     f"models:/toy/{good}", "--out", tmp_path / "a", "--decision", lenient,
                     *words)  # fmt: skip
        assert asked.code == 0, asked.err
        file = answered(tmp_path / "a", inputs["y"].tolist())
        ended = sfda("audit", tmp_path / "a", file, "--notify", name, "--json").json
        assert ended["kind"] == "reject"
        week = sfda("monitor", "toy", *words, "--decision", lenient, "--json").json
        assert week["rolled_back_to"] is None
        assert week["next"] == [f"sfda audit {week['audit']} ANSWERS", "sfda monitor toy"]
        sfda("audit", week["audit"], answered(Path(week["audit"]), inputs["y"].tolist()))
        back = sfda("monitor", "toy", "--notify", name, "--json").json
        assert back["rolled_back_to"] == good
        moved = sfda("promote", "toy", bad, "--notify", name)
        assert moved.code == 0, moved.err
        assert sfda("rollback", "toy", "--notify", "team").code == 2
        assert tracking.champions("toy")[-1] == bad  # a wrong block moves nothing
    messages = [json.loads(body) for body in Ear.heard]
    sentences = [message["text"].splitlines()[0] for message in messages]
    assert len(messages) == 5
    assert messages[0]["title"].endswith("questions about toy/site")
    assert sentences[1] == ended["verdict"]
    assert "questions of this week" in sentences[2]
    assert sentences[3] == back["verdict"]
    assert sentences[4].startswith(f"toy: champion is version {bad}")


def test_people_hear_of_a_hold_once_its_questions_lie_ready(
    world: World, prefect_api, address, monkeypatch, tmp_path
):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    sizes = {"adapt": 48}
    target = small.write(tmp_path, "bare", small.arrays(sizes, seed=2, dull=True), sizes)
    fast = [
        word for name, value in small.FAST.items() for word in ("--set", f"schedule.{name}={value}")
    ]
    with world.home("hold").entered():
        held = sfda("adapt", "--source", world.bundle, "--target", target, "--method", "shot",
                    "--epochs", 1, *fast, "--set", "lr_scale.backbone=1", "--name", "toy",
                    "--notify", webhook(address, "ear"), "--json").json  # fmt: skip
        (body,) = Ear.heard
        message = json.loads(body)
        assert held["kind"] == "hold"
        assert Path(held["audit"], "audit.html").is_file()
    assert message["title"] == "toy 1"
    assert message["text"].splitlines()[:3] == [held["verdict"], *held["next"]]
