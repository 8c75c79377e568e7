"""What type checkers make of a handler.  Not run: checked by mypy and pyright."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, assert_type

from multidict import CIMultiDictProxy, MultiDictProxy

import unisock
from unisock import URL, Address, Capabilities, Handler, State, WebSocket


@dataclass
class Move:
    """A message."""

    x: int


class Patch(TypedDict):
    """Another."""

    y: int


async def receives(ws: WebSocket) -> None:
    """Every receive."""
    assert_type(await ws.receive(), str | bytes)
    assert_type(await ws.receive_text(), str)
    assert_type(await ws.receive_bytes(), bytes)
    assert_type(await ws.receive_json(), Any)
    assert_type(await ws.receive_json(Move), Move)
    assert_type(await ws.receive_json(type=Move), Move)
    assert_type(await ws.receive_json(Patch), Patch)
    assert_type(await ws.receive_json(int), int)
    assert_type(await ws.receive_json(list[int]), list[int])
    assert_type(await ws.receive_json(dict[str, Move]), dict[str, Move])


async def iterates(ws: WebSocket) -> None:
    """Every iteration."""
    async for message in ws:
        assert_type(message, str | bytes)
    async for text in ws.iter_text():
        assert_type(text, str)
    async for data in ws.iter_bytes():
        assert_type(data, bytes)
    async for anything in ws.iter_json():
        assert_type(anything, Any)
    async for move in ws.iter_json(Move):
        assert_type(move, Move)
    assert_type(ws.iter_text(), AsyncIterator[str])
    assert_type(ws.iter_json(Move), AsyncIterator[Move])


async def reads_the_handshake(ws: WebSocket) -> None:
    """Everything that is known before `accept`."""
    assert_type(ws.url, URL)
    assert_type(ws.url.path, str)
    assert_type(ws.url.port, int | None)
    assert_type(ws.path_params, Mapping[str, Any])
    assert_type(ws.query_params, MultiDictProxy[str])
    assert_type(ws.headers, CIMultiDictProxy[str])
    assert_type(ws.headers["host"], str)
    assert_type(ws.cookies, dict[str, str])
    assert_type(ws.client, Address | None)
    assert_type(ws.subprotocols, tuple[str, ...])
    assert_type(ws.subprotocol, str | None)
    assert_type(ws.state, State)
    assert_type(ws.state.anything, Any)
    assert_type(ws.request, Any)
    assert_type(ws.capabilities, Capabilities)
    assert_type(ws.capabilities.close_code, bool)
    assert_type(ws.capabilities.own_close_code, bool)


async def sends_and_ends(ws: WebSocket) -> None:
    """What gives nothing back, and what the end tells."""
    assert_type(await ws.accept("chat", {"x": "y"}), None)
    assert_type(await ws.accept(headers=[("x", "y"), ("x", "z")]), None)
    assert_type(await ws.reject(401, b"", {"x": "y"}), None)
    assert_type(await ws.send("x"), None)
    assert_type(await ws.send(memoryview(b"x")), None)
    assert_type(await ws.send_json({"x": 1}, binary=True), None)
    assert_type(await ws.close(4000, "bye"), None)
    assert_type(await ws.wait_closed(), int)
    assert_type(ws.closed, bool)
    assert_type(ws.close_code, int | None)
    assert_type(ws.close_reason, str | None)
    async with ws.while_connected() as nothing:
        assert_type(nothing, None)


class Endpoint:
    """A handler that is an object."""

    async def __call__(self, ws: WebSocket) -> None:
        """Serve."""
        await ws.accept()


def mounts(app: object) -> None:
    """What is a handler, and what is none."""
    handlers: list[Handler] = [receives, Endpoint(), Endpoint().__call__]
    for handler in handlers:
        assert_type(unisock.mount(app, "/ws", handler, origins="*"), None)


def is_no_handler() -> None:
    """What a type checker refuses: an ignore that is not needed would be an error."""
    unisock.mount(None, "/ws", lambda: None)  # type: ignore[arg-type]  # takes no WebSocket


async def is_no_message(ws: WebSocket) -> None:
    """The same for what is sent."""
    await ws.send(5)  # type: ignore[arg-type]  # neither text nor binary
    await ws.send_text(b"x")  # type: ignore[arg-type]  # binary
    await ws.send_bytes("x")  # type: ignore[arg-type]  # text
