"""What stands before the pages: who comes through, and what comes out; the server is fake."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tasks.prefect_runtime import proxy
from tasks.prefect_runtime.peers import Peers

SECRET = "sfda:hidden"
BASIC = "Basic " + base64.b64encode(SECRET.encode()).decode()
KEY = "first-key"
NAME = "sfda-1.localhost"
BIG = 3_000_000


async def echo(request: Request) -> Response:
    """What the server behind has heard; its answer tries to open itself to others."""
    heard = {
        "method": request.method,
        "path": request.scope["raw_path"].decode(),
        "query": request.scope["query_string"].decode(),
        "headers": dict(request.headers),
        "size": len(await request.body()),
    }
    foreign = {
        "Access-Control-Allow-Origin": "*",
        "Content-Security-Policy": "default-src *",
        "X-Frame-Options": "ALLOWALL",
        "Connection": "X-Hop",
        "X-Hop": "1",
    }
    return JSONResponse(heard, headers=foreign)


async def big(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * (BIG // 3)

    return StreamingResponse(parts())


async def away(request: Request) -> Response:
    return RedirectResponse(f"http://{request.headers['host']}/there?a=1")


async def settings(request: Request) -> Response:
    return JSONResponse({"auth": "BASIC", "api_url": "x"})


async def introduces(link: WebSocket) -> None:
    await link.accept(subprotocol="prefect")
    message = await link.receive_json()
    if message.get("token") != SECRET:
        await link.close(1008)
        return
    await link.send_json({"type": "auth_success"})
    async for text in link.iter_text():
        await link.send_text(text.upper())


@contextmanager
def serving(application: Any, listener: socket.socket) -> Iterator[None]:
    config = uvicorn.Config(
        application, log_level="error", lifespan="off", server_header=False, proxy_headers=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(10)


def listening() -> tuple[socket.socket, int]:
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    made.listen()
    return made, made.getsockname()[1]


@dataclass
class Served:
    """A proxy over the fake server."""

    page: proxy.Page

    @property
    def origin(self) -> str:
        return self.page.origin

    def ask(self, path: str, method: str = "GET", **more: Any) -> httpx.Response:
        """As a browser asks, which finds the page's name on this machine."""
        headers = {"host": self.page.host} | more.pop("headers", {})
        url = f"http://{self.page.address}{path}"
        return httpx.request(method, url, trust_env=False, headers=headers, **more)

    def cookie(self) -> dict[str, str]:
        opened = self.ask(f"/open?key={self.page.key}")
        assert opened.status_code == 303
        return {"cookie": opened.headers["set-cookie"].partition(";")[0]}

    def link(self, **more: Any) -> Any:
        address = f"ws://{more.pop('host', self.page.host)}/api/events/out?a=1"
        line = socket.create_connection(("127.0.0.1", self.page.port), 10)
        return connect(address, sock=line, subprotocols=["prefect"], proxy=None, **more)  # type: ignore[list-item]


@pytest.fixture
def served(running: Served) -> Served:
    """The proxy, with its first link and no session."""
    running.page.links = {KEY: time.monotonic() + proxy.LINK_LIFE}
    running.page.sessions = set()
    running.page.peers = Peers()
    return running


@pytest.fixture(scope="module")
def running() -> Iterator[Served]:
    fake = Starlette(
        routes=[
            Route("/big", big),
            Route("/away", away),
            Route("/ui-settings", settings),
            WebSocketRoute("/api/events/out", introduces),
            Route("/{rest:path}", echo, methods=["GET", "POST", "PATCH"]),
        ]
    )
    with ExitStack() as ends:
        behind, port = listening()
        ends.enter_context(serving(fake, behind))
        front, own = listening()
        page = proxy.Page(
            own,
            NAME,
            f"http://127.0.0.1:{port}",
            SECRET,
            KEY,
            tells_secret=True,
            paths=r"/(?!api/).*",
        )
        ends.enter_context(serving(proxy.application({own: page}), front))
        yield Served(page)


