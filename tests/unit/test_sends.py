"""How long a send may wait, where the core minds that."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from tests.unit.memory import MemoryTransport, turn, with_websocket
from unisock import SyncWebSocket, WebSocket, WebSocketDisconnect, WebSocketEndpoint
from unisock.testing import connect

ENDS: list[tuple[int, str]] = []
REASON = "the peer took nothing for 0.1 seconds"


async def sends(ws: WebSocket) -> None:
    """Send until that fails, and receive."""
    await ws.accept()
    for call in (fill(ws), ws.receive()):
        with pytest.raises(WebSocketDisconnect) as caught:
            await call
        ENDS.append((caught.value.code, caught.value.reason))


async def fill(ws: WebSocket) -> None:
    """Send for ever."""
    while True:
        await ws.send(b"x")
        await ws.send_text("y")


class Sends(WebSocketEndpoint):
    """The same, as a class."""

    async def on_connect(self, ws: WebSocket) -> None:
        """Send."""
        await sends(ws)


def sends_blocking(ws: SyncWebSocket) -> None:
    """The same, as a plain function."""
    ws.accept()
    for call in (lambda: ws.send(b"x"), ws.receive):
        with pytest.raises(WebSocketDisconnect) as caught:
            while True:
                call()
        ENDS.append((caught.value.code, caught.value.reason))


@pytest.mark.parametrize("handler", [sends, Sends, sends_blocking])
def test_a_peer_that_reads_nothing_is_gone(handler: Any) -> None:
    ENDS.clear()

    async def main() -> None:
        async with connect(handler, send_timeout=0.1) as peer, asyncio.timeout(10):
            peer.pause_reading()
            assert await peer.wait_closed() == (1006, "")

    asyncio.run(main())
    assert ENDS == [(1006, REASON)] * 2


def test_each_send_that_is_done_is_progress() -> None:
    async def body(ws: WebSocket, transport: MemoryTransport) -> None:
        # Never waits for long, and always for something.
        for _ in range(12):
            transport.flowing.clear()
            asyncio.get_running_loop().call_later(0.05, transport.flowing.set)
            await ws.send("x")
        assert not ws.closed

    with_websocket(body, send_timeout=0.2)


def test_without_a_limit_it_waits() -> None:
    async def body(ws: WebSocket, transport: MemoryTransport) -> None:
        assert ws._clock is None
        await ws.send("x")

    with_websocket(body, send_timeout=None)


def test_a_clock_without_sends_stops() -> None:
    async def body(ws: WebSocket, transport: MemoryTransport) -> None:
        clock = ws._clock
        assert clock is not None
        await ws.send("x")
        assert clock.is_running
        async with asyncio.timeout(10):
            while clock.is_running:
                await turn()
        await ws.send("x")
        assert clock.is_running

    with_websocket(body, send_timeout=0.04)


def test_it_keeps_no_connection() -> None:
    async def main() -> None:
        refs: list[weakref.ref[object]] = []

        async def handler(ws: WebSocket) -> None:
            refs.append(weakref.ref(ws._handshake))
            await ws.accept()
            await ws.send("x")

        async with connect(handler, send_timeout=1000) as peer:
            await peer.receive()
        del peer
        await turn()
        gc.collect()
        assert refs[0]() is None

    asyncio.run(main())
