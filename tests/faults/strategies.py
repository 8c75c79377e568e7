"""What the fuzzer sends: handshakes and streams of frames, good, broken and neither."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import strategies as st

from .conftest import handshake

Bytes = st.SearchStrategy[bytes]


@dataclass(frozen=True)
class Attack:
    """What one peer sends."""

    request: bytes
    frames: bytes
    cuts: tuple[int, ...] = ()
    """Where the frames are cut into pieces that are sent one by one."""
    accepted: bool = True
    """Whether the handshake is a good one: the frames come after its answer."""
    codes: tuple[int, ...] = ()
    """With one of these the server itself closes; without them it may do as it likes."""
    resets: bool = False
    """Whether the peer ends it all with a reset."""

    def pieces(self) -> list[bytes]:
        """The frames as they are sent."""
        cuts = sorted({min(cut, len(self.frames)) for cut in self.cuts} | {0, len(self.frames)})
        return [self.frames[start:end] for start, end in pairwise(cuts)]


# Any bytes, and bytes that were something


GARBAGE = st.binary(max_size=300)


@st.composite
def spoilt(draw: st.DrawFn, good: Bytes) -> bytes:
    """Good bytes of which some were left out, repeated, changed or put in."""
    data = draw(good)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, len(data)))
        before, middle, after = data[:start], data[start:end], data[end:]
        new = draw(st.sampled_from([b"", b"\r\n", b"\0", b":", b"\xff"]) | st.binary(max_size=12))
        data = draw(st.sampled_from([before, before + middle * 3, before + new])) + after
    return data


# Handshakes


KEY = "dGhlIHNhbXBsZSBub25jZQ=="
GOOD_FIELDS = [
    'Cookie: a=b; c; =; d="e',
    "Sec-WebSocket-Extensions: x-unknown; a=1, permessage-deflate",
    "Sec-WebSocket-Protocol: chat, superchat",
    "sec-websocket-protocol: third",
    "User-Agent: h\u00e9llo",
    "X-Empty:",
    "X-Long: " + "x" * 4000,
]
# What is there, and what comes in its place.
WRONG = [
    ("GET ", "POST "),
    ("GET ", "GE T "),
    ("/echo", "//"),
    ("/echo", "/echo\0"),
    ("/echo", "/%zz%00%ff"),
    ("/echo", "*"),
    ("/echo", "http://elsewhere.example/echo"),
    ("/echo", "/echo?" + "q" * 9000),
    ("HTTP/1.1", "HTTP/1.0"),
    ("HTTP/1.1", "HTTP/2.0"),
    ("HTTP/1.1", "HTTP/1"),
    ("HTTP/1.1", ""),
    ("Host: localhost", "X: y"),
    ("Host: localhost", "Host: a\r\nHost: b"),
    ("Host: localhost", "Host: [::"),
    ("Upgrade: websocket", "Upgrade: h2c"),
    ("Upgrade: websocket", "X: y"),
    ("Connection: Upgrade", "Connection: keep-alive"),
    ("Connection: Upgrade", "Connection: close, Upgrade, upgrade"),
    ("Version: 13", "Version: 8"),
    ("Version: 13", "Version: 13\r\nSec-WebSocket-Version: 13"),
    ("Version: 13", "Version: \u00b2"),
    (KEY, "AAAA"),
    (KEY, "?" * 24),
    (KEY, f"{KEY}\r\nSec-WebSocket-Key: {KEY}"),
    ("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\n"),
    ("\r\n\r\n", "\r\nContent-Length: -1\r\n\r\n"),
    ("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n"),
    ("\r\n\r\n", "\r\nOrigin: https://elsewhere.example\r\n\r\n"),
    ("\r\n\r\n", "\r\nOrigin: http://[\r\n\r\n"),
    ("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate;;=\r\n\r\n"),
    ("\r\n\r\n", "\r\nSec-WebSocket-Protocol: a,,b c\r\n\r\n"),
    ("\r\n\r\n", "\r\n folded: yes\r\n\r\n"),
    ("\r\n\r\n", "\r\nno colon\r\n\r\n"),
    ("\r\n\r\n", "\r\n: no name\r\n\r\n"),
    ("\r\n\r\n", "\r\nX: \x01\r\n\r\n"),
    ("\r\n\r\n", "\r\n" + "X: y\r\n" * 200 + "\r\n"),
    ("\r\n\r\n", "\r\nX: " + "y" * 70_000 + "\r\n\r\n"),
    ("\r\n", "\n"),
]


@st.composite
def wrong(draw: st.DrawFn, good: Bytes) -> bytes:
    """A handshake of which one or two things are wrong."""
    request = draw(good)
    for was, becomes in draw(st.lists(st.sampled_from(WRONG), min_size=1, max_size=2)):
        request = request.replace(was.encode(), becomes.encode("latin-1"))
    return request


_fields = st.lists(st.sampled_from(GOOD_FIELDS), unique=True)
good_handshakes = _fields.map(lambda fields: handshake("/echo", *fields))
bad_handshakes = st.one_of(
    wrong(good_handshakes),
    spoilt(good_handshakes),
    st.builds(lambda good, end: good[:end], good_handshakes, st.integers(0, 200)),
    GARBAGE,
)


# Frames


def masked(first: int, payload: bytes, mask: bytes = b"\0mA5", head: int = 0) -> bytes:
    """A frame; its head is as short as it may be, or is said to be of so many bytes."""
    size = len(payload)
    shortest = 2 if size < 126 else 4 if size < 65536 else 10
    length = {
        2: struct.pack("!B", 0x80 | min(size, 125)),
        4: struct.pack("!BH", 0xFE, size & 0xFFFF),
        10: struct.pack("!BQ", 0xFF, size),
    }[max(head, shortest)]
    body = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return bytes([first]) + length + mask + body


payloads = st.binary(max_size=140) | st.text(max_size=40).map(str.encode)
masks = st.binary(min_size=4, max_size=4)
texts = st.text(st.characters(codec="utf-8"), max_size=40).map(str.encode)
controls = st.builds(masked, st.sampled_from([0x89, 0x8A]), st.binary(max_size=125), masks)


@st.composite
def fragmented(draw: st.DrawFn) -> bytes:
    """A message in fragments, with control frames among them."""
    parts = draw(st.lists(texts, min_size=2, max_size=4))
    frames = b""
    for number, part in enumerate(parts):
        fin = 0x80 if number == len(parts) - 1 else 0
        frames += masked(fin | (0 if number else 1), part, draw(masks))
        frames += draw(st.just(b"") | controls)
    return frames


good_frames = st.one_of(
    st.builds(masked, st.just(0x81), texts, masks),
    st.builds(masked, st.just(0x82), payloads, masks),
    controls,
    fragmented(),
)
good_streams = st.lists(good_frames, max_size=5).map(b"".join)
_closes = st.builds(
    lambda code, reason: masked(0x88, struct.pack("!H", code) + reason.encode()),
    st.sampled_from([1000, 1001, 1011, 3000, 4999]),
    st.text(st.characters(codec="utf-8"), max_size=20),
)


def _large(size: int) -> bytes:
    return struct.pack("!BBQ", 0x82, 0xFF, size) + bytes(4)


NO_TEXTS = [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"]


def _closing(code: int) -> bytes:
    return masked(0x88, struct.pack("!H", code))


# The rules of RFC 6455 that frames can break, how they do, and the codes that it names.
BROKEN: list[tuple[list[bytes], tuple[int, ...]]] = [
    # 5.1 and 5.2: a mask, no reserved bits or opcodes, a length below 2^63
    ([b"\x81\x02hi", b"\x89\x00", b"\x88\x00"], (1002,)),
    ([masked(first, b"bits") for first in (0xA1, 0x91, 0xC2, 0x99, 0xA8)], (1002,)),
    ([masked(first, b"opcode") for first in (0x83, 0x87, 0x8B, 0x8F, 0x05)], (1002,)),
    ([_large(1 << 63), _large((1 << 64) - 1)], (1002, 1009)),
    # 5.4: fragments are of one message at a time
    ([masked(0x80, b"to what?"), masked(0x00, b"")], (1002,)),
    ([masked(0x01, b"one") + masked(0x81, b"two"), masked(0x02, b"") * 2], (1002,)),
    # 5.5: control frames are short, and whole; a close frame is a code and a text
    ([masked(first, bytes(126)) for first in (0x88, 0x89, 0x8A)], (1002,)),
    ([masked(first, b"") for first in (0x08, 0x09, 0x0A)], (1002,)),
    ([masked(0x88, b"\x03")], (1002,)),
    ([masked(0x88, b"\x03\xe8why " + end) for end in (b"\xff", b"\xc3")], (1007,)),
    # 7.4: codes that none may send
    ([_closing(code) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000)], (1002,)),
    # 8.1: text is UTF-8
    ([masked(0x81, text) for text in NO_TEXTS], (1007,)),
    ([masked(0x01, b"a") + masked(0x80, text) for text in (b"\xff", b"\xc0\xaf")], (1007,)),
    # 10.4: the limit
    ([_large((1 << 24) + 1), _large(1 << 31), _large((1 << 63) - 1)], (1009,)),
]


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, tuple[int, ...]]:
    """Frames, and the codes that the server must close with, if it must."""
    good = draw(good_streams)
    how = draw(st.sampled_from(["broken", "broken", "closed", "spoilt", "cut", "long", "garbage"]))
    if how == "broken":
        bad, codes = draw(st.sampled_from(BROKEN))
        return good + draw(st.sampled_from(bad)), codes
    if how == "closed":
        return good + draw(_closes) + draw(GARBAGE), ()
    if how == "spoilt":
        return draw(spoilt(st.just(good + draw(good_frames)))), ()
    if how == "cut":
        last = draw(good_frames)
        return good + last[: draw(st.integers(0, len(last) - 1))], ()
    if how == "long":  # a head that takes more bytes than it needs
        return good + masked(0x82, b"long", head=draw(st.sampled_from([4, 10]))), ()
    return good + draw(GARBAGE), ()


_cuts = st.lists(st.integers(0, 400), max_size=6).map(tuple)


@st.composite
def on_frames(draw: st.DrawFn) -> Attack:
    """Behind a handshake that is accepted."""
    frames, codes = draw(streams())
    request = draw(good_handshakes)
    return Attack(request, frames, draw(_cuts), codes=codes, resets=draw(st.booleans()))


@st.composite
def on_handshakes(draw: st.DrawFn) -> Attack:
    """With a handshake that most are not accepted with, and frames right behind it."""
    frames, _ = draw(streams())
    request = draw(bad_handshakes)
    return Attack(request, frames, draw(_cuts), accepted=False, resets=draw(st.booleans()))
