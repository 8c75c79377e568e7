"""The wire on a server that unisock has no adapter for, by real sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import websockets.sync.client as client
from tornado.httpserver import HTTPServer
from tornado.web import Application
from websockets.exceptions import ConnectionClosed, InvalidStatus

from unisock import WebSocket

from . import tornado_carrier
from .peer import frame

_PATIENCE = 20.0


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A Tornado server in a thread."""

    async def echo(ws: WebSocket) -> None:
        await ws.accept()
        async for message in ws:
            await ws.send(message)

    async def room(ws: WebSocket) -> None:
        await ws.accept(subprotocol=ws.subprotocols[0], headers={"x-room": ws.path_params["room"]})
        await ws.close(4000, "enough")

    async def refuse(ws: WebSocket) -> None:
        await ws.reject(418, b"a teapot")

    async def fill(ws: WebSocket) -> None:
        await ws.accept()
        for _ in range(200):
            await ws.send(bytes(100_000))
        await ws.close(4000, "all of it")

    app = Application(
        [
            ("/echo", tornado_carrier.route(echo)),
            (r"/rooms/(?P<room>\w+)", tornado_carrier.route(room)),
            ("/refuse", tornado_carrier.route(refuse)),
            ("/fill", tornado_carrier.route(fill, close_timeout=5.0)),
        ]
    )
    ports: list[int] = []
    started, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        server = HTTPServer(app)
        server.listen(0, "127.0.0.1")
        ports.extend(s.getsockname()[1] for s in server._sockets.values())
        loops.append(asyncio.get_running_loop())
        started.set()
        await stop.wait()
        server.stop()
        await server.close_all_connections()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert started.wait(_PATIENCE)
    yield ports[0]
    loops[0].call_soon_threadsafe(stop.set)
    thread.join(_PATIENCE)
    assert not thread.is_alive()


def test_it_takes_little() -> None:
    lines = Path(tornado_carrier.__file__).read_text().splitlines()
    assert len(lines) <= 140


def test_it_echoes(port: int) -> None:
    with client.connect(f"ws://127.0.0.1:{port}/echo", compression=None) as ws:
        for message in ("hello", b"\0\1", "", "x" * 200_000, b"y" * 1_000_000):
            ws.send(message)
            assert ws.recv(_PATIENCE) == message
        ws.send(["in ", "fragments"])
        assert ws.recv(_PATIENCE) == "in fragments"
        assert ws.ping().wait(_PATIENCE)
        ws.close(4001, "bye")
        assert ws.close_code == 4001


def test_it_closes_with_a_reason(port: int) -> None:
    url = f"ws://127.0.0.1:{port}/rooms/red"
    with client.connect(url, subprotocols=["chat"]) as ws:  # type: ignore[list-item]  # a NewType
        assert ws.subprotocol == "chat"
        assert ws.response is not None
        assert ws.response.headers["x-room"] == "red"
        with pytest.raises(ConnectionClosed) as caught:
            ws.recv(_PATIENCE)
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4000, "enough")


def test_it_rejects(port: int) -> None:
    with (
        pytest.raises(InvalidStatus) as caught,
        client.connect(f"ws://127.0.0.1:{port}/refuse"),
    ):
        """It is not opened."""
    assert caught.value.response.status_code == 418
    assert caught.value.response.body == b"a teapot"


def test_a_slow_peer_gets_all_of_it(port: int) -> None:
    with client.connect(f"ws://127.0.0.1:{port}/fill", compression=None, max_queue=1) as ws:
        for _ in range(200):
            assert len(ws.recv(_PATIENCE)) == 100_000
        with pytest.raises(ConnectionClosed) as caught:
            ws.recv(_PATIENCE)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.reason == "all of it"


def test_a_request_that_is_none_and_a_frame_that_is_none(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), _PATIENCE) as sock:
        sock.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 400 ")
    with client.connect(f"ws://127.0.0.1:{port}/echo", compression=None) as ws:
        ws.socket.sendall(frame(3, b"?"))
        with pytest.raises(ConnectionClosed) as caught:
            ws.recv(_PATIENCE)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1002
