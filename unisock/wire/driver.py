"""A `Connection` on a carrier: when to read, when to write, and when it has ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from unisock.runtime import Timer, Waiter
from unisock.sends import SendClock
from unisock.transport import ConnectionLost, Inbox

from .carrier import Carrier
from .connection import Connection, Pause, State
from .deflate import Agreement
from .frames import ABNORMAL
from .keepalive import Keepalive

_OPEN = State.OPEN

# A frame that is larger is written in two pieces: joining them would copy it.
_LARGE = 64 * 1024
# Replies that are joined into one write: how many, and how large each may be.
_MAX_JOINED = 64
_MAX_JOINED_SIZE = 1024
# How long a peer has to end its side of a handshake that was refused, in seconds.
_CLOSE_TIMEOUT = 10.0
# How long the handler may take to answer what came together with the end, in seconds.
# The wire looks after the first time, then after the double, and so on.
_FIRST_LOOK, _LAST_LOOK = 0.001, 0.1


class _Done:
    """An awaitable that does not wait; unlike a coroutine it is made once."""

    __slots__ = ()

    def __await__(self) -> Iterator[None]:
        return _NO_STEPS


_NO_STEPS: Iterator[None] = iter(())
DONE: Awaitable[None] = _Done()  # type: ignore[assignment]  # __await__ need not be a generator


class Wire:
    """The server's end of a connection, from its opening handshake to its end.

    The carrier calls it as `unisock.wire.carrier.Receiver` says.  All calls are of one
    thread, or of greenlets of one.

    Args:
        carrier: the socket.
        create_waiter: makes what a send waits with; see `unisock.runtime.Runtime`.

    Attributes:
        connection: the `Connection`, from `open` on.
        is_lost: whether the socket is closed, or the peer sends nothing more.
    """

    __slots__ = (
        "_carrier",
        "_close_timeout",
        "_create_waiter",
        "_early",
        "_end_timer",
        "_inbox",
        "_is_closed",
        "_joined",
        "_keepalive",
        "_kept",
        "_lost_waiter",
        "_max_early",
        "_reading_paused",
        "_send_clock",
        "_waiting",
        "_write",
        "_write_waiters",
        "_writing_paused",
        "connection",
        "is_lost",
    )

    def __init__(self, carrier: Carrier, create_waiter: Callable[[], Waiter[None]]) -> None:
        self._carrier = carrier
        self._write = carrier.write
        self._create_waiter = create_waiter
        self.connection: Connection | None = None
        self._inbox: Inbox | None = None
        # What came before `open`.
        self._early: bytes | None = b""
        self._max_early = 0
        self._close_timeout = _CLOSE_TIMEOUT
        self._keepalive: Keepalive | None = None
        self._end_timer: Timer | None = None
        self._lost_waiter: Waiter[None] | None = None
        self._reading_paused = False
        self._writing_paused = False
        self._write_waiters: list[Waiter[None]] | None = None
        # Made when the first send waits; and how many bytes the socket had not taken.
        self._send_clock: SendClock | None = None
        self._kept = 0
        # Frames that are to be written together.
        self._joined: list[bytes] | None = None
        # How many messages were not received yet when the last frame was sent.
        self._waiting = 0
        self._is_closed = False
        self.is_lost = False

    # The carrier's calls

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        connection = self.connection
        if connection is not None:
            pause = connection.receive(data)
            if pause is not None:
                self._pause(pause)
        elif self._early is not None:
            self._early += data
            # Reading goes on up to the bound, because the end may come next.
            if len(self._early) > self._max_early and self._inbox is not None:
                self._pause_reading()

    def eof_received(self) -> None:
        """The peer sends nothing more: without a close frame that is the end."""
        self.is_lost = True
        self._end_soon()
        self._lose()
        self._carrier.close()

    def connection_lost(self) -> None:
        """The socket is closed."""
        self.is_lost = self._is_closed = True
        if self._end_timer is not None:
            self._end_timer.cancel()
        self._joined = None
        self._lose()
        waiter = self._lost_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def pause_writing(self) -> None:
        """The peer does not take what is sent."""
        self._writing_paused = True
        if self.connection is not None:
            self.connection.pause_writing()

    def resume_writing(self) -> None:
        """It does again, which is a sign of life."""
        self._writing_paused = False
        if self.connection is not None:
            self.connection.heard = True
            self.connection.resume_writing()
        self._wake_writers()

    # Opening

    def attach(self, inbox: Inbox, *, max_early: int, close_timeout: float) -> None:
        """Feed `inbox` from now on, with messages from `open` on.

        Args:
            inbox: what is fed.
            max_early: how many bytes may come before `open`.
            close_timeout: seconds that the peer has for its part of a close.
        """
        self._inbox = inbox
        inbox.times_sends = True
        self._max_early = max_early
        self._close_timeout = close_timeout
        if self.is_lost:
            inbox.disconnect(ABNORMAL)

    def open(
        self,
        response: bytes,
        *,
        max_message_size: int,
        deflate: Agreement | None,
        ping_interval: float | None,
        ping_timeout: float | None,
    ) -> None:
        """Send the 101, or nothing where it was sent already; messages may come.

        Raises:
            ConnectionLost: the peer has left, or was answered already.
        """
        self._require_unanswered()
        assert self._inbox is not None
        if response:
            self._write(response)
        self.connection = Connection(
            write=self._write_at_once,
            put=self._inbox.put,
            on_closed=self._on_closed,
            max_message_size=max_message_size,
            deflate=deflate,
        )
        if self._writing_paused:
            self.connection.pause_writing()
        if ping_interval is not None:
            self._keepalive = Keepalive(
                self.connection,
                ping_interval,
                ping_timeout,
                call_later=self._carrier.call_later,
                is_reading=lambda: not self._reading_paused,
                on_silence=self._on_silence,
            )
        early, self._early = self._early, None
        if early:
            # When the handler has learnt that it is open.
            self.connection.hold(early)
            self._pause_reading()
            self._read_soon(self._go_on)

    def refuse(self, response: bytes) -> None:
        """Answer the handshake with another HTTP response, which ends the connection.

        Raises:
            ConnectionLost: the peer has left, or was answered already.
        """
        self._require_unanswered()
        self._early = None
        self._write(response)
        self._end_stream()

    def _require_unanswered(self) -> None:
        # A server that stops may have answered what waits for the handler.
        if self.is_lost or self._early is None:
            raise ConnectionLost

    # Reading

    def _pause(self, pause: Pause) -> None:
        self._pause_reading()
        if pause is Pause.TURN:
            self._read_soon(self._go_on)
        elif pause is Pause.FULL:
            assert self._inbox is not None
            self._inbox.call_on_room(partial(self._read_soon, self._go_on))
        else:
            self._read_soon(partial(self._go_on_when_answered, _FIRST_LOOK))

    def _read_soon(self, callback: Callable[[], None]) -> None:
        self._carrier.read_soon(callback)

    def _go_on(self) -> None:
        """Take what was left, and read again when that is done."""
        assert self.connection is not None
        pause = self.connection.receive(b"")
        if pause is not None:
            self._pause(pause)
        else:
            self._resume_reading()

    def _go_on_when_answered(self, seconds: float) -> None:
        """Go on when the handler waits for the next message, and soon in any case."""
        assert self._inbox is not None
        if self._inbox.is_awaited or seconds > _LAST_LOOK:
            self._go_on()
        else:
            again = partial(self._go_on_when_answered, 2 * seconds)
            self._carrier.call_later(seconds, partial(self._read_soon, again))

    def _pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self._carrier.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            if self.connection is not None:
                self.connection.heard = True  # a pong may have waited
            if not self.is_lost:
                self._carrier.resume_reading()

    # Writing

    def send(self, data: str | bytes) -> Awaitable[None]:
        """Send a message; what is returned waits while the peer does not read.

        Raises:
            ConnectionLost: the connection has ended; also when it is awaited.
        """
        connection = self.connection
        if connection is None or connection.state is not _OPEN:
            raise ConnectionLost
        if self._writing_paused:
            return self._send_later(data)
        if len(data) > _LARGE:
            for piece in connection.pieces_of(data):
                self._write_at_once(piece)
            return DONE
        frame = connection.frame_of(data)
        if self._joined is None and not self._inbox._messages:  # type: ignore[union-attr]  # set by `attach`
            self._write(frame)
        else:
            self._join(frame)
        return DONE

    async def _send_later(self, data: str | bytes) -> None:
        await self._until_taken()
        await self.send(data)

    def _join(self, frame: bytes) -> None:
        """Write it with the replies to the messages that have come together."""
        assert self._inbox is not None
        waiting = len(self._inbox._messages or ())
        is_reply, self._waiting = waiting < self._waiting, waiting
        if not is_reply:  # since the last one no message was received
            self._write_at_once(frame)
            return
        if self._joined is None:
            self._joined = []
            self._carrier.call_soon(self._write_joined)
        self._joined.append(frame)
        if not waiting or len(frame) > _MAX_JOINED_SIZE or len(self._joined) == _MAX_JOINED:
            self._write_joined()

    def _write_joined(self) -> None:
        joined, self._joined = self._joined, None
        if joined and not self.is_lost:
            self._write(b"".join(joined))

    def _write_at_once(self, data: bytes) -> None:
        if self._joined is not None:
            self._write_joined()
        if not self.is_lost:
            self._write(data)

    async def _until_taken(self) -> None:
        """Wait while the peer does not take what is sent, or until the end."""
        assert self.connection is not None
        while self._writing_paused and self.connection.state is _OPEN:
            self._time_sends()
            await self._wait_to_write()

    def _time_sends(self) -> None:
        """Cut the connection where the peer takes nothing for too long."""
        assert self._inbox is not None
        seconds = self._inbox.send_timeout
        if self._send_clock is None and seconds is not None:
            self._send_clock = SendClock(
                seconds, self._carrier.call_later, self._was_taken, self._on_nothing_taken
            )
        if self._send_clock is not None:
            self._send_clock.start()

    def _was_taken(self) -> bool | None:
        kept, self._kept = self._kept, self._carrier.get_write_buffer_size()
        return self._kept < kept if self._write_waiters else None

    def _on_nothing_taken(self, reason: str) -> None:
        assert self._inbox is not None
        self._inbox.disconnect(ABNORMAL, reason)
        self._carrier.abort()

    async def _wait_to_write(self) -> None:
        waiter = self._create_waiter()
        if self._write_waiters is None:
            self._write_waiters = []
        self._write_waiters.append(waiter)
        try:
            await waiter
        finally:
            # One that is given up would wait there as long as the peer does not read.
            if self._write_waiters and waiter in self._write_waiters:
                self._write_waiters.remove(waiter)

    def _wake_writers(self) -> None:
        if self._send_clock is not None:
            self._send_clock.stop()
        waiters, self._write_waiters = self._write_waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    # The end

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame, and wait until the socket has taken it.

        The peer has the close timeout to take and to answer it.

        Raises:
            ConnectionLost: the connection has ended.
        """
        connection = self.connection
        if connection is None or connection.state is not _OPEN:
            raise ConnectionLost
        connection.close(code, reason)
        self._stop_keepalive()
        self._end_soon()
        self._wake_writers()
        self._carrier.set_write_buffer_limits(1)
        while self._writing_paused and not self.is_lost:
            await self._wait_to_write()

    def end(self, code: int, *, at_once: bool = False) -> None:
        """Close unless it has ended, without waiting.

        Args:
            code: that of the close frame.
            at_once: whether the peer's answer is not waited for.
        """
        connection = self.connection
        if connection is not None and connection.state is _OPEN and not self.is_lost:
            connection.close(code, "")
            self._stop_keepalive()
            self._wake_writers()
        self._end_soon()
        if at_once:
            self._carrier.close()

    async def wait_lost(self) -> None:
        """Wait until the socket is closed; for one task, which may be cancelled."""
        if not self._is_closed:
            self._lost_waiter = self._create_waiter()
            await self._lost_waiter

    def _on_closed(self, code: int, reason: str, is_clean: bool) -> None:
        """The closing handshake is over, or there will be none."""
        assert self._inbox is not None
        self._inbox.disconnect(code, reason)
        self._stop_keepalive()
        self._wake_writers()
        if self.is_lost:
            return
        if is_clean:
            # Section 7.1.1: the server closes first.
            self._end_soon()
            self._carrier.close()
        else:
            self._end_stream()

    def _end_stream(self) -> None:
        """Have the peer see the end.

        What it sends is read and dropped: to close before that has come would reset the
        connection, and what was sent could be lost.
        """
        self._end_soon()
        self._carrier.write_eof()
        self._resume_reading()

    def _on_silence(self) -> None:
        """Nothing was heard of the peer, so its answer is not waited for."""
        assert self._inbox is not None
        assert self.connection is not None
        self._inbox.disconnect(ABNORMAL)
        self.connection.fail(1011, "keepalive ping timeout")
        self._carrier.close()

    def _lose(self) -> None:
        if self.connection is not None:
            self.connection.lose()
        elif self._inbox is not None:
            self._inbox.disconnect(ABNORMAL)
        self._wake_writers()

    def _end_soon(self) -> None:
        """Give the peer the close timeout for its part of the end."""
        if self._end_timer is None and not self._is_closed:
            self._end_timer = self._carrier.call_later(self._close_timeout, self._carrier.abort)

    def _stop_keepalive(self) -> None:
        if self._keepalive is not None:
            self._keepalive.stop()
            self._keepalive = None
