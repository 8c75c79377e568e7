"""Section 10 of the contract: limits, and what no decent client sends."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Literal

from unisock import (
    InvalidMessage,
    SyncWebSocket,
    WebSocket,
    WebSocketDisconnect,
    WebSocketEndpoint,
    on_message,
)

from .harness import RawClient, Server, clause, frame, journal, mounted

LIMIT = 10_000
DEFAULT_LIMIT = 16 * 1024 * 1024


async def echo(ws: WebSocket) -> None:
    """Echo sizes of messages until the end; journal that."""
    await ws.accept()
    try:
        while True:
            message = await ws.receive()
            data = message.encode() if isinstance(message, str) else message
            await ws.send_json([type(message).__name__, len(data)])
    except WebSocketDisconnect as exc:
        journal(ws, "end", code=exc.code)


mounted("/limits/default")(echo)
mounted("/limits/small", max_message_size=LIMIT)(echo)


@contextlib.asynccontextmanager
async def _undisturbed(server: Server) -> AsyncGenerator[None]:
    """Have a healthy connection beside what happens in the body, and no traceback."""
    mark = server.log_mark()
    async with server.connect("/limits/default") as healthy:
        await healthy.send("before")
        assert await healthy.recv() == '["str",6]'
        yield
        await healthy.send("after")
        assert await healthy.recv() == '["str",5]'
    log = await server.settled(mark)
    assert "Traceback" not in log, log


async def _check_echo(raw: RawClient) -> None:
    await raw.send_frame(2, b"fits")
    assert (await raw.recv_frame()).payload == b'["bytes",4]'


async def _journalled_end(raw: RawClient) -> int:
    """The code that the handler learned, once the client's side has ended."""
    with contextlib.suppress(ConnectionError):
        await raw.send_frame(8, b"\x03\xe8")
        await raw.eof()
    code = (await raw.journal("end"))["code"]
    assert isinstance(code, int)
    return code


# 10.1 Large messages

