"""Section 8 of the contract: class endpoints."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal

from unisock import (
    HandshakeRejected,
    InvalidState,
    SocketView,
    WebSocket,
    WebSocketDisconnect,
    WebSocketEndpoint,
    WebSocketException,
    on_message,
)

from .harness import Client, RawClient, Server, clause, frame, http_error, journal, mounted

# 8.1 Encodings


class _Kinds(WebSocketEndpoint):
    """Answers each message with its exact type and its content."""

    async def on_receive(self, ws: WebSocket, data: Any) -> None:
        await ws.send_text(f"{type(data).__name__} {data!r}")

    async def on_disconnect(self, ws: WebSocket, close_code: int) -> None:
        journal(ws, "on_disconnect", code=close_code)


@mounted("/endpoints/encoding/none")
class KindsAsTheyCame(_Kinds):
    """Messages as they came."""


@mounted("/endpoints/encoding/text")
class KindsOfText(_Kinds):
    """Text alone."""

    encoding = "text"


@mounted("/endpoints/encoding/bytes")
class KindsOfBytes(_Kinds):
    """Binary alone."""

    encoding = "bytes"


@mounted("/endpoints/encoding/json")
class KindsOfJSON(_Kinds):
    """JSON in either."""

    encoding = "json"


@dataclass
class Point:
    """A dataclass to decode to."""

    x: int
    y: int = 0


@mounted("/endpoints/encoding/points")
class KindsOfPoints(_Kinds):
    """JSON of one type."""

    message_type = list[Point]


@mounted("/endpoints/encoding/view")
class KindsInView(SocketView):
    """The same without a WebSocket among the arguments."""

    encoding = "json"

    async def on_connect(self) -> None:
        await self.websocket.accept()

    async def on_receive(self, data: Any) -> None:
        await self.websocket.send_text(f"{type(data).__name__} {data!r}")

    async def on_disconnect(self, close_code: int) -> None:
        journal(self.websocket, "on_disconnect", code=close_code)


TEXT = "gr\u00fc\u00df"

_GIVEN: dict[str, list[tuple[str | bytes, object]]] = {
    "none": [(TEXT, TEXT), (b"\x00\xff", b"\x00\xff"), ("", ""), (b"", b"")],
    "text": [(TEXT, TEXT), ("", "")],
    "bytes": [(b"\x00\xff", b"\x00\xff"), (b"", b"")],
    "json": [('{"a": [1, null]}', {"a": [1, None]}), (b'"x"', "x")],
    "points": [('[{"x": 1}, {"x": 2, "y": 3}]', [Point(1), Point(2, 3)]), (b"[]", [])],
    "view": [("[1.5]", [1.5]), (b"null", None)],
}


@clause("8.1")
async def test_on_receive_gets_what_the_encoding_says(server: Server) -> None:
    """Text, binary, JSON of both, and messages as they came; empty ones too."""
    for encoding, messages in _GIVEN.items():
        async with server.connect(f"/endpoints/encoding/{encoding}") as client:
            for message, given in messages:
                await client.send(message)
                assert await client.recv() == f"{type(given).__name__} {given!r}", encoding


_NOT_GIVEN: list[tuple[str, str | bytes, int]] = [
    ("text", b"binary", 1003),
    ("text", b"", 1003),
    ("bytes", "text", 1003),
    ("json", "{", 1007),
    ("json", b"", 1007),
    ("points", '[{"x": "1"}]', 1007),
    ("view", "NaN", 1007),
]


@clause("8.1", "4.3")
async def test_a_message_that_is_none_of_the_encoding_closes(server: Server) -> None:
    """1003 for the wrong kind and 1007 for bad JSON, one warning and no traceback."""
    for encoding, message, code in _NOT_GIVEN:
        mark = server.log_mark()
        async with server.connect(f"/endpoints/encoding/{encoding}") as client:
            await client.send(message)
            assert (await client.closed())[0] == server.row.sends(code)[0], encoding
        assert await client.journal("on_disconnect") == {"code": code}
        log = await server.settled(mark)
        assert log.count(f"closing with {code}") == 1, log
        assert "Traceback" not in log, log
        assert len(client.events()) == 1, encoding


# 8.1 Messages by their kind


@dataclass
class Join:
    """A message."""

    room: str
    type: Literal["join"] = "join"


@dataclass
class Say:
    """Another one."""

    text: str
    type: Literal["say"] = "say"


@dataclass
class Leave:
    """One without a method of its own."""

    type: Literal["leave"] = "leave"


@mounted("/endpoints/messages/closing")
class ByKind(WebSocketEndpoint):
    """A method for two of three kinds."""

    message_type = Join | Say | Leave

    @on_message(Join)
    async def join(self, ws: WebSocket, message: Join) -> None:
        await ws.send(f"join {message!r}")

    @on_message(Say)
    async def say(self, ws: WebSocket, message: Say) -> None:
        await ws.send(f"say {message!r}")

    async def on_receive(self, ws: WebSocket, data: Any) -> None:
        await ws.send(f"receive {data!r}")


@mounted("/endpoints/messages/own")
class ByKindAndNone(ByKind):
    """The same, with an answer to other kinds."""

    async def on_unknown_message(self, ws: WebSocket, message: Any) -> None:
        await ws.send(f"unknown {message!r}")


@mounted("/endpoints/messages/view")
class ByKindInView(SocketView):
    """The same without a WebSocket among the arguments."""

    @on_message(Join)
    async def join(self, message: Join) -> None:
        await self.websocket.send(f"join {message!r}")

    @on_message(Say)
    async def say(self, message: Say) -> None:
        await self.websocket.send(f"say {message!r}")

    async def on_unknown_message(self, message: Any) -> None:
        await self.websocket.send(f"unknown {message!r}")


@clause("8.1", "4.4")
async def test_messages_go_to_the_method_of_their_kind(server: Server) -> None:
    """By their tag; else to `on_receive`; one that no type has closes with 1003 by default."""
    for name in ("closing", "own", "view"):
        async with server.connect(f"/endpoints/messages/{name}") as client:
            for message, answer in (
                ('{"type": "say", "text": "x"}', f"say {Say('x')!r}"),
                (b'{"room": "r", "type": "join"}', f"join {Join('r')!r}"),
                ('{"type": "leave"}', f"receive {Leave()!r}"),
                ('{"type": "shout"}', "unknown {'type': 'shout'}"),
            ):
                if name == "view" and "leave" in str(message):
                    continue
                await client.send(message)
                if name == "closing" and answer.startswith("unknown"):
                    assert (await client.closed())[0] == server.row.sends(1003)[0]
                else:
                    assert await client.recv() == answer, name
            if name != "closing":
                await client.send('{"type": "say", "text": 5}')
                code, reason = await client.closed()
                assert code == server.row.sends(1007)[0]
                assert "$.text" in reason or server.row.without("own_close_reason"), reason


# 8.1 Order

_gates: dict[str, asyncio.Event] = {}
"""What hooks wait for, by the connection's name."""


