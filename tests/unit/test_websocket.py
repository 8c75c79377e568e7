"""`WebSocket`: every method, in every state."""

from __future__ import annotations

import array
import asyncio
import dataclasses
import enum
import functools
import json
import math
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

import unisock.websocket
from tests.unit.memory import (
    FrameworkError,
    MemoryTransport,
    Running,
    serve,
    settle,
    turn,
    with_websocket,
    without_accept,
)
from unisock import (
    Address,
    Capabilities,
    InvalidMessage,
    InvalidState,
    Options,
    WebSocket,
    WebSocketDisconnect,
)
from unisock.testing.wires import MemoryHandshake
from unisock.websocket import check_response, cut_reason

Call = Callable[[WebSocket], Awaitable[object]]

RECEIVES: dict[str, Call] = {
    "receive": lambda ws: ws.receive(),
    "receive_text": lambda ws: ws.receive_text(),
    "receive_bytes": lambda ws: ws.receive_bytes(),
    "receive_json": lambda ws: ws.receive_json(),
    "anext": lambda ws: anext(aiter(ws)),
    "iter_text": lambda ws: anext(ws.iter_text()),
    "iter_bytes": lambda ws: anext(ws.iter_bytes()),
    "iter_json": lambda ws: anext(ws.iter_json()),
}
SENDS: dict[str, Call] = {
    "send": lambda ws: ws.send("x"),
    "send binary": lambda ws: ws.send(b"x"),
    "send_text": lambda ws: ws.send_text("x"),
    "send_bytes": lambda ws: ws.send_bytes(b"x"),
    "send_json": lambda ws: ws.send_json("x"),
    "send_json binary": lambda ws: ws.send_json("x", binary=True),
}
OFFERS = MemoryHandshake(
    raw_headers=[("Host", "app.example"), ("Sec-WebSocket-Protocol", "chat, superchat")]
)


class TestHandshake:
    def test_everything_of_the_handshake_is_there(self) -> None:
        handshake = MemoryHandshake(
            scheme="wss",
            raw_path="/rooms/7",
            query_string="x=1",
            raw_headers=[("Host", "h"), ("Cookie", "a=b"), ("Sec-WebSocket-Protocol", "chat")],
            path_params={"room": 7},
            client=Address("192.0.2.9", 9),
            request="the request",
        )

        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            assert ws.url == "wss://h/rooms/7?x=1"
            assert ws.path_params == {"room": 7}
            assert ws.query_params["x"] == "1"
            assert ws.headers["HOST"] == "h"
            assert ws.cookies == {"a": "b"}
            assert ws.client == ("192.0.2.9", 9)
            assert ws.subprotocols == ("chat",)
            assert ws.subprotocol is None
            assert ws.request == "the request"
            assert ws.capabilities == Capabilities()
            ws.state.user = "ada"
            assert ws.state.user == "ada"
            assert (ws.closed, ws.close_code, ws.close_reason) == (False, None, None)
            await ws.accept()

        with_websocket(body, handshake=handshake, accept=False)


