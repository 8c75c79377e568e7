"""Sends that wait for a peer that does not read, when the connection ends.

A server that stands still at every send is not to be had for the asking: these
speak ASGI themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from unisock import WebSocket, WebSocketDisconnect
from unisock.adapters.asgi import ASGIApp

SCOPE = {
    "type": "websocket",
    "asgi": {"spec_version": "2.4"},
    "path": "/",
    "query_string": b"",
    "headers": [],
}
DISCONNECT = {"type": "websocket.disconnect", "code": 4001, "reason": "bye"}


class Server:
    """A server whose peer does not read: each send waits until `written` is set."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.events.put_nowait({"type": "websocket.connect"})
        self.sending = 0
        self.waits = asyncio.Event()
        self.written = asyncio.Event()
        self.on_cancel: Callable[[], BaseException] | None = None
        self.sent: list[str] = []

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] != "websocket.send":
            return
        self.sending += 1
        assert self.sending == 1, "two sends at once"
        self.waits.set()
        try:
            await self.written.wait()
            self.sent.append(message["text"])
        except asyncio.CancelledError:
            if self.on_cancel is None:
                raise
            raise self.on_cancel() from None
        finally:
            self.sending -= 1

    async def run(
        self,
        handler: Callable[[WebSocket], Awaitable[None]],
        then: Callable[[asyncio.Task[None]], None],
    ) -> None:
        """Serve a connection; call `then` when a send waits."""
        app: Any = ASGIApp(handler)  # type: ignore[arg-type]  # a coroutine function
        serving = asyncio.create_task(app(SCOPE, self.events.get, self.send))
        await self.waits.wait()
        then(serving)
        async with asyncio.timeout(10):
            await serving


def test_the_peers_end_ends_every_send_that_waits() -> None:
    ends: list[object] = []

    async def send(ws: WebSocket) -> None:
        with pytest.raises(WebSocketDisconnect) as disconnect:
            await ws.send("never read")
        task = asyncio.current_task()
        assert task is not None
        ends.append((disconnect.value.code, disconnect.value.reason, task.cancelling()))

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(send(ws))

    async def main() -> None:
        server = Server()
        await server.run(handler, lambda _: server.events.put_nowait(DISCONNECT))

    asyncio.run(main())
    assert ends == [(4001, "bye", 0)] * 3


def test_a_server_that_makes_an_error_of_it() -> None:
    """The cancellation is not left behind to strike the handler later."""
    cancelling: list[int] = []

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        with pytest.raises(WebSocketDisconnect, match="4001"):
            await ws.send("never read")
        task = asyncio.current_task()
        assert task is not None
        cancelling.append(task.cancelling())

    async def main() -> None:
        server = Server()
        server.on_cancel = lambda: OSError("the connection is closed")
        await server.run(handler, lambda _: server.events.put_nowait(DISCONNECT))

    asyncio.run(main())
    assert cancelling == [0]


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_cancellation_by_others_is_none_of_ours(meanwhile: bool) -> None:
    """Before the send is broken off, and while that strikes."""
    seen: list[type[BaseException]] = []

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        try:
            await ws.send("never read")
        except BaseException as exc:
            seen.append(type(exc))
            raise

    async def main() -> None:
        server = Server()

        def end_and_cancel(serving: asyncio.Task[None]) -> None:
            def cancel() -> BaseException:
                serving.cancel()
                return asyncio.CancelledError()

            server.events.put_nowait(DISCONNECT)
            if meanwhile:
                server.on_cancel = cancel
            else:
                serving.cancel()

        with pytest.raises(asyncio.CancelledError):
            await server.run(handler, end_and_cancel)

    asyncio.run(main())
    assert seen == [asyncio.CancelledError]


def test_a_send_that_gets_through_is_left_alone() -> None:
    """The server learns of the end and of room for the message at once."""
    server_sent: list[str] = []

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        await ws.send("read in the end")
        with pytest.raises(WebSocketDisconnect, match="4001"):
            await ws.send("too late")
        await asyncio.sleep(0)  # no cancellation is under way

    async def main() -> None:
        server = Server()

        def end_and_write(_: object) -> None:
            server.events.put_nowait(DISCONNECT)
            server.written.set()

        await server.run(handler, end_and_write)
        server_sent.extend(server.sent)

    asyncio.run(main())
    assert server_sent == ["read in the end"]


def test_the_own_close_ends_a_send_that_waits_elsewhere() -> None:
    codes: list[int] = []

    async def send(ws: WebSocket) -> None:
        with pytest.raises(WebSocketDisconnect) as disconnect:
            await ws.send("never read")
        codes.append(disconnect.value.code)

    async def main() -> None:
        server = Server()
        close = asyncio.Event()

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            async with asyncio.TaskGroup() as group:
                group.create_task(send(ws))
                await close.wait()
                await ws.close(4002)

        await server.run(handler, lambda _: close.set())

    asyncio.run(main())
    assert codes == [4002]


def test_each_sender_has_its_turn() -> None:
    """In the order in which they came; one that is cancelled meanwhile is left out."""
    sent: list[str] = []

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        senders = [asyncio.create_task(ws.send(f"{n}")) for n in range(4)]

        async def send_again() -> None:
            await senders[0]
            await ws.send("0 again")

        again = asyncio.create_task(send_again())
        await asyncio.sleep(0)
        senders[2].cancel()
        await asyncio.wait([*senders, again])

    async def main() -> None:
        server = Server()
        await server.run(handler, lambda _: server.written.set())
        sent.extend(server.sent)

    asyncio.run(main())
    assert sent == ["0", "1", "3", "0 again"]