@mounted("/endpoints/open-gate")
async def open_gate(ws: WebSocket) -> None:
    """Let the hook of another connection go on."""
    await ws.accept()
    async for connection_id in ws:
        _gates[str(connection_id)].set()


async def _wait_at_gate(ws: WebSocket) -> None:
    gate = _gates[ws.query_params["id"]] = asyncio.Event()
    await gate.wait()


@contextlib.asynccontextmanager
async def _gatekeeper(server: Server) -> AsyncGenerator[Client]:
    async with server.connect("/endpoints/open-gate") as keeper:
        yield keeper


@mounted("/endpoints/order")
class InOrder(WebSocketEndpoint):
    """Begins and ends messages, with waits between; the first takes very long."""

    async def on_receive(self, ws: WebSocket, data: str | bytes) -> None:
        journal(ws, f"begin {data!s}")
        if data == "0":
            await _wait_at_gate(ws)
        for _ in range(5):
            await asyncio.sleep(0)
        journal(ws, f"end {data!s}")

    async def on_disconnect(self, ws: WebSocket, close_code: int) -> None:
        journal(ws, "on_disconnect", code=close_code)


@clause("8.1")
async def test_one_message_at_a_time_in_order(server: Server) -> None:
    """The next comes when `on_receive` has returned; all come, and then the disconnect."""
    async with (
        _gatekeeper(server) as keeper,
        server.raw("/endpoints/order") as raw,
    ):
        await raw.send_frames(*((1, b"%d" % number) for number in range(20)), (9, b"ping"))
        assert await raw.recv_frame() == (10, b"ping", True, 0)  # all are here by now
        await raw.journal("begin 0")
        await raw.send_frame(8, (4001).to_bytes(2))
        await raw.eof()
        await server.settled()
        assert [name for name, _ in raw.events()] == ["begin 0"]
        await keeper.send(raw.id)
        code, _ = server.row.sees(4001)
        assert await raw.journal("on_disconnect") == {"code": code}
        steps = [f"{step} {number}" for number in range(20) for step in ("begin", "end")]
        assert [name for name, _ in raw.events()] == [*steps, "on_disconnect"]


