"""Section 5 of the contract: sending."""

from __future__ import annotations

import array
import asyncio
import json
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import UUID

from unisock import InvalidMessage, InvalidState, WebSocket, WebSocketDisconnect

from .harness import Client, Server, clause, journal, mounted

MIB = 1024 * 1024

# 5.1 Types


@mounted("/sending/types")
async def send_every_type(ws: WebSocket) -> None:
    """Send with each method what it takes."""
    await ws.accept()
    await ws.send_text("gr\u00fc\u00df \U0001f600")
    await ws.send_text("")
    for data in (b"\x00\xff", bytearray(b"array"), memoryview(b"view")[1:], b""):
        await ws.send_bytes(data)
    await ws.send("text")
    for data in (b"bytes", bytearray(b"array"), memoryview(b"0v1i2e3w")[::2]):
        await ws.send(data)
    await ws.send_bytes(memoryview(array.array("H", [0x0101, 0x0202])))
    await ws.send_json([1])
    await ws.send_json([1], binary=True)
    await ws.close()


_EVERY_TYPE: list[str | bytes] = [
    "gr\u00fc\u00df \U0001f600",
    "",
    b"\x00\xff",
    b"array",
    b"iew",
    b"",
    "text",
    b"bytes",
    b"array",
    b"0123",
    b"\x01\x01\x02\x02",
    "[1]",
    b"[1]",
]


@clause("5.1")
async def test_each_send_takes_its_types(server: Server) -> None:
    """Text goes as text and every bytes-like object as binary."""
    async with server.connect("/sending/types") as client:
        expected = list(_EVERY_TYPE)
        if server.row.without("empty_binary"):
            expected.remove(b"")
        assert [await client.recv() for _ in expected] == expected
        assert await client.closed() == (1000, "")


@mounted("/sending/wrong-types")
async def send_wrong_types(ws: WebSocket) -> None:
    """Send with each method what it does not take; send the errors' types."""
    await ws.accept()
    wrong = [
        *((ws.send_text, value) for value in (None, 5, b"", b"x", bytearray(b"x"), ["x"])),
        *((ws.send_bytes, value) for value in (None, 5, "", "x", [1], {1: 2})),
        *((ws.send, value) for value in (None, 5, 1.5, ["x"], object())),
    ]
    errors = []
    for send, value in wrong:
        try:
            await send(value)  # type: ignore[operator]  # wrong on purpose
        except Exception as exc:  # noqa: BLE001  # its type is compared by the test
            errors.append(type(exc).__name__)
        else:
            errors.append(f"none for {value!r}")
    await ws.send_json(errors)


@clause("5.1")
async def test_another_type_raises_before_anything_is_sent(server: Server) -> None:
    """Only the list of errors arrives: a TypeError each."""
    async with server.connect("/sending/wrong-types") as client:
        assert json.loads(await client.recv()) == ["TypeError"] * 17


# 5.2 JSON


@mounted("/sending/json")
async def send_json_values(ws: WebSocket) -> None:
    """Send each of `_JSON`, as text and as binary."""
    await ws.accept()
    for value, _ in _JSON:
        await ws.send_json(value)
        await ws.send_json(value, binary=True)


@dataclass
class Point:
    """A dataclass to encode."""

    x: float
    label: Any


_JSON: list[tuple[Any, str]] = [
    ({"a": [1, 2.5, None, True, False], "b": {}}, '{"a":[1,2.5,null,true,false],"b":{}}'),
    (
        "gr\u00fc\u00df \u20ac \U0001f600 \u2028 / < > & '",
        '"gr\u00fc\u00df \u20ac \U0001f600 \u2028 / < > & \'"',
    ),
    ('"\\\n\t\x01', '"\\"\\\\\\n\\t\\u0001"'),
    ({"\u00e9": "\u00e9"}, '{"\u00e9":"\u00e9"}'),
    (None, "null"),
    ([None, {"x": None}, 0.5], '[null,{"x":null},0.5]'),
    (2**70, str(2**70)),
    ((1, "x"), '[1,"x"]'),
    (Point(1, "p"), '{"x":1,"label":"p"}'),
    (
        {True: 1, False: {None: 2}, 3: 4, 1.5: 5, UUID(int=6): 7},
        '{"true":1,"false":{"null":2},"3":4,"1.5":5,"00000000-0000-0000-0000-000000000006":7}',
    ),
    ([Point(1, {True: -0.0})], '[{"x":1,"label":{"true":-0.0}}]'),
    ("", '""'),
]


