"""A handler in memory: its handshake, messages and end, in every form and for both twins."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.testing.twins import twins
from unisock import (
    SyncWebSocket,
    WebSocket,
    WebSocketDisconnect,
    WebSocketEndpoint,
)
from unisock.testing import (
    Connect,
    connect,
)


async def echo(ws: WebSocket) -> None:
    await ws.accept(subprotocol=ws.subprotocols[0] if ws.subprotocols else None)
    async for message in ws:
        await ws.send(message)


def plain_echo(ws: SyncWebSocket) -> None:
    ws.accept(subprotocol=ws.subprotocols[0] if ws.subprotocols else None)
    for message in ws:
        ws.send(message)


class Echo(WebSocketEndpoint):
    async def on_connect(self, ws: WebSocket) -> None:
        await ws.accept(subprotocol=ws.subprotocols[0] if ws.subprotocols else None)

    async def on_receive(self, ws: WebSocket, data: Any) -> None:
        await ws.send(data)


# Messages


@pytest.mark.parametrize("handler", [echo, plain_echo, Echo])
@twins
async def test_messages(connect: Connect, handler: Any) -> None:
    async with connect(handler, subprotocols=["chat", "other"]) as peer:
        assert peer.accepted_subprotocol == "chat"
        await peer.send_text("text")
        assert await peer.receive_text() == "text"
        await peer.send_bytes(b"bytes")
        assert await peer.receive_bytes() == b"bytes"
        await peer.send_json({"a": ["é"]})
        assert await peer.receive() == '{"a":["é"]}'
        await peer.send_json([1], binary=True)
        assert await peer.receive_json(list[int]) == [1]
        await peer.send_fragments(b"a", b"b")
        assert await peer.receive() == b"ab"
        assert not peer.closed
        assert (peer.close_code, peer.close_reason) == (None, None)
    assert (peer.close_code, peer.exception) == (1000, None)


@twins
async def test_a_wait_for_nothing(connect: Connect) -> None:
    async with connect(echo) as peer:
        assert await peer.receive_nothing(0.01)
        await peer.send("a")
        await peer.send("b")
        assert not await peer.receive_nothing(10)
        assert [await peer.receive(), await peer.receive()] == ["a", "b"]


# The handshake


async def tell(ws: WebSocket) -> None:
    await ws.accept(headers={"X-Answer": "42"})
    client = ws.client
    assert client is not None
    query, header = ws.query_params.getall("x", []), ws.headers.getall("x-a", [])
    user = getattr(ws.state, "user", None)
    await ws.send_json([ws.url, ws.path_params, query, header, ws.cookies, client.host, user])


@twins
async def test_the_handshake_is_as_asked_for(connect: Connect) -> None:
    url = "wss://app.example/rooms/7?x=1&x=%20"
    async with connect(
        tell,
        url,
        path="/rooms/{room:int}",
        headers=[("X-A", "1"), ("x-a", "2")],
        cookies={"a": "1", "b": "2"},
        client=("198.51.100.7", 1234),
        state={"user": "ann"},
    ) as peer:
        query, header, cookies = ["1", " "], ["1", "2"], {"a": "1", "b": "2"}
        told = [url, {"room": 7}, query, header, cookies, "198.51.100.7", "ann"]
        assert await peer.receive_json() == told
        assert peer.accepted_headers["x-answer"] == "42"
        assert peer.accepted_subprotocol is None


@twins
async def test_the_handshake_by_default(connect: Connect) -> None:
    async with connect(tell, "/a b/%7Bü?x=ö") as peer:
        url = "ws://localhost/a%20b/%7B%C3%BC?x=%C3%B6"
        assert await peer.receive_json() == [url, {}, ["ö"], [], {}, "192.0.2.1", None]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"url": "rooms"}, ValueError, "is no URL of a WebSocket"),
        ({"url": "/rooms/x", "path": "/rooms/{n:int}"}, ValueError, "is no instance of path="),
        ({"subprotocols": "chat"}, TypeError, r"\['chat'\]"),
        ({"headers": {"a": "b\r\nc: d"}}, ValueError, "no line break"),
        ({"timeout": 0}, ValueError, "timeout="),
        ({"on": "django"}, ValueError, "use one of "),
        ({"on": "asgi", "url": "wss://a/"}, TypeError, "in memory"),
        ({"target": object()}, TypeError, "a handler is"),
    ],
    # Without addresses: the same in each process that runs a part of the tests.
    ids=lambda value: re.sub(r" at 0x\w+", "", str(value)),
)
@twins
async def test_wrong_arguments(
    connect: Connect, arguments: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        options: dict[str, Any] = {"target": echo, **arguments}
        async with connect(options.pop("target"), **options):
            pass


# Ends


@dataclasses.dataclass
class Seen:
    """What the handler has seen of its end, told in this order."""

    seen: list[Any] = dataclasses.field(default_factory=list)

    async def __call__(self, ws: WebSocket) -> None:
        await ws.accept()
        async for message in ws:
            self.seen.append(message)
        self.seen.append((ws.close_code, ws.close_reason))


@twins
async def test_the_peer_closes(connect: Connect) -> None:
    handler = Seen()
    async with connect(handler) as peer:
        await peer.send("before")
        await peer.close(4001, "enough")
        await peer.close(4002, "a no-op")
        assert (peer.close_code, peer.close_reason) == (4001, "enough")
        with pytest.raises(WebSocketDisconnect) as caught:
            await peer.receive()
        assert caught.value.code == 4001
    assert handler.seen == ["before", (4001, "enough")]


async def counts_down(ws: WebSocket) -> None:
    await ws.accept()
    await ws.send("2")
    await ws.send("1")
    await ws.close(4000, "lift-off")


@twins
async def test_the_handler_closes(connect: Connect) -> None:
    async with connect(counts_down) as peer:
        assert await peer.wait_closed() == (4000, "lift-off")
        assert [message async for message in peer] == ["2", "1"]
        assert (peer.close_code, peer.close_reason) == (4000, "lift-off")
        assert await peer.wait_closed() == (4000, "lift-off")


async def fails(ws: WebSocket) -> None:
    await ws.accept()
    raise ZeroDivisionError(await ws.receive())


@twins
async def test_a_failure_that_is_expected(connect: Connect) -> None:
    async with connect(fails, raises=(KeyError, ArithmeticError)) as peer:
        await peer.send("boom")
        assert await peer.wait_closed() == (1011, "")
    assert isinstance(peer.exception, ZeroDivisionError)


@twins
async def test_a_failed_assertion_is_not_hidden_by_the_handlers_end(connect: Connect) -> None:
    async def goes_on(ws: WebSocket) -> None:
        await ws.accept()
        await asyncio.Event().wait()

    with pytest.raises(AssertionError, match="the test's own") as caught:
        async with connect(goes_on, timeout=0.05):
            raise AssertionError("the test's own")
    assert any("for the handler to end" in note for note in caught.value.__notes__)


# Several


def test_no_framework_and_no_server_is_imported() -> None:
    # In a process of its own: here they may all be there already.
    source = (
        "import sys; from unisock.testing import connect\n"
        "async def handler(ws): await ws.accept()\n"
        "with connect(handler) as peer: peer.wait_closed()\n"
        "heavy = {'pytest', 'websockets', 'starlette', 'falcon', 'flask', 'gevent', 'uvicorn'}\n"
        "sys.exit(repr(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)\n"
    )
    subprocess.run([sys.executable, "-c", source], check=True)


# What is left behind


@twins
async def test_tasks_that_outlive_the_handler_can_be_allowed(connect: Connect) -> None:
    tasks: list[asyncio.Task[object]] = []

    async def leave(ws: WebSocket) -> None:
        tasks.append(asyncio.create_task(asyncio.Event().wait()))
        await ws.accept()

    async with connect(leave, check_leaks=False):
        assert not tasks[0].done()
    if tasks[0].get_loop().is_running():  # that of the test: nobody has ended it
        assert not tasks[0].done()
        tasks[0].cancel()
        await asyncio.wait(tasks)


@twins
async def test_a_peer_that_does_not_read_may_leave(connect: Connect) -> None:
    ended: list[int | None] = []

    async def flood(ws: WebSocket) -> None:
        await ws.accept()
        try:
            while True:
                await ws.send("never read")
        finally:
            ended.append(ws.close_code)

    async with connect(flood) as peer:
        peer.pause_reading()
    assert ended == [1000]


def test_the_loop_and_the_process_are_as_before() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = signal.getsignal(signal.SIGURG), loop.get_task_factory()
        handlers = list(logging.getLogger("unisock").handlers)
        async with connect(echo) as first, connect(echo) as second:
            assert (signal.getsignal(signal.SIGURG), loop.get_task_factory()) != before
            await first.close()
            await second.close()
        assert (signal.getsignal(signal.SIGURG), loop.get_task_factory()) == before
        assert logging.getLogger("unisock").handlers == handlers

    asyncio.run(main())
