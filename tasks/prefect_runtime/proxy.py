"""What stands before MLflow's and Prefect's pages: a session, one origin, no way out of the page.

A process of its own, on loopback. `pages.py` starts it and tells it by standard input, as JSON,
what to serve: no secret is in its arguments or its environment.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import re
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

import httpx
import uvicorn
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from tasks.prefect_runtime.bounded_log import bound_log
from tasks.prefect_runtime.page_policy import (
    HOP,
    NOT_DOWN,
    NOT_UP,
    cookies_of,
    guards,
    is_ambiguous,
    is_page,
    named_in,
)
from tasks.prefect_runtime.peers import Peers
from tasks.prefect_runtime.served import end_with_input
from tasks.prefect_runtime.websocket_relay import relay

LINK_LIFE = 900.0  # seconds in which a link can be opened, once
BODY_LIMIT = 4 * 2**30  # bytes of one request: an uploaded artifact
SAFE = ("GET", "HEAD", "OPTIONS")
STRANGER = "This page is open to the user alone who started it."
SHUT = "This page opens by the link that `sfda ui` or `sfda serve` prints; each link opens it once."


@dataclass
class Page:
    """One server behind its own port: who may ask it, and what its answers may do in a browser."""

    port: int
    name: str  # of the host that browsers ask, which nobody had before: `pages.new_name`
    upstream: str  # http://127.0.0.1:PORT, or the path of a UNIX socket
    secret: str  # user:password, which opens the door to programs
    key: str  # of the first link
    tells_secret: bool = False  # whether the server behind demands the secret, too
    paths: str = ".*"  # pattern of the paths of the page and its scripts; all else is data
    scripts: str = ""  # what its scripts may beyond being loaded from here
    peers: Peers = field(default_factory=Peers)  # who may bring a link or a cookie
    links: dict[str, float] = field(default_factory=dict)
    sessions: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.links[self.key] = time.monotonic() + LINK_LIFE
        by_socket = self.upstream.startswith("/")
        self.base = httpx.URL("http://localhost" if by_socket else self.upstream)
        self.client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(
                uds=self.upstream if by_socket else None,
                limits=httpx.Limits(max_connections=200, keepalive_expiry=2),  # servers: 5 s
            ),
            timeout=httpx.Timeout(300, connect=10),
            trust_env=False,
        )
        self.address = f"127.0.0.1:{self.port}"  # for programs: a browser may know it as another's
        self.host = f"{self.name}:{self.port}"
        self.origin = f"http://{self.host}"
        self.cookie = f"sfda_{self.port}"  # cookies do not tell ports apart
        self.basic = "Basic " + base64.b64encode(self.secret.encode()).decode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(WebSocket(scope, receive, send))
        else:
            request = Request(scope, receive)
            response = await self._answer(request)
            self._guard(request.url.path, response)
            await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path, headers = request.url.path, request.headers
        if headers.get("host") not in (self.host, self.address):
            return PlainTextResponse("This page has another address.\n", 421)
        if is_ambiguous(request):
            return PlainTextResponse("This is no address of a page.\n", 400)
        if self._is_program(headers):
            if path == "/link" and request.method == "POST":
                return JSONResponse({"link": self._link()})
        elif not self._is_user(request):
            return PlainTextResponse(STRANGER + "\n", 403)
        elif headers.get("host") == self.address:
            return self._lead_on(request)
        elif path == "/open" and request.method == "GET":
            return self._open(request)
        elif not self._has_session(headers):
            return PlainTextResponse(SHUT + "\n", 401)
        elif not self._is_own(request):
            return PlainTextResponse("A page of another origin may not ask this one.\n", 403)
        try:
            if int(headers.get("content-length") or 0) > BODY_LIMIT:
                raise HTTPException(413)
            return await self._pass_on(request)
        except HTTPException as refusal:
            return PlainTextResponse("This is too large.\n", refusal.status_code)
        except ClientDisconnect:
            return Response(status_code=400)  # that nobody hears
        except (httpx.InvalidURL, httpx.LocalProtocolError):
            return PlainTextResponse("This cannot be passed on.\n", 400)
        except httpx.TransportError:
            return PlainTextResponse("The server behind this page does not answer.\n", 502)

    def _lead_on(self, request: Request) -> Response:
        """From the address by number, which may be bookmarked, to the page itself: a browser may
        still run scripts there, of a server that another user had at this port before."""
        path = request.scope["path"]
        if request.method != "GET" or path == "/open" or not is_page(path):
            return PlainTextResponse(SHUT + "\n", 401)
        query = request.scope["query_string"]
        target = request.scope["raw_path"] + (b"?" + query if query else b"")
        return Response(status_code=307, headers={"Location": self.origin + target.decode("ascii")})

    def _open(self, request: Request) -> Response:
        """Open a session by an unused key; a browser that only looks ahead does not use it."""
        ahead = "prefetch" in request.headers.get("sec-purpose", "")
        ends = None if ahead else self.links.pop(request.query_params.get("key", ""), None)
        if ends is None or ends < time.monotonic():
            return PlainTextResponse(SHUT + "\n", 401)
        session = secrets.token_urlsafe(32)
        self.sessions.add(session)
        response = Response(status_code=303, headers={"Location": "/"})
        response.set_cookie(self.cookie, session, httponly=True, samesite="strict", path="/")
        return response

    def _link(self) -> str:
        now = time.monotonic()
        self.links = {key: ends for key, ends in self.links.items() if ends > now}
        key = secrets.token_urlsafe(32)
        self.links[key] = now + LINK_LIFE
        return f"{self.origin}/open?key={key}"

    def _is_program(self, headers: Headers) -> bool:
        """Whether this comes with the home's secret, which no browser sends by itself."""
        return hmac.compare_digest(headers.get("authorization", "").encode(), self.basic.encode())

    def _is_user(self, call: HTTPConnection) -> bool:
        """Whether this user's own browser asks: a cookie goes to strangers' ports here, too."""
        client, server = call.scope.get("client"), call.scope.get("server")
        return self.peers.is_ours(client and tuple(client), server and tuple(server))

    def _has_session(self, headers: Headers) -> bool:
        cookie = cookies_of(headers).get(self.cookie)
        return cookie is not None and any(
            hmac.compare_digest(cookie.encode(), session.encode()) for session in self.sessions
        )

    def _is_own(self, request: Request) -> bool:
        """Whether our own page asks, or the person who opens an address."""
        headers, safe = request.headers, request.method in SAFE
        if (origin := headers.get("origin")) is not None and origin != self.origin:
            return False
        site = headers.get("sec-fetch-site", "same-origin" if safe or origin else "unknown")
        opened = headers.get("sec-fetch-dest") == "document" and is_page(request.scope["path"])
        return site == "same-origin" or (safe and (site == "none" or opened))

    async def _pass_on(self, request: Request) -> Response:
        path = request.scope.get("raw_path") or request.url.path.encode()
        query = request.scope["query_string"]
        has_body = {"content-length", "transfer-encoding"} & set(request.headers.keys())
        sent = self.client.build_request(
            request.method,
            self.base.copy_with(raw_path=path + (b"?" + query if query else b"")),
            headers=self._upward(request.headers),
            content=_bounded(request.stream()) if has_body else None,
        )
        if request.url.path == "/ui-settings":
            sent.headers["accept-encoding"] = "identity"
        answer = await self.client.send(sent, stream=True)
        if request.url.path == "/ui-settings" and answer.status_code == 200:
            return await _settings(answer)
        response = StreamingResponse(_body(answer), answer.status_code)
        response.raw_headers = list(self._downward(answer.headers))
        return response

    def _upward(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        hop = HOP | NOT_UP | named_in(headers.get("connection", ""))
        passed = [
            (name, value)
            for name, value in headers.items()
            if name not in hop and not name.startswith("x-forwarded-")
        ]
        others = {name: value for name, value in cookies_of(headers).items() if name != self.cookie}
        if others:
            passed.append(("cookie", "; ".join(f"{name}={v}" for name, v in others.items())))
        if "accept-encoding" not in headers:
            passed.append(("accept-encoding", "identity"))
        if self.tells_secret:
            passed.append(("authorization", self.basic))
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in passed]

    def _downward(self, headers: httpx.Headers) -> Iterable[tuple[bytes, bytes]]:
        hop = HOP | NOT_DOWN | named_in(headers.get("connection", ""))
        for name, value in headers.multi_items():
            if name in hop or name.startswith(("access-control-", "cross-origin-")):
                continue
            if name == "location":
                value = value.removeprefix(str(self.base).rstrip("/")) or "/"
            yield name.encode("latin-1"), value.encode("latin-1")

    def _guard(self, path: str, response: Response) -> None:
        scripts = self.scripts if re.fullmatch(self.paths, path) else None
        response.headers.update(guards(self.host, scripts))

    async def _websocket(self, link: WebSocket) -> None:
        origin = link.headers.get("origin")
        host = link.headers.get("host")
        own = host == self.host and origin == self.origin and self._has_session(link.headers)
        own = own and self._is_user(link)
        program = origin is None and self.tells_secret  # the server behind asks it for the secret
        foreign = host not in (self.host, self.address) or is_ambiguous(link)
        if foreign or not (own or program):
            await link.close(1008)
            return
        await relay(link, str(self.base), self.secret if own else None)


