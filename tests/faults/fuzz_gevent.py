"""A fuzzer of the gevent path, which is led by what it covers.

    pip install atheris
    python -m tests.faults.fuzz_gevent -runs=200000

takes libFuzzer's options; atheris is no part of the extras.  One input is one connection:
its first byte says how it is sent, the rest is what is sent, a whole request or frames behind
a good one.  The server's own code runs, from the request's first line on, on a socketpair.
"""

from __future__ import annotations

import codecs
import contextlib
import importlib
import io
import logging
import re
import socket
import struct
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

atheris: Any = None
if __name__ == "__main__":
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        raise SystemExit("the fuzzer needs atheris: pip install atheris") from None
PARTS = ["unisock", "gevent.pywsgi", "http.client", "email"]

# The branches of what is imported within count.
instrumenting = atheris.instrument_imports(PARTS) if atheris else contextlib.nullcontext()
with instrumenting:
    import asyncio

    import gevent
    import gevent.socket
    from flask import Flask
    from gevent.pywsgi import WSGIServer

    import unisock
    from tests.servers import frame
    from unisock import WebSocket
    from unisock.adapters import gevent as adapter
    from unisock.adapters.flask import WebSocketHandler

if TYPE_CHECKING:
    from unisock.options import OptionsDict
    from unisock.transport import Inbox

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
MAX_SIZE, QUEUE, SIZE = 1000, 4, 2000
LIMITS: OptionsDict = {"max_message_size": MAX_SIZE, "max_queue": QUEUE, "max_queue_size": SIZE}
# Small reads, so that the inputs can fill the inbox; and how large the first may be, which is
# that of pywsgi's buffer.
READ, BUFFER = 64, 8192
# What the first byte says.
REQUEST, ONE_BY_ONE, TOGETHER = 1, 2, 4


class Rig:
    """A server without a listener, and what it has said of errors."""

    def __init__(self) -> None:
        adapter.__dict__.update(_READ_SIZE=READ)
        self.errors = io.StringIO()
        self.codes: list[int] = []
        app = Flask(__name__)
        app.config["PROPAGATE_EXCEPTIONS"] = True
        unisock.mount(app, "/ws", self._echo, **LIMITS)
        self.server: Any = WSGIServer(
            ("127.0.0.1", 0), app, log=None, error_log=self.errors, handler_class=WebSocketHandler
        )
        self.server.update_environ()
        # Where the hub, asyncio and unisock tell of what nobody has caught.
        hub: Any = gevent.get_hub()
        hub.exception_stream = self.errors
        logging.basicConfig(stream=self.errors, level=logging.WARNING, force=True)

    async def _echo(self, ws: WebSocket) -> None:
        await ws.accept()
        inbox = ws._inbox
        try:
            # Time for whatever came to be put into the inbox, before it is emptied.
            for _ in range(20):
                await asyncio.sleep(0)
                check_bounded(inbox)
            async for message in ws:
                check_bounded(inbox)
                await ws.send(message)
        finally:
            assert ws.close_code is not None
            self.codes.append(ws.close_code)

    def connect(self, sent: list[bytes]) -> bytes:
        """Send the pieces on a connection, and end it; what the server has answered."""
        ours, theirs = gevent.socket.socketpair()
        with ours, theirs:
            serving = gevent.spawn(self.server.handle, theirs, ("127.0.0.1", 1))
            with contextlib.suppress(OSError):  # it has ended before it has read all
                for piece in sent:
                    ours.sendall(piece)
                    gevent.sleep(0)
                ours.shutdown(socket.SHUT_WR)
            answer = b""
            with gevent.Timeout(20, AssertionError("it does not end")):
                with contextlib.suppress(ConnectionError):
                    while data := ours.recv(65536):
                        answer += data
                serving.get()
            return answer


def check_bounded(inbox: Inbox) -> None:
    """The inbox holds no more than it may, and what one read brings at most."""
    messages = inbox._messages or ()
    assert len(messages) <= QUEUE + (SIZE + BUFFER) // 6
    assert sum(map(len, messages)) <= SIZE + MAX_SIZE + SIZE + BUFFER


the_rig = cache(Rig)


def one_input(data: bytes) -> None:
    """Be one peer, and check what the server made of it."""
    rig, flags, rest = the_rig(), data[0] if data else 0, data[1:]
    rig.codes.clear()
    one_by_one, together = (200, 0) if flags & ONE_BY_ONE else (0, 64 if flags & TOGETHER else 0)
    start = b"" if flags & REQUEST else HANDSHAKE
    pieces = [start + rest[:together], *(rest[i : i + 1] for i in range(one_by_one))]
    pieces.append(rest[one_by_one + together :])
    with contextlib.redirect_stderr(rig.errors):  # pywsgi prints some
        answer = rig.connect(pieces)
    said = rig.errors.getvalue()
    rig.errors.seek(0)
    rig.errors.truncate()
    assert "Traceback" not in said, said
    if not flags & REQUEST:
        check_answer(answer, rest, rig.codes)


