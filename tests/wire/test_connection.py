"""`Connection` by itself: what it holds, what it costs, and what no Autobahn case asks."""

from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable

import pytest

from unisock.wire.connection import Connection, Pause, State
from unisock.wire.deflate import LAST_BLOCKS, Agreement

from .peer import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Frame,
    Zip,
    close,
    frame,
    frames_of,
    octets,
    text,
)

MiB = 1024 * 1024
AGREED = Agreement(
    server_bits=12,
    client_bits=15,
    tells_client_bits=False,
    server_no_takeover=False,
    client_no_takeover=False,
    memory_level=5,
)


class Bare:
    """A connection, and what came of it.

    Attributes:
        room: how many messages there is room for.
    """

    def __init__(self, max_message_size: int = 16 * MiB, deflate: Agreement | None = None) -> None:
        self.sent = b""
        self.messages: list[str | bytes] = []
        self.ended: list[tuple[int, str, bool]] = []
        self.room = 1 << 60
        self.connection = Connection(
            write=self._write,
            put=self._put,
            on_closed=lambda *end: self.ended.append(end),
            max_message_size=max_message_size,
            deflate=deflate,
        )

    def _write(self, data: bytes) -> None:
        self.sent += data

    def _put(self, message: str | bytes) -> bool:
        self.messages.append(message)
        self.room -= 1
        return self.room > 0

    def feed(self, *pieces: bytes) -> list[Pause]:
        """Give it the pieces, and go on at each pause; return why it has paused."""
        pauses = []
        for piece in pieces:
            pause = self.connection.receive(piece)
            while pause is not None:
                pauses.append(pause)
                pause = self.connection.receive(b"")
        return pauses

    def answers(self) -> list[Frame]:
        sent, self.sent = self.sent, b""
        return frames_of(sent)


def held(feed: Callable[[], object]) -> int:
    """How many bytes more are held at most while it runs."""
    tracemalloc.start()
    try:
        feed()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Heads


@pytest.mark.parametrize("mask", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\1"])
@pytest.mark.parametrize("size", [0, 1, 3, 125, 126, 5000])
def test_any_mask_is_one(mask: bytes, size: int) -> None:
    payload = bytes(n % 251 for n in range(size))
    for pieces in ([frame(BINARY, payload, mask=mask)], octets(frame(BINARY, payload, mask=mask))):
        bare = Bare()
        bare.feed(*pieces)
        assert bare.messages == [payload]


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (frame(TEXT, b"hi", mask=None), 1002),
        (frame(CLOSE, b"", mask=None), 1002),
        # 5.2: the highest bit is 0, and a length takes as few bytes as it can
        (frame(BINARY, length=1 << 63), 1002),
        (frame(BINARY, length=(1 << 64) - 1), 1002),
        (frame(BINARY, b"long", head=126), 1002),
        (frame(BINARY, bytes(125), head=126), 1002),
        (frame(BINARY, b"long", head=127), 1002),
        (frame(BINARY, bytes(65535), head=127), 1002),
        (frame(TEXT, b"a", fin=False) + frame(CONT, b"b", rsv=4), 1002),
        (frame(BINARY, length=(1 << 63) - 1), 1009),
        (frame(TEXT, length=1001), 1009),
        (frame(TEXT, b"a" * 600, fin=False) + frame(CONT, length=401), 1009),
    ],
)
def test_a_bad_head_fails_before_its_payload_comes(bad: bytes, code: int) -> None:
    for pieces in ([bad], octets(bad)):
        bare = Bare(max_message_size=1000)
        bare.feed(*pieces)
        assert [end[0] for end in bare.ended] == [code]
        assert [answer.code for answer in bare.answers()] == [code]
        assert bare.messages == []


def test_a_message_of_exactly_the_limit() -> None:
    bare = Bare(max_message_size=1000, deflate=AGREED)
    whole = b"a" * 1000
    client = Zip()
    incompressible = b"".join(bytes((n * 7919 % 251, n % 256)) for n in range(500))
    bare.feed(
        frame(BINARY, whole),
        frame(BINARY, whole[:500], fin=False) + frame(CONT, whole[500:]),
        frame(BINARY, client.compress(whole), rsv=4),
        frame(BINARY, client.compress(incompressible), rsv=4),
    )
    assert bare.messages == [whole, whole, whole, incompressible]


