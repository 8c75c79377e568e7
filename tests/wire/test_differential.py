"""The wire beside `websockets` and `wsproto`: the same frames, the same verdict.

`tests.wire.judges` has the comparison, and the table of differences.  What a peer sends is
drawn in two ways: of the frames of `tests.wire.cases`, and as in tests/faults.
UNISOCK_FUZZ=100000 draws as many; `tests.wire.fuzz` is led by what it covers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame as TheirFrame
from websockets.frames import Opcode
from websockets.protocol import State as TheirState
from websockets.uri import parse_uri

from tests.faults.strategies import GARBAGE, controls, good_frames, spoilt, streams
from unisock.wire.connection import Connection
from unisock.wire.deflate import Agreement

from .cases import AGREED, AGREEMENTS, Case, case_of, cut
from .judges import EXCUSED, check_cuts, compare, compare_all, ours, websockets, wsproto
from .peer import BINARY, CLOSE, CONT, PING, TEXT, Zip, close, frame, octets, text

_EXAMPLES = int(os.environ.get("UNISOCK_FUZZ", "300"))
_settings = settings(
    max_examples=_EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@_settings
@given(st.binary(max_size=400).map(case_of))
def test_the_verdict_is_that_of_both(case: Case) -> None:
    for what in compare_all(case):
        event(what)


@st.composite
def compressed(draw: st.DrawFn) -> bytes:
    """Messages of which some are compressed, in fragments, and sometimes spoilt."""
    client = Zip()
    data = b""
    for _ in range(draw(st.integers(1, 4))):
        opcode = draw(st.sampled_from([TEXT, BINARY]))
        payload = draw(st.text(st.characters(codec="utf-8"), max_size=60)).encode()
        payload *= draw(st.sampled_from([1, 1, 1, 30]))
        payload += draw(st.sampled_from([b""] * 6 + [b"\xff", b"\xe2\x82"]))
        packed = client.compress(payload)
        place = draw(st.integers(0, len(packed)))
        if draw(st.booleans()):
            data += frame(opcode, packed[:place], rsv=4, fin=False)
            data += draw(st.just(b"") | controls)
            data += frame(CONT, packed[place:])
        else:
            data += frame(opcode, packed, rsv=draw(st.sampled_from([4, 4, 4, 0, 2])))
        data += draw(st.just(b"") | good_frames)
    if draw(st.integers(0, 3)) == 0:
        return draw(spoilt(st.just(data)))
    return data


_cuts = st.lists(st.integers(0, 400), max_size=6)
_streams = streams().map(lambda pair: pair[0]) | st.lists(good_frames | GARBAGE, max_size=4).map(
    b"".join
)


@_settings
@given(_streams, _cuts)
def test_the_verdict_on_the_frames_of_the_fuzzer_of_servers(data: bytes, places: list[int]) -> None:
    compare_all(Case(cut(data, places)))


@_settings
@given(compressed(), _cuts)
def test_the_verdict_on_compressed_frames(data: bytes, places: list[int]) -> None:
    compare_all(Case(cut(data, places), agreed=AGREED))


@_settings
@given(_streams | compressed(), _cuts, st.booleans())
def test_how_it_is_cut_makes_no_difference(data: bytes, places: list[int], deflate: bool) -> None:
    check_cuts(Case(cut(data, places), agreed=AGREED if deflate else None))


_messages = st.lists(st.text(max_size=200) | st.binary(max_size=200), max_size=5)
_agreed = st.sampled_from(AGREEMENTS) | st.builds(
    replace,
    st.just(AGREED),
    server_bits=st.integers(9, 15),
    server_no_takeover=st.booleans(),
    memory_level=st.integers(1, 9),
)


@_settings
@given(_messages, _agreed, st.booleans())
@example(["a" * 200_000, b"\0" * 70_000], AGREED, True)
def test_what_is_sent_is_what_their_client_reads(
    messages: list[str | bytes], agreed: Agreement | None, in_pieces: bool
) -> None:
    sent = bytearray()
    connection = Connection(
        write=sent.extend,
        put=lambda _: True,
        on_closed=lambda *_: None,
        max_message_size=1,
        deflate=agreed,
    )
    messages = [m for m in messages if isinstance(m, bytes) or _is_text(m)]
    for message in messages:
        for piece in connection.pieces_of(message) if in_pieces else [connection.frame_of(message)]:
            sent += piece
    connection.close(1000, "bye")
    client = ClientProtocol(parse_uri("ws://localhost/"), state=TheirState.OPEN, max_size=None)
    if agreed is not None:
        client.extensions = [
            PerMessageDeflate(
                agreed.server_no_takeover, agreed.client_no_takeover, agreed.server_bits, 15
            )
        ]
    client.receive_data(bytes(sent))
    assert client.parser_exc is None
    *received, last = client.events_received()
    read: list[str | bytes] = []
    for each in received:
        assert isinstance(each, TheirFrame)
        data = bytes(each.data)
        read.append(data.decode() if each.opcode is Opcode.TEXT else data)
    assert read == messages
    assert isinstance(last, TheirFrame)
    assert last.data == b"\x03\xe8bye"


def _is_text(message: str) -> bool:
    return message.isascii() or message.encode(errors="ignore").decode() == message


# What was found, and what each of the excuses is about

_zip = Zip()
_BROKEN_TEXT = Zip().compress(b"a" * 20 + b"\xff" * 20)
FOUND: dict[str, Case] = {
    "a length of two bytes for a small message": Case([frame(TEXT, b"hi", head=126)]),
    "a length of eight bytes for a small ping": Case([frame(PING, b"hi", head=127)]),
    "a length of 2^63": Case([frame(BINARY, length=1 << 63)]),
    "a length of 2^63 - 1": Case([frame(BINARY, length=(1 << 63) - 1)]),
    "a head that is over the limit": Case([frame(BINARY, length=2000)]),
    "half a length of a frame that is broken": Case([b"\x32\xff\xbe"]),
    "no text in a fragment": Case([frame(TEXT, b"\xff", fin=False)]),
    "a close amid a message": Case([text("a", fin=False) + close(4000, b"bye")]),
    "a close of a bad code and a bad reason": Case([close(1006, b"\xff")]),
    "1014": Case([close(1014)]),
    "a message amid a compressed one": Case(
        [frame(BINARY, _zip.compress(b"one"), rsv=4, fin=False) + frame(BINARY, b"\xff" * 9)],
        agreed=AGREED,
    ),
    "a ping amid a compressed message": Case(
        [
            frame(TEXT, _zip.compress(b"two"), rsv=4, fin=False)
            + frame(PING, b"?")
            + frame(CONT, b"")
        ],
        agreed=AGREED,
    ),
    "a bomb in octets, that is no text": Case(
        octets(frame(TEXT, _BROKEN_TEXT, rsv=4)), limit=20, agreed=AGREED
    ),
    "many last blocks": Case([frame(BINARY, b"\x03\x00" * 20, rsv=4)], agreed=AGREED),
    "compressed data that is none": Case([frame(BINARY, b"\xff" * 3, rsv=4)], agreed=AGREED),
    "data behind our own close": Case(
        [text("a"), text("b") + frame(TEXT, b"\xff") + frame(PING), close()], closes_at=1
    ),
    "data behind a close": Case([close(1000), text("late") + frame(PING), b"\xff" * 100]),
    "zero for a mask": Case([frame(TEXT, b"hi", mask=bytes(4)), frame(CLOSE, b"\x03")]),
}


@pytest.mark.parametrize("what", FOUND)
def test_what_was_found(what: str) -> None:
    compare_all(FOUND[what])


def test_each_excuse_is_needed() -> None:
    """Each difference that is excused is there still, in the versions that are installed."""
    named = {compare(judge, case) for case in FOUND.values() for judge in (websockets, wsproto)}
    assert {excuse.why for excuse in EXCUSED} <= named


def test_a_difference_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: here the wire forgets a message, a pong, the code and the end."""
    case = Case([text("hello") + frame(PING, b"?") + close(3000, b"why")])
    compare_all(case)
    right = ours(case)
    for wrong in (
        replace(right, messages=[]),
        replace(right, pongs=[]),
        replace(right, code=1000),
        replace(right, failed=True),
        replace(right, reason=""),
        replace(right, code=None, reason=""),
    ):
        monkeypatch.setattr("tests.wire.judges.ours", lambda _, wrong=wrong: wrong)
        for judge in (websockets, wsproto):
            with pytest.raises(AssertionError, match="the wire says"):
                compare(judge, case)


@pytest.mark.parametrize("arguments", [["--cases", "200", "--random", "1"], ["--input", "00ff07"]])
def test_the_command(arguments: list[str]) -> None:
    command: list[Any] = [sys.executable, "-m", "tests.wire.fuzz", *arguments]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no difference that is not named" in done.stdout


def test_many_last_blocks_in_one_read_or_in_several() -> None:
    block = zlib.compressobj(wbits=-9)
    data = frame(BINARY, (block.compress(b"a") + block.flush(zlib.Z_FINISH)) * 20, rsv=4)
    check_cuts(Case(octets(data), agreed=AGREED))