def test_a_link_opens_once_and_its_cookie_is_the_session(served):
    for path in ("/", "/api/flows", "/open", "/open?key=wrong", "/ui-settings"):
        shut = served.ask(path)
        assert shut.status_code == 401
        assert "sfda ui" in shut.text
        assert "www-authenticate" not in shut.headers  # a browser would ask for a password
    ahead = served.ask(f"/open?key={KEY}", headers={"Sec-Purpose": "prefetch"})
    assert ahead.status_code == 401
    opened = served.ask(f"/open?key={KEY}")
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    set_cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in set_cookie
    assert "samesite=strict" in set_cookie.lower()
    assert KEY not in set_cookie
    session = {"cookie": set_cookie.partition(";")[0]}
    assert served.ask("/", headers=session).status_code == 200
    assert served.ask(f"/open?key={KEY}").status_code == 401
    assert served.ask("/", headers={"cookie": session["cookie"][:-1]}).status_code == 401
    assert served.ask("/", headers={"cookie": f"{served.page.cookie}="}).status_code == 401


def test_a_link_grows_old(served, monkeypatch):
    served.page.links[KEY] = time.monotonic() - 1
    assert served.ask(f"/open?key={KEY}").status_code == 401


def test_a_program_comes_in_by_the_secret_and_gets_new_links(served):
    program = {"authorization": BASIC}
    assert served.ask("/api/x", "PATCH", headers=program, json={}).status_code == 200
    for wrong in ("Basic wrong", "Basic", BASIC + "x", SECRET):
        assert served.ask("/api/x", headers={"authorization": wrong}).status_code == 401
    assert served.ask("/link", "POST").status_code == 401
    link = served.ask("/link", "POST", headers=program).json()["link"]
    assert link.startswith(f"{served.origin}/open?key=")
    path = link.removeprefix(served.origin)
    assert served.ask(path).status_code == 303
    assert served.ask(path).status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "localhost", "127.0.0.1", "127.0.0.1:1", NAME])
def test_a_foreign_host_is_refused(served, host):
    headers = served.cookie() | {"host": host}
    assert served.ask("/", headers=headers).status_code == 421
    assert served.ask("/", headers={"authorization": BASIC, "host": host}).status_code == 421


def test_by_the_number_of_its_port_a_page_opens_nothing_and_is_led_to(served):
    """Another user may have served there before: a tab left open, a service worker still would."""
    by_number = served.cookie() | {"host": served.page.address}
    same = {"origin": f"http://{served.page.address}", "sec-fetch-site": "same-origin"}
    for path, method in (("/api/x", "GET"), ("/api/x", "POST"), ("/x", "POST")):
        assert served.ask(path, method, headers=by_number | same).status_code == 401
    served.page.links = {KEY: time.monotonic() + 60}
    assert served.ask(f"/open?key={KEY}", headers=by_number).status_code == 401
    assert served.page.links  # it was not used up
    led = served.ask("/runs/flow-run/1?tab=%20a", headers=by_number)
    assert led.status_code == 307
    assert led.headers["location"] == f"{served.origin}/runs/flow-run/1?tab=%20a"
    with (
        pytest.raises(InvalidStatus),
        served.link(host=served.page.address, origin=same["origin"], additional_headers=by_number),
    ):
        pass
    program = {"authorization": BASIC, "host": served.page.address}
    assert served.ask("/api/x", "PATCH", headers=program, json={}).status_code == 200


@pytest.mark.parametrize(
    ("method", "headers", "code"),
    [
        ("POST", {"origin": "http://evil.example"}, 403),
        ("POST", {"origin": "http://127.0.0.1:1"}, 403),
        ("POST", {"origin": "null"}, 403),
        ("POST", {}, 403),
        ("PATCH", {"sec-fetch-site": "same-site"}, 403),
        ("POST", {"sec-fetch-site": "none"}, 403),
        ("GET", {"origin": "http://127.0.0.1:1"}, 403),
        ("GET", {"sec-fetch-site": "same-site", "sec-fetch-dest": "script"}, 403),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-dest": "iframe"}, 403),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}, 403),
        ("GET", {"sec-fetch-site": "none", "sec-fetch-dest": "document"}, 200),
        ("GET", {"sec-fetch-site": "same-origin", "sec-fetch-dest": "empty"}, 200),
        ("GET", {}, 200),
    ],
)
def test_another_origin_reads_and_changes_nothing(served, method, headers, code):
    """Such a page is on the same site, for ports do not count: the cookie comes with its call."""
    answer = served.ask("/api/x", method, headers=served.cookie() | headers)
    assert answer.status_code == code
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/", 200),
        ("/runs/flow-run/1", 200),
        ("/api/collections/views/demo-flows", 403),
        ("/x//ajax-api/2.0/x", 403),
        ("/%61pi/flows", 403),
        ("/get-artifact?path=x", 403),
    ],
)
def test_another_port_s_page_opens_pages_and_asks_nothing_by_it(served, path, code):
    opens = {"sec-fetch-site": "same-site", "sec-fetch-dest": "document"}
    assert served.ask(path, headers=served.cookie() | opens).status_code == code