@pytest.mark.parametrize("limit", [1, 10, 124, 125, 126])
def test_a_limit_below_the_length_of_a_small_frame(limit: int) -> None:
    for opcode in (TEXT, BINARY):
        bare = Bare(max_message_size=limit)
        bare.feed(frame(opcode, b"a" * limit), frame(opcode, b"a" * (limit + 1)))
        assert [len(message) for message in bare.messages] == [limit]
        assert bare.ended == [(1009, f"over {limit} bytes", False)]


# What comes behind the end


def test_nothing_behind_the_end_counts() -> None:
    bare = Bare()
    bare.feed(text("a") + close(3000, b"bye") + text("b") + b"\xff\xff", text("c"))
    assert bare.messages == ["a"]
    assert bare.ended == [(3000, "bye", True)]
    assert bare.answers() == [Frame(CLOSE, b"\x0b\xb8bye")]
    assert bare.connection.state is State.CLOSED


def test_the_peer_answers_our_close() -> None:
    bare = Bare()
    bare.feed(text("half", fin=False))
    bare.connection.close(4000, "enough")
    assert bare.connection.state is State.CLOSING
    # Of what it has sent before it knew, nothing is a message, and nothing is answered.
    late = frame(CONT, b"whole") + text("late") + frame(BINARY, bytes(9000)) + frame(PING)
    bare.feed(*octets(late, 100), close(4000, b"enough"))
    assert bare.messages == []
    assert bare.answers() == [Frame(CLOSE, b"\x0f\xa0enough")]
    assert bare.ended == [(4000, "enough", True)]


def test_a_broken_frame_behind_our_close_is_the_end() -> None:
    bare = Bare()
    bare.connection.close(1000, "")
    bare.feed(text("late") + frame(3))
    assert bare.answers() == [Frame(CLOSE, b"\x03\xe8")]
    assert [end[2] for end in bare.ended] == [False]


def test_a_long_reason_is_cut_at_a_character() -> None:
    bare = Bare()
    bare.connection.close(1000, "\u00e9" * 100)
    (answer,) = bare.answers()
    assert answer.payload[2:].decode() == "\u00e9" * 61


def test_what_came_before_a_broken_connection_is_delivered() -> None:
    bare = Bare()
    bare.room = 1
    large = "a" * 70_000
    assert bare.connection.receive(text(large) * 3 + text("half")[:-1]) is Pause.FULL
    assert len(bare.messages) == 1
    bare.connection.lose()
    assert bare.messages == [large] * 3
    assert bare.ended == [(1006, "", False)]
    bare.connection.lose()
    assert len(bare.ended) == 1


def test_a_close_frame_among_it_counts() -> None:
    bare = Bare()
    bare.room = 1
    large = "a" * 70_000
    assert bare.connection.receive(text(large) * 3 + close(3001, b"bye")) is Pause.FULL
    bare.connection.lose()
    assert bare.messages == [large] * 3
    assert bare.ended == [(3001, "bye", True)]


def test_a_broken_connection_inflates_no_more_than_memory_should_hold() -> None:
    client = Zip()
    bombs = b"".join(frame(BINARY, client.compress(bytes(MiB)), rsv=4) for _ in range(100))
    bare = Bare(deflate=AGREED)
    bare.room = 1
    assert bare.connection.receive(bombs) is Pause.FULL
    assert held(bare.connection.lose) < 8 * MiB
    assert len(bare.messages) <= 3
    assert bare.ended == [(1006, "", False)]


# Pauses


def test_it_takes_no_more_than_there_is_room_for() -> None:
    bare = Bare()
    bare.room = 2
    large = [str(n) * 70_000 for n in range(5)]
    data = b"".join(map(text, large)) + text("partial")[:3]
    assert bare.connection.receive(data) is Pause.FULL
    assert bare.messages == large[:2]
    bare.room = 2
    assert bare.connection.receive(b"") is Pause.FULL
    assert bare.messages == large[:4]
    bare.room = 2
    assert bare.connection.receive(b"") is None
    bare.connection.receive(text("partial")[3:])
    assert bare.messages == [*large, "partial"]