_AT_THE_LIMIT = {
    "binary": frame(2, b"x" * LIMIT),
    "text": frame(1, b"x" * LIMIT),
    "wide text": frame(1, "\u20ac".encode() * (LIMIT // 3)),
    "fragments": b"".join(
        frame(2 if n == 0 else 0, b"x" * (LIMIT // 1000), fin=n == 999) for n in range(1000)
    ),
}
_OVER_THE_LIMIT = {
    "binary": frame(2, b"x" * (LIMIT + 1)),
    "text": frame(1, b"x" * (LIMIT + 1)),
    # fewer characters than the limit, and more bytes
    "wide text": frame(1, "\u20ac".encode() * (LIMIT // 3 + 1)),
    "fragments": b"".join(
        frame(2 if n == 0 else 0, b"x" * (LIMIT // 1000 + 1), fin=n == 999) for n in range(1000)
    ),
    "a last fragment": frame(2, b"x" * LIMIT, fin=False) + frame(0, b"x"),
}


@clause("10.1")
async def test_a_message_over_the_limit_closes_with_1009(server: Server) -> None:
    """In one frame, in a thousand fragments, and in text whose bytes are more than its letters."""
    for name, message in _OVER_THE_LIMIT.items():
        async with _undisturbed(server), server.raw("/limits/small") as raw:
            await _check_echo(raw)
            await raw.send(message)
            assert (await raw.closed())[0] == server.row.sends(1009)[0], name
            assert await _journalled_end(raw) == 1009, name


@clause("10.1")
async def test_a_message_of_the_limit_is_taken(server: Server) -> None:
    """Exactly the limit, whole and in a thousand fragments; more than once."""
    async with server.raw("/limits/small") as raw:
        for name, message in _AT_THE_LIMIT.items():
            for _ in range(2):
                await raw.send(message)
                answer = (await raw.recv_frame()).payload
                kind = b"str" if "text" in name else b"bytes"
                size = LIMIT // 3 * 3 if name == "wide text" else LIMIT
                assert answer == b'["%s",%d]' % (kind, size), name


@clause("10.1")
async def test_the_default_limit_is_16_mib(server: Server) -> None:
    """A message of so much is taken, one byte more closes with 1009."""
    async with _undisturbed(server):
        async with server.connect("/limits/default") as client:
            await client.send(b"x" * DEFAULT_LIMIT)
            assert await client.recv() == f'["bytes",{DEFAULT_LIMIT}]'
        async with server.raw("/limits/default") as raw:
            message = frame(2, b"x" * (DEFAULT_LIMIT + 1))
            # A server that goes by the length has left before the payload.
            await raw.send(message if server.row.without("frame_length") else message[:14])
            assert (await raw.closed())[0] in _too_large(server)


def _too_large(server: Server) -> tuple[int, ...]:
    """The codes for a message that the server itself finds too large."""
    return (1005, 1006, 1009) if server.row.without("error_codes") else (1009,)


@clause("10.1")
async def test_a_frame_that_only_says_that_it_is_large(server: Server) -> None:
    """Closed with 1009 before its payload comes, where the server looks at the length."""
    head = frame(2)[:1] + bytes([0x80 | 127]) + (1 << 40).to_bytes(8, "big") + b"mask"
    async with _undisturbed(server), server.raw("/limits/small") as raw:
        await raw.send(head + b"x" * 1000)
        if server.row.without("frame_length"):
            raw.reset()
            assert (await raw.journal("end"))["code"] == 1006
        else:
            assert (await raw.closed())[0] in _too_large(server)


# 4.3 Large JSON

_JSON_LIMIT = 2000


async def json_sizes(ws: WebSocket) -> None:
    """Answer each message with its size, or with the code of what it raises."""
    await ws.accept()
    while True:
        try:
            await ws.send_json(len(await ws.receive_json()))
        except InvalidMessage as exc:
            await ws.send_json([exc.code, len(exc.message)])


async def json_of_a_type(ws: WebSocket) -> None:
    """The same, of a type."""
    await ws.accept()
    while True:
        try:
            await ws.send_json(len(await ws.receive_json(list[str])))
        except InvalidMessage as exc:
            await ws.send_json([exc.code, len(exc.message)])


async def json_iterated(ws: WebSocket) -> None:
    """The same, by iteration."""
    await ws.accept()
    messages = ws.iter_json()
    while True:
        try:
            async for message in messages:
                await ws.send_json(len(message))
        except InvalidMessage as exc:
            await ws.send_json([exc.code, len(exc.message)])
        else:
            return


def json_blocking(ws: SyncWebSocket) -> None:
    """The same, in a plain function."""
    ws.accept()
    while True:
        try:
            ws.send_json(len(ws.receive_json()))
        except InvalidMessage as exc:
            ws.send_json([exc.code, len(exc.message)])


_CATCHING = (json_sizes, json_of_a_type, json_iterated, json_blocking)
for _handler in _CATCHING:
    mounted(f"/limits/json/{_handler.__name__}", max_json_size=_JSON_LIMIT)(_handler)


async def json_uncaught(ws: WebSocket) -> None:
    """Answer each message with its size."""
    await ws.accept()
    async for message in ws.iter_json():
        await ws.send_json(len(message))


class JSONEndpoint(WebSocketEndpoint):
    """The same, as a class."""

    encoding = "json"

    async def on_receive(self, ws: WebSocket, data: list[str]) -> None:
        """Answer."""
        await ws.send_json(len(data))


class TypedEndpoint(JSONEndpoint):
    """The same, of a type."""

    message_type = list[str]


@dataclass
class Say:
    """A message of a tagged union."""

    type: Literal["say"]
    text: str = ""


class TaggedEndpoint(WebSocketEndpoint):
    """The same, by methods for types."""

    @on_message(Say)
    async def say(self, ws: WebSocket, message: Say) -> None:
        """Answer."""
        await ws.send_json(1)


_CLOSING = (json_uncaught, JSONEndpoint, TypedEndpoint, TaggedEndpoint)
for _closing in _CLOSING:
    mounted(f"/limits/json/{_closing.__name__}", max_json_size=_JSON_LIMIT)(_closing)
mounted("/limits/json/text", max_json_size=_JSON_LIMIT)(echo)
mounted("/limits/json/default")(json_sizes)


def _json_of(size: int, form: object = None) -> str:
    """A message of so many bytes of UTF-8, and of fewer characters."""
    before, after = ('{"type":"say","text":"', '"}') if form is TaggedEndpoint else ('["', '"]')
    rest = size - len(before) - len(after)
    return before + "\u00e9" * (rest // 2) + "x" * (rest % 2) + after


@clause("4.3")
async def test_json_over_its_limit_is_an_invalid_message(server: Server) -> None:
    """With code 1009, in text and in bytes; the handler may go on."""
    for handler in _CATCHING:
        async with server.connect(f"/limits/json/{handler.__name__}") as client:
            for message in (_json_of(_JSON_LIMIT), _json_of(_JSON_LIMIT).encode()):
                await client.send(message)
                assert await client.recv() == "1", handler
            for large in (_json_of(_JSON_LIMIT + 1), _json_of(_JSON_LIMIT + 1).encode()):
                await client.send(large)
                assert await client.recv() == f"[1009,{len(large)}]", handler
            await client.send("[]")
            assert await client.recv() == "0", handler


@clause("4.3", "7.2", "8.1")
async def test_json_over_its_limit_closes_with_1009(server: Server) -> None:
    """Where nobody catches it, with one warning: in a function, and in each kind of endpoint."""
    for form in _CLOSING:
        mark = server.log_mark()
        async with server.connect(f"/limits/json/{form.__name__}") as client:
            await client.send(_json_of(_JSON_LIMIT, form))
            assert await client.recv() == "1", form
            await client.send(_json_of(_JSON_LIMIT + 1, form))
            assert await client.closed() == (1009, "over 2000 bytes of JSON"), form
        log = await server.wait_log("closing with 1009: over 2000 bytes of JSON", mark)
        assert "Traceback" not in log, log


@clause("4.3")
async def test_the_limit_of_json_is_one_of_json_alone(server: Server) -> None:
    """Of 1 MiB where the option does not say otherwise."""
    async with server.connect("/limits/json/text") as client:
        for message in ("x" * (_JSON_LIMIT + 1), b"x" * (_JSON_LIMIT + 1)):
            await client.send(message)
            assert await client.recv() == f'["{type(message).__name__}",{_JSON_LIMIT + 1}]'
    async with server.connect("/limits/json/default") as client:
        await client.send(_json_of(1024 * 1024))
        assert await client.recv() == "1"
        await client.send(_json_of(1024 * 1024 + 1).encode())
        assert await client.recv() == f"[1009,{1024 * 1024 + 1}]"


# 10.2 Handshakes


@dataclass(frozen=True)
class _BadHandshake:
    """What is wrong with a handshake, and how that may be answered."""

    request: dict[str, Any]
    statuses: tuple[int, ...]
    lack: str = ""
    without: tuple[int, ...] = (101,)
    """The statuses where `lack` is declared."""
    noisy: bool = False
    """Whether a row without ``quiet_handshake`` fails over it."""


_HANDSHAKES = {
    "no key": _BadHandshake({"key": None}, (400,), noisy=True),
    "a key that is no base64": _BadHandshake({"key": "!"}, (400,), "key", noisy=True),
    "a key of three bytes": _BadHandshake({"key": "AAAA"}, (400,), "key", noisy=True),
    "an empty key": _BadHandshake({"key": ""}, (400,), "key", noisy=True),
    "no version": _BadHandshake({"version": None}, (400, 426), noisy=True),
    "version 8": _BadHandshake({"version": "8"}, (400, 426), "version"),
    "HTTP/1.0": _BadHandshake(
        {"http": "1.0"}, (400, 403, 426, 505), "http_1_0", (101, 402, 403), noisy=True
    ),
    "POST": _BadHandshake({"method": "POST"}, (400, 404, 405, 426), "method"),
    "a header of 100 KB": _BadHandshake(
        {"headers": {"X-Large": "x" * 100_000}}, (400, 413, 431), "header_limit", (101, 400)
    ),
}


@clause("10.2")
async def test_a_bad_handshake_gets_its_status(server: Server) -> None:
    """A 4xx, and no handler runs; or what this row declares."""
    for name, bad in _HANDSHAKES.items():
        mark = server.log_mark()
        async with server.connect("/limits/default") as healthy:
            async with server.raw("/limits/default", expect=None, **bad.request) as raw:
                if "headers" in bad.request and server.row.without("header_answer"):
                    await raw.eof()
                    with contextlib.suppress(ConnectionResetError):  # it has not read it all
                        assert await raw.reader.read() == b"", name
                    status = 0
                else:
                    status = (await raw.read_head()).status
                    lacks = bad.lack and server.row.without(bad.lack)
                    assert status in (bad.without if lacks else bad.statuses), name
            await healthy.send("after")
            assert await healthy.recv() == '["str",5]'
        log = await server.settled(mark)
        assert status == 101 or not raw.events(), f"{name}: a handler ran"
        if "headers" in bad.request and server.row.without("quiet_header"):
            assert log.count("Traceback") == 1, f"{name}: {log}"
        elif bad.noisy and server.row.without("quiet_handshake"):
            assert log.count("TypeError: memoryview") == 1, f"{name}: {log}"
        elif "http" in bad.request and status == 403 and server.row.without("quiet_http_1_0"):
            assert log.count("UnsupportedError: ") == 1, f"{name}: {log}"
        else:
            assert "Traceback" not in log, f"{name}: {log}"


@dataclass(frozen=True)
class _Malformed:
    """A request that is malformed, and the lack of a row that serves it all the same."""

    path: str = "/ready"
    request: dict[str, Any] = field(default_factory=dict)
    lack: str = ""
    or_no_route: bool = False
    """Whether a router may have been asked, and have found nothing."""


def _subprotocols(*lines: str) -> dict[str, Any]:
    return {"headers": [("Sec-WebSocket-Protocol", line) for line in lines]}


_MALFORMED = {
    "UTF-8 in the path": _Malformed("/handshake/url/\u00c3\u00a9"),
    "another byte in the path": _Malformed("/handshake/url/\u00ff"),
    "UTF-8 in the query": _Malformed("/handshake/url/x?a=\u00c3\u00a9"),
    "a control character in the path": _Malformed("/handshake/url/\x7f"),
    "a path without a slash": _Malformed("handshake/url/x", or_no_route=True),
    "a fragment": _Malformed("/ready?a#x", lack="fragment"),
    "two Hosts": _Malformed(request={"headers": [("Host", "other.example")]}),
    "no Host": _Malformed(request={"host": None}, lack="no_host"),
    "a subprotocol with a space": _Malformed(request=_subprotocols("a b")),
    "one with a slash": _Malformed(request=_subprotocols("a/b")),
    "one amid others": _Malformed(request=_subprotocols("a", "b, c d, e")),
    "no subprotocol": _Malformed(request=_subprotocols("")),
    "a comma": _Malformed(request=_subprotocols(" , ")),
}


@clause("10.2")
async def test_a_malformed_request_is_400(server: Server) -> None:
    """Whatever the handler would do with it; no handler runs."""
    for name, bad in _MALFORMED.items():
        mark = server.log_mark()
        async with server.raw(bad.path, expect=None, **bad.request) as raw:
            status = await _status(raw)
            if status == 0:
                assert server.row.without("malformed_answer"), name
                continue
            if bad.lack and server.row.without(bad.lack):
                assert status == 101, name
                continue
            if bad.or_no_route and status != 400 and not server.row.without("no_route"):
                assert status == server.row.no_route_status, name
            elif status == 101 and server.row.without("deferred_upgrade"):
                code, _ = await raw.closed()
                assert code in ((1005, 1006) if bad.or_no_route else (4400,)), name
            elif status == 403:
                assert server.row.without("http_rejection"), name
            else:
                assert status == 400, name
        log = await server.settled(mark)
        assert not raw.events(), f"{name}: a handler ran"
        assert "Traceback" not in log or server.row.without("quiet_malformed"), f"{name}: {log}"


async def _status(raw: RawClient) -> int:
    """That of the answer; 0 where there is none."""
    try:
        return (await raw.read_head()).status
    except asyncio.IncompleteReadError:
        return 0


_MANY_DIGITS = "9" * 5000


@clause("10.2")
async def test_a_number_of_many_digits_is_no_error(server: Server) -> None:
    """In any header that has one: the handshake is done, or refused, and the server is quiet."""
    headers = {
        "Sec-WebSocket-Extensions": "permessage-deflate; server_max_window_bits=",
        "X-Forwarded-Port": "",
        "Content-Length": "",
        "Origin": "http://app.example:",
    }
    for name, start in headers.items():
        mark = server.log_mark()
        sent = {name: start + _MANY_DIGITS}
        async with server.raw("/ready", expect=None, headers=sent) as raw:
            if name == "Sec-WebSocket-Extensions" and server.row.without("window_bits"):
                await raw.ended()
                await server.settled(mark)  # its traceback is not the next test's
                continue
            accepts = name in ("Sec-WebSocket-Extensions", "X-Forwarded-Port")
            status = await _status(raw)
            if status == 0:
                assert server.row.without("malformed_answer"), name
                continue
            if name == "Origin" and server.row.without("deferred_upgrade"):
                assert (await raw.closed())[0] == 1008
            elif name == "Sec-WebSocket-Extensions" and server.row.without("odd_window_bits"):
                assert status == 400
            else:
                assert status in ((101,) if accepts else (400, 403)), name
        log = await server.settled(mark)
        assert "Traceback" not in log or server.row.without("quiet_malformed"), f"{name}: {log}"


# 10.3 Connections


@mounted("/limits/few", max_connections=2)
async def few(ws: WebSocket) -> None:
    """Echo until the end."""
    await ws.accept()
    async for message in ws:
        await ws.send(message)


@clause("10.3")
async def test_more_than_max_connections_are_503(server: Server) -> None:
    """With a Retry-After and a warning that names the option; the others go on."""
    mark = server.log_mark()
    async with server.connect("/limits/few") as one, server.connect("/limits/few") as other:
        for _ in range(2):
            response = await server.check_rejected("/limits/few", 503)
            if not server.row.without("http_rejection"):
                assert response.header("retry-after")
        log = await server.settled(mark)
        assert log.count("max_connections=") == 2, log
        assert "Traceback" not in log, log
        await one.close()
        await until_accepted(server, "/limits/few")
        await other.send("still")
        assert await other.recv() == "still"


async def until_accepted(server: Server, path: str) -> None:
    """A connection that has ended may not be counted off yet when its client has learned of it."""
    async with asyncio.timeout(5):
        while True:
            async with server.raw(path, expect=None) as raw:
                if (await raw.read_head()).status == 101:
                    return


# 10.2 Frames


@dataclass(frozen=True)
class _BadFrames:
    """Frames that break RFC 6455, and the code that it names for them."""

    frames: bytes
    code: int = 1002
    lacks: tuple[str, ...] = field(default=("error_codes",))


_FRAMES = {
    "an unmasked frame": _BadFrames(frame(1, b"x", mask=False)),
    "the first reserved bit": _BadFrames(frame(1, b"x", rsv=4)),
    "the last reserved bit": _BadFrames(frame(1, b"x", rsv=1)),
    "an unknown data frame": _BadFrames(frame(3, b"x")),
    "an unknown control frame": _BadFrames(frame(11)),
    "a continuation of nothing": _BadFrames(frame(0, b"x")),
    "a message amid fragments": _BadFrames(frame(1, b"x", fin=False) + frame(1, b"y")),
    "a message amid fragments, of which the first is empty": _BadFrames(
        frame(1, b"", fin=False) + frame(1, b"y")
    ),
    "a ping of 126 bytes": _BadFrames(frame(9, b"x" * 126)),
    "a ping in fragments": _BadFrames(frame(9, b"x", fin=False)),
    "text that is no UTF-8": _BadFrames(frame(1, b"x\xff"), 1007, ("error_codes", "quiet_utf8")),
    "broken UTF-8 over fragments": _BadFrames(
        frame(1, b"\xe2\x82", fin=False) + frame(9, b"between") + frame(0, b"\x28"),
        1007,
        ("error_codes", "quiet_utf8"),
    ),
    "UTF-8 that ends too early": _BadFrames(
        frame(1, b"\xe2", fin=False) + frame(0, b"\x82"), 1007, ("error_codes", "quiet_utf8")
    ),
    "a surrogate": _BadFrames(frame(1, b"\xed\xa0\x80"), 1007, ("error_codes", "quiet_utf8")),
    "a close frame of one byte": _BadFrames(frame(8, b"\x03")),
    "a close with 1006": _BadFrames(frame(8, b"\x03\xee")),
    "a close with 1005": _BadFrames(frame(8, b"\x03\xed")),
    "a close with 999": _BadFrames(frame(8, b"\x03\xe7")),
    "a close reason that is no UTF-8": _BadFrames(frame(8, b"\x03\xe8\xff"), 1007),
}


@clause("10.2", timeout=120)
async def test_a_bad_frame_ends_the_connection_with_its_code(server: Server) -> None:
    """1002 or 1007; where the server ends it without a code, the handler still learns the end."""
    async with server.connect("/limits/default") as healthy:
        for name, bad in _FRAMES.items():
            mark = server.log_mark()
            async with server.raw("/limits/default") as raw:
                await _check_echo(raw)
                await raw.send(bad.frames)
                code, _ = await raw.closed()
                learned = await _journalled_end(raw)
            if "error_codes" in bad.lacks and server.row.without("error_codes"):
                assert code in (bad.code, 1005, 1006), name
                assert learned in (bad.code, 1005, 1006), name
            elif server.row.without("error_code_told"):
                assert (code, learned) == (bad.code, 1006), name
            else:
                assert (code, learned) == (bad.code, bad.code), name
            await healthy.send("after")
            assert await healthy.recv() == '["str",5]'
            log = await server.settled(mark)
            if "quiet_utf8" in bad.lacks and server.row.without("quiet_utf8"):
                assert len(re.findall("UnicodeDecodeError:", log)) == 1, name
            else:
                assert "Traceback" not in log, f"{name}: {log}"


@clause("10.2")
async def test_a_peer_that_vanishes_amid_a_frame(server: Server) -> None:
    """In a head, in a payload, between fragments; by the stream's end and by a reset."""
    beginnings = (
        frame(2, b"x" * 1000)[:1],
        frame(2, b"x" * 1000)[:3],
        frame(2, b"x" * 1000)[:500],
        frame(2, b"x" * 1000, fin=False),
        frame(2, b"x", fin=False) + frame(0, b"x" * 1000)[:500],
        frame(8, b"\x03\xe8")[:-1],
    )
    async with _undisturbed(server):
        for beginning in beginnings:
            for how in ("eof", "reset"):
                async with server.raw("/limits/default") as raw:
                    await _check_echo(raw)
                    await raw.send(beginning)
                    if how == "reset":
                        raw.reset()
                    else:
                        await raw.eof()
                    learned = (await raw.journal("end"))["code"]
                    assert learned == 1006, (beginning[:20], how)


async def _leave_amid_handshake(server: Server, *, reset: bool) -> None:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    raw = RawClient(server, reader, writer, "")
    await raw.send(b"GET /limits/default HTTP/1.1\r\nHost: x\r\nUpgr")
    if reset:
        raw.reset()
    else:
        await raw.eof()
        await raw.ended()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@clause("10.2")
async def test_a_client_that_ends_the_stream_amid_its_handshake(server: Server) -> None:
    """Half a request: the server ends the connection, too."""
    async with _undisturbed(server):
        await _leave_amid_handshake(server, reset=False)


@clause("10.2")
async def test_a_client_that_resets_amid_its_handshake(server: Server) -> None:
    """Half a request and a TCP reset."""
    if server.row.without("quiet_reset"):
        mark = server.log_mark()
        async with server.connect("/limits/default") as healthy:
            await _leave_amid_handshake(server, reset=True)
            await server.wait_log("ConnectionResetError", mark)
            await healthy.send("after")
            assert await healthy.recv() == '["str",5]'
        return
    async with _undisturbed(server):
        await _leave_amid_handshake(server, reset=True)
