"""Tests that are cancelled, handlers that do not end, servers that are shared."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from typing import Any

import anyio
import pytest

from tests.frameworks import FRAMEWORKS
from unisock import SyncWebSocket, WebSocket
from unisock.frameworks import find
from unisock.handlers import prepare
from unisock.testing import ConnectionRejected, PeerTimeout, connect
from unisock.testing.servers import SharedServer


async def echo(ws: WebSocket) -> None:
    await ws.accept()
    async for message in ws:
        await ws.send(message)


def nothing_is_left() -> None:
    assert SharedServer._open == []
    assert not [t.name for t in threading.enumerate() if t.name.startswith("unisock")]
    assert signal.getsignal(signal.SIGURG) == signal.SIG_DFL


@pytest.mark.parametrize("on", ["memory", *FRAMEWORKS])
def test_a_scope_that_cancels_at_every_await(on: str) -> None:
    with connect(echo, on=on, timeout=30):
        pass  # so that no import is among what is cancelled

    async def main() -> None:
        with anyio.move_on_after(0.3):
            async with connect(echo, on=on, timeout=30) as peer:
                await peer.receive()

    asyncio.run(main())
    nothing_is_left()


@pytest.mark.parametrize("on", ["starlette", "flask"])
def test_a_cancellation_while_the_server_starts(on: str) -> None:
    async def main() -> None:
        entering = asyncio.create_task(connect(echo, on=on).__aenter__())
        while not [t for t in threading.enumerate() if t.name == "unisock server"]:
            await asyncio.sleep(0)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering

    asyncio.run(main())
    nothing_is_left()


@pytest.mark.parametrize("on", [name for name in FRAMEWORKS if find(name).adapter])
def test_a_proxys_headers_hide_no_failure(on: str) -> None:
    async def fail(ws: WebSocket) -> None:
        await ws.accept()
        raise ZeroDivisionError(ws.state.name)

    headers = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
    with (
        pytest.raises(ZeroDivisionError, match="Ada"),
        connect(fail, on=on, headers=headers, state={"name": "Ada"}) as peer,
    ):
        peer.wait_closed()


def test_a_redirect_to_what_is_no_websocket() -> None:
    async def redirect(ws: WebSocket) -> None:
        await ws.reject(302, headers={"Location": "https://login.example/"})

    with pytest.raises(ConnectionRejected, match="302"), connect(redirect, on="starlette"):
        pytest.fail("it was entered")


def test_who_connects_while_a_server_stops_gets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    releasing, stopped = threading.Event(), threading.Event()
    first = SharedServer.acquire(echo, "starlette", "/")
    stop = first.thread.stop

    def stop_late() -> None:
        releasing.set()
        assert stopped.wait(30)
        stop()

    monkeypatch.setattr(first.thread, "stop", stop_late)
    release = threading.Thread(target=first.release)
    release.start()
    assert releasing.wait(30)
    second = SharedServer.acquire(echo, "starlette", "/")
    stopped.set()
    release.join()
    assert second is not first
    second.release()
    nothing_is_left()


def test_a_handler_that_cannot_be_ended_does_not_keep_a_plain_test() -> None:
    ended = threading.Event()

    async def stubborn(ws: WebSocket) -> None:
        await ws.accept()
        while not ended.is_set():
            try:
                await asyncio.to_thread(ended.wait)
            except asyncio.CancelledError:
                continue

    with pytest.raises(PeerTimeout, match="to end"), connect(stubborn, timeout=0.2):
        assert not ended.is_set()
    threads = [t for t in threading.enumerate() if t.name == "unisock test"]
    ended.set()
    for thread in threads:
        thread.join(30)
    nothing_is_left()


def test_a_handler_that_ends_the_process() -> None:
    async def leave(ws: WebSocket) -> None:
        await ws.accept()
        sys.exit(3)

    with pytest.raises(SystemExit, match="3"), connect(leave) as peer:
        peer.wait_closed()
    nothing_is_left()


def test_what_is_prepared_already() -> None:
    def plain(ws: SyncWebSocket) -> None:
        ws.accept()
        ws.send(ws.receive())

    handler: Any = prepare(plain, {"max_threads": 1})
    for on in ("memory", "starlette"):
        with connect(handler, on=on) as peer:
            peer.send("x")
            assert peer.receive() == "x"
    with pytest.raises(TypeError, match="its own options"):
        connect(handler, max_threads=2)


def test_one_connect_is_one_connection() -> None:
    connection = connect(echo)
    with connection, pytest.raises(RuntimeError, match="call connect"), connection:
        pytest.fail("it was entered")


@pytest.mark.parametrize("on", ["memory", "starlette"])
def test_tasks_that_are_allowed_serve_the_other_connections(on: str) -> None:
    """A chat's first member starts what its last one still needs."""
    gone = threading.Event()
    ticks: list[asyncio.Queue[str]] = []
    pumps: list[asyncio.Task[None]] = []

    async def pump() -> None:
        await asyncio.to_thread(gone.wait)
        await ticks[0].put("from the pump")

    async def chat(ws: WebSocket) -> None:
        await ws.accept()
        if not ticks:
            ticks.append(asyncio.Queue())
            pumps.append(asyncio.create_task(pump()))
            await ws.send("first")
        else:
            await ws.send(await ticks[0].get())

    async def main() -> None:
        async with connect(chat, on=on, check_leaks=False) as first:
            assert await first.receive() == "first"
            async with connect(chat, on=on, check_leaks=False) as last:
                async with connect(echo, on=on):
                    await first.wait_closed()
                gone.set()
                assert await last.receive() == "from the pump"

    asyncio.run(main())
    nothing_is_left()