# 8.1 Defaults


@mounted("/endpoints/default")
class Default(WebSocketEndpoint):
    """Nothing but the defaults."""


@mounted("/endpoints/default-view")
class DefaultView(SocketView):
    """Nothing but the defaults."""


@clause("8.1")
async def test_the_defaults_accept_and_ignore(server: Server) -> None:
    """Whatever is sent; pings are answered, and the end is quiet."""
    for name in ("default", "default-view"):
        mark = server.log_mark()
        async with server.connect(f"/endpoints/{name}") as client:
            for message in ("text", b"binary", "", b"", "{"):
                await client.send(message)
            await (await client.ws.ping())
            await client.close(4000)
        log = await server.settled(mark)
        assert "Traceback" not in log, log
        assert "unisock:" not in log, log
        assert client.events() == []


# 8.2 One instance per connection


@mounted("/endpoints/instances")
class Counting(WebSocketEndpoint):
    """Counts in an attribute of its own, and knows its connection in every hook."""

    def __init__(self) -> None:
        self.count = 0
        self.mine: list[bool] = []

    async def on_connect(self, ws: WebSocket) -> None:
        self.mine.append(self.websocket is ws)
        await ws.accept()

    async def on_receive(self, ws: WebSocket, data: str | bytes) -> None:
        self.count += 1
        self.mine.append(self.websocket is ws)
        await ws.send(f"{self.count}")

    async def on_disconnect(self, ws: WebSocket, close_code: int) -> None:
        self.mine.append(self.websocket is ws)
        journal(ws, "counted", count=self.count, mine=self.mine)


@clause("8.2")
async def test_one_instance_per_connection(server: Server) -> None:
    """Two connections at once, and one after them, count from one each."""
    async with (
        server.connect("/endpoints/instances") as one,
        server.connect("/endpoints/instances") as other,
    ):
        for number, clients in ((1, (one, other)), (2, (one, other)), (3, (one,))):
            for client in clients:
                await client.send("count")
                assert await client.recv() == f"{number}"
        await one.close()
        await other.close()
        assert await one.journal("counted") == {"count": 3, "mine": [True] * 5}
        assert await other.journal("counted") == {"count": 2, "mine": [True] * 4}
    async with server.connect("/endpoints/instances") as client:
        await client.send("count")
        assert await client.recv() == "1"


# 8.2 on_disconnect


