"""What a client sends in the comparison with other implementations, made out of any bytes.

The bytes are choices, one after the other, so that hypothesis, atheris and a random generator
can all make them.  When they are used up, each choice is the first one.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

from unisock.wire.deflate import Agreement

from .peer import BINARY, CLOSE, CONT, PING, PONG, TEXT, Zip, frame

T = TypeVar("T")

AGREED = Agreement(
    server_bits=15,
    client_bits=15,
    tells_client_bits=False,
    server_no_takeover=False,
    client_no_takeover=False,
    memory_level=8,
)
AGREEMENTS = (
    None,
    AGREED,
    replace(AGREED, client_no_takeover=True, server_no_takeover=True),
    replace(AGREED, client_bits=9, server_bits=9),
)
LIMITS = (1000, 1000, 1000, 70_000, 10)
_MAX_FRAMES = 30
_TAIL = b"\x00\x00\xff\xff"


@dataclass(frozen=True)
class Case:
    """What comes on one connection.

    Attributes:
        pieces: what each read brings.
        limit: the largest message, in bytes.
        agreed: the compression that was agreed on.
        closes_at: before this read the server itself sends a close frame.
    """

    pieces: list[bytes]
    limit: int = 1000
    agreed: Agreement | None = None
    closes_at: int | None = None

    @property
    def data(self) -> bytes:
        """All that comes."""
        return b"".join(self.pieces)

    @property
    def at_once(self) -> Case:
        """The same, and it comes in as few reads as may be."""
        at = self.closes_at
        if at is None:
            return replace(self, pieces=[self.data])
        parts = [b"".join(self.pieces[:at]), b"".join(self.pieces[at:])]
        return replace(self, pieces=parts, closes_at=1)

    def followed_by(self, data: bytes) -> Case:
        """The same, and one read more."""
        return replace(self, pieces=[*self.pieces, data])


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """`data` in pieces, cut at these places."""
    edges = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(edges)] or [b""]


class Choices:
    """Bytes, each of which chooses something.

    Attributes:
        are_left: whether some are not used.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._pos = 0

    @property
    def are_left(self) -> bool:
        return self._pos < len(self._data)

    def below(self, number: int) -> int:
        """A number from 0 on; `number` is 256 at most."""
        if not self.are_left:
            return 0
        chosen = self._data[self._pos] % number
        self._pos += 1
        return chosen

    def of(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def take(self, size: int) -> bytes:
        """So many of the bytes as they are, or fewer."""
        taken = self._data[self._pos : self._pos + size]
        self._pos += size
        return taken


def case_of(data: bytes) -> Case:
    """The case that these bytes choose."""
    choices = Choices(data)
    limit, agreed = choices.of(LIMITS), choices.of(AGREEMENTS)
    does_close = choices.below(16) == 15
    how = choices.below(4)
    places = [2 * choices.below(256) for _ in range(4)] if how == 1 else []
    size = 1 + choices.below(9) if how == 2 else 0
    stream = _Stream(choices, limit, agreed).make()
    if how == 3:  # where it matters: amid a head, a mask, and the start of a payload
        places = [*range(min(len(stream), 16)), *range(max(len(stream) - 16, 0), len(stream))]
    elif size:
        places = [*range(0, min(len(stream), 600), size)]
    pieces = cut(stream, places)
    closes_at = choices.below(len(pieces[:256])) if does_close else None
    return Case(pieces, limit, agreed, closes_at)


_TEXTS = ("", "a", "hello", "h\u00e9llo \u2713", "\U0001f600", "\0", "\ufeffx", "\ufffd\uffff")
_NO_TEXTS = (
    b"\xff",
    b"a\xc3",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe2\x82",
    b"\xf0\x9f\x98",
    b"\x80",
)
_CODES = (
    *(1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000),
    *(4999, 0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 65535),
)
# What a head says, in place of the payload's length.
_LENGTHS = (
    *(0, 1, 125, 126, 127, 255, 256, 1000, 1001, 65535, 65536, 65537, 70_000, 70_001),
    *(1 << 31, (1 << 32) - 1, (1 << 63) - 1, 1 << 63, (1 << 63) + 5, (1 << 64) - 1),
)
_MASKS = (b"\x12\xf4\x00\x7b", bytes(4), b"\xff\xff\xff\xff", b"\x00\x00\x00\x01")


class _Stream:
    """Makes the frames of a client, most of which are good."""

    def __init__(self, choices: Choices, limit: int, agreed: Agreement | None) -> None:
        self._choices = choices
        self._limit = limit
        self._zip = Zip(send_bits=agreed.client_bits if agreed else 15)
        self._takes_over = agreed is None or not agreed.client_no_takeover
        self._amid = False  # of a message that has fragments
        self._last = b""
        self._good: list[Callable[[], bytes]] = [
            *(self._message, self._fragment, self._control),
            *((self._zipped, self._zipped_fragments, self._blocks) if agreed else ()),
        ]
        self._rare: list[Callable[[], bytes]] = [
            *(self._again, self._close, self._head, self._length, self._no_mask, self._garbage),
            *((self._spoilt_zip, self._bomb) if agreed else ()),
        ]

    def make(self) -> bytes:
        if self._choices.below(16) == 15:
            return self._choices.take(2000)
        frames: list[bytes] = []
        while self._choices.are_left and len(frames) < _MAX_FRAMES:
            kinds = self._rare if self._choices.below(8) == 7 else self._good
            self._last = self._choices.of(kinds)()
            frames.append(self._last)
        stream = b"".join(frames)
        if self._choices.below(8) == 7:  # the stream ends amid a frame
            return stream[: -1 - self._choices.below(20)]
        return stream

    # Parts

    def _payload(self) -> bytes:
        how = self._choices.below(32)
        if how < 16:
            return self._choices.of(_TEXTS).encode() * (1 + self._choices.below(3))
        if how < 24:
            return b"t" * self._choices.below(90)
        if how < 26:  # about what a head of each size says
            return b"e" * (self._choices.of((124, 125, 126, 127, 254, 255, 256, 500)))
        if how < 28:
            return "\u20ac".encode() * self._choices.below(120)
        if how == 28:  # about the limit
            return b"l" * max(self._limit - 2 + self._choices.below(5), 0)
        if how < 31:
            return self._choices.take(self._choices.below(40))
        return b"a" * self._choices.below(3) + self._choices.of(_NO_TEXTS)

    def _mask(self) -> bytes:
        how = self._choices.below(6)
        return _MASKS[how] if how < 4 else self._choices.take(4).ljust(4, b"m")

    # Frames

    def _message(self) -> bytes:
        return frame(self._choices.of((TEXT, BINARY)), self._payload(), mask=self._mask())

    def _fragment(self) -> bytes:
        opcode = CONT if self._amid else self._choices.of((TEXT, BINARY))
        fin = self._choices.below(3) == 0
        self._amid = not fin
        return frame(opcode, self._payload(), fin=fin, mask=self._mask())

    def _control(self) -> bytes:
        opcode = self._choices.of((PING, PONG))
        return frame(opcode, self._payload()[: 125 + self._choices.below(2)], mask=self._mask())

    def _close(self) -> bytes:
        how = self._choices.below(8)
        if how == 0:
            payload = b""
        elif how == 1:
            payload = self._choices.take(1) or b"\x03"
        elif how == 2:
            payload = self._choices.take(self._choices.below(127))
        else:
            code = struct.pack("!H", self._choices.of(_CODES))
            if how < 5:
                payload = code + self._choices.of(_TEXTS).encode()
            elif how == 5:
                payload = code + self._choices.of(_NO_TEXTS)
            elif how == 6:
                payload = code + b"r" * (122 + self._choices.below(3))
            else:
                payload = code
        return frame(CLOSE, payload, mask=self._mask())

    def _head(self) -> bytes:
        """Any first byte: every reserved bit and opcode, with fin and without it."""
        first = self._choices.below(256)
        return frame(
            first & 15, self._payload(), fin=first > 127, rsv=first >> 4 & 7, mask=self._mask()
        )

    def _length(self) -> bytes:
        """A length in more bytes than it needs, or another than that of the payload."""
        opcode = self._choices.of((BINARY, TEXT, CONT, PING, CLOSE))
        payload = self._payload()[:200]
        head = self._choices.of((126, 127, 0))
        if self._choices.below(2):
            return frame(opcode, payload, head=head, mask=self._mask())
        return frame(opcode, payload, length=self._choices.of(_LENGTHS), mask=self._mask())

    def _no_mask(self) -> bytes:
        opcode = self._choices.of((TEXT, BINARY, CONT, CLOSE, PING, PONG))
        return frame(opcode, self._payload()[:125], mask=None)

    def _again(self) -> bytes:
        return self._last[:300] * (1 + self._choices.below(40))

    def _garbage(self) -> bytes:
        return self._choices.take(self._choices.below(30))

    # Compressed messages

    def _compress(self) -> bytes:
        payload = self._payload() * self._choices.of((1, 1, 3))
        packed = self._zip.compress(payload)
        if not self._takes_over:
            self._zip.reset()
        return packed

    def _zipped(self) -> bytes:
        rsv = self._choices.of((4, 4, 4, 4, 4, 0, 5, 6))
        opcode = self._choices.of((TEXT, BINARY))
        return frame(opcode, self._compress(), rsv=rsv, mask=self._mask())

    def _in_fragments(self, packed: bytes) -> bytes:
        opcode = self._choices.of((TEXT, BINARY))
        places = [self._choices.below(256) for _ in range(self._choices.below(4))]
        parts = cut(packed, places)
        made = b""
        for number, part in enumerate(parts):
            made += frame(
                CONT if number else opcode,
                part,
                rsv=4 if not number or self._choices.below(16) == 15 else 0,
                fin=number == len(parts) - 1,
                mask=self._mask(),
            )
            if self._choices.below(3) == 2 and number < len(parts) - 1:
                made += self._control()
        return made

    def _zipped_fragments(self) -> bytes:
        return self._in_fragments(self._compress())

    def _spoilt_zip(self) -> bytes:
        """Cut off, changed, or no compressed data at all."""
        packed = bytearray(self._compress())
        how = self._choices.below(4)
        if how == 0:
            del packed[-1 - self._choices.below(8) :]
        elif how == 1 and packed:
            packed[self._choices.below(min(len(packed), 256))] ^= 1 << self._choices.below(8)
        elif how == 2:
            packed += self._choices.take(1 + self._choices.below(8))
        else:
            packed[:] = self._choices.take(self._choices.below(30))
        return self._in_fragments(bytes(packed))

    def _blocks(self) -> bytes:
        """A message of several blocks, stored, fixed and dynamic ones, and last ones."""
        packed = b""
        for _ in range(1 + self._choices.below(4)):
            payload = self._payload()[:300]
            level, strategy = self._choices.of((0, 6, 9)), self._choices.of((0, zlib.Z_FIXED))
            deflate = zlib.compressobj(level, wbits=-9, strategy=strategy)
            packed += deflate.compress(payload)
            packed += deflate.flush(
                self._choices.of((zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_FINISH))
            )
        if self._choices.below(4):
            packed = packed.removesuffix(_TAIL)
        return self._in_fragments(packed)

    def _bomb(self) -> bytes:
        """Far over the limit, or one byte over it."""
        size = self._limit + self._choices.of((1, 0, 5000, 60_000))
        packed = self._zip.compress(bytes(size))
        if not self._takes_over:
            self._zip.reset()
        return self._in_fragments(packed)
