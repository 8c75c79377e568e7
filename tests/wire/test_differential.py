"""The wire beside `websockets` and `wsproto`: the same frames, the same verdict.

What a peer sends is drawn as in tests/faults, cut anywhere, with and without compression.
Each must deliver the same messages, answer the same pings, and end with the same code.
Where another one does otherwise, the difference stands in `EXCUSED` with the sentence of
the RFC.  UNISOCK_FUZZ=100000 draws as many.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from websockets.exceptions import PayloadTooBig
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame as TheirFrame
from websockets.frames import Opcode
from websockets.protocol import State as TheirState
from websockets.server import ServerProtocol
from wsproto.connection import Connection as WsprotoConnection
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate

from tests.faults.strategies import GARBAGE, controls, good_frames, spoilt, streams
from unisock.wire.connection import Connection
from unisock.wire.deflate import Agreement

from .peer import BINARY, CONT, TEXT, Zip, frame, frames_of

_EXAMPLES = int(os.environ.get("UNISOCK_FUZZ", "300"))
_quiet = logging.getLogger("tests.wire.quiet")
_quiet.setLevel(logging.CRITICAL)

LIMIT = 1000
AGREED = Agreement(
    server_bits=15,
    client_bits=15,
    tells_client_bits=False,
    server_no_takeover=False,
    client_no_takeover=False,
    memory_level=8,
)


@dataclass
class Verdict:
    """What became of a stream."""

    messages: list[str | bytes] = field(default_factory=list)
    pongs: list[bytes] = field(default_factory=list)
    code: int | None = None
    """That of the peer's close frame, or of the failure; `None` where it is open."""
    failed: bool = False


def ours(pieces: list[bytes], deflate: bool) -> Verdict:
    verdict = Verdict()
    sent = bytearray()

    def put(message: str | bytes) -> bool:
        verdict.messages.append(message)
        return True

    def on_closed(code: int, _: str, is_clean: bool) -> None:
        verdict.code, verdict.failed = code, not is_clean

    connection = Connection(
        write=sent.extend,
        put=put,
        on_closed=on_closed,
        max_message_size=LIMIT,
        deflate=AGREED if deflate else None,
    )
    for piece in pieces:
        pause = connection.receive(piece)
        while pause is not None:
            pause = connection.receive(b"")
    for answer in frames_of(bytes(sent)):
        if answer.opcode == 10:
            verdict.pongs.append(answer.payload)
        else:  # the close frame, which is the last
            assert verdict.code == (answer.code if answer.payload else 1005)
    return verdict


def websockets(pieces: list[bytes], deflate: bool) -> Verdict:
    verdict = Verdict()
    protocol = ServerProtocol(state=TheirState.OPEN, max_size=LIMIT, logger=_quiet)
    if deflate:
        protocol.extensions = [PerMessageDeflate(False, False, 15, 15)]
    parts: list[bytes] = []
    opcode = Opcode.TEXT
    for piece in pieces:
        if protocol.eof_sent:
            break
        protocol.receive_data(piece)
        for received in protocol.events_received():
            assert isinstance(received, TheirFrame)
            if received.opcode is Opcode.PING:
                verdict.pongs.append(bytes(received.data))
            elif received.opcode in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}:
                if received.opcode is not Opcode.CONT:
                    opcode = received.opcode
                parts.append(bytes(received.data))
                if received.fin:
                    whole = b"".join(parts)
                    parts.clear()
                    try:
                        verdict.messages.append(whole.decode() if opcode is Opcode.TEXT else whole)
                    except UnicodeDecodeError:
                        # It leaves that to who uses it, as its own server does.
                        verdict.code, verdict.failed = 1007, True
                        return verdict
    if protocol.close_rcvd is not None and protocol.parser_exc is None:
        verdict.code = protocol.close_rcvd.code
    elif protocol.parser_exc is not None:
        verdict.failed = True
        assert protocol.close_sent is not None
        verdict.code = int(protocol.close_sent.code)
        if isinstance(protocol.parser_exc, PayloadTooBig):
            assert verdict.code == 1009
    return verdict


def wsproto(pieces: list[bytes], deflate: bool) -> Verdict:
    verdict = Verdict()
    extensions: list[Any] = []
    if deflate:
        extension = WsprotoDeflate()
        extension._enabled = True
        extensions.append(extension)
    connection = WsprotoConnection(ConnectionType.SERVER, extensions)
    parts: list[Any] = []
    for piece in pieces:
        connection.receive_data(piece)
        for received in connection.events():
            if isinstance(received, Ping):
                verdict.pongs.append(bytes(received.payload))
            elif isinstance(received, (TextMessage, BytesMessage)):
                parts.append(received.data)
                size = sum(len(p.encode()) if isinstance(p, str) else len(p) for p in parts)
                if size > LIMIT:  # it has no limit
                    verdict.code, verdict.failed = 1009, True
                    return verdict
                if received.message_finished:
                    empty: Any = "" if isinstance(received, TextMessage) else b""
                    verdict.messages.append(
                        empty.join(p if isinstance(p, str) else bytes(p) for p in parts)
                    )
                    parts.clear()
            elif isinstance(received, CloseConnection):
                verdict.code = int(received.code)
                # It tells of a failure in the same way.
                verdict.failed = connection.state is ConnectionState.OPEN
                return verdict
    return verdict


# Streams


