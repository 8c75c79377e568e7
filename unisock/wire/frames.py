"""Frames: their heads, their masks and the payload of a close frame.

RFC 6455, section 5.2 has the layout, section 5.5 the control frames, and section 7.4
the codes of a close frame.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from unisock.errors import check_close_code

# Section 11.8
CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

# Section 7.4.1
NO_CODE: Final = 1005
ABNORMAL: Final = 1006
PROTOCOL_ERROR: Final = 1002
INVALID_DATA: Final = 1007
TOO_BIG: Final = 1009

MAX_CONTROL: Final = 125
"""How many bytes a control frame carries (section 5.5)."""
MAX_REASON: Final = MAX_CONTROL - 2
"""How many bytes of UTF-8 the reason of a close frame has."""

BAD_REASON: Final = "the close reason is not UTF-8"
RESERVED_BIT: Final = "a reserved bit is set"
HIGH_LENGTH: Final = "the highest bit of a length is 0"
LARGE_CONTROL: Final = "a control frame is whole, and at most 125 bytes"
LONG_LENGTH: Final = "a length takes as few bytes as it can"

# A frame that is larger is not kept for the next connection.
_MAX_KEPT = 64 * 1024
_TEXT_HEADS = tuple(bytes((0x80 | TEXT, size)) for size in range(126))
_BINARY_HEADS = tuple(bytes((0x80 | BINARY, size)) for size in range(126))


class Failure(Exception):
    """The peer breaks a rule, so the connection fails (section 7.1.7).

    Attributes:
        code: the close code that says which rule.
        reason: what was wrong, for the close frame.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class Head(NamedTuple):
    """The head of a frame."""

    opcode: int
    fin: bool
    rsv1: bool
    length: int
    """The payload's."""
    start: int
    """Where the payload starts; the mask's four bytes stand before it."""


def read_head(data: bytes, pos: int) -> Head | None:
    """The head of the frame at `pos`; `None` if it is not there whole.

    A control frame must be there with its payload.  There must be two bytes at least.
    What is wrong is found as soon as the bytes that tell it are there.

    Raises:
        Failure: a head that no client may send.
    """
    first, second = data[pos], data[pos + 1]
    opcode = first & 0x0F
    if first & 0x30:
        raise Failure(PROTOCOL_ERROR, RESERVED_BIT)
    if BINARY < opcode < CLOSE or opcode > PONG:
        raise Failure(PROTOCOL_ERROR, f"opcode {opcode} is not defined")
    if second < 128:
        raise Failure(PROTOCOL_ERROR, "a client masks its frames")
    length = second - 128
    fin = first >= 128
    start = pos + 6
    if opcode >= CLOSE:
        if first & 0x40:
            raise Failure(PROTOCOL_ERROR, RESERVED_BIT)
        if not fin or length > MAX_CONTROL:
            raise Failure(PROTOCOL_ERROR, LARGE_CONTROL)
        return Head(opcode, fin, False, length, start) if len(data) >= start + length else None
    if length > 125:
        start += 2 if length == 126 else 8
        if len(data) < start - 4:
            return None
        length = _read_length(data[pos + 2 : start - 4])
    if len(data) < start:
        return None
    return Head(opcode, fin, bool(first & 0x40), length, start)


def _read_length(extended: bytes) -> int:
    """The length in the two or eight bytes that follow a head's second byte."""
    length = int.from_bytes(extended)
    if length >> 63:
        raise Failure(PROTOCOL_ERROR, HIGH_LENGTH)
    # "the minimal number of bytes MUST be used to encode the length"
    if length < (126 if len(extended) == 2 else 1 << 16):
        raise Failure(PROTOCOL_ERROR, LONG_LENGTH)
    return length


def build_frame(opcode: int, payload: bytes, *, rsv1: bool = False) -> bytes:
    """A whole frame of a server, which has no mask (section 5.1)."""
    return build_head(opcode, len(payload), rsv1=rsv1) + payload


def build_head(opcode: int, size: int, *, rsv1: bool = False) -> bytes:
    """The head of such a frame."""
    first = 0x80 | (0x40 if rsv1 else 0) | opcode
    if size < 126:
        return bytes((first, size))
    if size < 1 << 16:
        return bytes((first, 126)) + size.to_bytes(2)
    return bytes((first, 127)) + size.to_bytes(8)


class _LastFrame:
    """The frame of the last message: what is sent to many is made once.

    A server's frames are alike on all connections without an extension.
    """

    def __init__(self) -> None:
        # Message and frame in one object: several threads may serve.
        self._last: tuple[str | bytes | None, bytes] = (None, b"")

    def of(self, message: str | bytes) -> bytes:
        last, frame = self._last
        if message is last:
            return frame
        if isinstance(message, str):
            payload, heads, opcode = message.encode(), _TEXT_HEADS, TEXT
        else:
            payload, heads, opcode = message, _BINARY_HEADS, BINARY
        size = len(payload)
        frame = heads[size] + payload if size < 126 else build_frame(opcode, payload)
        if len(frame) <= _MAX_KEPT:
            self._last = (message, frame)
        return frame


message_frame = _LastFrame().of
"""The frame of a message that is sent whole and not compressed."""


def read_close(payload: bytes) -> tuple[int, str]:
    """The code and the reason in a close frame (section 5.5.1).

    Raises:
        Failure: a code that no endpoint sends, or a reason that is not UTF-8.
    """
    if not payload:
        return NO_CODE, ""
    if len(payload) == 1:
        raise Failure(PROTOCOL_ERROR, "a close code is two bytes")
    code = int.from_bytes(payload[:2])
    try:
        check_close_code(code)
    except ValueError:
        raise Failure(PROTOCOL_ERROR, f"close code {code} may not be sent") from None
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise Failure(INVALID_DATA, BAD_REASON) from None


def build_close(code: int, reason: str) -> bytes:
    """The payload of a close frame; a reason that is too long is cut at a character."""
    encoded = reason.encode()
    if len(encoded) > MAX_REASON:
        encoded = encoded[:MAX_REASON].decode(errors="ignore").encode()
    return code.to_bytes(2) + encoded
