"""Section 4 of the contract: receiving."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

import msgspec
from websockets.exceptions import ConnectionClosed

from unisock import InvalidMessage, InvalidState, SyncWebSocket, WebSocket, WebSocketDisconnect

from .harness import Client, Server, clause, journal, mounted

TEXT = "gr\u00fc\u00df \U0001f600"


# 4.1 Kinds of messages


@mounted("/receiving/kinds/{method}")
async def report_kinds(ws: WebSocket) -> None:
    """Answer each message with its exact type and its content."""
    await ws.accept()
    receive: Callable[[], Awaitable[str | bytes]] = getattr(ws, ws.path_params["method"])
    while True:
        message = await receive()
        await ws.send_text(f"{type(message).__name__} {message!r}")


async def _check_kind(client: Client, sent: Any, expected: str | bytes) -> None:
    await client.ws.send(sent)
    assert await client.recv() == f"{type(expected).__name__} {expected!r}"


@clause("4.1")
async def test_text_is_str_and_binary_is_bytes(server: Server) -> None:
    """`receive` gives each message as it came, and never a bytearray."""
    async with server.connect("/receiving/kinds/receive") as client:
        for message in (TEXT, b"\x00\xff\xfe", "", b"", "x" * 70_000, b"\x80" * 70_000):
            await _check_kind(client, message, message)


@clause("4.1")
async def test_typed_receives_give_what_they_say(server: Server) -> None:
    """`receive_text` gives str and `receive_bytes` gives bytes, empty ones too."""
    async with server.connect("/receiving/kinds/receive_text") as client:
        for text in (TEXT, ""):
            await _check_kind(client, text, text)
    async with server.connect("/receiving/kinds/receive_bytes") as client:
        for data in (b"\x00\xff", b""):
            await _check_kind(client, data, data)


@clause("4.1")
async def test_fragmented_messages_arrive_whole(server: Server) -> None:
    """Fragments are joined, though a character is split and some are empty."""
    async with server.connect("/receiving/kinds/receive") as client:
        await _check_kind(
            client, [b"\x00", b"", b"\xff" * 3000, b"\x01"], b"\x00" + b"\xff" * 3000 + b"\x01"
        )
        await _check_kind(client, ["", "", ""], "")
        await _check_kind(client, [b"", b""], b"")
        await _check_kind(client, [*TEXT], TEXT)
    async with server.raw("/receiving/kinds/receive") as raw:
        encoded = TEXT.encode()
        for position in range(len(encoded) - 1):
            await raw.send_frame(
                1 if position == 0 else 0, encoded[position : position + 1], fin=False
            )
        await raw.send_frame(0, encoded[-1:])
        assert (await raw.recv_frame()).payload == f"str {TEXT!r}".encode()


# 4.2 Iteration


@mounted("/receiving/iterate/{method}")
async def iterate(ws: WebSocket) -> None:
    """Journal what an iteration gives, and how the connection ended after it."""
    await ws.accept()
    method = ws.path_params["method"]
    messages = ws if method == "messages" else getattr(ws, method)()
    journal(ws, "before", code=ws.close_code, reason=ws.close_reason)
    got = [repr(message) async for message in messages]
    journal(ws, "after", got=got, code=ws.close_code, reason=ws.close_reason)


_ITERATIONS: dict[str, list[tuple[str | bytes, object]]] = {
    "messages": [("one", "one"), (b"two", b"two"), ("", "")],
    "iter_text": [("one", "one"), ("", "")],
    "iter_bytes": [(b"one", b"one"), (b"", b"")],
    "iter_json": [('{"a":1}', {"a": 1}), (b"[null]", [None])],
}


@clause("4.2")
async def test_iteration_ends_with_the_connection(server: Server) -> None:
    """Each iteration gives its messages and ends; code and reason say how."""
    for method, messages in _ITERATIONS.items():
        async with server.connect(f"/receiving/iterate/{method}") as client:
            assert await client.journal("before") == {"code": None, "reason": None}
            for message, _ in messages:
                await client.send(message)
            await client.close(4002, "enough")
            code, reason = server.row.sees(4002, "enough")
            expected = [repr(got) for _, got in messages]
            after = await client.journal("after")
            assert after == {"got": expected, "code": code, "reason": reason}, method


@mounted("/receiving/iterate-typed")
async def iterate_typed(ws: WebSocket) -> None:
    """Journal what a typed iteration gives."""
    await ws.accept()
    journal(ws, "after", got=[asdict(m) async for m in ws.iter_json(Point)])


@clause("4.2")
async def test_iter_json_takes_a_type(server: Server) -> None:
    """`iter_json(type)` gives objects of the type."""
    async with server.connect("/receiving/iterate-typed") as client:
        await client.send('{"x":1,"y":2}')
        await client.send(b'{"x":3}')
        await client.close()
        after = await client.journal("after")
        assert after == {"got": [{"x": 1, "y": 2}, {"x": 3, "y": 0}]}


# 4.3 Invalid messages


@mounted("/receiving/invalid/{method}")
async def go_on_after_invalid(ws: WebSocket) -> None:
    """Tell each message, and what is wrong with one that is invalid; go on."""
    await ws.accept()
    types = {"receive_points": list[Point]}
    method = ws.path_params["method"]
    while True:
        try:
            if method in types:
                got = await ws.receive_json(types[method])
            else:
                got = await getattr(ws, method)()
        except ValueError as exc:
            if not isinstance(exc, InvalidMessage):
                raise
            await ws.send_text(f"invalid {exc.code} {exc.message!r}")
        else:
            await ws.send_text(f"valid {got!r}")


_INVALID: dict[str, tuple[int, list[str | bytes], str | bytes]] = {
    "receive_text": (1003, [b"binary", b""], "text"),
    "receive_bytes": (1003, ["text", ""], b"binary"),
    "receive_json": (1007, ["{", "", "NaN", b"\xff", b"", "[" * 100_000], "0"),
    "receive_points": (1007, ["{}", '[{"x":"1"}]', b"[null]", "]"], '[{"x":1}]'),
}


@clause("4.3")
async def test_invalid_messages_leave_the_connection_untouched(server: Server) -> None:
    """The error has code and payload; what is caught is followed by the next message."""
    for method, (code, invalid, valid) in _INVALID.items():
        async with server.connect(f"/receiving/invalid/{method}") as client:
            for message in invalid:
                await client.send(message)
                assert await client.recv() == f"invalid {code} {message!r}", method
                await client.send(valid)
                assert str(await client.recv()).startswith("valid "), method


@mounted("/receiving/invalid-in-iteration")
async def go_on_with_iteration(ws: WebSocket) -> None:
    """Catch what is invalid in an iteration, and go on with the same one."""
    await ws.accept()
    messages = ws.iter_text()
    with_errors = 0
    while not ws.closed:
        try:
            async for text in messages:
                await ws.send_text(f"{with_errors} {text}")
        except InvalidMessage:
            with_errors += 1


@clause("4.3")
async def test_an_iteration_goes_on_after_an_invalid_message(server: Server) -> None:
    """The messages behind an invalid one are still given."""
    async with server.connect("/receiving/invalid-in-iteration") as client:
        for message in ("a", b"b", "c", b"d", b"e", "f"):
            await client.send(message)
        assert [await client.recv() for _ in range(3)] == ["0 a", "1 c", "3 f"]


@mounted("/receiving/invalid-escapes/{method}")
async def let_invalid_escape(ws: WebSocket) -> None:
    """Receive one message."""
    await ws.accept()
    await getattr(ws, ws.path_params["method"])()


@clause("4.3")
async def test_an_escaping_invalid_message_closes(server: Server) -> None:
    """1003 for the wrong kind and 1007 for bad JSON, and a warning without traceback."""
    escapes: list[tuple[str, str | bytes, int]] = [
        ("receive_text", b"binary", 1003),
        ("receive_bytes", "text", 1003),
        ("receive_json", "{", 1007),
    ]
    for method, message, code in escapes:
        mark = server.log_mark()
        async with server.connect(f"/receiving/invalid-escapes/{method}") as client:
            await client.send(message)
            assert (await client.closed())[0] == server.row.sends(code)[0], method
        log = server.log_since(mark)
        assert log.count(f"closing with {code}") == 1, log
        who = (
            "handler let_invalid_escape, "
            f"path '/receiving/invalid-escapes/{method}', "
            r"client '127\.0\.0\.1:\d+'"
        )
        assert re.search(f"{who}: closing with {code}", log), log
        assert "Traceback" not in log, log


# 4.4 JSON


@dataclass
class Point:
    """A dataclass to decode to."""

    x: int
    y: int = 0


class Move(TypedDict):
    """A typed dictionary to decode to."""

    by: list[float]


class Say(msgspec.Struct, tag="say"):
    """One of a tagged union of structs."""

    text: str


class Leave(msgspec.Struct, tag="leave"):
    """The other one."""


_TYPES: dict[str, Any] = {
    "any": Any,
    "dataclass": Point,
    "typeddict": Move,
    "struct": Say | Leave,
    "list": list[int],
}


@mounted("/receiving/json/{type}")
async def report_json(ws: WebSocket) -> None:
    """Answer each message with what it was decoded to."""
    await ws.accept()
    decoded_type = _TYPES[ws.path_params["type"]]
    while True:
        await ws.send_text(repr(await ws.receive_json(decoded_type)))


_DECODED: dict[str, list[tuple[str, object]]] = {
    "any": [
        (
            ' {"\u00e9": [1, 2.5, null, true, "\\u20ac"]} ',
            {"\u00e9": [1, 2.5, None, True, "\u20ac"]},
        ),
        ('"x"', "x"),
    ],
    "dataclass": [('{"x": 1, "y": 2}', Point(1, 2)), ('{"x": 1}', Point(1))],
    "typeddict": [('{"by": [1, 2.5]}', {"by": [1.0, 2.5]})],
    "struct": [('{"type": "say", "text": "hi"}', Say("hi")), ('{"type": "leave"}', Leave())],
    "list": [("[1, 2, 3]", [1, 2, 3]), ("[]", [])],
}


@clause("4.4")
async def test_json_of_text_and_binary_to_a_type(server: Server) -> None:
    """Both kinds of frames decode alike, to builtins or to the type given."""
    for name, cases in _DECODED.items():
        async with server.connect(f"/receiving/json/{name}") as client:
            for encoded, decoded in cases:
                for message in (encoded, encoded.encode()):
                    await client.send(message)
                    assert await client.recv() == repr(decoded), name


# 4.5 Cancelling


async def _cancelled_by_timeout(ws: WebSocket) -> None:
    async with asyncio.timeout(0.005):
        await _answer_one(ws)


async def _cancelled_by_wait_for(ws: WebSocket) -> None:
    await asyncio.wait_for(_answer_one(ws), 0.005)


async def _cancelled_by_task_group(ws: WebSocket) -> None:
    async def fail() -> None:
        await asyncio.sleep(0.005)
        raise TimeoutError

    try:
        async with asyncio.TaskGroup() as group:
            receiving = group.create_task(_answer_one(ws))
            failing = group.create_task(fail())
            await receiving
            failing.cancel()
    except ExceptionGroup as failed:
        if failed.subgroup(TimeoutError) is None:
            raise
        raise TimeoutError from None


async def _answer_one(ws: WebSocket) -> None:
    """Receive and note without a step between at which it could be cancelled."""
    message = await ws.receive()
    ws.state.got.append(message)


_CANCELLATIONS: dict[str, Callable[[WebSocket], Awaitable[None]]] = {
    "timeout": _cancelled_by_timeout,
    "wait_for": _cancelled_by_wait_for,
    "task_group": _cancelled_by_task_group,
}


@mounted("/receiving/cancelled/{how}")
async def receive_in_bits(ws: WebSocket) -> None:
    """Receive with cancellations all the while; journal each, and what came."""
    await ws.accept()
    ws.state.got = []
    receive = _CANCELLATIONS[ws.path_params["how"]]
    cancelled = 0
    try:
        while True:
            try:
                await receive(ws)
            except TimeoutError:
                cancelled += 1
                if cancelled <= 200:
                    await ws.send_text(f"cancelled {cancelled}")
    except* WebSocketDisconnect:
        # A send may have noticed it: what came before is still to be received.
        ws.state.got += [message async for message in ws]
        got = [m if isinstance(m, str) else m.hex() for m in ws.state.got]
        journal(ws, "got", messages=got)


async def _next_cancellation(client: Client) -> None:
    """Wait until a receive that began after now was cancelled."""
    await (await client.ws.ping())
    for _ in range(2):
        await client.recv()


_LATE = {"late": True}
_WITH_TIMEOUT: dict[str, Callable[..., Any]] = {
    "receive": lambda ws, *args, **kwargs: ws.receive(*args, **kwargs),
    "receive_text": lambda ws, *args, **kwargs: ws.receive_text(*args, **kwargs),
    "receive_bytes": lambda ws, *args, **kwargs: ws.receive_bytes(*args, **kwargs),
    "receive_json": lambda ws, *args, **kwargs: ws.receive_json(Any, *args, **kwargs),
}


@mounted("/receiving/timeouts/async/{method}")
async def receive_in_time(ws: WebSocket) -> None:
    """Receive with a timeout, with a default and without, until something comes."""
    await ws.accept()
    receive = _WITH_TIMEOUT[ws.path_params["method"]]
    raised = 0
    for seconds in (0, 0.01, -1):
        try:
            await receive(ws, timeout=seconds)
        except TimeoutError:
            raised += 1
    defaults = [await receive(ws, 0, None), await receive(ws, timeout=0.01, default=_LATE)]
    await ws.send_json([raised, defaults])
    # One that came in time is received, and nothing is lost by those that were late.
    got = [await receive(ws, 30), await receive(ws, timeout=30, default=None)]
    await ws.send_json([part.decode() if isinstance(part, bytes) else part for part in got])


@mounted("/receiving/timeouts/plain/{method}")
def receive_plainly_in_time(ws: SyncWebSocket) -> None:
    """The same in a plain function."""
    ws.accept()
    receive = _WITH_TIMEOUT[ws.path_params["method"]]
    raised = 0
    for seconds in (0, 0.01, -1):
        try:
            receive(ws, timeout=seconds)
        except TimeoutError:
            raised += 1
    defaults = [receive(ws, 0, None), receive(ws, timeout=0.01, default=_LATE)]
    ws.send_json([raised, defaults])
    got = [receive(ws, 30), receive(ws, timeout=30, default=None)]
    ws.send_json([part.decode() if isinstance(part, bytes) else part for part in got])


@clause("4.8")
async def test_a_receive_with_a_timeout(server: Server) -> None:
    """It raises `TimeoutError`, or returns its default; nothing is lost."""
    for form in ("async", "plain"):
        for method in _WITH_TIMEOUT:
            async with server.connect(f"/receiving/timeouts/{form}/{method}") as client:
                assert json.loads(await client.recv()) == [3, [None, _LATE]], (form, method)
                for message in ('"a"', '"b"'):
                    await client.send(message.encode() if method == "receive_bytes" else message)
                wanted = ["a", "b"] if method == "receive_json" else ['"a"', '"b"']
                assert json.loads(await client.recv()) == wanted, (form, method)


@clause("4.5")
async def test_a_cancelled_receive_loses_nothing(server: Server) -> None:
    """Messages that come between, within and after cancelled receives all arrive, in order."""
    for how in _CANCELLATIONS:
        # Without a limit the pong is read, however many messages stand before it.
        async with server.connect(f"/receiving/cancelled/{how}", max_queue=None) as client:
            sent = []
            for number in range(20):
                await _next_cancellation(client)
                for part in range(3):
                    sent.append(f"{number}.{part}")
                    await client.send(sent[-1])
                    await asyncio.sleep(0.002 * part)  # to meet the cancellation somewhere
            await client.close()
            assert (await client.journal("got"))["messages"] == sent, how


@clause("4.5")
async def test_a_cancellation_amid_fragments_loses_nothing(server: Server) -> None:
    """A receive that is cancelled while half a message is here gives it whole later."""
    for how in _CANCELLATIONS:
        # Without a limit the pong is read, however many messages stand before it.
        async with server.connect(f"/receiving/cancelled/{how}", max_queue=None) as client:

            async def fragments(client: Client = client) -> AsyncIterator[bytes]:
                yield b"\x01" * 1000
                await _next_cancellation(client)
                yield b"\x02" * 1000
                await _next_cancellation(client)
                yield b"\x03"

            await client.send("before")
            await client.ws.send(fragments())
            await client.send("after")
            await client.close()
            whole = (b"\x01" * 1000 + b"\x02" * 1000 + b"\x03").hex()
            assert (await client.journal("got"))["messages"] == ["before", whole, "after"], how


@clause("4.1")
async def test_compressed_fragments_arrive_whole(server: Server) -> None:
    """Also if a ping comes between them."""
    async with server.connect("/receiving/kinds/receive", compression="deflate") as client:

        async def fragments() -> AsyncIterator[bytes]:
            yield b"\x01" * 1000
            await (await client.ws.ping())
            yield b"\x02" * 1000

        whole = b"\x01" * 1000 + b"\x02" * 1000
        await client.ws.send([whole[:500], whole[500:]])
        assert await client.recv() == f"bytes {whole!r}"
        await client.ws.send(fragments())
        arrived = await client.recv() == f"bytes {whole!r}"
        assert arrived is not server.row.without("compressed_fragments")


@mounted("/receiving/cancelled-at-arrival")
async def cancel_at_arrival(ws: WebSocket) -> None:
    """Cancel a receive in the very turn in which its message arrives."""
    await ws.accept()
    loop = asyncio.get_running_loop()
    lost = []
    for number in range(100):
        await ws.send_text("next")
        receiving = asyncio.create_task(ws.receive())
        # From one turn of the loop to the next, cancel later and later.
        for _ in range(number):
            await asyncio.sleep(0)
        loop.call_soon(receiving.cancel)
        try:
            message = await receiving
        except asyncio.CancelledError:
            message = await ws.receive()
        if message != str(number):
            lost.append([number, message])
    await ws.send_json(lost)


@clause("4.5")
async def test_a_receive_cancelled_as_its_message_arrives_loses_nothing(server: Server) -> None:
    """Either the receive gives the message or the next one does."""
    async with server.connect("/receiving/cancelled-at-arrival") as client:
        for number in range(100):
            assert await client.recv() == "next"
            await client.send(str(number))
        assert await client.recv() == "[]"


# 4.6 Two receives


@mounted("/receiving/twice")
async def receive_twice(ws: WebSocket) -> None:
    """Receive while a receive waits, in each way there is."""
    await ws.accept()
    first = asyncio.create_task(ws.receive())
    await asyncio.sleep(0)
    errors = []
    for second in (ws.receive, ws.receive_text, ws.receive_bytes, ws.receive_json, anext_of(ws)):
        try:
            await second()
        except InvalidState as exc:
            errors.append(isinstance(exc, RuntimeError) and not first.done())
    journal(ws, "second", errors=errors)
    await ws.send(await first)
    await ws.send(await ws.receive())


def anext_of(ws: WebSocket) -> Callable[[], Awaitable[str | bytes]]:
    """The next message of an iteration."""
    return aiter(ws).__anext__


@clause("4.6")
async def test_a_second_receive_raises_and_the_first_is_unharmed(server: Server) -> None:
    """The second fails at once, with nothing sent by the client yet."""
    async with server.connect("/receiving/twice") as client:
        assert await client.journal("second") == {"errors": [True] * 5}
        for message in ("first", b"then"):
            await client.send(message)
            assert await client.recv() == message


# 4.7 Messages before the disconnect


@mounted("/receiving/late", max_queue=100)
async def receive_late(ws: WebSocket) -> None:
    """Receive late, if told so once all is over; journal all that came and the end."""
    await ws.accept()
    if ws.query_params.get("wait") == "closed":
        await ws.wait_closed()
    else:
        await asyncio.sleep(0.05)
    got: list[str] = []
    try:
        while True:
            got.append(await ws.receive_text())
    except WebSocketDisconnect as exc:
        journal(ws, "end", got=got, code=exc.code, reason=exc.reason)


@clause("4.7")
async def test_messages_before_the_close_are_all_delivered(server: Server) -> None:
    """A burst and a close: the burst in order, then the code, also if it is late."""
    for query, count in (("?wait=closed", 50), ("", 1000)):
        async with server.connect(f"/receiving/late{query}") as client:
            sent = [f"message {number}" for number in range(count)]
            try:
                for message in sent:
                    await client.ws.send(message)
            except ConnectionClosed as exc:
                raise AssertionError("closed amid the burst") from exc
            await client.close(4007, "done")
            end = await client.journal("end")
            code, reason = server.row.sees(4007, "done")
            assert end == {"got": sent, "code": code, "reason": reason}


@clause("4.7")
async def test_messages_before_a_broken_end_are_all_delivered(server: Server) -> None:
    """A burst and the end of the stream, without a close frame: the burst, then 1006."""
    async with server.raw("/receiving/late") as raw:
        sent = [f"message {number}" for number in range(50)]
        await raw.send_frames(*((1, message.encode()) for message in sent))
        await raw.eof()
        end = await raw.journal("end")
        assert end["got"] == sent
        assert (end["code"], end["reason"]) == (1006, "")