class _Leaving(WebSocketEndpoint):
    """Journals its last hook, and what there is of the connection in it."""

    async def on_disconnect(self, ws: WebSocket, close_code: int) -> None:
        await asyncio.sleep(0)
        journal(
            ws,
            "on_disconnect",
            code=close_code,
            closed=ws.closed,
            same=ws.close_code == close_code,
            calls=[
                await _raised(ws.receive()),
                await _raised(ws.send("too late")),
                await _raised(_start_soon(ws)),
                await _raised(ws.close(4999)),
            ],
        )


async def _raised(call: Any) -> str:
    try:
        await call
    except (WebSocketDisconnect, InvalidState) as exc:
        return type(exc).__name__
    return "nothing"


async def _start_soon(ws: WebSocket) -> None:
    ws.start_soon(asyncio.sleep, 0)


@mounted("/endpoints/leaving/{how}", max_message_size=1000)
class Leaving(_Leaving):
    """Ends in `on_connect`, or does as each message says."""

    async def on_connect(self, ws: WebSocket) -> None:
        match ws.path_params["how"]:
            case "reject":
                await ws.reject(410)
            case "close":
                await ws.close(4001)
            case "rejected":
                raise HandshakeRejected(410)
            case "return":
                return
            case "error":
                raise LookupError("before accept")
            case "exception":
                raise WebSocketException(4001)
            case "http-error":
                raise http_error(404)
            case "cancelled":
                _cancel_this()
                await asyncio.Event().wait()
            case "late-error":
                await ws.accept()
                raise LookupError("after accept")
            case "late-close":
                await ws.accept()
                await ws.close(4002)
            case _:
                await ws.accept()

    async def on_receive(self, ws: WebSocket, data: str | bytes) -> None:
        match data:
            case "close":
                await ws.close(4003, "own")
            case "error":
                raise LookupError("in on_receive")
            case "exception":
                raise WebSocketException(4321)
            case "cancelled":
                _cancel_this()
                await asyncio.Event().wait()
            case _:
                journal(ws, "received")


def _cancel_this() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@mounted("/endpoints/leaving-view")
class LeavingView(SocketView):
    """Takes leave without a WebSocket among the arguments."""

    async def on_disconnect(self, close_code: int) -> None:
        journal(self.websocket, "on_disconnect", code=close_code)


_AFTER_THE_END = {
    "closed": True,
    "same": True,
    "calls": ["WebSocketDisconnect", "WebSocketDisconnect", "InvalidState", "nothing"],
}


async def _check_left(client: Client | RawClient, code: int) -> None:
    left = await client.journal("on_disconnect")
    assert left == {"code": code, **_AFTER_THE_END}


async def _break(raw: RawClient, how: str) -> None:
    """End a connection as no decent client does."""
    match how:
        case "no code":
            await raw.send_frame(8)
        case "eof":
            await raw.send(frame(1, b"half of it")[:-5])
        case "too large":
            await raw.send_frame(1, b"x" * 1001)
            assert (await raw.closed())[0] == raw.server.row.sends(1009)[0]
        case _:
            raw.reset()
    if how != "reset":
        await raw.eof()


@clause("8.2")
async def test_on_disconnect_has_the_real_code_and_comes_once(server: Server) -> None:
    """By the peer's code, none and a break; by an own close, an error and a cancellation."""
    clients = [*await _left_by_peers(server), *await _left_by_hooks(server)]
    await server.settled()
    for client in clients:
        names = [name for name, _ in client.events() if name != "framework-error"]
        assert names == ["on_disconnect"]


async def _left_by_peers(server: Server) -> list[Client | RawClient]:
    path = "/endpoints/leaving/open"
    clients: list[Client | RawClient] = []
    for code in (1000, 1001, 4005):
        async with server.connect(path) as client:
            await client.close(code)
            await _check_left(client, server.row.sees(code)[0])
            clients.append(client)
    broken = {"no code": server.row.sees(1005)[0], "eof": 1006, "reset": 1006, "too large": 1009}
    for how, code in broken.items():
        async with server.raw(path) as raw:
            await _break(raw, how)
            await _check_left(raw, code)
            clients.append(raw)
    async with server.connect("/endpoints/leaving-view") as client:
        await client.close(4006)
        left = await client.journal("on_disconnect")
        assert left == {"code": server.row.sees(4006)[0]}
        clients.append(client)
    return clients