def test_our_own_page_changes_what_it_likes(served):
    headers = served.cookie() | {"origin": served.origin, "sec-fetch-site": "same-origin"}
    assert served.ask("/api/x", "POST", headers=headers, json={}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/api/x", "/open?key=1", "/big", "/away", "/ui-settings"])
def test_every_answer_says_what_it_may(served, path):
    for headers in ({}, served.cookie(), {"host": "evil.example"}):
        answer = served.ask(path, headers=headers)
        policy = answer.headers.get_list("content-security-policy")
        assert len(policy) == 1
        if path.startswith("/api/"):
            assert policy[0].startswith("sandbox;")
        else:
            assert "default-src 'self'" in policy[0]
            assert f"connect-src 'self' ws://{served.page.host} blob:;" in policy[0]
            assert "frame-ancestors 'none'" in policy[0]
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["connection-allowlist"] == "(response-origin)"
        assert "unsafe-eval" not in policy[0]
        assert answer.headers["x-frame-options"] in ("DENY", "SAMEORIGIN")
        assert "access-control-allow-origin" not in answer.headers


def test_the_secret_is_put_in_and_the_session_left_out(served):
    session = served.cookie()
    headers = {
        "cookie": f"{session['cookie']}; theme=dark", "referer": f"{served.origin}/open?key=1",
        "x-forwarded-for": "1.2.3.4", "connection": "x-mine", "x-mine": "1", "x-kept": "1",
        "x-name": "Zo\xeb".encode("latin-1"),
    }  # fmt: skip
    answer = served.ask("/a%2Fb?c=%20d", headers=headers)
    heard = answer.json()
    assert (heard["path"], heard["query"]) == ("/a%2Fb", "c=%20d")
    assert heard["headers"]["authorization"] == BASIC
    assert heard["headers"]["cookie"] == "theme=dark"
    assert heard["headers"]["x-kept"] == "1"
    assert heard["headers"]["x-name"] == "Zo\xeb"
    assert not {"referer", "x-forwarded-for", "x-mine", "origin"} & set(heard["headers"])
    assert "x-hop" not in answer.headers
    assert BASIC not in str(answer.headers)


def test_a_redirect_stays_on_this_side(served):
    answer = served.ask("/away", headers=served.cookie())
    assert answer.headers["location"] == "/there?a=1"


def test_bodies_stream_both_ways(served):
    headers = {"authorization": BASIC}
    assert len(served.ask("/big", headers=headers).content) == BIG
    sent = served.ask("/api/x", "POST", headers=headers, content=iter([b"x" * 1000] * 500))
    assert sent.json()["size"] == 500_000


def test_what_is_too_large_is_refused(served, monkeypatch):
    monkeypatch.setattr(proxy, "BODY_LIMIT", 1000)
    headers = {"authorization": BASIC}
    assert served.ask("/api/x", "POST", headers=headers, content=b"x" * 1001).status_code == 413
    parts = iter([b"x" * 600] * 2)
    assert served.ask("/api/x", "POST", headers=headers, content=parts).status_code == 413


def test_the_page_of_prefect_need_not_ask_for_the_secret(served):
    message = served.ask("/ui-settings", headers=served.cookie()).json()
    assert message == {"auth": None, "api_url": "x"}


def test_a_websocket_of_our_page_is_introduced_with_the_secret(served):
    headers = served.cookie()
    with served.link(origin=served.origin, additional_headers=headers) as link:
        assert link.subprotocol == "prefect"
        link.send(json.dumps({"type": "auth", "token": None}))
        assert json.loads(link.recv(5)) == {"type": "auth_success"}
        link.send("hello")
        assert link.recv(5) == "HELLO"


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null"])
def test_a_websocket_of_another_origin_is_refused(served, origin):
    headers = served.cookie()
    with pytest.raises(InvalidStatus), served.link(origin=origin, additional_headers=headers):
        pass


def test_a_websocket_without_a_session_is_refused(served):
    with pytest.raises(InvalidStatus), served.link(origin=served.origin):
        pass


def test_a_cookie_or_link_in_the_hands_of_another_user_opens_nothing(served, monkeypatch):
    """Cookies do not tell ports apart: another user's server here gets ours, and could use it."""
    headers = served.cookie() | {"origin": served.origin, "x-forwarded-for": "127.0.0.1"}
    (key,) = served.page.links = {"new": time.monotonic() + 60}
    monkeypatch.setattr(served.page.peers, "lookup", lambda end, other: os.geteuid() + 1)
    assert served.ask("/", headers=headers).status_code == 403
    assert served.ask("/api/x", "POST", headers=headers, json={}).status_code == 403
    assert served.ask(f"/open?key={key}").status_code == 403
    with (
        pytest.raises(InvalidStatus),
        served.link(origin=served.origin, additional_headers=headers),
    ):
        pass
    program = {"authorization": BASIC}
    assert served.ask("/", headers=program).status_code == 200  # who knows the secret is this user
    monkeypatch.undo()
    assert served.ask("/", headers=headers).status_code == 200
    assert served.ask(f"/open?key={key}").status_code == 303  # it was not used up


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_another_user_with_the_cookie_is_refused(served):
    """The same with real sockets."""
    headers = served.cookie()
    words = f"GET / HTTP/1.1\r\nHost: {served.page.host}\r\n"
    words += f"Cookie: {headers['cookie']}\r\nConnection: close\r\n\r\n"
    program = (
        "import os, socket, sys\n"
        "os.setuid(int(sys.argv[1]))\n"
        "line = socket.socket()\n"
        f"line.connect(('127.0.0.1', {served.page.port}))\n"
        f"line.sendall({words.encode()!r})\n"
        "print(line.recv(12).decode())\n"
    )
    for user, code in ((65534, 403), (0, 200)):
        output = subprocess.run(
            [sys.executable, "-c", program, str(user)], capture_output=True, text=True, check=True
        ).stdout
        assert output == f"HTTP/1.1 {code}\n"


@pytest.mark.parametrize(("token", "comes_in"), [(SECRET, True), ("", False), (None, False)])
def test_a_websocket_of_a_program_tells_the_secret_itself(served, token, comes_in):
    with served.link() as link:
        link.send(json.dumps({"type": "auth", "token": token}))
        if comes_in:
            assert json.loads(link.recv(5)) == {"type": "auth_success"}
        else:
            with pytest.raises(ConnectionClosed):
                link.recv(5)


@pytest.mark.parametrize(
    "first",
    [
        "GET /static-files/../get-artifact?path=x",
        "GET /static-files/%2e%2e/get-artifact",
        "GET /static-files/..%2fget-artifact",
        "GET /static-files/..;x/get-artifact",
        "GET /static-files/..%5cget-artifact",
        "GET //evil.example/x",
        "GET http://evil.example/x",
        "GET @evil.example/x",
        "OPTIONS *",
    ],
)
def test_an_address_that_another_reads_otherwise_is_refused(served, first):
    assert raw(served, first) == b"HTTP/1.1 400"
    assert raw(served, "GET /static-files/..a/b.") == b"HTTP/1.1 200"


def test_a_body_that_ends_in_two_places_is_refused(served):
    for length in ("5\r\nTransfer-Encoding: chunked", "5\r\nContent-Length: 6", "x", "-1"):
        assert raw(served, "POST /api/x", f"Content-Length: {length}\r\n") == b"HTTP/1.1 400"


def raw(served, first, more=""):
    """The first bytes of the answer to a program that writes by itself."""
    words = f"{first} HTTP/1.1\r\nHost: {served.page.host}\r\nAuthorization: {BASIC}\r\n"
    with socket.create_connection(("127.0.0.1", served.page.port), 10) as line:
        line.sendall(f"{words}{more}Connection: close\r\n\r\n0\r\n\r\n".encode())
        return line.recv(12)


def test_scripts_of_a_page_may_what_it_needs_and_data_never():
    front, own = listening()
    page = proxy.Page(
        own, NAME, "http://127.0.0.1:9", SECRET, KEY, paths="/", scripts=" 'unsafe-eval'"
    )
    with serving(proxy.application({own: page}), front):
        policy = [Served(page).ask(path).headers["content-security-policy"] for path in ("/", "/x")]
    assert "script-src 'self' 'unsafe-eval';" in policy[0]
    assert "script-src" not in policy[1]


def test_a_server_that_is_away_is_told_of():
    front, own = listening()
    page = proxy.Page(own, NAME, "http://127.0.0.1:9", SECRET, KEY)
    with serving(proxy.application({own: page}), front):
        answer = Served(page).ask("/", headers={"authorization": BASIC})
    assert answer.status_code == 502
    assert "content-security-policy" in answer.headers
