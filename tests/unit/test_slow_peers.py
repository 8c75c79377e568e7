"""A peer that does not read, and the bounds of what waits for it or from it."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.memory import MemoryTransport, with_websocket
from unisock import WebSocket, WebSocketDisconnect
from unisock.transport import Inbox


def test_the_handler_learns_of_an_oversize_message_though_the_peer_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("unisock.transport._FAIL_TIMEOUT", 0.01)

    async def body(ws: WebSocket, transport: MemoryTransport) -> None:
        transport.flowing.clear()
        transport.peer_sends(b"x" * 11)
        async with asyncio.timeout(10):
            assert await ws.wait_closed() == 1009
        assert not transport.flowing.is_set()
        transport.flowing.set()

    with_websocket(body, max_message_size=10)


def test_close_waits_no_longer_than_its_timeout() -> None:
    async def body(ws: WebSocket, transport: MemoryTransport) -> None:
        transport.flowing.clear()
        async with asyncio.timeout(10):
            await ws.close(4001)
        assert not transport.flowing.is_set()
        assert ws.close_code == 4001

    with_websocket(body, close_timeout=0.01)


def test_the_inbox_counts_bytes_and_not_characters() -> None:
    async def main() -> None:
        inbox = Inbox(max_messages=1000, max_size=10_000, max_message_size=10_000)
        held = 0
        while inbox.put("\U0001f600" * 100):
            held += 400
        assert held < 10_000

    asyncio.run(main())


def test_an_error_of_the_body_in_the_turn_of_the_end_is_all_that_comes() -> None:
    async def body(ws: WebSocket, transport: MemoryTransport) -> None:
        with pytest.raises(LookupError):
            async with ws.while_connected():
                # As gevent's reader does, in the middle of the body's step.
                ws._inbox.disconnect(1001)
                raise LookupError
        await asyncio.sleep(0)  # what was under way does not strike here
        with pytest.raises(WebSocketDisconnect, match="1001"):
            await ws.receive()

    with_websocket(body)
