"""Tests written badly on purpose: each ends by itself, and is told what is wrong."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from tests.testing.twins import TWINS, run
from unisock import (
    SocketView,
    WebSocket,
    WebSocketDisconnect,
    WebSocketEndpoint,
    on_message,
)
from unisock.testing import (
    Connect,
    ConnectionRejected,
    LeakedTasks,
    PeerError,
    PeerTimeout,
    UnexpectedMessage,
    connect,
)

WHERE = (None, "starlette", "flask")
# Long enough for what should come, on a slow machine too.
TIMEOUTS = {None: 0.2, "starlette": 0.3, "flask": 0.3}

Where = dict[str, Any]
Test = Callable[[Connect, Where], Coroutine[Any, Any, None]]
BAD: list[Any] = []


def bad(error: type[BaseException], *says: str) -> Callable[[Test], Test]:
    def add(test: Test) -> Test:
        BAD.append(pytest.param(test, error, says, id=test.__name__))
        return test

    return add


# Threads that a handler blocks wait here, and are let go after each test.
let_go = threading.Event()


@pytest.mark.parametrize("on", WHERE, ids=str)
@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize(("test", "expected", "says"), BAD)
def test_ends_and_says_why(
    test: Test, expected: type[BaseException], says: tuple[str, ...], twin: str, on: str | None
) -> None:
    let_go.clear()
    try:
        with pytest.raises(BaseException) as caught:
            run(twin, test, where={"on": on, "timeout": TIMEOUTS[on]})
    finally:
        let_go.set()
    error = caught.value
    text = "\n".join([str(error), *getattr(error, "__notes__", [])])
    assert type(error) is expected, text
    for said in says:
        assert said in text


async def greet(ws: WebSocket) -> None:
    await ws.accept()
    await ws.send("hello")
    await ws.receive()  # the line of greet


def silent(attributes: dict[str, Any]) -> type[WebSocketEndpoint]:
    return type("Silent", (WebSocketEndpoint,), attributes)


@dataclass
class Join:
    type: Literal["join"] = "join"


@on_message(Join)
async def join(self: Any, ws: WebSocket, message: Join) -> None:
    await ws.send("joined")


ENDPOINTS = [
    silent(attributes)
    for attributes in ({}, {"encoding": "text"}, {"encoding": "json"}, {"join": join})
]

for _endpoint in ENDPOINTS:

    @bad(
        PeerTimeout,
        "for a message from the handler",
        "the handler Silent is at:\n  (no code of yours: it waits for its next message)",
    )
    async def endpoint_waits(
        connect: Connect, where: Where, endpoint: type[WebSocketEndpoint] = _endpoint
    ) -> None:
        async with connect(endpoint, **where) as peer:
            await peer.receive()


class View(SocketView):
    encoding = "bytes"


@bad(PeerTimeout, "the handler View is at:\n  (no code of yours: it waits for its next message)")
async def view_waits(connect: Connect, where: Where) -> None:
    async with connect(View, **where) as peer:
        await peer.receive()


async def gives_up(ws: WebSocket) -> None:
    await ws.accept()
    with suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            while True:
                await ws.send(b"x" * 65536)


def test_it_is_told_that_the_close_waits_for_the_peer() -> None:
    with pytest.raises(PeerTimeout) as caught, connect(gives_up, timeout=0.3) as peer:
        peer.pause_reading()
        peer.wait_closed()
    assert "is at:\n  (no code of yours: it closes the connection, and waits" in str(caught.value)


async def sends_much(ws: WebSocket) -> None:
    await ws.accept()
    while True:
        await ws.send(b"x" * 65536)  # the line of sends_much


@pytest.mark.parametrize("on", WHERE, ids=str)
def test_the_server_s_own_lines_are_left_out(on: str | None) -> None:
    where: Where = {} if on is None else {"on": on}
    with pytest.raises(PeerTimeout) as caught, connect(sends_much, timeout=0.5, **where) as peer:
        peer.pause_reading()
        peer.wait_closed()
    _, _, stack = str(caught.value).partition("is at:\n")
    assert "# the line of sends_much" in stack.split("\n")[1]
    assert stack.count("  File ") == 1


@bad(
    PeerTimeout,
    "for a message from the handler",
    "# the line of greet",
    "it has sent 1 message: 'hello'",
    "hint: send it what it waits for",
)
async def waits_for_what_never_comes(connect: Connect, where: Where) -> None:
    async with connect(greet, **where) as peer:
        await peer.receive()
        await peer.receive()


async def never_accepts(ws: WebSocket) -> None:
    await asyncio.Event().wait()  # the line of never_accepts


@bad(
    PeerTimeout,
    "for the handler to call accept() or reject()",
    "# the line of never_accepts",
    "hint: have it call one of them",
)
async def waits_for_accept(connect: Connect, where: Where) -> None:
    async with connect(never_accepts, **where):
        pytest.fail("it was entered")


async def deadlocks(ws: WebSocket) -> None:
    await ws.accept()
    lock = asyncio.Lock()
    async with lock, asyncio.TaskGroup() as group:
        group.create_task(take(lock), name="the second")


async def take(lock: asyncio.Lock) -> None:
    async with lock:  # the line of take
        pass


@bad(
    PeerTimeout,
    "for a message from the handler",
    "its task the second is at:",
    "# the line of take",
)
async def waits_for_a_deadlock(connect: Connect, where: Where) -> None:
    async with connect(deadlocks, **where) as peer:
        await peer.receive()


async def blocks(ws: WebSocket) -> None:
    await ws.accept()
    let_go.wait()  # the line of blocks


@bad(PeerTimeout, "# the line of blocks", "asyncio.to_thread()")
async def waits_for_what_blocks(connect: Connect, where: Where) -> None:
    async with connect(blocks, **where) as peer:
        await peer.receive()


async def deaf(ws: WebSocket) -> None:
    await ws.accept()
    await asyncio.Event().wait()  # the line of deaf


@bad(PeerTimeout, "for the handler to receive", "# the line of deaf", "hint: have it receive")
async def handler_forgets_to_receive(connect: Connect, where: Where) -> None:
    async with connect(deaf, max_queue=4, **where) as peer:
        while True:
            await peer.send(b"x" * 1_000_000)


@bad(PeerTimeout, "for the handler to end", "# the line of deaf")
async def handler_does_not_notice_the_end(connect: Connect, where: Where) -> None:
    async with connect(deaf, **where) as peer:
        await peer.close()


async def floods(ws: WebSocket) -> None:
    await ws.accept()
    while True:
        await ws.send(b"x" * 100_000)  # the line of floods


@bad(PeerTimeout, "for the handler to close", "# the line of floods", "it has sent ")
async def forgets_to_receive(connect: Connect, where: Where) -> None:
    async with connect(floods, **where) as peer:
        await peer.wait_closed()


# Ends


async def forgetful(ws: WebSocket) -> None:
    pass


@bad(ConnectionRejected, "403", "forgetful, path '/'", "returned without accept()")
async def handler_returns_without_accept(connect: Connect, where: Where) -> None:
    async with connect(forgetful, **where):
        pytest.fail("it was entered")


async def raises_first(ws: WebSocket) -> None:
    raise ZeroDivisionError("first")


@bad(ZeroDivisionError, "first")
async def handler_raises_before_accept(connect: Connect, where: Where) -> None:
    async with connect(raises_first, **where):
        pytest.fail("it was entered")


async def raises_later(ws: WebSocket) -> None:
    await ws.accept()
    await ws.receive()
    raise ZeroDivisionError("later")


@bad(ZeroDivisionError, "later")
async def handler_raises(connect: Connect, where: Where) -> None:
    async with connect(raises_later, **where) as peer:
        await peer.send("")
        await peer.receive()


@bad(PeerError, "has not raised", "KeyError")
async def handler_does_not_raise(connect: Connect, where: Where) -> None:
    async with connect(greet, raises=KeyError, **where) as peer:
        await peer.receive()


async def closes_early(ws: WebSocket) -> None:
    await ws.accept()
    await ws.send("only this")
    await ws.close(4001, "early")


@bad(WebSocketDisconnect, "4001", "had ended when the peer waited", "sent 1 message: 'only this'")
async def handler_closes_early(connect: Connect, where: Where) -> None:
    async with connect(closes_early, **where) as peer:
        await peer.receive()
        await peer.receive()


async def leaks(ws: WebSocket) -> None:
    await ws.accept()
    ws.state.task = asyncio.create_task(left_behind())


async def left_behind() -> None:
    await asyncio.Event().wait()


@bad(LeakedTasks, "the handler leaks has ended", "left_behind", "ws.start_soon()")
async def handler_leaks_a_task(connect: Connect, where: Where) -> None:
    async with connect(leaks, **where) as peer:
        await peer.wait_closed()


# Messages


async def sends_bytes(ws: WebSocket) -> None:
    await ws.accept()
    await ws.send(b'{"n": 1}')


@bad(UnexpectedMessage, "sent a binary one", "receive_bytes()")
async def handler_sends_the_other_kind(connect: Connect, where: Where) -> None:
    async with connect(sends_bytes, **where) as peer:
        await peer.receive_text()