async def _bounded(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    size = 0
    async for part in stream:
        size += len(part)
        if size > BODY_LIMIT:
            raise HTTPException(413)
        yield part


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in answer.aiter_raw():
            yield part
    finally:
        await answer.aclose()


async def _settings(answer: httpx.Response) -> Response:
    """What Prefect's page reads first: it need not ask for the secret, which is put in here."""
    settings = json.loads(await answer.aread())
    return JSONResponse({**settings, "auth": None})


def application(pages: dict[int, Page]) -> ASGIApp:
    """All pages as one program, told apart by the port that was called."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        await pages[scope["server"][1]](scope, receive, send)

    return run


def main() -> None:
    """Serve what a line of standard input tells: a list of pages, each with the descriptor it
    listens on. It ends where standard input does."""
    pages: dict[int, Page] = {}
    sockets = []
    records = json.loads(sys.stdin.readline())
    end_with_input()
    bound_log()
    for record in records:
        sockets.append(socket.socket(fileno=record.pop("descriptor")))
        page = Page(port=sockets[-1].getsockname()[1], **record)
        pages[page.port] = page
    config = uvicorn.Config(
        application(pages),
        lifespan="off",
        log_level="warning",
        access_log=False,  # an address may hold a key
        server_header=False,
        proxy_headers=False,  # who calls is seen by the connection, whatever is written in the call
        ws_max_size=2**24,
        timeout_graceful_shutdown=2,
    )
    asyncio.run(uvicorn.Server(config).serve(sockets))


if __name__ == "__main__":
    main()
