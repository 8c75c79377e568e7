"""A peer of the wire in memory: its socket is the test."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Unpack

from unisock import Handler
from unisock.handlers import prepare
from unisock.options import OptionsDict
from unisock.testing.wires import MemoryHandshake
from unisock.wire.carrier import WriteGauge
from unisock.wire.deflate import Deflate
from unisock.wire.opening import check_opening
from unisock.wire.options import WireOptions
from unisock.wire.transport import WireTransport

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x12\xf4\x00\x7b"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HEADERS = (
    ("Host", "localhost"),
    ("Upgrade", "websocket"),
    ("Connection", "keep-alive, Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", KEY),
)


def masked(payload: bytes, mask: bytes) -> bytes:
    """A payload as a client sends it; slow and simple, and not the code that is tested."""
    whole = int.from_bytes((mask * (len(payload) // 4 + 1))[: len(payload)])
    return (int.from_bytes(payload) ^ whole).to_bytes(len(payload))


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    length: int | None = None,
    head: int = 0,
) -> bytes:
    """A frame of a client, good or not.

    Args:
        length: what the head says, in place of the payload's.
        head: 126 or 127 for a length that takes more bytes than it needs.
    """
    size = len(payload) if length is None else length
    kind = max(head, size if size < 126 else 126 if size < 1 << 16 else 127)
    bit = 0 if mask is None else 0x80
    data = bytes((fin << 7 | rsv << 4 | opcode, bit | kind))
    if kind == 126:
        data += struct.pack("!H", size)
    elif kind == 127:
        data += struct.pack("!Q", size)
    return data + (payload if mask is None else mask + masked(payload, mask))


def text(message: str, **arguments: Any) -> bytes:
    return frame(TEXT, message.encode(), **arguments)


def close(code: int | None = 1000, reason: bytes = b"") -> bytes:
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


class Frame(NamedTuple):
    """A frame of the server."""

    opcode: int
    payload: bytes
    rsv: int = 0

    @property
    def code(self) -> int:
        """That of a close frame."""
        assert self.opcode == CLOSE
        return int(struct.unpack("!H", self.payload[:2])[0])


def frames_of(data: bytes) -> list[Frame]:
    """What the server has sent, which is whole frames that are not masked."""
    found = []
    while data:
        first, size = data[0], data[1]
        assert first & 0x80
        start = 2
        if size == 126:
            size, start = int(struct.unpack("!H", data[2:4])[0]), 4
            assert size > 125
        elif size == 127:
            size, start = int(struct.unpack("!Q", data[2:10])[0]), 10
            assert size > 65535
        assert len(data) >= start + size
        found.append(Frame(first & 15, data[start : start + size], first >> 4 & 7))
        data = data[start + size :]
    return found


class MemoryCarrier:
    """A socket whose other end is the test.

    Attributes:
        sent: what the server has written, and the peer has taken.
        takes: whether the peer takes what is written.
        reading: whether the server reads.
        ended: ``"eof"``, ``"close"`` or ``"abort"`` in the order in which they came.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.call_later = loop.call_later
        self.call_soon = loop.call_soon
        self.read_soon = loop.call_soon
        self.sent = b""
        self.kept = b""
        self.takes = True
        self.reading = True
        self.writes = 0
        self.ended: list[str] = []
        self._is_lost = False

    def carry(self, wire: Any) -> None:
        self.wire = wire
        self._gauge = WriteGauge(wire)

    def write(self, data: bytes, /) -> None:
        assert not {"close", "abort", "eof"} & {*self.ended}, "written after the end"
        self.writes += 1
        if self.takes:
            self.sent += data
        else:
            self.kept += data
            self._gauge.kept(len(data))

    def take(self) -> None:
        """The peer reads on."""
        self.takes = True
        kept, self.kept = self.kept, b""
        self.sent += kept
        self._gauge.taken(len(kept))
        if "close" in self.ended:
            self.lose()

    def get_write_buffer_size(self) -> int:
        return self._gauge.size

    def set_write_buffer_limits(self, high: int, /) -> None:
        self._gauge.set_limit(high)

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def write_eof(self) -> None:
        self.ended.append("eof")

    def close(self) -> None:
        self.ended.append("close")
        if not self.kept:
            self.lose()

    def abort(self) -> None:
        self.ended.append("abort")
        self.lose()

    def lose(self) -> None:
        if not self._is_lost:
            self._is_lost = True
            self.call_soon(self.wire.connection_lost)


