"""The cases of the Autobahn test suite, by its public description, against an echo handler.

Each is what a client sends and what must come back, with nothing that is not strict: 1
framing, 2 pings, 3 reserved bits, 4 opcodes, 5 fragments, 6 UTF-8, 7 the close, 9 and 10
large messages, 12 and 13 compression.  UNISOCK_AUTOBAHN=1 sends as many messages as the
suite itself does.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Protocol

import pytest

from tests.servers import Server
from unisock import WebSocket
from unisock.wire.deflate import Deflate

from .peer import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Frame,
    Session,
    Zip,
    close,
    frame,
    frames_of,
    octets,
    text,
)

_WHOLE = os.environ.get("UNISOCK_AUTOBAHN") == "1"


async def echo(ws: WebSocket) -> None:
    await ws.accept()
    async for message in ws:
        await ws.send(message)


class Carried(Protocol):
    """A connection to an echo handler, on some carrier."""

    async def open(self) -> str:
        """Wait for the 101; return it."""
        ...

    async def feed(self, *pieces: bytes) -> None:
        """Send pieces one by one."""

    async def answers_of(self, count: int) -> list[Frame]:
        """The next frames, which are so many."""
        ...

    async def end(self, *, closed: bool = False) -> tuple[list[Frame], int]:
        """End it; the frames that were sent beside, and the code that the handler saw.

        Args:
            closed: whether the server must have ended it already.
        """
        ...


class InMemory:
    """On a carrier in memory."""

    def __init__(self, headers: Sequence[tuple[str, str]] = (), deflate: Deflate | None = None):
        self._seen: list[int] = []
        self._session = Session(self._handle, headers=headers, compression=deflate)
        self.open, self.feed = self._session.open, self._session.feed
        self._answers: list[Frame] = []

    async def _handle(self, ws: WebSocket) -> None:
        try:
            await echo(ws)
        finally:
            self._seen.append(ws.close_code or 0)

    async def answers_of(self, count: int) -> list[Frame]:
        await self._session.settle()
        self._answers += self._session.answers()
        answers, self._answers = self._answers[:count], self._answers[count:]
        return answers

    async def end(self, *, closed: bool = False) -> tuple[list[Frame], int]:
        ended = self._session.carrier.ended
        assert (ended != []) is closed and ended[:1] != ["abort"]
        await self._session.end()
        return self._answers + self._session.answers(), self._seen[0]


class Served:
    """Flask's, on a socket."""

    server: Server
    count = 0

    def __init__(self, headers: Sequence[tuple[str, str]] = (), deflate: Deflate | None = None):
        Served.count += 1
        path = "deflate" if deflate else "echo"
        lines = [f"{name}: {value}" for name, value in headers]
        self._client = self.server.raw(f"/{path}?id={Served.count}", *lines)
        self._id = Served.count

    async def open(self) -> str:
        return b"".join(iter(self._client.file.readline, b"\r\n")).decode("latin-1")

    async def feed(self, *pieces: bytes) -> None:
        # In a thread: the server echoes large messages only to who reads.
        self._feeding = asyncio.create_task(asyncio.to_thread(self._feed, pieces))
        await asyncio.sleep(0)

    def _feed(self, pieces: Sequence[bytes]) -> None:
        with suppress(ConnectionError):  # it was refused before it was all there
            for piece in pieces:
                self._client.write(piece)

    async def answers_of(self, count: int) -> list[Frame]:
        def read() -> list[Frame]:
            return [self._read() for _ in range(count)]

        answers = await asyncio.to_thread(read)
        await self._feeding
        return answers

    def _read(self) -> Frame:
        first, size = self._client.file.read(2)
        if size >= 126:
            size = int.from_bytes(self._client.file.read(2 if size == 126 else 8))
        return Frame(first & 15, self._client.file.read(size), first >> 4 & 7)

    async def end(self, *, closed: bool = False) -> tuple[list[Frame], int]:
        if not closed:
            self._client.socket.shutdown(socket.SHUT_WR)
        with self._client.socket, self._client.file:
            rest = frames_of(self._client.file.read())
        return rest, int(self.server.get(f"/seen?id={self._id}")[1])


