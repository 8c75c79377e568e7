"""The same peer in memory, and behind each framework's server on a real socket."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from websockets.sync.client import connect as connect_client

import unisock
from tests.testing.twins import twins
from unisock import HandshakeRejected, WebSocket
from unisock.serving import FRAMEWORKS, Service
from unisock.testing import Connect, ConnectionRejected, connect, serve

ON = pytest.mark.parametrize("on", list(FRAMEWORKS))
ON_MEMORY_TOO = pytest.mark.parametrize("on", [None, *FRAMEWORKS])


async def echo(ws: WebSocket) -> None:
    await ws.accept()
    async for message in ws:
        await ws.send(message)


def app_of(on: str, path: str = "/") -> Any:
    return FRAMEWORKS[on].app(Service(echo, path))


def is_free(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0


@ON
def test_serve_an_application_and_a_handler(on: str) -> None:
    with serve(app_of(on, "/app")) as one, serve(echo, on, "/{room}") as two:
        for url in (f"{one}/app", f"{two}/7"):
            with connect_client(url) as client:
                client.send("hi")
                assert client.recv() == "hi"
    assert is_free(one)
    assert is_free(two)


@pytest.mark.parametrize("on", ["asgi", "starlette", "fastapi", "falcon"])
def test_on_uvicorn_a_handler_is_reached_without_events(on: str) -> None:
    async def tell(ws: WebSocket) -> None:
        await ws.accept()
        transport: Any = ws._transport
        await ws.send(f"direct: {transport._direct is not None}")

    app = FRAMEWORKS[on].app(Service(tell, "/"))
    with serve(app) as one, serve(tell, on) as two:
        for url in (one, two):
            with connect_client(url) as client:
                assert client.recv() == "direct: True"


@ON
@twins
async def test_an_application(connect: Connect, on: str) -> None:
    async with connect(app_of(on, "/a"), "/a") as peer:
        await peer.send_bytes(b"hi")
        assert await peer.receive_bytes() == b"hi"
    assert peer.close_code == 1000


@ON_MEMORY_TOO
@twins
async def test_a_handler(connect: Connect, on: str | None) -> None:
    async def tell(ws: WebSocket) -> None:
        await ws.accept(subprotocol="chat", headers={"X-Answer": "42"})
        room, x = ws.path_params["room"], ws.query_params["x"]
        await ws.send_json([room, x, ws.headers["x-a"], ws.cookies, ws.state.user])
        async for message in ws:
            await ws.send(message)

    async with connect(
        tell,
        "/rooms/7?x=1",
        on=on,
        path="/rooms/{room:int}",
        subprotocols=["chat"],
        headers={"X-A": "a"},
        cookies={"c": "d"},
        state={"user": "ann"},
    ) as peer:
        assert await peer.receive_json() == [7, "1", "a", {"c": "d"}, "ann"]
        assert peer.accepted_subprotocol == "chat"
        assert peer.accepted_headers["x-answer"] == "42"
        await peer.send_fragments("one ", "message")
        assert await peer.receive() == "one message"
        await peer.close(4001, "enough")
        assert peer.close_code == 4001


async def rejects(ws: WebSocket) -> None:
    raise HandshakeRejected(418, b"teapot", {"X-Why": "teapot"})


@ON_MEMORY_TOO
@twins
async def test_a_rejection(connect: Connect, on: str | None) -> None:
    with pytest.raises(ConnectionRejected, match="418") as caught:
        async with connect(rejects, on=on):
            pytest.fail("it was entered")
    assert caught.value.headers["x-why"] == "teapot"
    assert caught.value.text == "teapot"


@ON_MEMORY_TOO
def test_a_redirect_is_not_followed(on: str | None) -> None:
    async def redirect(ws: WebSocket) -> None:
        await ws.reject(302, headers={"Location": "/other"})

    with pytest.raises(ConnectionRejected) as caught, connect(redirect, on=on):
        pytest.fail("it was entered")
    assert (caught.value.status_code, caught.value.headers["location"]) == (302, "/other")


@ON_MEMORY_TOO
@twins
async def test_bad_manners(connect: Connect, on: str | None) -> None:
    ends: list[int | None] = []
    sent: list[int] = []

    async def floods(ws: WebSocket) -> None:
        await ws.accept()
        try:
            await ws.receive()
            for number in range(400):
                await ws.send(bytes(100_000))
                sent.append(number)
            await ws.receive()
        finally:
            ends.append(ws.close_code)

    async with connect(floods, on=on, timeout=5) as peer:  # held, and let go
        peer.pause_reading()
        await peer.send("go")
        assert await peer.receive_nothing(0.3)
        held = len(sent)
        peer.resume_reading()
        for _ in range(400):
            await peer.receive_bytes()
    assert held < 400
    assert ends.pop() == 1000
    async with connect(floods, on=on) as peer:
        peer.vanish()
    assert ends.pop() == 1006
    async with connect(floods, on=on) as peer:
        await peer.stop_server()
        code, _ = await peer.wait_closed()
        assert code in {1001, 1012}
    assert len(ends) == 1


@ON_MEMORY_TOO
@twins
async def test_several_at_once_share_a_server(connect: Connect, on: str | None) -> None:
    peers: list[WebSocket] = []

    async def relay(ws: WebSocket) -> None:
        await ws.accept()
        peers.append(ws)
        await ws.send("joined")
        async for message in ws:
            for other in peers:
                await other.send(message)

    async with connect(relay, on=on) as one, connect(relay, on=on) as two:
        assert [await one.receive(), await two.receive()] == ["joined", "joined"]
        await one.send("to all")
        assert [await one.receive(), await two.receive()] == ["to all", "to all"]


@twins
async def test_fragments_are_frames(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "websockets.client")
    async with connect(echo, on="asgi") as peer:
        await peer.send_fragments("one ", "message")
        assert await peer.receive() == "one message"
    sent = [text for text in caplog.messages if text.startswith("> ")]
    assert any("TEXT 'one '" in text for text in sent)
    assert any("CONT 'message'" in text for text in sent)


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="say which with on="):
        serve(echo)
    with pytest.raises(TypeError, match="application of starlette"):
        serve(app_of("starlette"), "flask")
    with pytest.raises(TypeError, match="its own routes"):
        serve(app_of("starlette"), path="/a")


def test_an_applications_lifespan_is_run() -> None:
    from starlette.applications import Starlette

    events: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        events.append("startup")
        yield
        events.append("shutdown")

    app = Starlette(lifespan=lifespan)
    unisock.mount(app, "/", echo)
    with connect(app):
        assert events == ["startup"]
    assert events == ["startup", "shutdown"]


@ON_MEMORY_TOO
@twins
async def test_what_no_decent_client_does(connect: Connect, on: str | None) -> None:
    ends: list[int | None] = []

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        try:
            await ws.send_json(ws.path_params)
            async for message in ws:
                await ws.send(message)
        finally:
            ends.append(ws.close_code)

    async with connect(handler, "/rooms/7", path="/rooms/{n:int}", on=on) as peer:
        assert await peer.receive_json() == {"n": 7}
        await peer.send_fragments("frag", "", "ments")
        assert await peer.receive() == "fragments"
        peer.pause_reading()
        await peer.send("unread")
        peer.resume_reading()
        assert await peer.receive() == "unread"
        peer.vanish()
    assert ends == [1006]


@ON_MEMORY_TOO
@twins
async def test_the_server_stops(connect: Connect, on: str | None) -> None:
    ended: list[str] = []

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        try:
            await ws.receive()
        finally:
            ended.append("finally")

    async with connect(handler, on=on) as peer:
        await peer.stop_server()
        code, _ = await peer.wait_closed()
        assert code in (1001, 1012)
    assert ended == ["finally"]
