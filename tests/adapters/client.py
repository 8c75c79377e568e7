"""The client of the adapters' tests, in the words that they need."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.servers import Server


class Rejection(NamedTuple):
    """The response to a handshake that was not accepted."""

    status: int
    content_type: str | None
    body: str


class Closed(NamedTuple):
    """The close frame that the server sent."""

    code: int
    reason: str


def talk(server: Server, path: str = "/ws", **options: Any) -> ClientConnection:
    """Open a connection."""
    client: ClientConnection = connect(
        server.url(path), open_timeout=30, close_timeout=30, **options
    )
    return client


def say(server: Server, path: str = "/ws", message: str = "hello", **options: Any) -> str | bytes:
    """Open a connection, send a message and return the answer."""
    with talk(server, path, **options) as client:
        client.send(message)
        return client.recv(30)


def rejection(server: Server, path: str = "/ws", **options: Any) -> Rejection:
    """Try to open a connection that is rejected."""
    with pytest.raises(InvalidStatus) as caught:
        talk(server, path, **options).close()
    response = caught.value.response
    body = response.body or b""
    return Rejection(response.status_code, response.headers.get("content-type"), body.decode())


def closing(server: Server, path: str = "/ws", **options: Any) -> Closed:
    """Open a connection that the server closes; return how."""
    with talk(server, path, **options) as client:
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(30)
        frame = caught.value.rcvd
        return Closed(frame.code, frame.reason) if frame else Closed(1006, "")
