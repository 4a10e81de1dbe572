"""People hear of a verdict through a block of Prefect's; a service that fails costs nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret

from sfda.errors import BadInput
from tasks.prefect_runtime.notify import check_block, notify

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