class TestAccept:
    def test_with_subprotocol_and_headers(self) -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept("superchat", {"X-A": "1"})
            assert ws.subprotocol == "superchat"

        assert serve(handler, handshake=OFFERS).sent == [
            ("accept", "superchat", [("x-a", "1")]),
            ("close", 1000, ""),
        ]

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"subprotocol": "other"}, ValueError),
            ({"subprotocol": "Chat"}, ValueError),
            ({"subprotocol": ""}, ValueError),
            ({"headers": {"Sec-WebSocket-Protocol": "chat"}}, ValueError),
            ({"headers": {"Upgrade": "x"}}, ValueError),
            ({"headers": {"a": "b\r\nc: d"}}, ValueError),
            ({"headers": "a: b"}, TypeError),
        ],
    )
    def test_what_cannot_be_said_is_refused_and_a_right_one_may_follow(
        self, arguments: dict[str, Any], error: type[Exception]
    ) -> None:
        async def handler(ws: WebSocket) -> None:
            with pytest.raises(error):
                await ws.accept(**arguments)
            await ws.accept("chat")

        transport = serve(handler, handshake=OFFERS)
        assert transport.sent[0] == ("accept", "chat", [])

    def test_nothing_offered_is_told(self) -> None:
        async def handler(ws: WebSocket) -> None:
            with pytest.raises(ValueError, match=r"did not offer 'chat' \(it offered none"):
                await ws.accept("chat")

        serve(handler)

    def test_twice(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            with pytest.raises(InvalidState, match=r"accept\(\) was already called"):
                await ws.accept()
            with pytest.raises(InvalidState, match=r"accept\(\) was already called"):
                await ws.reject()
            assert transport.sent == [("accept", None, [])]

        with_websocket(body)

    def test_two_at_once(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            transport.accepting.clear()
            first = asyncio.create_task(ws.accept())
            await transport.blocked.wait()
            for call in (ws.accept, ws.reject, ws.receive, functools.partial(ws.send, "x")):
                with pytest.raises(InvalidState, match="has not returned yet"):
                    await call()
            transport.accepting.set()
            await first
            await ws.send("open")
            assert transport.sent == [("accept", None, []), ("send", "open")]

        with_websocket(body, accept=False)

    def test_a_server_that_cannot_leaves_out_and_warns(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept("chat", {"a": "b"})
            assert ws.subprotocol is None

        cannot = Capabilities(accept_headers=False, subprotocol=False)
        transport = serve(handler, handshake=OFFERS, capabilities=cannot)
        assert transport.sent[0] == ("accept", None, [])
        assert "sends no headers" in caplog.text
        assert "sends no subprotocol" in caplog.text

    def test_the_client_has_gone_before(self) -> None:
        async def handler(ws: WebSocket) -> None:
            assert await ws.wait_closed() == 1001
            for _ in range(2):
                with pytest.raises(WebSocketDisconnect, match="1001 gone"):
                    await ws.accept()
            await ws.accept()

        async def main() -> None:
            transport = MemoryTransport()
            transport.peer_leaves(1001, "gone")
            assert ("accept", None, []) not in await Running(handler, transport).end()

        asyncio.run(main())

    def test_the_client_goes_meanwhile(self) -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()

        async def main() -> None:
            transport = MemoryTransport()
            transport.accepting.clear()
            running = Running(handler, transport)
            await transport.blocked.wait()
            transport.peer_leaves(1006)
            transport.lose()
            assert await running.end() == []

        asyncio.run(main())

    def test_a_disconnect_during_accept_is_seen_after_it(self) -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            assert await ws.receive() == "early"
            with pytest.raises(WebSocketDisconnect, match="4000"):
                await ws.receive()

        async def main() -> None:
            transport = MemoryTransport()
            transport.accepting.clear()
            running = Running(handler, transport)
            await transport.blocked.wait()
            transport.peer_sends("early")
            transport.peer_leaves(4000)
            await settle()
            transport.accepting.set()
            assert await running.end() == []

        asyncio.run(main())

    def test_cancelled_what_is_left_is_to_close(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            transport.accepting.clear()
            accepting = asyncio.create_task(ws.accept())
            await transport.blocked.wait()
            accepting.cancel()
            await asyncio.wait([accepting])
            assert accepting.cancelled()
            with pytest.raises(InvalidState):
                await ws.accept()
            await ws.close(4000)
            assert transport.sent == [("close", 4000, "")]

        with_websocket(body, accept=False)

    def test_closing_while_it_waits(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            transport.accepting.clear()
            accepting = asyncio.create_task(ws.accept())
            await transport.blocked.wait()
            await ws.close(4000)
            transport.accepting.set()
            await accepting
            with pytest.raises(WebSocketDisconnect, match="4000"):
                await ws.send("x")

        with_websocket(body, accept=False)


class TestReject:
    def test_with_everything(self) -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.reject(429, b"slow down", [("Retry-After", "5")])
            assert (ws.closed, ws.close_code, await ws.wait_closed()) == (True, 1006, 1006)

        assert serve(handler).sent == [
            (
                "reject",
                429,
                b"slow down",
                [
                    ("retry-after", "5"),
                    ("content-type", "text/plain; charset=utf-8"),
                    ("content-length", "9"),
                ],
            )
        ]

    def test_the_body_may_have_a_type_of_its_own(self) -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.reject(400, bytes(2), {"Content-Type": "application/json"})

        headers = [("content-type", "application/json"), ("content-length", "2")]
        assert serve(handler).sent == [("reject", 400, bytes(2), headers)]

    def test_the_least(self) -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.reject()

        assert serve(handler).sent == [("reject", 403, b"", [("content-length", "0")])]

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ((101,), ValueError),
            ((199,), ValueError),
            ((600,), ValueError),
            ((True,), TypeError),
            (("403",), TypeError),
            ((403, "text"), TypeError),
            ((403, None), TypeError),
            ((403, b"", {"Content-Length": "5"}), ValueError),
            ((403, b"", {"a": "\n"}), ValueError),
        ],
    )
    def test_what_cannot_be_said_is_refused_and_a_right_one_may_follow(
        self, arguments: tuple[Any, ...], error: type[Exception]
    ) -> None:
        async def handler(ws: WebSocket) -> None:
            with pytest.raises(error):
                await ws.reject(*arguments)
            await ws.reject(400)

        assert serve(handler).sent == [("reject", 400, b"", [("content-length", "0")])]

    def test_an_enum_is_a_status(self) -> None:
        class Status(enum.IntEnum):
            TEAPOT = 418

        async def handler(ws: WebSocket) -> None:
            await ws.reject(Status.TEAPOT)

        (sent,) = serve(handler).sent
        assert type(sent[1]) is int

    def test_nothing_can_be_done_after_it(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            await ws.reject()
            calls: list[Call] = [WebSocket.accept, WebSocket.reject]
            for call in (*calls, *RECEIVES.values(), *SENDS.values()):
                with pytest.raises(InvalidState, match="the handshake was rejected"):
                    await call(ws)
            await ws.close()
            assert len(transport.sent) == 1

        with_websocket(body, accept=False)

    def test_close_is_a_403(self) -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.close(4000, "not you")

        assert serve(handler).sent == [("reject", 403, b"", [("content-length", "0")])]

    def test_a_client_that_went_meanwhile_is_no_error(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            transport.accepting.clear()
            rejecting = asyncio.create_task(ws.reject(404))
            await transport.blocked.wait()
            transport.peer_leaves(1006)
            transport.lose()
            await rejecting

        with_websocket(body, accept=False)

    def test_a_client_that_went_before_is_no_error(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            transport.peer_leaves(1006)
            await ws.wait_closed()
            transport.lose()
            await ws.reject(404)
            assert (ws.close_code, transport.sent) == (1006, [])

        with_websocket(body, accept=False)


class TestReceive:
    def test_each_kind(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> list[object]:
            return [
                await ws.receive(),
                await ws.receive(),
                await ws.receive_text(),
                await ws.receive_bytes(),
                await ws.receive_json(),
                await ws.receive_json(),
            ]

        got = with_websocket(body, "", b"", "é", b"\0", '{"a":1}', b"[2]")
        assert got == ["", b"", "é", b"\0", {"a": 1}, [2]]

    @pytest.mark.parametrize("name", RECEIVES)
    def test_before_accept(self, name: str) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            with pytest.raises(InvalidState, match=r"accept\(\) it first"):
                await RECEIVES[name](ws)
            assert not transport.sent

        with_websocket(body, "x", accept=False)

    def test_the_other_kind_is_consumed_and_the_connection_untouched(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            with pytest.raises(InvalidMessage) as caught:
                await ws.receive_text()
            assert (caught.value.code, caught.value.message) == (1003, b"binary")
            with pytest.raises(InvalidMessage) as caught:
                await ws.receive_bytes()
            assert (caught.value.code, caught.value.message) == (1003, "text")
            assert await ws.receive() == "next"
            assert not without_accept(transport)

        with_websocket(body, b"binary", "text", "next")

    def test_queued_messages_come_before_the_disconnect(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            transport.peer_leaves(4005, "why")
            await ws.wait_closed()
            assert not ws.closed
            assert await ws.receive() == "a"
            assert not ws.closed
            assert await ws.receive() == b"b"
            assert ws.closed
            for name, receive in RECEIVES.items():
                ends = StopAsyncIteration if "iter" in name or name == "anext" else None
                with pytest.raises(ends or WebSocketDisconnect) as caught:
                    await receive(ws)
                if isinstance(caught.value, WebSocketDisconnect):
                    assert (caught.value.code, caught.value.reason) == (4005, "why")
            assert (ws.close_code, ws.close_reason) == (4005, "why")

        with_websocket(body, "a", b"b")

    def test_a_default_in_place_of_a_timeout(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            for receive in (ws.receive, ws.receive_text, ws.receive_bytes):
                assert await receive(0, "late") == "late"
                assert await receive(timeout=0, default=None) is None
                with pytest.raises(TimeoutError):
                    await receive(0)
            assert await ws.receive_json(int, 0, "late") == "late"
            assert await ws.receive_json(timeout=0, default=None) is None
            with pytest.raises(TimeoutError):
                await ws.receive_json(int, timeout=0)
            transport.peer_sends("5")
            assert await ws.receive_json(int, 10, None) == 5
            transport.peer_sends("x")
            with pytest.raises(InvalidMessage):
                await ws.receive_bytes(10, "late")

        with_websocket(body)

    def test_a_timeout_loses_nothing(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await ws.receive()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ws.receive(), 0.001)
            transport.peer_sends("late")
            assert await ws.receive() == "late"

        with_websocket(body)

    def test_two_at_once(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            first = asyncio.create_task(ws.receive())
            await settle()
            for receive in RECEIVES.values():
                with pytest.raises(InvalidState, match="another receive"):
                    await receive(ws)
            transport.peer_sends("for the first")
            assert await first == "for the first"

        with_websocket(body)


@dataclasses.dataclass
class Move:
    x: int
    y: int = 0


class TestReceiveJSON:
    @pytest.mark.parametrize("codec", [None, json])
    def test_into_types(self, codec: Any) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            assert await ws.receive_json(Move) == Move(1, 2)
            assert await ws.receive_json(list[int]) == [1, 2]
            assert await ws.receive_json(dict[int, str]) == {1: "a"}
            assert await ws.receive_json(int | None) is None
            assert await ws.receive_json() == 10**30

        messages: list[str | bytes] = [
            '{"x":1,"y":2}',
            b"[1,2]",
            '{"1":"a"}',
            "null",
            str(10**30),
        ]
        with_websocket(body, *messages, json=codec)

    @pytest.mark.parametrize("codec", [None, json])
    @pytest.mark.parametrize(
        ("message", "kind"),
        [
            ("", Any),
            ("{", Any),
            ("1 2", Any),
            (b"\xff", Any),
            (b'"\xff"', Any),
            (b'{"\xff": 1}', Any),
            pytest.param("[" * 100_000, Any, id="nested deeply"),
            pytest.param(b"[" * 100_000, Any, id="nested deeply, binary"),
            ("1.5", int),
            ('{"x":"1"}', Move),
            ("{}", Move),
            ("null", Move),
        ],
    )
    def test_what_does_not_fit(self, message: str | bytes, kind: Any, codec: Any) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            with pytest.raises(InvalidMessage) as caught:
                await ws.receive_json(kind)
            assert (caught.value.code, caught.value.message) == (1007, message)
            assert caught.value.reason
            assert caught.value.__suppress_context__
            assert await ws.receive() == "next"

        with_websocket(body, message, "next", json=codec)

    @pytest.mark.parametrize("message", ["NaN", "-Infinity", "1e999", "'a'", '"\\ud800"', "01"])
    def test_what_only_some_call_json(self, message: str) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            with pytest.raises(InvalidMessage):
                await ws.receive_json()

        with_websocket(body, message)


class TestAnotherThread:
    def test_sends_and_closes_raise_there(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            async def start_soon() -> None:
                ws.start_soon(ws.send_text, "x")

            for call, remedy in (
                (functools.partial(ws.send_text, "x"), "queue.put_nowait, message"),
                (functools.partial(ws.send, b"x"), "queue.put_nowait, message"),
                (ws.close, r"run_coroutine_threadsafe\(ws.close"),
                (start_soon, r"call_soon_threadsafe\(ws.start_soon"),
            ):

                async def stray(call: Callable[[], Awaitable[None]] = call) -> None:
                    await call()

                with pytest.raises(InvalidState, match=remedy):
                    await asyncio.to_thread(asyncio.run, stray())
            await ws.send("unharmed")
            assert transport.sent[-1] == ("send", "unharmed")

        with_websocket(body)


class TestIteration:
    def test_the_end_before_accept(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            ws._hand_over()
            assert [message async for message in ws] == []

        with_websocket(body, accept=False)

    def test_one_that_is_asked_for_before_accept_and_awaited_after(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            first, second = aiter(ws).__anext__(), ws.iter_json(int).__anext__()
            await ws.accept()
            assert [await first, await second] == ["a", 1]

        with_websocket(body, "a", "1", accept=False)

    def test_each_ends_with_the_connection_and_stays_ended(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            iterator = aiter(ws)
            assert [m async for m in iterator] == ["a", b"b"]
            assert [m async for m in iterator] == []
            assert [m async for m in ws] == []
            assert [m async for m in ws.iter_text()] == []
            assert ws.close_code == 1001

        async def main() -> None:
            transport = MemoryTransport()
            transport.peer_sends("a", b"b")
            transport.peer_leaves()

            async def handler(ws: WebSocket) -> None:
                await ws.accept()
                await body(ws, transport)

            await Running(handler, transport).end()

        asyncio.run(main())

    def test_by_kind(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            async for text in ws.iter_text():
                assert text == "a"
                break
            async for data in ws.iter_bytes():
                assert data == b"b"
                break
            async for move in ws.iter_json(Move):
                assert move == Move(1)
                break
            assert await anext(ws.iter_json()) == [1]

        with_websocket(body, "a", b"b", '{"x":1}', "[1]")

    def test_it_goes_on_after_a_message_of_the_other_kind(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            texts = ws.iter_text()
            assert await anext(texts) == "a"
            with pytest.raises(InvalidMessage):
                await anext(texts)
            assert await anext(texts) == "c"

        with_websocket(body, "a", b"b", "c")

    def test_it_ends_by_the_own_close(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> list[object]:
            got: list[object] = []
            async for message in ws:
                got.append(message)
                await ws.close(4000)
            return got

        assert with_websocket(body, "a", "b") == ["a"]


class TestSend:
    @pytest.mark.parametrize("name", SENDS)
    def test_before_accept(self, name: str) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            with pytest.raises(InvalidState, match=r"accept\(\) it first"):
                await SENDS[name](ws)
            assert not transport.sent

        with_websocket(body, accept=False)

    @pytest.mark.parametrize(
        ("data", "sent"),
        [
            ("", ""),
            ("é", "é"),
            ("\0", "\0"),
            (b"", b""),
            (bytearray(b"ab"), b"ab"),
            (memoryview(b"abcdef")[1:3], b"bc"),
            (memoryview(b"abcdef")[::2], b"ace"),
            (memoryview(array.array("H", [1, 256])), array.array("H", [1, 256]).tobytes()),
            (memoryview(bytes(6)).cast("B", (2, 3)), bytes(6)),
        ],
    )
    def test_each_kind(self, data: Any, sent: object) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            await ws.send(data)
            (message,) = without_accept(transport)
            assert message == ("send", sent)
            assert type(message[1]) is type(sent)

        with_websocket(body)

    def test_what_is_sent_does_not_change_with_the_buffer(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            buffer = bytearray(b"before")
            await ws.send_bytes(buffer)
            buffer[:] = b"after!"
            assert without_accept(transport) == [("send", b"before")]

        with_websocket(body)

    @pytest.mark.parametrize(
        "call",
        [
            lambda ws: ws.send(None),
            lambda ws: ws.send(5),
            lambda ws: ws.send(["a"]),
            lambda ws: ws.send({"a": 1}),
            lambda ws: ws.send_text(b"x"),
            lambda ws: ws.send_text(None),
            lambda ws: ws.send_text(b""),
            lambda ws: ws.send_bytes("x"),
            lambda ws: ws.send_bytes(""),
            lambda ws: ws.send_bytes(5),
            lambda ws: ws.send_bytes(None),
            lambda ws: ws.send_bytes([1, 2]),
        ],
    )
    def test_other_types(self, call: Call) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            with pytest.raises(TypeError, match="takes"):
                await call(ws)
            assert not without_accept(transport)

        with_websocket(body)

    def test_a_lone_surrogate(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            with pytest.raises(ValueError, match="surrogates"):
                await ws.send_text("a\ud800")
            assert not without_accept(transport)

        with_websocket(body)

    @pytest.mark.parametrize("name", SENDS)
    def test_after_the_end(self, name: str) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            transport.peer_leaves(4005, "why")
            await ws.wait_closed()
            with pytest.raises(WebSocketDisconnect) as caught:
                await SENDS[name](ws)
            assert (caught.value.code, caught.value.reason) == (4005, "why")
            assert not without_accept(transport)

        with_websocket(body)

    def test_a_lost_connection_tells_what_the_stream_says(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            transport.lose()
            transport.peer_leaves(4005, "why")
            with pytest.raises(WebSocketDisconnect, match="4005 why"):
                await ws.send("x")

        with_websocket(body)

    def test_the_reason_is_found_behind_a_full_inbox(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            await settle()
            assert transport.received == 2
            transport.lose()
            transport.peer_leaves(4005, "why")
            with pytest.raises(WebSocketDisconnect, match="4005 why"):
                await ws.send("x")
            assert [m async for m in ws] == list("abcdef")

        with_websocket(body, *"abcdef", max_queue=2)

    def test_a_lost_connection_whose_reason_never_comes_is_1006(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(unisock.websocket, "_REASON_TIMEOUT", 0)

        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            transport.lose()
            with pytest.raises(WebSocketDisconnect, match="1006"):
                await ws.send("x")
            transport.peer_leaves(4000)
            await settle()
            assert await ws.wait_closed() == 1006

        with_websocket(body)

    def test_a_loop_that_only_sends_notices_the_end(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            transport.peer_leaves(4005)
            with pytest.raises(WebSocketDisconnect, match="4005"):
                # No send of this transport waits.
                for _ in range(10_000):
                    await ws.send("x")

        with_websocket(body)

    def test_cancelled_while_it_waits_the_next_goes_through(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            transport.flowing.clear()
            sending = asyncio.create_task(ws.send("a"))
            await transport.blocked.wait()
            sending.cancel()
            await asyncio.wait([sending])
            transport.flowing.set()
            await ws.send("b")
            assert without_accept(transport) == [("send", "b")]

        with_websocket(body)

    def test_one_that_waits_ends_with_the_connection(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            transport.flowing.clear()
            sending = asyncio.create_task(ws.send("a"))
            await transport.blocked.wait()
            transport.peer_leaves(1006)
            transport.lose()
            with pytest.raises(WebSocketDisconnect, match="1006"):
                await sending

        with_websocket(body)


@dataclasses.dataclass
class Deep:
    value: Any


class Text(str):
    __slots__ = ()


class Number(int):
    __slots__ = ()


class Real(float):
    __slots__ = ()


def nested(depth: int) -> list[Any]:
    deep: list[Any] = []
    for _ in range(depth):
        deep = [deep]
    return deep


def circular() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


class TestSendJSON:
    @pytest.mark.parametrize(
        ("data", "text"),
        [
            ({"a": [1, 2.5, None, True], "b": "é€"}, '{"a":[1,2.5,null,true],"b":"é€"}'),
            (None, "null"),
            ("", '""'),
            ('"\\\n', '"\\"\\\\\\n"'),
            (2**64, str(2**64)),
            (-(2**80), str(-(2**80))),
            ({1: 2}, '{"1":2}'),
            (Move(1, 2), '{"x":1,"y":2}'),
            (Text("x"), '"x"'),
            ({Text("k"): Text("null")}, '{"k":"null"}'),
            ([Number(5), Real(1.5), None], "[5,1.5,null]"),
            (msgspec.Raw(b"null"), "null"),
            ([None, msgspec.Raw(b"1")], "[null,1]"),
            ((1, (None,)), "[1,[null]]"),
            ("null", '"null"'),
        ],
    )
    def test_compact_utf8(self, data: object, text: str) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            await ws.send_json(data)
            await ws.send_json(data, binary=True)
            assert without_accept(transport) == [("send", text), ("send", text.encode())]

        with_websocket(body)

    def test_the_url_is_text_like_any(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            await ws.send_json({"url": ws.url})
            assert without_accept(transport) == [("send", '{"url":"ws://app.example/"}')]

        with_websocket(body)

    @pytest.mark.parametrize(
        "data",
        [
            object(),
            {1, object()},
            {(1, 2): 3},
            math.nan,
            -math.inf,
            [1, [math.inf]],
            {"a": (1, math.nan)},
            Deep(Deep({"x": [math.nan]})),
            Real("nan"),
            [None, Real("inf")],
            "\ud800",
            {"\ud800": 1},
            pytest.param(10**5000, id="a huge int"),
            pytest.param(nested(100_000), id="nested deeply"),
            pytest.param(circular(), id="circular"),
            {"f": print},
        ],
    )
    def test_what_json_cannot_say(self, data: object) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            for binary in (False, True):
                with pytest.raises(TypeError):
                    await ws.send_json(data, binary=binary)
            assert not without_accept(transport)

        with_websocket(body)

    @pytest.mark.parametrize("as_bytes", [False, True])
    def test_a_codec_of_ones_own(self, as_bytes: bool) -> None:
        class Codec:
            def dumps(self, obj: Any, /) -> str | bytes:
                text = f"<{obj}>"
                return text.encode() if as_bytes else text

            def loads(self, data: str | bytes, /) -> Any:
                return ("loaded", data)

        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            await ws.send_json(1)
            await ws.send_json(1, binary=True)
            assert without_accept(transport) == [("send", "<1>"), ("send", b"<1>")]
            assert await ws.receive_json() == ("loaded", "x")

        with_websocket(body, "x", json=Codec())


class TestClose:
    def test_once(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            await ws.close(4000, "bye")
            await ws.close(4001)
            assert without_accept(transport) == [("close", 4000, "bye")]
            assert (ws.closed, ws.close_code, ws.close_reason) == (True, 4000, "bye")
            assert await ws.wait_closed() == 4000
            for call in (ws.receive, functools.partial(ws.send, "x")):
                with pytest.raises(WebSocketDisconnect, match="4000 bye"):
                    await call()

        with_websocket(body, "dropped")

    @pytest.mark.parametrize("accept", [False, True])
    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ((1005,), ValueError),
            ((999,), ValueError),
            ((5000,), ValueError),
            ((True,), TypeError),
            (("1000",), TypeError),
            ((1000, b"reason"), TypeError),
            ((1000, "\ud800"), ValueError),
        ],
    )
    def test_what_cannot_be_said(
        self, arguments: tuple[Any, ...], error: type[Exception], accept: bool
    ) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            with pytest.raises(error):
                await ws.close(*arguments)
            assert not without_accept(transport)
            assert not ws.closed

        with_websocket(body, accept=accept)

    @pytest.mark.parametrize(
        ("reason", "cut"),
        [
            ("x" * 123, "x" * 123),
            ("x" * 124, "x" * 123),
            ("é" * 62, "é" * 61),
            ("x" + "é" * 61, "x" + "é" * 61),
            ("€" * 42, "€" * 41),
            ("\U0001f600" * 31, "\U0001f600" * 30),
        ],
    )
    def test_a_reason_is_cut_at_a_character(self, reason: str, cut: str) -> None:
        assert cut_reason(reason) == cut
        assert len(cut.encode()) <= 123

    def test_two_at_once(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            transport.flowing.clear()
            first = asyncio.create_task(ws.close(4000))
            await transport.blocked.wait()
            await ws.close(4001)
            transport.flowing.set()
            await first
            assert without_accept(transport) == [("close", 4000, "")]

        with_websocket(body)

    def test_while_a_send_waits(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            transport.flowing.clear()
            sending = asyncio.create_task(ws.send("x"))
            await transport.blocked.wait()
            closing = asyncio.create_task(ws.close(4000))
            await settle()
            with pytest.raises(WebSocketDisconnect, match="4000"):
                await ws.send("y")
            transport.lose()
            await closing
            with pytest.raises(WebSocketDisconnect, match="4000"):
                await sending

        with_websocket(body)

    def test_while_a_receive_waits(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            receiving = asyncio.create_task(ws.receive())
            await settle()
            await ws.close(4000)
            with pytest.raises(WebSocketDisconnect, match="4000"):
                await receiving

        with_websocket(body)

    def test_after_the_peer_has_gone(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            transport.peer_leaves(4005)
            assert await ws.wait_closed() == 4005
            await ws.close(4000)
            assert ws.close_code == 4005
            assert not without_accept(transport)

        with_websocket(body)

    def test_on_a_lost_connection(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            transport.lose()
            await ws.close(4000)
            assert ws.close_code == 4000

        with_websocket(body)

    def test_several_wait_for_it(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            waiters = [asyncio.create_task(ws.wait_closed()) for _ in range(3)]
            await settle()
            waiters[1].cancel()
            await ws.close(4000)
            await asyncio.wait(waiters)
            assert [w.cancelled() or w.result() for w in waiters] == [4000, True, 4000]

        with_websocket(body)


class TestWhileConnected:
    def test_a_body_that_ends_is_a_block_that_ends(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            async with ws.while_connected():
                await turn()
            transport.peer_leaves()
            await ws.wait_closed()
            await turn()  # nothing strikes after the block

        with_websocket(body)

    def test_the_end_cancels_the_body_where_it_stands(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            reached = []
            with pytest.raises(WebSocketDisconnect, match="4005 why"):
                async with ws.while_connected():
                    transport.peer_leaves(4005, "why")
                    try:
                        await asyncio.Event().wait()
                    finally:
                        reached.append("finally")
            assert reached == ["finally"]
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            await turn()

        with_websocket(body)

    def test_the_end_was_before(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            transport.peer_leaves(4005)
            await ws.wait_closed()
            with pytest.raises(WebSocketDisconnect, match="4005"):
                async with ws.while_connected():
                    raise AssertionError("the body ran")

        with_websocket(body)

    def test_messages_that_came_before_the_end_can_still_be_received_after_the_block(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            with pytest.raises(WebSocketDisconnect):
                async with ws.while_connected():
                    transport.peer_sends("a", "b")
                    transport.peer_leaves()
                    await asyncio.Event().wait()
            assert [m async for m in ws] == ["a", "b"]

        with_websocket(body)

    def test_closing_in_the_body_does_not_cancel_it(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            async with ws.while_connected():
                await ws.close(4000)
                await turn()

        with_websocket(body)

    def test_closing_by_another_task_does(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            async with asyncio.TaskGroup() as group:
                with pytest.raises(WebSocketDisconnect, match="4000"):
                    async with ws.while_connected():
                        group.create_task(ws.close(4000))
                        await asyncio.Event().wait()

        with_websocket(body)

    def test_an_error_of_the_body_goes_on(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            with pytest.raises(KeyError):
                async with ws.while_connected():
                    raise KeyError

        with_websocket(body)

    def test_an_error_of_the_body_that_is_being_cancelled_goes_on(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            with pytest.raises(KeyError):
                async with ws.while_connected():
                    transport.peer_leaves()
                    try:
                        await asyncio.Event().wait()
                    finally:
                        raise KeyError
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0

        with_websocket(body)

    def test_a_body_that_swallows_the_cancellation_does_not_hide_the_end(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            with pytest.raises(WebSocketDisconnect, match="4005"):
                async with ws.while_connected():
                    transport.peer_leaves(4005)
                    try:
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        await turn()
            await turn()

        with_websocket(body)

    def test_a_send_that_finds_the_end_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(unisock.websocket, "_REASON_TIMEOUT", 0)

        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            with pytest.raises(WebSocketDisconnect, match="1006"):
                async with ws.while_connected():
                    transport.lose()
                    await ws.send("x")
            await turn()

        with_websocket(body)

    def test_a_send_whose_failure_and_whose_reason_come_together(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            with pytest.raises(WebSocketDisconnect, match="4005"):
                async with ws.while_connected():
                    transport.lose()
                    transport.peer_leaves(4005)
                    await ws.send("x")
            await turn()

        with_websocket(body)

    @pytest.mark.parametrize("inside", [True, False])
    def test_a_timeout_that_comes_with_the_end(self, inside: bool) -> None:
        """The outer of the two is what the code outside sees; nothing is left over."""

        async def expire(ws: WebSocket, timeout: asyncio.Timeout) -> None:
            timeout.reschedule(0)
            while not timeout.expired():
                await turn()
            ws._inbox.disconnect(4005)

        async def timed(ws: WebSocket) -> None:
            timeout = asyncio.timeout(None)
            if inside:
                async with ws.while_connected(), timeout:
                    helper.append(asyncio.create_task(expire(ws, timeout)))
                    await stand(helper)
            else:
                async with timeout, ws.while_connected():
                    helper.append(asyncio.create_task(expire(ws, timeout)))
                    await stand(helper)

        async def stand(helper: list[asyncio.Task[None]]) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                # As cleanup does that waits: both have struck by then.
                while not helper[0].done():
                    await turn()

        helper: list[asyncio.Task[None]] = []

        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            expected = WebSocketDisconnect if inside else TimeoutError
            with pytest.raises(expected):
                await timed(ws)
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            await turn()

        with_websocket(body)

    @pytest.mark.parametrize("end_first", [True, False])
    def test_a_cancellation_from_outside_in_the_same_turn_is_not_lost(
        self, end_first: bool
    ) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            async def block() -> None:
                async with ws.while_connected():
                    await asyncio.Event().wait()

            task = asyncio.create_task(block())
            await settle()
            if end_first:
                ws._inbox.disconnect(4005)
                task.cancel()
            else:
                task.cancel()
                ws._inbox.disconnect(4005)
            await asyncio.wait([task])
            assert task.cancelled()

        with_websocket(body)

    def test_a_cancellation_from_outside_while_the_block_is_left_is_not_lost(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            async def block() -> None:
                async with ws.while_connected():
                    try:
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        # Struck after the body, before the block is left.
                        asyncio.get_running_loop().call_soon(task.cancel)

            task = asyncio.create_task(block())
            await settle()
            ws._inbox.disconnect(4005)
            await asyncio.wait([task])
            assert task.cancelled()

        with_websocket(body)

    def test_an_end_that_strikes_while_the_body_runs_does_not_strike_after_the_block(
        self,
    ) -> None:
        """As a task that starts eagerly in the body may bring about, from Python 3.12 on."""

        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None
            with pytest.raises(WebSocketDisconnect, match="4005"):
                async with ws.while_connected():
                    asyncio.tasks._leave_task(loop, task)
                    ws._inbox.disconnect(4005)
                    asyncio.tasks._enter_task(loop, task)
            assert task.cancelling() == 0
            await turn()

        with_websocket(body)

    def test_a_cancellation_from_outside_alone(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            async def block() -> None:
                async with ws.while_connected():
                    await asyncio.Event().wait()

            task = asyncio.create_task(block())
            await settle()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert not ws.closed

        with_websocket(body)

    def test_nested(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            reached = []
            with pytest.raises(WebSocketDisconnect):
                async with ws.while_connected():
                    try:
                        async with ws.while_connected():
                            transport.peer_leaves()
                            await asyncio.Event().wait()
                    finally:
                        reached.append("between")
            assert reached == ["between"]
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            await turn()

        with_websocket(body)

    def test_around_a_task_group(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            cancelled = []

            async def child() -> None:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.append(True)
                    raise

            with pytest.raises(WebSocketDisconnect, match="4005"):
                async with ws.while_connected(), asyncio.TaskGroup() as group:
                    group.create_task(child())
                    group.create_task(child())
                    await settle()
                    transport.peer_leaves(4005)
            assert cancelled == [True, True]
            await turn()

        with_websocket(body)

    def test_while_another_task_receives(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            async with asyncio.TaskGroup() as group:
                receiving = group.create_task(ws.receive())
                with pytest.raises(WebSocketDisconnect):
                    async with ws.while_connected():
                        transport.peer_sends("a")
                        transport.peer_leaves()
                        await asyncio.Event().wait()
            assert receiving.result() == "a"

        with_websocket(body)


def test_a_transport_failure_that_is_no_loss_is_not_hidden() -> None:
    async def body(ws: WebSocket, transport: MemoryTransport) -> None:
        transport.failure = FrameworkError("a bug in the server")
        with pytest.raises(FrameworkError):
            await ws.send("x")
        transport.failure = None

    with_websocket(body)


def test_a_websocket_needs_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        WebSocket(MemoryTransport(), Options())


@pytest.mark.parametrize("status_code", [204, 304])
def test_a_response_that_has_no_body_tells_no_length(status_code: int) -> None:
    assert check_response(status_code, b"", None) == (status_code, b"", [])
    with pytest.raises(ValueError, match="has no body"):
        check_response(status_code, b"body", None)


def test_a_subprotocol_is_a_str() -> None:
    async def body(ws: WebSocket, transport: MemoryTransport) -> None:
        with pytest.raises(TypeError, match="a subprotocol is a str, not int"):
            await ws.accept(5)  # type: ignore[arg-type]  # that is the test
        assert transport.sent == []
        await ws.accept()

    with_websocket(body, accept=False)


class TestAttributes:
    def test_one_of_the_handler_s_own_is_told_where_it_belongs(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            with pytest.raises(AttributeError, match=r"'user_id': keep it in ws\.state\.user_id"):
                ws.user_id = 5  # that is the mistake
            ws.state.user_id = 5
            with pytest.raises(AttributeError, match="closed"):
                ws.closed = True  # type: ignore[misc]  # as above

        with_websocket(body)

    def test_weak_references(self) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            assert weakref.ref(ws)() is ws
            assert list(weakref.WeakSet([ws])) == [ws]

        with_websocket(body)


def test_a_reason_that_is_none() -> None:
    async def body(ws: WebSocket, transport: MemoryTransport) -> None:
        await ws.close(4000, None)
        assert (ws.close_code, ws.close_reason) == (4000, "")

    with_websocket(body)