def test_of_small_ones_it_takes_some_more() -> None:
    # A close frame may stand behind them.
    bare = Bare()
    bare.room = 1
    assert bare.connection.receive(text("a") * 10 + close(4000)) is Pause.ENDING
    assert len(bare.messages) == 10
    assert bare.connection.receive(b"") is None
    assert bare.ended == [(4000, "", True)]
    bare = Bare()
    bare.room = 1
    assert bare.connection.receive(text("a") * 10_000) is Pause.FULL
    assert 500 < len(bare.messages) < 2000
    bare = Bare()
    bare.room = 1
    assert bare.connection.receive(text("a") * 10) is Pause.FULL
    assert bare.connection.receive(b"") is None
    assert len(bare.messages) == 10


def test_what_comes_in_a_pause_comes_behind() -> None:
    bare = Bare()
    bare.room = 1
    large = [str(n) * 70_000 for n in range(3)]
    assert bare.connection.receive(text(large[0]) + text(large[1])) is Pause.FULL
    bare.room = 10
    assert bare.connection.receive(text(large[2])) is None
    assert bare.messages == large


@pytest.mark.parametrize(
    "flood",
    [frame(PING), frame(PONG), frame(PING, bytes(125)), frame(CONT, fin=False), text("")],
    ids=["pings", "pongs", "large pings", "empty fragments", "empty messages"],
)
def test_a_turn_is_short_whatever_comes(flood: bytes) -> None:
    bare = Bare()
    bare.connection.receive(text("", fin=False) if flood == frame(CONT, fin=False) else b"")
    data = flood * (2 * MiB // len(flood))  # far more than one read brings
    turns: list[float] = []
    pause: Pause | None = Pause.TURN
    while pause is not None:
        assert pause is Pause.TURN
        # Of the thread, for others may use the machine.
        started = time.thread_time()
        pause = bare.connection.receive(data)
        turns.append(time.thread_time() - started)
        data = b""
    assert len(turns) > 4
    turns.sort()
    assert turns[len(turns) * 9 // 10] < 0.03


def test_a_flood_of_empty_fragments_holds_nothing() -> None:
    bare = Bare()
    bare.feed(text("a", fin=False))
    data = frame(CONT, fin=False) * 10_000

    def flood() -> None:
        for _ in range(10):
            bare.feed(data)

    assert held(flood) < MiB
    bare.feed(frame(CONT, b"z"))
    assert bare.messages == ["az"]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_many_small_fragments_hold_little_more_than_their_bytes(opcode: int) -> None:
    bare = Bare()
    bare.feed(frame(opcode, b"a", fin=False))
    data = frame(CONT, b"\xc3\xa9", fin=False) * 10_000

    def flood() -> None:
        for _ in range(10):
            bare.feed(data)

    assert held(flood) < 2 * MiB
    bare.feed(frame(CONT))
    assert len(bare.messages[0]) == 1 + (100_000 if opcode == TEXT else 200_000)


def test_a_flood_of_pings_of_a_peer_that_does_not_read_holds_one() -> None:
    bare = Bare()
    bare.connection.pause_writing()
    pings = b"".join(frame(PING, b"%06d" % n) for n in range(10_000))
    assert held(lambda: [bare.feed(pings) for _ in range(10)]) < 2 * MiB
    assert bare.sent == b""
    bare.connection.resume_writing()
    # Section 5.5.3: only the last one need be answered.
    assert bare.answers() == [Frame(PONG, b"009999")]


def test_a_close_frame_goes_behind_the_pong() -> None:
    bare = Bare()
    bare.connection.pause_writing()
    bare.feed(frame(PING, b"a"))
    bare.connection.close(1000, "")
    assert [answer.opcode for answer in bare.answers()] == [PONG, CLOSE]


# Limits


def test_a_large_message_is_not_held_and_a_bomb_not_inflated() -> None:
    bomb = Zip().compress(bytes(64 * MiB))
    assert len(bomb) < 100_000
    for parts in ([bomb], octets(bomb, 1000)):
        bare = Bare(max_message_size=100_000, deflate=AGREED)
        data = b"".join(
            frame(CONT if n else BINARY, part, rsv=0 if n else 4, fin=n == len(parts) - 1)
            for n, part in enumerate(parts)
        )
        assert held(lambda bare=bare, data=data: bare.feed(data)) < MiB  # type: ignore[misc]  # a lambda
        assert bare.ended == [(1009, "over 100000 bytes", False)]
    bare = Bare(max_message_size=100_000, deflate=AGREED)
    bare.feed(frame(BINARY, length=200_000, rsv=4))
    assert [end[0] for end in bare.ended] == [1009]


def test_many_blocks_that_say_to_be_the_last_are_no_work() -> None:
    # Each makes a new inflater; half a million of them are 0.5 s where nobody counts.
    bare = Bare(deflate=AGREED)
    bare.feed(frame(BINARY, b"\x03\x00" * 10_000, rsv=4))
    assert bare.ended == [(1007, LAST_BLOCKS, False)]


def test_a_block_that_is_the_last_ends_no_message() -> None:
    # RFC 7692, section 7.2.3.4
    bare = Bare(deflate=AGREED)
    final = frame(TEXT, bytes.fromhex("f348cdc9c9070000"), rsv=4)
    two = bytes.fromhex("f248050000 00ffff cac9c90700".replace(" ", ""))  # 7.2.3.5
    bare.feed(final, final, frame(TEXT, two, rsv=4))
    nothing_behind = frame(TEXT, bytes.fromhex("f348cdc9c90700"), rsv=4)
    bare.feed(nothing_behind, nothing_behind)
    assert bare.messages == ["Hello"] * 5


@pytest.mark.parametrize("rest", [b"", b"\0\0"])
def test_broken_compression(rest: bytes) -> None:
    bare = Bare(deflate=AGREED)
    bare.feed(frame(BINARY, b"\xff\xff\xff" + rest, rsv=4))
    assert bare.ended == [(1007, "compressed data is broken", False)]


def test_text_is_checked_when_it_is_inflated() -> None:
    bare = Bare(deflate=AGREED)
    bare.feed(frame(TEXT, Zip().compress(b"\xed\xa0"), rsv=4, fin=False))
    assert [end[0] for end in bare.ended] == [1007]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_an_empty_message_is_sent_as_it_is(opcode: int) -> None:
    bare = Bare(deflate=AGREED)
    message: str | bytes = "" if opcode == TEXT else b""
    assert frames_of(bare.connection.frame_of(message)) == [Frame(opcode, b"")]


def test_what_is_sent_to_many_is_made_once() -> None:
    one, other = Bare(), Bare()
    for message, is_kept in (("hello", True), (b"\0" * 1000, True), ("\u00e9" * 40_000, False)):
        made = one.connection.frame_of(message)
        assert (other.connection.frame_of(message) is made) == is_kept
        assert other.connection.frame_of(message) == made


@pytest.mark.parametrize("message", ["\u00e9" * 70_000, b"\xfe" * 140_000])
@pytest.mark.parametrize("deflate", [None, AGREED])
def test_a_large_message_is_sent_in_pieces(message: str | bytes, deflate: Agreement | None) -> None:
    bare = Bare(deflate=deflate)
    (answer,) = frames_of(b"".join(bare.connection.pieces_of(message)))
    payload = answer.payload
    if deflate is not None:
        payload = zlib.decompressobj(-12).decompress(payload + b"\0\0\xff\xff")
    assert payload == (message.encode() if isinstance(message, str) else message)


def test_without_the_compiled_mask() -> None:
    code = (
        "import sys; sys.modules['websockets.speedups'] = None\n"
        "from unisock.wire.masks import apply_mask\n"
        "assert apply_mask.__module__ == 'websockets.utils'\n"
        "from tests.wire.test_connection import *\n"
        "bare = Bare(); bare.feed(text('hello'), *octets(frame(BINARY, bytes(300))))\n"
        "assert bare.messages == ['hello', bytes(300)]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
