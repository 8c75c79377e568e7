"""Wrong arguments, and what a test is told of a handler that does other than it expects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import trio
from starlette.applications import Starlette

import unisock
from tests.testing.twins import twins
from unisock import InvalidMessage, SyncWebSocket, WebSocket, WebSocketDisconnect
from unisock.mounting import GROUP
from unisock.testing import (
    Connect,
    ConnectionRejected,
    PeerError,
    PeerTimeout,
    UnexpectedMessage,
    connect,
    serve,
)
from unisock.testing import sockets as sockets_module
from unisock.testing.servers import is_handler

ON = pytest.mark.parametrize("on", ["memory", "starlette", "flask"])


async def echo(ws: WebSocket) -> None:
    await ws.accept()
    async for message in ws:
        await ws.send(message)


def app_of_echo() -> Starlette:
    app = Starlette()
    unisock.mount(app, "/", echo)
    return app


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"url": 3}, TypeError, "a URL is a str, not int"),
        ({"url": "/a#b"}, ValueError, "has no fragment"),
        ({"url": "http://localhost/"}, ValueError, "is no URL of a WebSocket"),
        ({"headers": {"x": 3}}, TypeError, "a header's name and value are str"),
        ({"headers": {"x": "a\r\nb"}}, ValueError, "a header holds no line break"),
        ({"cookies": {"x": "a\nb"}}, ValueError, "a header holds no line break"),
        ({"subprotocols": "chat"}, TypeError, "takes a list"),
        ({"path": "/rooms/{n:int}", "url": "/rooms/x"}, ValueError, "is no instance of"),
        ({"timeout": 0}, ValueError, "must be above 0"),
        ({"timout": 3}, TypeError, "did you mean 'timeout'?"),
        ({"max_queu": 3}, TypeError, "did you mean 'max_queue'?"),
        ({"on": "django"}, ValueError, "is no framework: use one of "),
        ({"on": "falcon", "client": ("192.0.2.7", 1)}, TypeError, "connections in memory"),
        ({"on": "falcon", "url": "wss://a.example/"}, TypeError, "connections in memory"),
    ],
)
def test_a_wrong_argument(arguments: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        connect(echo, **arguments)
    assert says in str(caught.value)


def test_what_an_application_does_not_take() -> None:
    each: list[dict[str, Any]] = [{"path": "/"}, {"state": {"a": 1}}, {"max_queue": 3}]
    for arguments in each:
        with pytest.raises(TypeError, match="give the URL alone"):
            connect(app_of_echo(), **arguments)
    with pytest.raises(TypeError, match="this is an application of starlette"):
        serve(app_of_echo(), on="falcon")
    with pytest.raises(TypeError, match="its own routes and options"):
        serve(app_of_echo(), path="/x")
    with pytest.raises(TypeError, match="say which with on="):
        serve(echo)


def test_a_framework_of_another_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("tiny", "no_such_module", GROUP)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda *, group: [entry])
    application = type("Application", (), {"__module__": "tiny.app"})()
    with pytest.raises(TypeError, match="tiny has an adapter, but there is no server for it here"):
        is_handler(application)


def test_without_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets_module, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install websockets"):
        connect(echo, on="falcon").__enter__()


def test_an_application_that_does_not_start() -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        raise ZeroDivisionError
        yield

    with pytest.raises(RuntimeError, match="the server has not started"):
        serve(Starlette(lifespan=lifespan)).__enter__()


def test_an_async_test_serves() -> None:
    async def main() -> None:
        async with serve(echo, on="falcon", path="/x") as url, connect(echo) as peer:
            assert url.startswith("ws://127.0.0.1:")
            await peer.send("x")
            assert await peer.receive() == "x"

    asyncio.run(main())


@ON
@twins
async def test_wrong_types(connect: Connect, on: str) -> None:
    async with connect(echo, on=on) as peer:
        wrong: Any = 3
        with pytest.raises(TypeError, match=r"send\(\) takes str or bytes, not int"):
            await peer.send(wrong)
        with pytest.raises(TypeError, match="takes str, not int"):
            await peer.send_text(wrong)
        with pytest.raises(TypeError, match="takes bytes, not int"):
            await peer.send_bytes(wrong)
        with pytest.raises(TypeError, match="all str or all bytes"):
            await peer.send_fragments("a", b"b")
        with pytest.raises(ValueError, match="1005"):
            await peer.close(1005)


@ON
@twins
async def test_messages_of_the_other_kind(connect: Connect, on: str) -> None:
    async with connect(echo, on=on) as peer:
        await peer.send("no JSON")
        with pytest.raises(UnexpectedMessage, match="not the JSON expected") as caught:
            await peer.receive_json()
        assert caught.value.message == "no JSON"
        await peer.send("text")
        with pytest.raises(UnexpectedMessage, match="expected a binary message"):
            await peer.receive_bytes()
        await peer.send(b"bytes" * 100)
        with pytest.raises(UnexpectedMessage, match="500 in all"):
            await peer.receive_text()
        assert await peer.receive_nothing(0.01)
        await peer.send("kept")
        assert not await peer.receive_nothing(5)
        assert await peer.receive() == "kept"
        await peer.close(None)


@ON
@twins
async def test_a_close_without_a_code(connect: Connect, on: str) -> None:
    codes: list[int] = []

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        codes.append(await ws.wait_closed())

    async with connect(handler, on=on) as peer:
        await peer.close(None)
    assert codes == [1005]


@ON
@twins
async def test_a_send_after_the_end(connect: Connect, on: str) -> None:
    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        await ws.close(4001, "enough")

    async with connect(handler, on=on) as peer:
        assert await peer.wait_closed() == (4001, "enough")
        with pytest.raises(WebSocketDisconnect) as caught:
            await peer.send("too late")
        assert caught.value.code == 4001
        assert "the connection had ended when the peer sent" in caught.value.__notes__[0]


def test_a_rejections_body() -> None:
    async def handler(ws: WebSocket) -> None:
        await ws.reject(400, b'{"why":[1]}')

    with pytest.raises(ConnectionRejected) as caught:
        connect(handler).__enter__()
    assert caught.value.json() == {"why": [1]}
    assert caught.value.text == '{"why":[1]}'
    with pytest.raises(InvalidMessage):
        caught.value.json(int)


@ON
@twins
async def test_an_error_before_accept(connect: Connect, on: str) -> None:
    """It is raised, or the cause of the rejection where it is expected."""

    async def handler(ws: WebSocket) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        async with connect(handler, on=on):
            pytest.fail("it was entered")
    assert caught.value.__notes__[0].startswith("the handshake was rejected with 500")
    with pytest.raises(ConnectionRejected) as rejected:
        async with connect(handler, on=on, raises=ZeroDivisionError):
            pytest.fail("it was entered")
    assert isinstance(rejected.value.__cause__, ZeroDivisionError)


@ON
@twins
async def test_a_cancellation_that_no_server_asked_for(connect: Connect, on: str) -> None:
    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        child = asyncio.create_task(asyncio.Event().wait())
        child.cancel()
        await child

    with pytest.raises(PeerError, match="it awaited what another task has cancelled"):
        async with connect(handler, on=on) as peer:
            assert await peer.wait_closed() == (1011, "")


def test_what_is_said_of_an_application() -> None:
    with pytest.raises(PeerTimeout) as caught, connect(app_of_echo(), timeout=0.2) as peer:
        peer.pause_reading()
        peer.receive()
    text = str(caught.value)
    assert "where it is, is known if you connect() to the handler itself" in text
    assert "the peer does not read" in text


def test_where_a_plain_function_waits_in_a_greenlet() -> None:
    def handler(ws: SyncWebSocket) -> None:
        ws.accept()
        ws.receive()  # the line of handler

    with pytest.raises(PeerTimeout) as caught, connect(handler, on="flask", timeout=0.2) as peer:
        peer.receive()
    assert "# the line of handler" in str(caught.value)


def test_trio_is_told_clearly() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="needs asyncio"):
            await connect(echo).__aenter__()

    trio.run(main)
