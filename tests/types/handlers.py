"""What type checkers make of the forms of a handler.  Not run: checked by mypy and pyright."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict, assert_type

from multidict import CIMultiDictProxy

import unisock
from unisock import (
    URL,
    Address,
    Capabilities,
    Cookie,
    Depends,
    Handler,
    Header,
    Query,
    SocketView,
    State,
    SyncWebSocket,
    WebSocket,
    WebSocketEndpoint,
    on_message,
)


@dataclass
class Join:
    """A message."""

    room: str
    type: Literal["join"] = "join"


class Say(TypedDict):
    """Another."""

    type: Literal["say"]
    text: str


# Functions, and objects like them


async def asynchronous(ws: WebSocket) -> None:
    """An async function."""
    await ws.accept()


def plain(ws: SyncWebSocket) -> None:
    """A plain function."""
    ws.accept()


async def with_default(ws: WebSocket, room: str = "lobby") -> None:
    """One that takes more, if it is given."""
    await ws.accept()


def plain_with_room(ws: SyncWebSocket, room: str) -> None:
    """One with a parameter."""
    ws.accept()


async def with_dependency(
    ws: WebSocket,
    room: str,
    token: Annotated[str, Header(alias="x-token")],
    tags: Annotated[list[str], Query()],
    visits: Annotated[int, Depends(int)],
    session: Annotated[str | None, Cookie()] = None,
) -> None:
    """One with everything."""
    assert_type(tags, list[str])
    assert_type(visits, int)


async def takes_a_room(room: int) -> None:
    """Its first argument is not a WebSocket."""


class Async:
    """An object with an async ``__call__``."""

    async def __call__(self, ws: WebSocket) -> None:
        """Serve."""

    async def method(self, ws: WebSocket) -> None:
        """Serve."""


class Plain:
    """An object with a plain ``__call__``."""

    def __call__(self, ws: SyncWebSocket) -> None:
        """Serve."""

    def method(self, ws: SyncWebSocket) -> None:
        """Serve."""


# Classes


class Minimal(WebSocketEndpoint):
    """All defaults."""


class Chat(WebSocketEndpoint):
    """Every hook, each with names of its own."""

    encoding = "json"
    message_type = Join | Say

    def __init__(self) -> None:
        self.rooms: list[str] = []

    async def on_connect(self, websocket: WebSocket) -> None:
        """Accept."""
        assert_type(self.websocket, WebSocket)
        await super().on_connect(websocket)

    async def on_receive(self, ws: WebSocket, data: dict[str, int]) -> None:
        """Take what `encoding` says, as it is annotated here."""
        await ws.send_json(data)

    async def on_disconnect(self, ws: WebSocket, close_code: int) -> None:
        """Take leave."""
        assert_type(ws.close_code, int | None)

    async def on_unknown_message(self, ws: WebSocket, message: dict[str, Any]) -> None:
        """Take what is of no type."""
        await super().on_unknown_message(ws, message)

    @on_message(Join)
    async def join(self, ws: WebSocket, message: Join) -> None:
        """Take messages of a type."""
        self.rooms.append(message.room)


class Child(Chat):
    """What is overridden need not be registered again."""

    async def join(self, ws: WebSocket, message: Join) -> None:
        """As in `Chat`."""
        await super().join(ws, message)


class OneForAll(WebSocketEndpoint):
    """A method for messages of several types."""

    @on_message(Join | Say)
    async def any_of_them(self, ws: WebSocket, message: Join | Say) -> None:
        """Take them."""


class View(SocketView):
    """The same without a WebSocket."""

    encoding = None

    async def on_connect(self) -> None:
        """Accept."""
        assert_type(self.websocket, WebSocket)
        await super().on_connect()

    async def on_receive(self, data: str | bytes) -> None:
        """Take any message."""
        await self.websocket.send(data)

    async def on_disconnect(self, close_code: int) -> None:
        """Take leave."""

    async def on_unknown_message(self, message: Any) -> None:
        """Take what is of no type."""

    @on_message(Say)
    async def say(self, message: Say) -> None:
        """Take messages of a type."""
        await self.websocket.send(message["text"])


async def on_message_keeps_the_type(chat: Chat, view: View, ws: WebSocket) -> None:
    """A registered method may be called as any."""
    assert_type(await chat.join(ws, Join("lobby")), None)
    assert_type(await view.say({"type": "say", "text": ""}), None)
    await chat.join(ws, "lobby")  # type: ignore[arg-type]  # that is no Join


def mounts(app: object) -> None:
    """What is a handler."""
    handlers: list[Handler] = [
        asynchronous,
        plain,
        with_default,
        lambda ws: None,
        plain_with_room,
        with_dependency,
        functools.partial(plain_with_room, room="lobby"),
        Async(),
        Async().method,
        Plain(),
        Plain().method,
        WebSocketEndpoint,
        SocketView,
        Minimal,
        Chat,
        Child,
        OneForAll,
        View,
    ]
    for handler in handlers:
        assert_type(unisock.mount(app, "/ws", handler, max_threads=5), None)


class NoEndpoint:
    """A class with the hooks, and no endpoint."""

    async def on_receive(self, ws: WebSocket, data: str) -> None:
        """Nobody calls it."""


async def async_generator(ws: WebSocket) -> AsyncIterator[str]:
    """It yields."""
    yield ""


def generator(ws: SyncWebSocket) -> Iterator[str]:
    """It yields."""
    yield ""


async def takes_none() -> None:
    """It takes no WebSocket."""


def is_no_handler() -> None:
    """What a type checker refuses: an ignore that is not needed would be an error."""
    unisock.mount(None, "/ws", None)  # type: ignore[arg-type]  # nothing
    unisock.mount(None, "/ws", Chat())  # type: ignore[arg-type]  # an instance
    unisock.mount(None, "/ws", NoEndpoint)  # type: ignore[arg-type]  # not an endpoint's
    unisock.mount(None, "/ws", async_generator)  # type: ignore[arg-type]  # yields
    unisock.mount(None, "/ws", generator)  # type: ignore[arg-type]  # yields
    unisock.mount(None, "/ws", takes_none)  # type: ignore[arg-type]  # takes no WebSocket
    unisock.mount(None, "/ws", takes_a_room)  # type: ignore[arg-type]  # takes no WebSocket


class WrongEncoding(WebSocketEndpoint):
    """There is no such encoding."""

    encoding = "xml"  # type: ignore[assignment]  # not one of the three


class WrongHooks(WebSocketEndpoint):
    """Hooks that are none."""

    def on_connect(self, ws: WebSocket) -> None:  # type: ignore[override]  # not async
        """Not async."""

    async def on_receive(self, data: str) -> None:  # type: ignore[override]  # a view's
        """Takes no WebSocket."""

    async def on_disconnect(self, ws: WebSocket) -> None:  # type: ignore[override]  # too few
        """Takes no code."""

    @on_message(Join)  # type: ignore[type-var]  # not async
    def join(self, ws: WebSocket, message: Join) -> None:
        """Not async."""


# A SyncWebSocket


def receives(ws: SyncWebSocket) -> None:
    """Every receive."""
    assert_type(ws.receive(), str | bytes)
    assert_type(ws.receive(1), str | bytes)
    assert_type(ws.receive(timeout=0.5), str | bytes)
    assert_type(ws.receive_text(timeout=None), str)
    assert_type(ws.receive_bytes(timeout=1), bytes)
    assert_type(ws.receive_json(), Any)
    assert_type(ws.receive_json(timeout=1), Any)
    assert_type(ws.receive_json(Join), Join)
    assert_type(ws.receive_json(Join, 1), Join)
    assert_type(ws.receive_json(type=Say, timeout=1), Say)
    assert_type(ws.receive_json(list[int], timeout=1), list[int])


def iterates(ws: SyncWebSocket) -> None:
    """Every iteration."""
    for message in ws:
        assert_type(message, str | bytes)
    for text in ws.iter_text():
        assert_type(text, str)
    for data in ws.iter_bytes():
        assert_type(data, bytes)
    for anything in ws.iter_json():
        assert_type(anything, Any)
    for join in ws.iter_json(Join):
        assert_type(join, Join)
    assert_type(ws.iter_json(Join), Iterator[Join])


def reads_and_sends(ws: SyncWebSocket) -> None:
    """What is read of the handshake and of the end, and what gives nothing back."""
    assert_type(ws.url, URL)
    assert_type(ws.path_params, Mapping[str, Any])
    assert_type(ws.headers, CIMultiDictProxy[str])
    assert_type(ws.client, Address | None)
    assert_type(ws.state, State)
    assert_type(ws.subprotocol, str | None)
    assert_type(ws.capabilities, Capabilities)
    assert_type(ws.accept("chat", {"x": "y"}), None)
    assert_type(ws.reject(401, b"", {"x": "y"}), None)
    assert_type(ws.send(b"x"), None)
    assert_type(ws.send_json({"x": 1}, binary=True), None)
    assert_type(ws.close(4000, "bye"), None)
    assert_type(ws.wait_closed(), int)
    assert_type(ws.closed, bool)
    assert_type(ws.close_code, int | None)


def is_no_call(ws: SyncWebSocket) -> None:
    """What a type checker refuses."""
    ws.receive(timeout="1")  # type: ignore[call-overload]  # no number
    ws.send(5)  # type: ignore[arg-type]  # neither text nor binary
    ws.while_connected()  # type: ignore[attr-defined]  # of async handlers alone


# start_soon


async def ticks(ws: WebSocket, seconds: float, text: str = "tick") -> int:
    """A coroutine function; what it returns is not seen."""
    await ws.send(text)
    return 0


def ticks_plainly(ws: SyncWebSocket, seconds: float, text: str = "tick") -> int:
    """A plain function."""
    ws.send(text)
    return 0


async def starts(ws: WebSocket) -> None:
    """What an async handler may start."""
    assert_type(ws.start_soon(ticks, ws, 1.0), None)
    ws.start_soon(ticks, ws, 1, "tock")
    ws.start_soon(functools.partial(ticks, text="tock"), ws, 1)
    ws.start_soon(ws.send_text, "x")
    ws.start_soon(lambda: ticks(ws, 1))
    work: Callable[[], Coroutine[Any, Any, None]] = takes_none
    ws.start_soon(work)
    ws.start_soon(ticks, ws, "x")  # type: ignore[arg-type]  # no float
    ws.start_soon(ticks, ws)  # type: ignore[arg-type]  # too few
    ws.start_soon(takes_none, 1)  # type: ignore[arg-type]  # too many
    ws.start_soon(print, "x")  # type: ignore[arg-type]  # not async
    ws.start_soon(takes_none())  # type: ignore[arg-type]  # called already


def starts_plainly(ws: SyncWebSocket) -> None:
    """What a plain handler may start."""
    assert_type(ws.start_soon(ticks_plainly, ws, 1.0), None)
    ws.start_soon(ticks_plainly, ws, 1, "tock")
    ws.start_soon(functools.partial(ticks_plainly, text="tock"), ws, 1)
    ws.start_soon(ws.send_text, "x")
    ws.start_soon(lambda: ws.send("x"))
    ws.start_soon(ticks_plainly, ws, "x")  # type: ignore[arg-type]  # no float
    ws.start_soon(ticks_plainly, ws)  # type: ignore[arg-type]  # too few
    ws.start_soon(ws.send_text, "x", "y")  # type: ignore[arg-type]  # too many
    ws.start_soon(None)  # type: ignore[arg-type]  # nothing