@clause("5.2")
async def test_json_is_compact_utf8(server: Server) -> None:
    """Byte for byte: no spaces, and no escapes that are not needed."""
    async with server.connect("/sending/json") as client:
        for _, encoded in _JSON:
            assert await client.recv() == encoded
            assert await client.recv() == encoded.encode()


@mounted("/sending/not-json")
async def send_not_json(ws: WebSocket) -> None:
    """Send what JSON cannot say; send the errors' types."""
    await ws.accept()
    circular: list[Any] = []
    circular.append(circular)
    values = [
        float("nan"),
        [1.5, float("inf")],
        {"x": {"y": [None, float("-inf")]}},
        object(),
        {"x": object()},
        1j,
        {(1, 2): 3},
        {float("nan"): 1},
        {1.5: 1, float("-inf"): 2},
        Point(float("nan"), "p"),
        10**5000,
        circular,
        "\ud800",
        asyncio.sleep,
    ]
    errors = []
    for value in values:
        for binary in (False, True):
            try:
                await ws.send_json(value, binary=binary)
            except Exception as exc:  # noqa: BLE001  # its type is compared by the test
                errors.append(type(exc).__name__)
            else:
                errors.append(f"none for {value!r:.50}")
    await ws.send_json(errors)


@clause("5.2")
async def test_what_json_cannot_say_raises_and_nothing_is_sent(server: Server) -> None:
    """Only the list of errors arrives: a TypeError each."""
    async with server.connect("/sending/not-json") as client:
        assert json.loads(await client.recv()) == ["TypeError"] * 28


# 5.3 Several tasks

_TASKS = 8
_MESSAGES = 12
_SIZE = 300_000


@mounted("/sending/tasks")
async def send_from_tasks(ws: WebSocket) -> None:
    """Many tasks send large messages of their own letter."""
    await ws.accept()

    async def send_all(task: int) -> None:
        letter = chr(ord("a") + task)
        for number in range(_MESSAGES):
            body = f"{letter}{number:03}" + letter * (_SIZE + task * 1000)
            await (ws.send_text(body) if number % 2 else ws.send_bytes(body.encode()))

    async with asyncio.TaskGroup() as group:
        for task in range(_TASKS):
            group.create_task(send_all(task))
    journal(ws, "sent")
    await ws.receive()  # not all may have been read


@clause("5.3")
async def test_sends_of_several_tasks_do_not_interleave(server: Server) -> None:
    """Each message arrives whole though the peer reads slowly, each task's in order."""
    async with server.connect("/sending/tasks", max_size=None, max_queue=1) as client:
        seen: Counter[str] = Counter()
        for count in range(_TASKS * _MESSAGES):
            if count % 8 == 0:
                await asyncio.sleep(0.05)  # the slow peer: sends pile up behind each other
            message = await client.recv()
            text = message if isinstance(message, str) else message.decode()
            letter, number = text[0], int(text[1:4])
            assert number == seen[letter]
            assert isinstance(message, str) == bool(number % 2)
            assert len(text) == 4 + _SIZE + (ord(letter) - ord("a")) * 1000
            assert [key for key, _ in groupby(text[4:])] == [letter]
            seen[letter] += 1
        assert set(seen.values()) == {_MESSAGES}
        await client.journal("sent")
        await client.send("all read")


# 5.4 Back-pressure

_FLOOD_MESSAGE = b"\xab" * 65536
# What two sockets, a server's own buffers and ours may hold between them.
_BOUND = 48 * MIB
_FLOOD = 4 * _BOUND

_flooding: dict[str, int] = {}


@mounted("/sending/flood/{name}", close_timeout=60)  # what it waits for is not that
async def flood(ws: WebSocket) -> None:
    """Send until `_FLOOD` bytes are sent or the peer has gone."""
    await ws.accept()
    name = ws.path_params["name"]
    _flooding[name] = 0
    try:
        while _flooding[name] < _FLOOD:
            await ws.send_bytes(_FLOOD_MESSAGE)
            _flooding[name] += len(_FLOOD_MESSAGE)
    except WebSocketDisconnect as exc:
        journal(ws, "disconnected", code=exc.code, reason=exc.reason)
    else:
        journal(ws, "finished")
        await ws.send_text("finished")
    finally:
        del _flooding[name]


@mounted("/sending/watch/{name}")
async def watch_flood(ws: WebSocket) -> None:
    """Answer each message with it, how much was sent, and this process' memory."""
    await ws.accept()
    async for message in ws:
        sent = _flooding.get(ws.path_params["name"], -1)
        await ws.send_json([message, sent, resident_bytes()])


