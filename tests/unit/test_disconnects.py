"""Whose end a `WebSocketDisconnect` tells of."""

from __future__ import annotations

import gc
import logging
import traceback
import weakref

import pytest

from tests.unit.memory import MemoryTransport, with_websocket
from unisock import (
    HandshakeRejected,
    InvalidMessage,
    InvalidState,
    SyncWebSocket,
    UnisockError,
    WebSocket,
    WebSocketDisconnect,
    WebSocketException,
)
from unisock.testing import connect
from unisock.transport import ConnectionLost, HTTPError


def _disconnect_of(url: str) -> tuple[WebSocketDisconnect, weakref.ref[object]]:
    """What a receive raises when the client has left, and the connection's handshake."""
    caught: list[WebSocketDisconnect] = []
    handshakes: list[weakref.ref[object]] = []

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        handshakes.append(weakref.ref(ws._handshake))
        try:
            await ws.receive()
        except WebSocketDisconnect as exc:
            caught.append(exc.with_traceback(None))

    with connect(handler, url) as peer:
        peer.close(4001, "left")
    return caught[0], handshakes[0]


def test_it_names_the_connection() -> None:
    exc, _ = _disconnect_of("/rooms/a%20b?token=secret")
    assert (exc.code, exc.reason) == (4001, "left")
    assert (exc.path, exc.client) == ("/rooms/a%20b", ("192.0.2.1", 50000))
    assert str(exc) == "4001 left (the connection from 192.0.2.1:50000 to /rooms/a%20b)"


def test_on_a_unix_socket_there_is_no_client() -> None:
    exc = WebSocketDisconnect(1001, path="/rooms/7")
    assert str(exc) == "1001 (the connection to /rooms/7)"


def test_one_that_no_connection_has_raised() -> None:
    exc = WebSocketDisconnect(1001, "away")
    assert (exc.path, exc.client, str(exc)) == (None, None, "1001 away")


def test_it_does_not_keep_the_connection() -> None:
    exc, handshake = _disconnect_of("/rooms/7")
    gc.collect()
    assert handshake() is None
    assert exc.path == "/rooms/7"


def test_all_calls_of_a_connection_name_it() -> None:
    paths: list[str | None] = []

    def handler(ws: SyncWebSocket) -> None:
        ws.accept()
        ws.wait_closed()
        for call in (ws.receive, lambda: ws.send("x"), lambda: ws.send_text("x")):
            with pytest.raises(WebSocketDisconnect) as caught:
                call()
            paths.append(caught.value.path)

    with connect(handler, "/rooms/7") as peer:
        peer.close()
    assert paths == ["/rooms/7"] * 3


def test_while_connected_names_it() -> None:
    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        with pytest.raises(WebSocketDisconnect) as caught:
            async with ws.while_connected():
                await ws.receive_json()
        assert caught.value.path == "/rooms/7"

    with connect(handler, "/rooms/7") as peer:
        peer.close()


@pytest.mark.parametrize("in_group", [False, True])
def test_of_another_connection_it_goes_on_with_a_note(in_group: bool) -> None:
    foreign = WebSocketDisconnect(1001, path="/rooms/7")

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        raise ExceptionGroup("g", [foreign, WebSocketDisconnect()]) if in_group else foreign

    raised = ExceptionGroup if in_group else WebSocketDisconnect
    with pytest.raises(raised) as caught, connect(handler) as peer:
        assert peer.wait_closed() == (1011, "")
    (note,) = caught.value.__notes__
    assert "the end of another connection" in note
    assert "handler" in note


def test_a_peer_s_text_forges_no_line() -> None:
    exc = WebSocketDisconnect(
        4000, "bye\nERROR \x1b[2K" + "a" * 1000, path="/r\r\n", client=("1.1.1.1\n\x1b[31m", 0)
    )
    said = str(exc)
    assert said.isprintable()
    assert len(said) < 500
    assert exc.reason.startswith("bye\nERROR")  # itself it is as it came


FORGED = "bye\n2026-12-01 CRITICAL paid \x1b[31m\u202e\x9b2K\u2028"


@pytest.mark.parametrize(
    "exc",
    [
        UnisockError(FORGED),
        InvalidState(FORGED),
        InvalidMessage(1007, FORGED, FORGED),
        WebSocketDisconnect(4000, FORGED, path=FORGED, client=(FORGED, 1)),
        WebSocketException(4000, FORGED),
        HandshakeRejected(403, FORGED.encode()),
        HTTPError(400, FORGED),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_no_error_s_text_forges_a_line(exc: UnisockError) -> None:
    assert str(exc).isprintable()
    assert repr(exc).isprintable()
    printed = traceback.format_exception(ExceptionGroup("several", [exc]))
    assert all(line.isprintable() for text in printed for line in text.split("\n"))
    assert getattr(exc, "reason", FORGED) == FORGED


def test_what_a_send_raises_has_no_text_of_the_server() -> None:
    async def body(ws: WebSocket, transport: MemoryTransport) -> None:
        lost = ConnectionLost()
        lost.__cause__ = RuntimeError(FORGED)  # as that of `websockets`, with the peer's reason
        transport.failure = lost
        transport.peer_leaves(4000, FORGED)
        for call in (ws.send, ws.send_text):
            with pytest.raises(WebSocketDisconnect) as caught:
                await call("x")
            printed = traceback.format_exception(caught.value)
            assert not any("\x1b" in text or "\nCRIT" in text for text in printed), printed
            assert caught.value.reason == FORGED

    with_websocket(body)


def test_that_a_connection_counts_as_lost_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "unisock")

    async def body(ws: WebSocket, transport: MemoryTransport) -> None:
        lost = ConnectionLost()
        lost.__cause__ = RuntimeError(FORGED)
        transport.failure = lost
        transport.peer_leaves(4000, FORGED)
        with pytest.raises(WebSocketDisconnect):
            await ws.send("x")

    with_websocket(body)
    (line,) = (r for r in caplog.records if "counts as lost" in r.getMessage())
    assert line.getMessage().isprintable()
    assert "RuntimeError: bye" in line.getMessage()
    assert line.exc_info is None