SOURCE = """
import os, signal
import flask, gevent, unisock
from unisock.adapters.flask import WSGIServer

app = flask.Flask(__name__)
seen = {}


async def echo(ws):
    await ws.accept()
    try:
        async for message in ws:
            await ws.send(message)
    finally:
        seen[ws.query_params["id"]] = ws.close_code


@app.get("/seen")
def show_seen():
    while flask.request.args["id"] not in seen:
        gevent.sleep(0.001)
    return str(seen.pop(flask.request.args["id"]))


options = {"max_queue_size": 2**25, "ping_interval": None}
deflate = unisock.Deflate(server_max_window_bits=15, client_max_window_bits=15)
unisock.mount(app, "/echo", echo, **options)
unisock.mount(app, "/deflate", echo, name="deflate", compression=deflate, **options)
WSGIServer(("127.0.0.1", int(os.environ["PORT"])), app, log=None).serve_forever()
"""


@pytest.fixture(scope="module", params=["in memory", "Flask"], autouse=True)
def carried(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Where the cases of this file are run."""
    if request.param == "in memory":
        _Cases.carry = InMemory
        yield
        return
    _Cases.carry = Served
    with Server(tmp_path_factory.mktemp("autobahn"), SOURCE) as Served.server:
        yield
        log = Served.server.stop()
    assert "Traceback" not in log, log


class _Cases:
    carry: Callable[..., Carried]


def converse(pieces: list[bytes], expected: list[Frame], *, sees: int = 1006) -> None:
    """Send the pieces, and have exactly the expected frames come back.

    Where the last is a close frame the server must end the TCP connection as well.
    """

    async def main() -> None:
        connection = _Cases.carry()
        assert (await connection.open()).startswith("HTTP/1.1 101 ")
        await connection.feed(*pieces)
        assert await connection.answers_of(len(expected)) == expected
        closed = bool(expected) and expected[-1].opcode == CLOSE
        assert await connection.end(closed=closed) == ([], sees)

    asyncio.run(main())


def fails(pieces: list[bytes], code: int, *before: Frame) -> None:
    """Send the pieces; after the frames `before` comes a close frame with this code."""

    async def main() -> None:
        connection = _Cases.carry()
        await connection.open()
        await connection.feed(*pieces)
        *answers, last = await connection.answers_of(len(before) + 1)
        assert answers == [*before]
        assert last.code == code
        assert await connection.end(closed=True) == ([], code)

    asyncio.run(main())


def both(data: bytes) -> list[list[bytes]]:
    """In one piece, and octet by octet."""
    return [[data], octets(data)]


# 1: framing

SIZES = [0, 125, 126, 127, 128, 65535, 65536]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chop", [None, 997])
def test_1_messages_of_each_length(opcode: int, size: int, chop: int | None) -> None:
    payload = (b"*" if opcode == TEXT else b"\xfe") * size
    data = frame(opcode, payload)
    converse(octets(data, chop) if chop else [data], [Frame(opcode, payload)])


# 2: pings and pongs


@pytest.mark.parametrize(
    "payload", [b"", b"Hello, world!", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 125]
)
def test_2_1_to_2_4_and_2_6_a_ping_is_answered(payload: bytes) -> None:
    for pieces in both(frame(PING, payload)):
        converse(pieces, [Frame(PONG, payload)])


def test_2_5_a_ping_is_too_large() -> None:
    fails([frame(PING, b"\xfe" * 126)], 1002)


def test_2_7_and_2_8_a_pong_that_nobody_asked_for() -> None:
    converse([frame(PONG), frame(PONG, b"unsolicited")], [])


def test_2_9_a_pong_and_a_ping() -> None:
    for pieces in both(frame(PONG, b"unsolicited") + frame(PING, b"ping")):
        converse(pieces, [Frame(PONG, b"ping")])


def test_2_10_and_2_11_ten_pings() -> None:
    payloads = [f"payload-{n}".encode() for n in range(10)]
    pings = b"".join(frame(PING, payload) for payload in payloads)
    for pieces in both(pings):
        converse(pieces, [Frame(PONG, payload) for payload in payloads])


# 3: reserved bits, 4: opcodes

HELLO = Frame(TEXT, b"Hello, world!")


@pytest.mark.parametrize(
    "bad",
    [
        *(frame(opcode, b"x", rsv=rsv) for rsv in range(1, 8) for opcode in (TEXT, BINARY)),
        *(frame(PING, b"x", rsv=rsv) for rsv in range(1, 8)),
        *(frame(CLOSE, b"\x03\xe8", rsv=rsv) for rsv in range(1, 8)),
        *(
            frame(opcode, payload)
            for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
            for payload in (b"", b"Hello")
        ),
    ],
)
def test_3_and_4_what_is_not_defined(bad: bytes) -> None:
    fails([bad], 1002)
    # A message before it is answered, and a ping behind it is not: in one piece, frame by
    # frame, octet by octet.
    good = text("Hello, world!")
    for pieces in (*both(good + bad + frame(PING)), [good, bad, frame(PING)]):
        fails(pieces, 1002, HELLO)


# 5: fragments


def fragments(*parts: bytes, opcode: int = TEXT) -> list[bytes]:
    """A message in frames."""
    last = len(parts) - 1
    return [frame(CONT if n else opcode, part, fin=n == last) for n, part in enumerate(parts)]


@pytest.mark.parametrize("opcode", [PING, PONG])
def test_5_1_and_5_2_control_frames_have_no_fragments(opcode: int) -> None:
    fails([frame(opcode, b"frag", fin=False), frame(CONT, b"ment")], 1002)


def test_5_3_to_5_5_a_text_in_two() -> None:
    frames = fragments(b"fragment1", b"fragment2")
    for pieces in (frames, *both(b"".join(frames))):
        converse(pieces, [Frame(TEXT, b"fragment1fragment2")])


def test_5_6_to_5_8_a_ping_between() -> None:
    first, last = fragments(b"fragment1", b"fragment2")
    frames = [first, frame(PING, b"ping"), last]
    for pieces in (frames, *both(b"".join(frames))):
        converse(pieces, [Frame(PONG, b"ping"), Frame(TEXT, b"fragment1fragment2")])


@pytest.mark.parametrize("fin", [True, False])
def test_5_9_to_5_14_there_is_nothing_to_continue(fin: bool) -> None:
    frames = [frame(CONT, b"non-continuation", fin=fin), text("Hello, world!")]
    for pieces in (frames, *both(b"".join(frames))):
        fails(pieces, 1002)


def test_5_15_a_message_and_then_nothing_to_continue() -> None:
    frames = [
        *fragments(b"fragment1", b"fragment2"),
        frame(CONT, b"fragment3", fin=False),
        text("fragment4"),
    ]
    for pieces in (frames, *both(b"".join(frames))):
        fails(pieces, 1002, Frame(TEXT, b"fragment1fragment2"))


@pytest.mark.parametrize("fin", [False, True])
def test_5_16_and_5_17_again_and_again(fin: bool) -> None:
    frames = [frame(CONT, b"fragment1", fin=fin), *fragments(b"fragment2", b"fragment3")] * 2
    for pieces in (frames, *both(b"".join(frames))):
        fails(pieces, 1002)


def test_5_18_both_are_a_first_fragment() -> None:
    fails([text("fragment1", fin=False), text("fragment2")], 1002)


def test_5_19_and_5_20_five_fragments_and_pings() -> None:
    one, two, three, four, five = fragments(*(f"fragment{n}".encode() for n in range(1, 6)))
    frames = [one, two, frame(PING, b"1"), three, four, frame(PING, b"2"), five]
    whole = Frame(TEXT, b"".join(f"fragment{n}".encode() for n in range(1, 6)))
    for pieces in (frames, *both(b"".join(frames))):
        converse(pieces, [Frame(PONG, b"1"), Frame(PONG, b"2"), whole])


# 6: UTF-8

GREEK = "Hello-\u00b5@\u00df\u00f6\u00e4\u00fc\u00e0\u00e1-UTF-8!!".encode()
KOSME = "\u03ba\u1f79\u03c3\u03bc\u03b5".encode()
BROKEN = KOSME + b"\xed\xa0\x80edited"
TOO_HIGH = KOSME + b"\xf4\x90\x80\x80edited"


def test_6_1_empty_fragments() -> None:
    converse([text("")], [Frame(TEXT, b"")])
    for pieces in (fragments(b"", b"", b""), both(b"".join(fragments(b"", b"", b"")))[0]):
        converse(pieces, [Frame(TEXT, b"")])
    converse(fragments(b"", b"middle", b""), [Frame(TEXT, b"middle")])


def test_6_2_text_however_it_is_cut() -> None:
    cut = [fragments(GREEK[:n], GREEK[n:]) for n in range(len(GREEK))]
    for frames in ([frame(TEXT, GREEK)], fragments(*octets(GREEK)), *cut):
        for pieces in (frames, *both(b"".join(frames))):
            converse(pieces, [Frame(TEXT, GREEK)])


def test_6_3_bad_text_however_it_is_cut() -> None:
    for frames in ([frame(TEXT, BROKEN)], fragments(*octets(BROKEN))):
        for pieces in (frames, *both(b"".join(frames))):
            fails(pieces, 1007)


@pytest.mark.parametrize(
    ("payload", "first_bad"), [(TOO_HIGH, len(KOSME) + 1), (BROKEN, len(KOSME) + 1)]
)
def test_6_4_it_fails_at_the_first_octet_that_cannot_be(payload: bytes, first_bad: int) -> None:
    # In the next fragment, and amid a frame that is not there whole.
    good, bad = payload[:first_bad], payload[first_bad : first_bad + 1]
    beginning = frame(TEXT, good, fin=False)
    whole = frame(TEXT, payload)
    there, next_octet = whole[: 6 + first_bad], whole[6 + first_bad : 7 + first_bad]
    for before, then in (([beginning], frame(CONT, bad, fin=False)), ([there], next_octet)):
        converse(before, [])
        fails([*before, then], 1007)


def _texts() -> Iterator[tuple[bytes, bool]]:
    """Octets, and whether they are UTF-8 (6.5 to 6.23)."""
    good = [
        KOSME, b"\x00", "\u0080".encode(), "\u0800".encode(), "\U00010000".encode(), b"\x7f",
        "\u07ff".encode(), "\uffff".encode(), "\U0010ffff".encode(), "\ud7ff".encode(),
        "\ue000".encode(), "\ufffd".encode(), "\U0003ffff\U0010fffe".encode(),
        *(chr(plane << 16 | last).encode() for plane in range(17) for last in (0xFFFE, 0xFFFF)),
    ]  # fmt: skip
    surrogates = [0xD800, 0xDB7F, 0xDB80, 0xDBFF, 0xDC00, 0xDF80, 0xDFFF]
    alone = [chr(n).encode("utf-8", "surrogatepass") for n in surrogates]
    bad = [
        # Incomplete, and lone continuations
        *(KOSME[:n] for n in (1, 3, 4, 6, 8, 10)),
        b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80", b"\xf7\xbf\xbf\xbf",
        b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf", b"\xf4\x90\x80\x80",
        *(b"\x80\xbf" * (n // 2) + b"\x80" * (n % 2) for n in range(1, 8)),
        bytes(range(0x80, 0xC0)),
        b"".join(bytes((n, 0x20)) for n in range(0xC0, 0xE0)),
        b"".join(bytes((n, 0x20)) for n in range(0xE0, 0xF0)),
        b"".join(bytes((n, 0x20)) for n in range(0xF0, 0xF8)),
        b"\xc0", b"\xe0\x80", b"\xf0\x80\x80", b"\xdf", b"\xef\xbf", b"\xf7\xbf\xbf",
        b"\xfe", b"\xff", b"\xfe\xfe\xff\xff",
        # Longer than need be
        b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf8\x80\x80\x80\xaf",
        b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xc0\x80", b"\xe0\x80\x80",
        # Surrogates
        *alone, *(one + other for one in alone[:4] for other in alone[4:]),
    ]  # fmt: skip
    return chain(((octets_, True) for octets_ in good), ((octets_, False) for octets_ in bad))


@pytest.mark.parametrize(("payload", "is_good"), list(_texts()))
def test_6_5_to_6_23_what_is_utf8(payload: bytes, is_good: bool) -> None:
    cut = octets(payload)
    for frames in ([frame(TEXT, payload)], fragments(*cut), fragments(b"", payload)):
        for pieces in (frames, octets(b"".join(frames))):
            if is_good:
                converse(pieces, [Frame(TEXT, payload)])
            else:
                fails(pieces, 1007)


# 7: the close

NORMAL = Frame(CLOSE, b"\x03\xe8")


@pytest.mark.parametrize(
    "behind", [b"", close(), frame(PING), text("Hello"), b"\xff\xff", frame(CONT, b"x")]
)
def test_7_1_1_to_7_1_4_what_comes_behind_a_close_is_dropped(behind: bytes) -> None:
    good, end = text("Hello, world!"), close()
    for pieces in (*both(good + end + behind), [good, end, behind]):
        converse(pieces, [HELLO, NORMAL], sees=1000)


def test_7_1_5_a_close_amid_a_message_is_a_clean_one() -> None:
    frames = [text("fragment1", fin=False), close(), frame(CONT, b"fragment2")]
    for pieces in (frames, *both(b"".join(frames))):
        converse(pieces, [NORMAL], sees=1000)


def test_7_1_6_a_large_message_before_it() -> None:
    large = b"*" * (256 * 1024)
    frames = [frame(TEXT, large), close(), frame(PING)]
    for pieces in (frames, [b"".join(frames)]):
        converse(pieces, [Frame(TEXT, large), NORMAL], sees=1000)


def test_7_3_payloads_of_a_close() -> None:
    converse([close(None)], [Frame(CLOSE, b"")], sees=1005)
    fails([frame(CLOSE, b"a")], 1002)
    converse([close(1000)], [NORMAL], sees=1000)
    for reason in (b"Hello World!", b"*" * 123):
        converse([close(1000, reason)], [Frame(CLOSE, b"\x03\xe8" + reason)], sees=1000)
    fails([close(1000, b"*" * 124)], 1002)


def test_7_5_a_reason_is_utf8() -> None:
    fails([close(1000, BROKEN)], 1007)


@pytest.mark.parametrize(
    "code",
    [
        1000,
        1001,
        1002,
        1003,
        1007,
        1008,
        1009,
        1010,
        1011,
        1012,
        1013,
        1014,
        3000,
        3999,
        4000,
        4999,
    ],
)
def test_7_7_codes_that_may_be_sent(code: int) -> None:
    for pieces in both(close(code)):
        converse(pieces, [Frame(CLOSE, struct.pack("!H", code))], sees=code)


@pytest.mark.parametrize(
    "code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]
)
def test_7_9_and_7_13_codes_that_may_not(code: int) -> None:
    fails([close(code)], 1002)
    fails([close(code, b"why")], 1002)


# 9 and 10: large messages


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("mib", [0.0625, 0.25, 1, 4, 8, 16])
def test_9_1_and_9_2_large_messages(opcode: int, mib: float) -> None:
    payload = b"*" * int(mib * 1024 * 1024)
    converse(octets(frame(opcode, payload), 256 * 1024), [Frame(opcode, payload)])


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304])
def test_9_3_and_9_4_large_messages_in_fragments(opcode: int, size: int) -> None:
    payload = b"*" * (4 * 1024 * 1024 if _WHOLE or size > 256 else 512 * 1024)
    data = b"".join(fragments(*octets(payload, size), opcode=opcode))
    converse(octets(data, 256 * 1024), [Frame(opcode, payload)])


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("chop", [64, 128, 256, 512, 1024, 2048])
def test_9_5_and_9_6_a_mebibyte_in_pieces(opcode: int, chop: int) -> None:
    payload = b"*" * (1024 * 1024 if _WHOLE else 128 * 1024)
    converse(octets(frame(opcode, payload), chop), [Frame(opcode, payload)])


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [0, 16, 64, 256, 1024, 4096])
def test_9_7_and_9_8_many_messages(opcode: int, size: int) -> None:
    payload = b"*" * size
    count = 1000 if _WHOLE else 200
    converse([frame(opcode, payload)] * count, [Frame(opcode, payload)] * count)
    converse([frame(opcode, payload) * count], [Frame(opcode, payload)] * count)


def test_10_1_a_message_in_fragments_of_1300() -> None:
    payload = b"*" * 65536
    converse(fragments(*octets(payload, 1300)), [Frame(TEXT, payload)])


# 12 and 13: compression

EXTENSIONS = "Sec-WebSocket-Extensions"
PLAIN = "permessage-deflate"
# What the client offers, and what is answered with windows of 15 bits here.
OFFERS = [
    ("permessage-deflate", "permessage-deflate"),
    ("permessage-deflate; client_max_window_bits", "permessage-deflate; client_max_window_bits=15"),
    (
        "permessage-deflate; client_no_context_takeover; client_max_window_bits",
        "permessage-deflate; client_no_context_takeover; client_max_window_bits=15",
    ),
    (
        "permessage-deflate; server_no_context_takeover",
        "permessage-deflate; server_no_context_takeover",
    ),
    (
        "permessage-deflate; server_max_window_bits=9",
        "permessage-deflate; server_max_window_bits=9",
    ),
    (
        "permessage-deflate; server_no_context_takeover; server_max_window_bits=9",
        "permessage-deflate; server_no_context_takeover; server_max_window_bits=9",
    ),
    # The first that can be had: there is no window of 8 bits.
    (
        f"{PLAIN}; server_max_window_bits=8, {PLAIN}; server_no_context_takeover",
        "permessage-deflate; server_no_context_takeover",
    ),
]


@pytest.mark.parametrize(("offer", "answer"), OFFERS)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131072])
def test_12_and_13_compressed_messages(offer: str, answer: str, opcode: int, size: int) -> None:
    async def main() -> None:
        connection = _Cases.carry(
            headers=[(EXTENSIONS, offer)],
            deflate=Deflate(server_max_window_bits=15, client_max_window_bits=15),
        )
        head = await connection.open()
        assert f"{EXTENSIONS}: {answer}" in head.split("\r\n")
        client = Zip(receive_bits=9 if "bits=9" in offer else 15)
        for number in range(1000 if _WHOLE else 10):
            message = (f'{number} {{"a": [1, 2, 3]}} '.encode() * (size // 8))[:size]
            compressed = client.compress(message)
            # 12.5: in one frame, in fragments, and with a ping between
            if number % 3:
                parts = octets(compressed, max(1, len(compressed) // number))
                data = frame(opcode, parts[0], rsv=4, fin=len(parts) == 1)
                for n, part in enumerate(parts[1:], 2):
                    data += frame(PING) + frame(CONT, part, fin=n == len(parts))
            else:
                data = frame(opcode, compressed, rsv=4)
            await connection.feed(*octets(data, 4096))
            pings = data.count(frame(PING))
            answers = await connection.answers_of(1 + pings)
            answers = [a for a in answers if a.opcode != PONG]
            assert [(a.opcode, a.rsv) for a in answers] == [(opcode, 4)]
            if "server_no_context_takeover" in answer:
                inflated = Zip(receive_bits=9 if "bits=9" in offer else 15)
                assert inflated.inflate(answers[0].payload) == message
            else:
                assert client.inflate(answers[0].payload) == message
            if "client_no_context_takeover" in answer:
                decompressor = client.decompressor
                client.reset()
                client.decompressor = decompressor
        assert await connection.end() == ([], 1006)

    asyncio.run(main())