def resident_bytes() -> int:
    """The memory that this process holds; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


async def _watch(watcher: Client) -> tuple[int, int]:
    await watcher.send("still here")
    async with asyncio.timeout(5):
        message, sent, memory = json.loads(await watcher.recv())
    assert message == "still here"
    return sent, memory


async def until_blocked(watcher: Client) -> int:
    """Wait until the flood stands still; return how many bytes it has sent."""
    last, same = -1, 0
    while same < 20:
        sent, _ = await _watch(watcher)
        assert 0 <= sent < _BOUND, "the send never waits"
        same = same + 1 if sent == last > 0 else 0
        last = sent
        await asyncio.sleep(0.02)
    return last


@clause("5.4")
async def test_a_send_waits_while_the_peer_does_not_read(server: Server) -> None:
    """The flood stands still, memory is bounded, others go on; then all arrives."""
    async with server.connect("/sending/watch/slow") as watcher:
        _, memory_before = await _watch(watcher)
        async with server.raw("/sending/flood/slow") as raw:
            if server.row.without("send_waits"):
                await raw.journal("finished")
                return
            await until_blocked(watcher)
            _, memory_blocked = await _watch(watcher)
            assert memory_blocked - memory_before < 2 * _BOUND
            received = 0
            while (frame := await raw.recv_frame()).opcode == 2:
                assert frame.payload == _FLOOD_MESSAGE
                received += len(frame.payload)
            assert received == _FLOOD
            await raw.journal("finished")


@clause("5.4")
async def test_a_waiting_send_ends_when_the_peer_leaves(server: Server) -> None:
    """A reset wakes the send that waits: it raises 1006."""
    if server.row.without("send_waits"):
        return
    async with (
        server.connect("/sending/watch/reset") as watcher,
        server.raw("/sending/flood/reset") as raw,
    ):
        await until_blocked(watcher)
        raw.reset()
        assert await raw.journal("disconnected") == {"code": 1006, "reason": ""}


@clause("5.4", "6.2")
async def test_a_waiting_send_ends_when_the_peer_closes(server: Server) -> None:
    """A close frame of a peer that does not read ends the send that waits for it."""
    if server.row.without("send_waits"):
        return
    async with (
        server.connect("/sending/watch/close") as watcher,
        server.raw("/sending/flood/close") as raw,
    ):
        await until_blocked(watcher)
        await raw.send_frame(8, (4001).to_bytes(2, "big") + b"bye")
        told = [server.row.sees(4001, "bye")]
        if server.row.without("unread_close"):
            raw.reset()
            told.append((1006, ""))
        disconnected = await raw.journal("disconnected")
        assert (disconnected["code"], disconnected["reason"]) in told


@mounted("/sending/cancelled")
async def cancel_sends(ws: WebSocket) -> None:
    """Cancel sends that wait for the peer, then send on."""
    await ws.accept()
    cancelled = 0
    number = 0
    while cancelled < 3:
        try:
            async with asyncio.timeout(0.2):
                await ws.send_text(f"{number:06}" + "x" * 100_000)
        except TimeoutError:
            cancelled += 1
        number += 1
    journal(ws, "cancelled")
    await ws.send_text("last")


@clause("5.3")
async def test_a_cancelled_send_leaves_no_part_of_a_message(server: Server) -> None:
    """A send that is cancelled while it waits has sent its message whole or not at all."""
    if server.row.without("send_waits"):
        return
    async with server.raw("/sending/cancelled") as raw:
        await raw.journal("cancelled")
        last = -1
        while (payload := (await raw.recv_frame()).payload) != b"last":
            assert len(payload) == 100_006
            assert payload[6:] == b"x" * 100_000
            assert int(payload[:6]) > last
            last = int(payload[:6])


# 5.5 The codec


class UpperCodec:
    """A codec that can be told from every other: it writes and reads capitals."""

    def __init__(self, *, as_bytes: bool) -> None:
        self._as_bytes = as_bytes

    def dumps(self, obj: Any) -> str | bytes:
        """Encode in capitals."""
        encoded = json.dumps(obj).upper()
        return encoded.encode() if self._as_bytes else encoded

    def loads(self, data: str | bytes) -> Any:
        """Decode, lowered."""
        text = data if isinstance(data, str) else data.decode()
        return json.loads(text.lower())


async def exchange_json(ws: WebSocket) -> None:
    """Send all that `json=` has a say in."""
    await ws.accept()
    await ws.send_json({"a": 1})
    await ws.send_json({"a": 1}, binary=True)
    await ws.send(f"{await ws.receive_json()}")
    await ws.send(f"{await ws.receive_json(list[int])}")
    for wrong_type in (Any, list[str]):
        try:
            await ws.receive_json(wrong_type)
        except InvalidMessage as exc:
            await ws.send(f"{exc.code} {exc.message!r}")
    try:
        await ws.send_json(object())
    except TypeError:
        await ws.send("TypeError")


mounted("/sending/codec/text", json=UpperCodec(as_bytes=False))(exchange_json)
mounted("/sending/codec/bytes", json=UpperCodec(as_bytes=True))(exchange_json)
mounted("/sending/codec/module", json=json)(exchange_json)


@mounted("/sending/codec/not-json", json=json)
async def send_not_json_with_a_codec(ws: WebSocket) -> None:
    """Send NaN and the infinities, and text that is like them; send what came of each."""
    await ws.accept()
    nan, inf = float("nan"), float("inf")
    values = [nan, [inf], {"x": -inf}, {nan: 1}, Point(nan, "p"), [Point(1, {"y": inf})]]
    outcomes = []
    for value in values:
        try:
            await ws.send_json(value)
        except TypeError:
            outcomes.append("TypeError")
    await ws.send_json(["NaN", "Infinity", None, Point(1, {True: "null"})])
    await ws.send_json(outcomes)


@clause("5.2", "5.5")
async def test_no_codec_sends_what_is_no_number(server: Server) -> None:
    """Though Python's `json` would write it: a TypeError each."""
    async with server.connect("/sending/codec/not-json") as client:
        sent = ["NaN", "Infinity", None, {"x": 1, "label": {"true": "null"}}]
        assert json.loads(await client.recv()) == sent
        assert json.loads(await client.recv()) == ["TypeError"] * 6