def check_answer(answer: bytes, frames: bytes, seen: list[int]) -> None:
    """The handshake is accepted, and the connection ends with the code that RFC 6455 names."""
    head, _, stream = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), answer
    expected = codes_of(frames)
    assert len(seen) == 1 and seen[0] in expected, (seen, expected)
    close = last_frame(stream)
    sent = int.from_bytes(close[1][:2], "big") if close[1] else 1005
    if seen != [1006]:
        assert close[0] == 8 and sent == seen[0], (close, seen)


def last_frame(stream: bytes) -> tuple[int, bytes]:
    """Opcode and payload of the last of the server's frames, which must be whole."""
    opcode, payload = 0, b""
    while stream:
        opcode, size, start = stream[0] & 15, stream[1], 2
        if size == 126:
            size, start = int.from_bytes(stream[2:4], "big"), 4
        assert len(stream) >= start + size, "a frame is cut off"
        payload, stream = stream[start : start + size], stream[start + size :]
    return opcode, payload


def codes_of(frames: bytes) -> set[int]:
    """The codes with which a connection may end whose peer sends these bytes, and no more.

    Several, where more than one rule is broken, or the bytes end before it is sure.
    """
    partial: bytes | None = None
    is_text = False
    while len(frames) >= 2:
        fin, opcode, length, start = frames[0] >> 7, frames[0] & 15, frames[1] & 127, 2
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(frames[2:start], "big")
        control = opcode >= 8
        broken = {1009} if length + len(partial or b"") > MAX_SIZE else set[int]()
        if frames[0] & 0x70 or opcode not in {0, 1, 2, 8, 9, 10} or not frames[1] & 0x80:
            broken.add(1002)
        # As few bytes as it can have, and the first bit 0 (section 5.2).
        if start > 2 and (length < 126 if start == 4 else not 1 << 16 <= length < 1 << 63):
            broken.add(1002)
        if (length > 125 or not fin) if control else (opcode == 0) == (partial is None):
            broken.add(1002)
        end = start + 4 + length
        mask = frames[start : start + 4]
        payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(frames[start + 4 : end]))
        if not control and opcode:
            is_text = opcode == 1
        # It fails with the first octet that cannot be.
        is_bad = is_text and not control and not is_utf8((partial or b"") + payload, whole=False)
        if broken or end > len(frames):
            if end > len(frames):
                broken.add(1006)
            return broken | {1007} if is_bad else broken
        if is_bad:
            return {1007}
        frames = frames[end:]
        if opcode == 8:
            return codes_of_close(payload)
        if not control:
            partial = (partial or b"") + payload
            if fin and is_text and not is_utf8(partial):
                return {1007}
            partial = None if fin else partial
    return {1006}


def codes_of_close(payload: bytes) -> set[int]:
    """The codes that a close frame may lead to."""
    if not payload:
        return {1005}
    code = int.from_bytes(payload[:2], "big")
    known = code in {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
    broken = set[int]() if known and len(payload) > 1 else {1002}
    return (broken if is_utf8(payload[2:]) else broken | {1007}) or {code}


def is_utf8(data: bytes, *, whole: bool = True) -> bool:
    """Whether it is text, or the beginning of one."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, whole)
    except UnicodeDecodeError:
        return False
    # Of a surrogate Python waits for the last octet.
    return re.search(rb"\xed[\xa0-\xbf]\Z", data) is None


_GOOD = frame(1, "h\u00e9llo".encode()) + frame(9, b"") + frame(2, b"frag", fin=False)
_WHOLE = _GOOD + frame(10, b"pong") + frame(0, b"ment")
_STREAMS = [
    b"",
    _WHOLE + frame(8, b"\x03\xe8bye") + b"more",
    frame(2, bytes(20)) * 90 + frame(8, b""),  # more than the inbox holds
    *(frame(3, b"reserved"), frame(0, b"no start"), frame(9, b"a fragment", fin=False)),
    *(frame(8, payload) for payload in (b"\x03\xee", b"\x03", b"\x03\xe8\xff")),
    _WHOLE + frame(1, b"\xff") + frame(8, b""),
    frame(1, b"\xc3", fin=False) + frame(0, b"(") + _WHOLE,
    *(b"\x81\x02hi", b"\xc1\x80mask"),
    b"\x82\xff" + struct.pack("!Q", 1 << 63) + b"mask",
    b"\x82\xfe" + struct.pack("!H", MAX_SIZE + 1) + b"mask",
]
_REQUESTS = [
    HANDSHAKE + _WHOLE,
    *(HANDSHAKE.replace(was, becomes) for was, becomes in [(b"13", b"8"), (b"GET", b"POST")]),
    HANDSHAKE.replace(b"1.1", b"1"),
    HANDSHAKE.replace(b"Host", b"Content-Length: 5\r\nHost") + b"hello",
    HANDSHAKE.replace(b"Host", b"X: y\r\n" * 101 + b"Host"),
    HANDSHAKE[:-10],
]
CORPUS = [
    *(bytes([how]) + each for each in _STREAMS for how in (0, ONE_BY_ONE, TOGETHER)),
    *(bytes([how | REQUEST]) + each for each in _REQUESTS for how in (0, ONE_BY_ONE)),
]


def main() -> None:
    """Fuzz, from the corpus on."""
    with tempfile.TemporaryDirectory() as folder:
        for number, each in enumerate(CORPUS):
            Path(folder, str(number)).write_bytes(each)
        atheris.Setup([*sys.argv, folder], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