@st.composite
def compressed(draw: st.DrawFn, *, amid: bool = True) -> bytes:
    """Messages of which some are compressed, in fragments, and sometimes spoilt.

    Args:
        amid: whether there may be control frames among the fragments: wsproto forgets then
            that the message is compressed, but 'control frames MAY be injected in the middle
            of a fragmented message' (RFC 6455, section 5.4).
    """
    client = Zip()
    data = b""
    for _ in range(draw(st.integers(1, 4))):
        opcode = draw(st.sampled_from([TEXT, BINARY]))
        payload = draw(st.text(st.characters(codec="utf-8"), max_size=60)).encode()
        payload *= draw(st.sampled_from([1, 1, 1, 30]))
        payload += draw(st.sampled_from([b""] * 6 + [b"\xff", b"\xe2\x82"]))
        packed = client.compress(payload)
        cut = draw(st.integers(0, len(packed)))
        if draw(st.booleans()):
            data += frame(opcode, packed[:cut], rsv=4, fin=False)
            data += draw(st.just(b"") | controls) if amid else b""
            data += frame(CONT, packed[cut:])
        else:
            data += frame(opcode, packed, rsv=draw(st.sampled_from([4, 4, 4, 0, 2])))
        data += draw(st.just(b"") | good_frames)
    if amid and draw(st.integers(0, 3)) == 0:
        return draw(spoilt(st.just(data)))
    return data


cuts = st.lists(st.integers(0, 400), max_size=6)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(edges)] or [b""]


@dataclass(frozen=True)
class Excuse:
    """A difference that is meant.

    Attributes:
        why: the RFC's sentence.
        of: whose it is.
        holds: whether a pair of verdicts, ours and theirs, is that difference.
    """

    why: str
    of: str
    holds: Callable[[Verdict, Verdict], bool]


def _no_fewer_messages(one: Verdict, other: Verdict) -> bool:
    """All that the shorter has delivered the longer has as well."""
    short, long = sorted((one.messages, other.messages), key=len)
    return long[: len(short)] == short


EXCUSED = [
    Excuse(
        'RFC 6455, 5.2: "the minimal number of bytes MUST be used to encode the length"',
        "websockets",
        lambda we, they: we.code == 1002 and _no_fewer_messages(we, they),
    ),
    Excuse(
        'RFC 6455, 5.2: "the most significant bit MUST be 0"; a length that is broken is 1002',
        "websockets",
        lambda we, they: (we.code, they.code) == (1002, 1009),
    ),
    Excuse(
        'RFC 6455, 8.1: "MUST _Fail the WebSocket Connection_" where a text is not UTF-8; '
        "it is seen with the first such octet, and by websockets with the whole message",
        "websockets",
        lambda we, they: we.code == 1007 and _no_fewer_messages(we, they),
    ),
    Excuse(
        'RFC 6455, 7.1.7: "An endpoint MUST NOT continue to attempt to process data"; of what '
        "is broken in two ways the first counts, and a broken deflate stream is 1007 here "
        "(7.4.1: data within a message that was not consistent with the type)",
        "websockets",
        lambda we, they: we.failed and they.failed and (we.code, they.code) == (1007, 1002),
    ),
    Excuse(
        "RFC 6455, 10.4: a limit; who counts a message's compressed bytes, its head or its "
        "inflated ones fails sooner or later",
        "both",
        lambda we, they: 1009 in {we.code, they.code} and _no_fewer_messages(we, they),
    ),
]


def compare(
    judge: Callable[[list[bytes], bool], Verdict], data: bytes, places: list[int], deflate: bool
) -> None:
    """Have both judge the same pieces."""
    name, pieces = judge.__name__, cut(data, places)
    we, they = ours(pieces, deflate), judge(pieces, deflate)
    if we == they:
        event(f"the same: {'failed ' if we.failed else ''}{we.code}")
        return
    for excuse in EXCUSED:
        if excuse.of in {name, "both"} and excuse.holds(we, they):
            event(excuse.why)
            return
    if None in {we.code, they.code}:
        # Of a head that is not there whole one sees sooner what is wrong than the other.
        pieces = [*pieces, bytes(14)]
        we_then, they_then = ours(pieces, deflate), judge(pieces, deflate)
        if we_then.code == they_then.code and _no_fewer_messages(we_then, they_then):
            event("the same, but sooner or later")
            return
    pytest.fail(f"{name} says {they}\nthe wire says {we}\nof {data.hex()}")


_settings = settings(
    max_examples=_EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
_streams = streams().map(lambda pair: pair[0]) | st.lists(good_frames | GARBAGE, max_size=4).map(
    b"".join
)


@_settings
@given(_streams, cuts)
def test_the_verdict_of_websockets(data: bytes, places: list[int]) -> None:
    compare(websockets, data, places, False)


@_settings
@given(_streams, cuts)
def test_the_verdict_of_wsproto(data: bytes, places: list[int]) -> None:
    compare(wsproto, data, places, False)


@_settings
@given(compressed(), cuts)
def test_the_verdict_of_websockets_on_compressed(data: bytes, places: list[int]) -> None:
    compare(websockets, data, places, True)


@_settings
@given(compressed(amid=False), cuts)
def test_the_verdict_of_wsproto_on_compressed(data: bytes, places: list[int]) -> None:
    compare(wsproto, data, places, True)


@_settings
@given(_streams | compressed(), cuts, st.booleans())
def test_how_it_is_cut_makes_no_difference(data: bytes, places: list[int], deflate: bool) -> None:
    assert ours(cut(data, places), deflate) == ours([data], deflate)
