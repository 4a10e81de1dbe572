"""A WebSocket of Prefect's page, passed on to Prefect's server."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

MESSAGE_LIMIT = 2**24  # bytes of one message


async def relay(link: WebSocket, base: str, secret: str | None) -> None:
    """Pass messages both ways until either side closes.

    With a `secret` the first message, by which Prefect's page introduces itself, tells that secret.
    """
    address = base.rstrip("/").replace("http", "ws", 1) + link.url.path
    if link.url.query:
        address += f"?{link.url.query}"
    asked = link.scope.get("subprotocols", [])
    try:
        async with connect(
            address,
            subprotocols=[Subprotocol(name) for name in asked] or None,
            max_size=MESSAGE_LIMIT,
            proxy=None,
        ) as upstream:
            await link.accept(upstream.subprotocol)
            ways = {
                asyncio.create_task(_upward(link, upstream, secret)),
                asyncio.create_task(_downward(link, upstream)),
            }
            _, open_ways = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in open_ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
    except (OSError, InvalidHandshake, ConnectionClosed):
        with suppress(RuntimeError):  # it is closed already
            await link.close(1011)


async def _upward(link: WebSocket, upstream: ClientConnection, secret: str | None) -> None:
    while True:
        message = await link.receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        if text is not None and secret is not None:
            text, secret = _introduced(text, secret), None
        await upstream.send(text if text is not None else message["bytes"])


async def _downward(link: WebSocket, upstream: ClientConnection) -> None:
    try:
        async for message in upstream:
            if isinstance(message, str):
                await link.send_text(message)
            else:
                await link.send_bytes(message)
        await link.close(upstream.close_code or 1000)
    except (ConnectionClosed, WebSocketDisconnect, RuntimeError):
        return


def _introduced(text: str, secret: str) -> str:
    try:
        message = json.loads(text)
    except ValueError:
        return text
    if isinstance(message, dict) and message.get("type") == "auth":
        return json.dumps({**message, "token": secret})
    return text