@clause("5.5")
async def test_the_codec_can_be_replaced(server: Server) -> None:
    """`json=` encodes and decodes everything, and its errors mean the same."""
    for name, encoded in (("text", '{"A": 1}'), ("bytes", '{"A": 1}'), ("module", '{"a": 1}')):
        async with server.connect(f"/sending/codec/{name}") as client:
            for message in ('["B"]', b"[1, 2]", "{", "[1]"):
                await client.send(message)
            decoded = "['B']" if name == "module" else "['b']"
            expected = [
                encoded,
                encoded.encode(),
                decoded,
                "[1, 2]",
                "1007 '{'",
                "1007 '[1]'",
                "TypeError",
            ]
            assert [await client.recv() for _ in expected] == expected


@mounted("/sending/elsewhere")
async def use_elsewhere(ws: WebSocket) -> None:
    """Use the connection on the event loop of another thread; tell what is raised."""
    await ws.accept()
    for method in ("send", "close", "start_soon"):
        await ws.send_text(await asyncio.to_thread(asyncio.run, _use(ws, method)))


async def _use(ws: WebSocket, method: str) -> str:
    try:
        match method:
            case "send":
                await ws.send_text("stray")
            case "close":
                await ws.close(4000)
            case _:
                ws.start_soon(ws.send_text, "stray")
    except InvalidState as exc:
        return str(exc)
    return "nothing was raised"


@clause("5.7")
async def test_on_another_event_loop_nothing_is_sent(server: Server) -> None:
    """The message says what to do, and the connection goes on."""
    async with server.connect("/sending/elsewhere") as client:
        for remedy in ("queue.put_nowait", "run_coroutine_threadsafe", "ws.start_soon"):
            assert remedy in str(await client.recv())
        assert await client.closed() == (1000, "")


# 5.6 No delay


@mounted("/sending/two")
async def send_two(ws: WebSocket) -> None:
    """Answer each message with two."""
    await ws.accept()
    async for _ in ws:
        await ws.send("first")
        await ws.send("second")


_AT_ONCE = 0.02
"""Seconds: half of what a peer may take until it acknowledges what it has got."""


@clause("5.6")
async def test_a_small_message_waits_for_no_acknowledgement(server: Server) -> None:
    """The second of two answers comes at once: the server sets TCP_NODELAY."""
    async with server.connect("/sending/two") as client:
        took = []
        for _ in range(20):
            start = time.perf_counter()
            await client.send("go")
            assert [await client.recv() for _ in range(2)] == ["first", "second"]
            took.append(time.perf_counter() - start)
        assert statistics.median(took) < _AT_ONCE, took