class Session:
    """A handler that serves a connection on a `MemoryCarrier`, in the running loop."""

    def __init__(
        self,
        handler: Handler,
        *,
        headers: Iterable[tuple[str, str]] = (),
        compression: Deflate | None = None,
        ping_interval: float | None = None,
        ping_timeout: float | None = None,
        **options: Unpack[OptionsDict],
    ) -> None:
        mounted = prepare(handler, options)
        self.carrier = MemoryCarrier()
        handshake = MemoryHandshake(raw_headers=(*HEADERS, *headers))
        wire_options = WireOptions(
            ping_interval=ping_interval, ping_timeout=ping_timeout, compression=compression
        )
        opening = check_opening("GET", "1.1", handshake.raw_headers, deflate=wire_options.deflate)
        self.transport = WireTransport(
            handshake,
            self.carrier,
            opening,
            mounted.options,
            wire_options,
        )
        self.wire = self.transport.wire
        self.carrier.carry(self.wire)
        self.task = asyncio.create_task(mounted.serve(self.transport))

    async def open(self) -> str:
        """Wait for the 101; return it."""
        await self.settle()
        head, _, rest = self.carrier.sent.partition(b"\r\n\r\n")
        self.carrier.sent = rest
        return head.decode("latin-1")

    async def feed(self, *pieces: bytes) -> None:
        """Send pieces one by one, each when the server has done with the last."""
        for piece in pieces:
            while not self.carrier.reading:
                await asyncio.sleep(0.001)
            self.wire.data_received(piece)
            await asyncio.sleep(0)

    async def settle(self) -> None:
        """Wait until nothing more happens by itself."""
        for _ in range(20):
            await asyncio.sleep(0)
        while not self.carrier.reading:  # it pauses, and goes on by itself
            await asyncio.sleep(0.001)
        for _ in range(20):
            await asyncio.sleep(0)

    def answers(self) -> list[Frame]:
        """The frames that came since the last call."""
        sent, self.carrier.sent = self.carrier.sent, b""
        return frames_of(sent)

    async def end(self) -> None:
        """The peer leaves; wait for the handler."""
        self.carrier.lose()
        await asyncio.wait_for(asyncio.wait([self.task]), 10)


def octets(data: bytes, size: int = 1) -> list[bytes]:
    """`data` in pieces of so many bytes."""
    return [data[start : start + size] for start in range(0, len(data), size)]


class Zip:
    """A client's side of permessage-deflate."""

    def __init__(self, *, send_bits: int = 15, receive_bits: int = 15) -> None:
        self._out: Callable[[], Any] = lambda: zlib.compressobj(wbits=-send_bits)
        self._in: Callable[[], Any] = lambda: zlib.decompressobj(-receive_bits)
        self.reset()

    def reset(self) -> None:
        """Begin anew, as after each message without context takeover."""
        self.compressor, self.decompressor = self._out(), self._in()

    def compress(self, payload: bytes) -> bytes:
        data: bytes = self.compressor.compress(payload) + self.compressor.flush(zlib.Z_SYNC_FLUSH)
        return data.removesuffix(b"\x00\x00\xff\xff")

    def inflate(self, payload: bytes) -> bytes:
        data: bytes = self.decompressor.decompress(payload + b"\x00\x00\xff\xff")
        return data
