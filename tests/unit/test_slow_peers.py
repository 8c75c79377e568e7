"""A peer that does not read, and the bounds of what waits for it or from it."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.memory import MemoryTransport, turn, with_websocket
from unisock import WebSocket, WebSocketDisconnect
from unisock.testing import connect
from unisock.transport import Inbox


def test_the_handler_learns_of_an_oversize_message_though_the_peer_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("unisock.transport._FAIL_TIMEOUT", 0.01)

    async def main() -> None:
        codes: asyncio.Queue[int] = asyncio.Queue()

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            codes.put_nowait(await ws.wait_closed())

        async with connect(handler, max_message_size=10) as peer, asyncio.timeout(10):
            peer.pause_reading()
            await peer.send(b"x" * 11)
            assert await codes.get() == 1009

    asyncio.run(main())


def test_close_waits_no_longer_than_its_timeout() -> None:
    async def main() -> None:
        codes: asyncio.Queue[int | None] = asyncio.Queue()

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            await ws.receive()
            await ws.close(4001)
            codes.put_nowait(ws.close_code)

        async with connect(handler, close_timeout=0.01) as peer, asyncio.timeout(10):
            peer.pause_reading()
            await peer.send("go on")
            assert await codes.get() == 4001

    asyncio.run(main())


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
        await turn()  # what was under way does not strike here
        with pytest.raises(WebSocketDisconnect, match="1001"):
            await ws.receive()

    with_websocket(body)
