"""One connection after its opening handshake: bytes in, messages out.

Messages of several frames (RFC 6455, section 5.4), pings (5.5.2), the closing handshake
(7.1) and failures (7.1.7).  It holds no socket and no clock but the one that bounds a
turn: who owns it gives it what has come, and is called with what is to be written.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from time import monotonic

from . import frames
from .deflate import Agreement, Deflater, Inflater
from .frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Failure
from .masks import apply_mask
from .pieces import NOT_UTF8, BinaryPieces, TextPieces

# How much is parsed between two looks at the clock, and how long it may go on, in
# seconds.  A frame of a client has six bytes at least.
_STEP = 8 * 1024
_TURN = 0.002
# Data that is larger is not copied before its mask is applied.
_LARGE = 4096
# When `put` says that it is enough, so many bytes more are parsed of what has come, because
# a close frame may stand behind a few small messages.  A message counts with its bytes and
# this cost.
_MAX_OVER = 64 * 1024
_MESSAGE_COST = 64
# The largest payload whose length stands in the second byte of a frame.
_SMALL = 125
# How much a connection that has broken still delivers of compressed messages: what is held
# of them may inflate to a thousand times its size.
_MAX_INFLATED_AT_LOSS = 1024 * 1024
# Data that cannot be compressed grows by some bytes in each block, so a compressed frame
# may be larger than the limit by this part of it.
_GROWTH = 8


class State(Enum):
    """Where the closing handshake is."""

    OPEN = "messages go both ways"
    CLOSING = "a close frame was sent, and the peer's is waited for"
    CLOSED = "what comes now is dropped"


class Pause(Enum):
    """Why `Connection.receive` has not taken all, and when it may be called again."""

    FULL = "`put` says that it is enough: when there is room again"
    TURN = "it has taken long: when the others had their turn"
    ENDING = "what comes now ends it: when the messages before it were answered"


AMID_ANOTHER = "a message begins amid another one"

# Each message reads them, and reading an enum's member is slow on Python 3.11.
_OPEN, _CLOSING, _CLOSED = State
_FULL, _TURN_OVER, _ENDING = Pause


class Connection:
    """The server's end of a connection.

    Args:
        write: called with what is to be sent, one frame or several.
        put: called with each message; returns whether more may come.
        on_closed: called once, when the state becomes `State.CLOSED`: with the code and
            the reason of the peer's close frame or of the failure, and with whether it
            was a close frame.
        max_message_size: bytes; a larger message is a failure with 1009, and is never
            held, neither compressed nor inflated.
        deflate: what was agreed on of compression, if anything.

    Attributes:
        frame_of: makes the frame of a message that is to be sent.  Each that is made
            must be written, in the same order.
        heard: set to `True` whenever something comes.
        max_message_size: may be changed.
        put: may be changed.
        state: the `State`.
    """

    __slots__ = (
        "_at",
        "_compressed",
        "_deflater",
        "_failure",
        "_fin",
        "_held",
        "_inflater",
        "_is_plain",
        "_left",
        "_mask",
        "_on_closed",
        "_opcode",
        "_over",
        "_pause",
        "_pieces",
        "_pongs",
        "_size",
        "_write",
        "_writing_paused",
        "frame_of",
        "heard",
        "max_message_size",
        "put",
        "state",
    )

    def __init__(
        self,
        *,
        write: Callable[[bytes], object],
        put: Callable[[str | bytes], bool],
        on_closed: Callable[[int, str, bool], object],
        max_message_size: int,
        deflate: Agreement | None = None,
    ) -> None:
        self._write = write
        self.put = put
        self._on_closed = on_closed
        self.max_message_size = max_message_size
        self._inflater = None if deflate is None else Inflater(deflate)
        self._deflater = None if deflate is None else Deflater(deflate)
        self.frame_of = frames.message_frame if deflate is None else self._compressed_frame
        self.state = _OPEN
        self.heard = True
        # What has come and is not parsed, from that place on: the start of a frame, or more
        # where `receive` has paused.
        self._held, self._at = b"", 0
        self._pause: Pause | None = None
        self._over = 0
        self._failure: Failure | None = None
        # Whether the next frame may be a message by itself.
        self._is_plain = True
        # The message of which some has come; the opcode is 0 where there is none.
        self._opcode = 0
        self._pieces: BinaryPieces | TextPieces | None = None
        self._size = 0
        self._compressed = False
        # The data frame of which some has come: how much is still to come, its mask (as
        # it is for the next byte), and whether it is the last of its message.
        self._left = 0
        self._mask = b""
        self._fin = False
        self._pongs: list[bytes] | None = None
        self._writing_paused = False

    # What comes

    def receive(self, data: bytes) -> Pause | None:
        """Take what has come.

        Returns:
            `None` where all was taken.  Else nothing more should be read until it was
            called again, with ``b""``, at the time that the `Pause` says.  What it is
            given before that has come after the rest.
        """
        self.heard = True
        if self.state is _CLOSED:
            return None
        if self._failure is not None:
            self.fail(self._failure.code, self._failure.reason)
            return None
        pos = self._at
        if self._held:
            if data:
                data = self._held[pos:] + data
                pos = 0
            else:
                data = self._held
        pos = self._parse(data, pos)
        if self._over and self._pause is not _ENDING:
            self._pause = _FULL
        if self._pongs is not None:
            self._send_pongs()
        if self.state is _CLOSED or pos == len(data):
            self._held, self._at = b"", 0
        elif len(data) - pos < _LARGE:  # the start of a frame, or little more
            self._held, self._at = data[pos:], 0
        else:
            self._held, self._at = data, pos
        return self._pause

    def _parse(self, data: bytes, start: int) -> int:
        """Parse from `start` until a pause; return the place behind what was taken."""
        self._pause = None
        self._over = 0
        put = self.put
        end = len(data)
        pos = start
        step, turn = start + _STEP, 0.0
        # The second byte of a small frame is its length and the bit of the mask.
        too_long = 0x80 + min(_SMALL, self.max_message_size) + 1
        try:
            if self._left:
                pos = self._take_payload(data, start)
            while pos + 1 < end and self._pause is None:
                # A small text, whole: most messages are.
                second = data[pos + 1]
                stop = pos + second - 122
                if (
                    data[pos] == 0x81
                    and 0x80 <= second < too_long
                    and stop <= end
                    and self._is_plain
                ):
                    message = apply_mask(data[pos + 6 : stop], data[pos + 2 : pos + 6]).decode()
                    pos = stop
                    if not put(message):
                        self._count_over(message)
                else:
                    taken = self._take_frame(data, pos, pos > start)
                    if taken < 0:
                        break
                    pos = taken
                if pos >= step and pos < end and self._pause is None:
                    step = pos + _STEP
                    now = monotonic()
                    turn = turn or now + _TURN
                    if now > turn:
                        self._pause = _TURN_OVER
        except UnicodeDecodeError:
            self._break(Failure(frames.INVALID_DATA, NOT_UTF8), pos > start)
            return end
        except Failure as exc:
            self._break(exc, pos > start)
            return end
        return pos

    def _break(self, failure: Failure, has_others: bool) -> None:
        """Fail, but not before the messages that came with it were answered."""
        if has_others and self.state is _OPEN:
            self._failure = failure
            self._pause = _ENDING
        else:
            self.fail(failure.code, failure.reason)

    def _take_frame(self, data: bytes, pos: int, has_others: bool) -> int:
        """Take the frame at `pos`, or what is there of a data frame.

        Args:
            data: what has come.
            pos: where the frame begins.
            has_others: whether others were taken just before.

        Returns:
            The place behind it; -1 where more must come first.
        """
        if self.state is _CLOSED:
            return len(data)
        head = frames.read_head(data, pos)
        if head is None:
            return -1
        opcode, fin, rsv1, length, start = head
        stop = start + length
        if opcode >= CLOSE:
            if opcode == CLOSE and has_others and self.state is _OPEN:
                self._pause = _ENDING
                return pos
            self._take_control(opcode, apply_mask(data[start:stop], data[start - 4 : start]))
            return stop
        self._begin_frame(opcode, rsv1, length)
        mask = data[start - 4 : start]
        if fin and opcode and stop <= len(data) and not rsv1 and self.state is _OPEN:
            payload = data[start:stop] if length < _LARGE else memoryview(data)[start:stop]
            message = apply_mask(payload, mask)
            self._deliver(message.decode() if opcode == TEXT else message)
            return stop
        self._left, self._mask, self._fin = length, mask, fin
        return self._take_payload(data, start)

    def _begin_frame(self, opcode: int, rsv1: bool, length: int) -> None:
        """Check a data frame's place among the others, and its size."""
        if opcode == CONTINUATION:
            if not self._opcode:
                raise Failure(frames.PROTOCOL_ERROR, "there is no message to continue")
            if rsv1:  # RFC 7692, section 6.1: the first frame has it
                raise Failure(frames.PROTOCOL_ERROR, frames.RESERVED_BIT)
        elif self._opcode:
            raise Failure(frames.PROTOCOL_ERROR, AMID_ANOTHER)
        else:
            if rsv1 and self._inflater is None:
                raise Failure(frames.PROTOCOL_ERROR, frames.RESERVED_BIT)
            self._opcode = opcode
            self._is_plain = False
            self._compressed = rsv1
            self._size = 0
            self._pieces = None
        most = self.max_message_size
        if self._compressed:
            most += most // _GROWTH + _LARGE
        if self._size + length > most:
            raise self._too_big()

    def _take_payload(self, data: bytes, start: int) -> int:
        """Take what is there of a data frame's payload; return the place behind it."""
        stop = min(start + self._left, len(data))
        size = stop - start
        self._left -= size
        is_last = self._fin and not self._left
        if self.state is not _OPEN:
            # What comes after our close frame is dropped.
            if is_last:
                self._opcode = 0
            return stop
        if size:
            self._add(apply_mask(memoryview(data)[start:stop], self._mask))
            shift = size % 4
            self._mask = self._mask[shift:] + self._mask[:shift]
        if is_last:
            self._end_message()
        return stop

    def _add(self, piece: bytes) -> None:
        """Add a piece to the message."""
        if self._compressed:
            assert self._inflater is not None
            piece = self._inflater.add(piece, self.max_message_size - self._size)
        self._size += len(piece)
        if self._size > self.max_message_size:
            raise self._too_big()
        if self._pieces is None:
            self._pieces = BinaryPieces() if self._opcode == BINARY else TextPieces()
        self._pieces.add(piece)

    def _end_message(self) -> None:
        """The last piece has come."""
        if self._compressed:
            assert self._inflater is not None
            self._compressed = False
            self._add(self._inflater.end(self.max_message_size - self._size))
        pieces, self._pieces = self._pieces, None
        empty: str | bytes = b"" if self._opcode == BINARY else ""
        self._deliver(empty if pieces is None else pieces.end())

    def _deliver(self, message: str | bytes) -> None:
        self._opcode = 0
        self._is_plain = True
        if not self.put(message):
            self._count_over(message)

    def _count_over(self, message: str | bytes) -> None:
        """`put` has said that it is enough."""
        self._over += len(message) + _MESSAGE_COST
        if self._over > _MAX_OVER:
            self._pause = _FULL

    def _too_big(self) -> Failure:
        return Failure(frames.TOO_BIG, f"over {self.max_message_size} bytes")

    def _take_control(self, opcode: int, payload: bytes) -> None:
        """Take a control frame (section 5.5); a pong has been heard, and that is all."""
        if opcode == PING and self.state is _OPEN:
            if self._pongs is None:
                self._pongs = []
            self._pongs.append(frames.build_frame(PONG, payload))
        elif opcode == CLOSE:
            code, reason = frames.read_close(payload)
            if self.state is _OPEN:
                self._send_last(payload)
            self._set_closed(code, reason, True)

    # What is sent

    def pieces_of(self, message: str | bytes) -> tuple[bytes, ...]:
        """As `frame_of`, not joined where that would copy what is large."""
        if self._deflater is not None:
            return (self.frame_of(message),)
        payload, opcode = (
            (message.encode(), TEXT) if isinstance(message, str) else (message, BINARY)
        )
        return frames.build_head(opcode, len(payload)), payload

    def _compressed_frame(self, message: str | bytes) -> bytes:
        if not message:
            return frames.message_frame(message)
        assert self._deflater is not None
        payload, opcode = (
            (message.encode(), TEXT) if isinstance(message, str) else (message, BINARY)
        )
        return frames.build_frame(opcode, self._deflater.compress(payload), rsv1=True)

    def ping(self) -> None:
        """Send a ping (section 5.5.2), and set `heard` to `False`."""
        self.heard = False
        self._write(frames.build_frame(PING, b""))

    def pause_writing(self) -> None:
        """The peer does not take what is sent: only the last ping is answered (section 5.5.3)."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """It does again."""
        self._writing_paused = False
        if self._pongs is not None:
            self._send_pongs()

    def _send_pongs(self) -> None:
        assert self._pongs is not None
        if self._writing_paused:
            del self._pongs[:-1]
            return
        pongs, self._pongs = self._pongs, None
        self._write(b"".join(pongs))

    # The end

    def close(self, code: int, reason: str) -> None:
        """Send a close frame (section 7.1.2); only where the state is `State.OPEN`."""
        self._send_last(frames.build_close(code, reason))
        self.state = _CLOSING

    def fail(self, code: int, reason: str) -> None:
        """Fail the connection (section 7.1.7)."""
        if self.state is _OPEN:
            self._send_last(frames.build_close(code, reason))
        self._set_closed(code, reason, False)

    def _send_last(self, payload: bytes) -> None:
        if self._pongs is not None:
            self._writing_paused = False
            self._send_pongs()
        self._write(frames.build_frame(CLOSE, payload))
        # A message of which some has come is none.
        self._is_plain = False
        self._pieces = None

    def lose(self) -> None:
        """The connection has broken (section 7.1.5); what came before is delivered.

        Of compressed messages a MiB, and the message that exceeds it.
        """
        put = self.put
        left = _MAX_INFLATED_AT_LOSS

        def put_what_is_left(message: str | bytes) -> bool:
            nonlocal left
            put(message)
            if self._inflater is not None:
                left -= len(message)
            return left > 0

        self.put = put_what_is_left
        while self.receive(b"") is not None and left > 0:
            """Whatever it has paused for."""
        if self.state is not _CLOSED:
            self._set_closed(frames.ABNORMAL, "", False)

    def hold(self, data: bytes) -> None:
        """Keep what came before the connection was open, for the next `receive`."""
        self._held = data

    def _set_closed(self, code: int, reason: str, is_clean: bool) -> None:
        self.state = _CLOSED
        self._is_plain = False
        self._held, self._at = b"", 0
        self._pongs = None
        self._pieces = None
        self._on_closed(code, reason, is_clean)