async def _left_by_hooks(server: Server) -> list[Client]:
    clients: list[Client] = []
    messages = {"close": 4003, "exception": 4321, "error": 1011, "cancelled": 1012}
    for message, code in messages.items():
        async with server.connect("/endpoints/leaving/open") as client:
            await client.send(message)
            await client.send("unread")
            assert (await client.closed())[0] == server.row.sends(code)[0], message
            await _check_left(client, code)
            clients.append(client)
    for how, code in (("late-error", 1011), ("late-close", 4002)):
        async with server.connect(f"/endpoints/leaving/{how}") as client:
            assert (await client.closed())[0] == server.row.sends(code)[0], how
            await _check_left(client, code)
            clients.append(client)
    return clients


@clause("8.2")
async def test_on_disconnect_comes_once_if_the_connection_was_never_open(server: Server) -> None:
    """Rejected in each way: 1006, or 1012 where the server has stopped."""
    ids: list[str] = []
    for how, status in (
        ("reject", 410),
        ("close", 403),
        ("rejected", 410),
        ("return", 403),
        ("error", 500),
        ("exception", 403),
        ("http-error", 404),
        ("cancelled", 503),
    ):
        response = await server.check_rejected(f"/endpoints/leaving/{how}", status)
        left = await server.journal(response.id, "on_disconnect")
        *receive_and_send, start_soon, close = left.pop("calls")
        assert set(receive_and_send) <= {"InvalidState", "WebSocketDisconnect"}, how
        assert (start_soon, close) == ("InvalidState", "nothing"), how
        code = 1012 if how == "cancelled" else 1006
        assert left == {"code": code, "closed": True, "same": True}, how
        ids.append(response.id)
    await server.settled()
    for connection_id in ids:
        names = [name for name, _ in server.events(connection_id) if name != "framework-error"]
        assert names == ["on_disconnect"]


@mounted("/endpoints/not-made")
class NotMade(_Leaving):
    """Cannot be created."""

    def __init__(self) -> None:
        raise LookupError("in __init__")


@clause("8.2")
async def test_no_on_disconnect_without_on_connect(server: Server) -> None:
    """An endpoint that cannot be created, an origin that is stopped."""
    response = await server.check_rejected("/endpoints/not-made", 500)
    assert await server.journal(response.id, "framework-error") == {"type": "LookupError"}
    origin = {"Origin": "http://other.example"}
    stopped = await server.check_rejected("/endpoints/leaving/open", 403, headers=origin)
    await server.settled()
    assert [name for name, _ in server.events(response.id)] == ["framework-error"]
    assert server.events(stopped.id) == []


@mounted("/endpoints/late-leave")
class LateLeave(WebSocketEndpoint):
    """Takes its time for the last hook."""

    async def on_receive(self, ws: WebSocket, data: str | bytes) -> None:
        raise WebSocketException(4004, "own")

    async def on_disconnect(self, ws: WebSocket, close_code: int) -> None:
        journal(ws, "leaving")
        await _wait_at_gate(ws)
        journal(ws, "left")


@clause("8.2")
async def test_on_disconnect_comes_after_the_end(server: Server) -> None:
    """The peer is told before it; a hook that takes its time keeps nobody waiting."""
    async with (
        _gatekeeper(server) as keeper,
        server.raw("/endpoints/late-leave") as raw,
    ):
        await raw.send_frame(1, b"close")
        assert await raw.closed() == (4004, "own")
        await raw.send_frame(8, (4004).to_bytes(2))
        await raw.eof()
        await raw.ended()
        await raw.journal("leaving")
        assert [name for name, _ in raw.events()] == ["leaving"]
        await keeper.send(raw.id)
        await raw.journal("left")
