"""gevent: the WebSocket protocol on the socket of a WSGI request's greenlet.

`GeventTransport` is the connection.  The request's own greenlet reads, the sans-I/O
protocol of the `websockets` package parses, and what the peer does not take at once a
second greenlet writes.  `gevent_sessions` runs a handler on it.
"""

from __future__ import annotations

import io
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from random import getrandbits
from typing import Any, Protocol, TypeAlias

import gevent
import gevent.event
from gevent.ssl import SSLSocket
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from unisock import Capabilities
from unisock.handlers import MountedHandler
from unisock.handshake import Handshake
from unisock.transport import ConnectionLost, Inbox, Transport
from unisock.wire.frames import message_frame

from .gevent_handler import (
    answer_to_handshake,
    build_response,
    has_body,
    protocol_logger,
    serialize,
    status_line,
)
from .gevent_loop import HUB, call_in_greenlet
from .gevent_runtime import GreenletRuntime

_READ_SIZE = 64 * 1024
# Amid a large frame: each piece that is joined to it may move all that came before.  Not
# always, for so many small messages would be more than the inbox should hold.
_LARGE_READ_SIZE = 256 * 1024
# What may wait to be written before a send waits: that of asyncio's transports.
_HIGH_WATER = 64 * 1024
# Small pieces are joined up to this size into one write.
_WRITE_SIZE = 64 * 1024


class _NeverAccepted(Exception):
    """Thrown into a first read: there will be no message."""


Answer: TypeAlias = tuple[int, bytes, list[tuple[str, str]]]
"""Status, body and headers of the answer to a handshake."""


class Preparation(Protocol):
    """What the framework does with the answer to a handshake before it is sent."""

    def is_needed(self) -> bool:
        """Whether there is anything to do; else the answer is sent at once."""
        ...

    def __call__(self, answer: Answer, /) -> Answer:
        """What is to be sent.  A status other than 101 rejects the handshake.

        May block.
        """
        ...


class GeventTransport(Transport):
    """A connection whose handshake waits for `accept`.

    Two greenlets share it: the request's, which reads, and that of the event
    loop, in which the verbs run.  Neither is interrupted but where it waits.

    Args:
        handshake: the handshake.
        request_handler: the server's, which has the socket.
        handler: what is to be served.
        prepare: what the framework does with the answer; called once at most.
        ping_interval: seconds between keepalive pings, `None` for none.
        ping_timeout: seconds until a peer that does not answer one counts as
            gone, `None` for never.
    """

    capabilities = Capabilities()

    def __init__(
        self,
        handshake: Handshake,
        request_handler: Any,
        handler: MountedHandler,
        *,
        prepare: Preparation,
        ping_interval: float | None,
        ping_timeout: float | None,
    ) -> None:
        self.handshake = handshake
        self.runtime = GreenletRuntime() if handler.blocks else HUB
        self._request_handler = request_handler
        self._prepare = prepare
        self._sock: Any = request_handler.socket
        self._fd: int = self._sock.fileno()
        # TLS has no write that does not wait: it is left to the writer.
        self._writes_at_once = not isinstance(self._sock, SSLSocket)
        # Open at once: it is never fed the handshake, which WSGI has read.
        self._protocol = ServerProtocol(
            state=State.OPEN, max_size=handler.options.max_message_size, logger=protocol_logger
        )
        self._close_timeout = handler.options.close_timeout
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._timers: dict[str, Any] = {}
        self._ping_payload: bytes | None = None
        self._inbox: Inbox | None = None
        self._reading_paused = False
        self._read_size = _READ_SIZE
        # What `accept` sends.
        self._response: Response | None = None
        # A message that arrives in fragments.
        self._partial = bytearray()
        self._partial_opcode = Opcode.TEXT
        # What is still to be written.
        self._pending: deque[bytes | memoryview] | None = None
        self._pending_size = 0
        self._writer: gevent.Greenlet[[], None] | None = None
        self._write_waiters: list[Callable[[], None]] = []
        self._accepted = False
        self._lost = False
        self._released = False
        # The request's greenlet, while it waits for a first message.
        self._interruptible: Any = None
        # Set when it is known whether the handshake is accepted.
        self._decided = gevent.event.Event()
        _set_nodelay(self._sock)

    # Verbs, called in the event loop

    async def accept(self, subprotocol: str | None, headers: list[tuple[str, str]]) -> None:
        """Send the 101 that `validate` has prepared."""

        def accept(answer: Answer) -> None:
            status_code, body, prepared = answer
            if status_code != 101:
                self.answer(build_response(status_code, body, prepared))
                self._disconnect(1006)
                raise ConnectionLost
            response, self._response = self._response, None
            assert response is not None
            if subprotocol is not None:
                response.headers["Sec-WebSocket-Protocol"] = subprotocol
            for name, value in prepared:
                response.headers[name] = value
            self._request_handler.answered("101 Switching Protocols", 0)
            self._write(serialize(response))
            self._open()

        await self._send_prepared((101, b"", headers), accept)

    async def reject(self, status_code: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        """Send the response at once; WSGI's own is dropped."""

        def reject(answer: Answer) -> None:
            self.answer(build_response(*answer))

        await self._send_prepared((status_code, body, headers), reject)

    async def _send_prepared(self, answer: Answer, send: Callable[[Answer], None]) -> None:
        """Send what the framework makes of an answer.

        That may block: so it is not done in the event loop, which others are served on.
        """
        if self._lost:
            raise ConnectionLost
        if not self._prepare.is_needed():
            send(answer)
            return

        def prepare_and_send() -> None:
            prepared = self._prepare(answer)
            if self._lost:
                raise ConnectionLost
            send(prepared)

        if isinstance(self.runtime, GreenletRuntime):
            this = gevent.getcurrent()
            self.runtime.shielded.add(this)
            try:
                prepare_and_send()
            finally:
                self.runtime.shielded.discard(this)
        else:
            await call_in_greenlet(prepare_and_send)

    async def send(self, data: str | bytes) -> None:
        """Write a frame; wait first while too much is still to be written."""
        while self._pending_size > _HIGH_WATER and self._is_open():
            await self._until_written()
        if not self._is_open():
            raise ConnectionLost
        self._write(message_frame(data))

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame; the peer has the close timeout to answer it."""
        # A handler may end while a task of it still accepts.
        if not self._accepted or not self._is_open():
            raise ConnectionLost
        self._protocol.send_close(code, reason)
        self._flush()
        self._end_soon()

    def _is_open(self) -> bool:
        return not self._lost and self._protocol.state is State.OPEN

    def start(self, inbox: Inbox) -> None:
        """Feed `inbox` from the request's greenlet; at its end wake the sends that wait."""
        self._inbox = inbox
        inbox.call_on_end(self._written)

    async def stop(self) -> None:
        """The greenlet goes on until the closing handshake is over; see `read`."""

    # The request's greenlet

    def validate(self) -> bool:
        """Whether the handshake is one (RFC 6455, section 4.2.1); else answer it.

        Must come before anything else.
        """
        self._request_handler.unisock_serves = True
        headers = self.handshake.raw_headers
        response = answer_to_handshake(self._request_handler, headers, self._protocol)
        if response.status_code == 101:
            self._response = response
            return True
        self.answer(response)
        return False

    def refuse(self) -> None:
        """The server is stopping: 503."""
        self.answer(build_response(503, b"the server is stopping\n", []))

    def answer(self, response: Response) -> None:
        """Answer the handshake with an HTTP response that is no 101."""
        self._request_handler.answered(status_line(response), len(response.body))
        self._write(serialize(response))

    def read(self) -> None:
        """Read until the connection has ended; the body of the request's greenlet."""
        receive = self._receive_first
        while data := receive():
            receive = self._receive
            self._decided.wait()
            if not self._accepted:
                return
            self._take(data)
            self._wait_for_room()
        self._protocol.receive_eof()
        self._lost = True
        self._disconnect(1006)
        self._written()

    def read_to_end(self) -> None:
        """As `read`, in a greenlet of its own: whatever happens, the handler learns the end."""
        try:
            self.read()
        finally:
            self._disconnect(1006)

    def release(self) -> None:
        """Write what is left and let go of the socket, which is closed after this."""
        writer = self._writer
        try:
            if writer is not None:
                writer.join(self._close_timeout)
        finally:
            self._lost = True
            # From now on the descriptor may be another connection's.
            self._released = True
            if writer is not None:
                writer.kill(block=False)
            for name in list(self._timers):
                self._cancel_timer(name)
            self._written()
            self._disconnect(1006)  # nobody reads any more

    def session_ended(self) -> None:
        """The handler has ended: what is left is the closing handshake."""
        self._decided.set()
        if not self._accepted:
            # WSGI may answer yet, so only the waiting read must end.
            gevent.get_hub().loop.run_callback(self._interrupt)
        elif "end" not in self._timers:
            self._end_soon()

    def _receive_first(self) -> bytes:
        if data := self._read_buffered():
            return data
        self._interruptible = gevent.getcurrent()
        try:
            return self._receive()
        except _NeverAccepted:
            return b""
        finally:
            self._interruptible = None

    def _read_buffered(self) -> bytes:
        """What came together with the handshake, and so is in the request's buffer.

        The buffer, which holds 8 KiB for as long as the request lives, is closed.
        """
        handler = self._request_handler
        rfile = handler.rfile
        timeout = self._sock.gettimeout()
        self._sock.settimeout(0)
        try:
            data: bytes = rfile.read1(_READ_SIZE) if rfile.peek(1) else b""
        except OSError:  # of TLS, that there is nothing yet
            data = b""
        finally:
            self._sock.settimeout(timeout)
        # Of a request with a body WSGI reads what is left before it answers.
        if not has_body(handler):
            rfile.close()
            handler.environ["wsgi.input"] = io.BytesIO()  # a framework may ask for the body
        return data

    def _interrupt(self) -> None:
        """End the first read; called by the hub, so it is that where the greenlet waits."""
        if self._interruptible is not None:
            self._interruptible.throw(_NeverAccepted())

    def _receive(self) -> bytes:
        try:
            data: bytes = self._sock.recv(self._read_size)
        except OSError:
            return b""
        return data

    def _wait_for_room(self) -> None:
        """Wait while the inbox is full, or the peer does not read our pongs."""
        if self._reading_paused:
            room = gevent.event.Event()
            assert self._inbox is not None
            self._inbox.call_on_room(room.set)
            room.wait()
            self._reading_paused = False
        # Once: senders may fill it again before this greenlet has its turn.
        if self._pending_size > _HIGH_WATER and not self._lost:
            written = gevent.event.Event()
            self._write_waiters.append(written.set)
            assert self._inbox is not None
            self._inbox.pause()
            written.wait()
            self._inbox.resume()

    def _take(self, data: bytes) -> None:
        """Parse what came, and hand on what is complete."""
        protocol = self._protocol
        protocol.receive_data(data)
        events = protocol.events_received()
        is_amid = not events and len(data) >= _READ_SIZE
        self._read_size = _LARGE_READ_SIZE if is_amid else _READ_SIZE
        for event in events:
            assert isinstance(event, Frame)
            self._take_frame(event)
        failed = protocol.parser_exc is not None and protocol.close_sent is not None
        if failed:
            self._disconnect_as_sent()
        self._flush()
        if protocol.eof_sent and "end" not in self._timers:
            self._end_soon()

    def _take_frame(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            if frame.fin:
                self._put(opcode, frame.data)
            else:
                self._partial_opcode = opcode
                self._partial += frame.data
        elif opcode is Opcode.CONT:
            self._partial += frame.data
            if frame.fin:
                message, self._partial = self._partial, bytearray()
                self._put(self._partial_opcode, message)
        elif opcode is Opcode.PONG:
            self._take_pong(bytes(frame.data))
        elif opcode is Opcode.CLOSE:
            assert self._protocol.close_rcvd is not None
            self._disconnect(self._protocol.close_rcvd.code, self._protocol.close_rcvd.reason)

    def _put(self, opcode: Opcode, data: Any) -> None:
        assert self._inbox is not None
        if self._inbox.ended is not None:
            return
        message: str | bytes
        if opcode is Opcode.TEXT:
            try:
                message = str(data, "utf-8")
            except UnicodeDecodeError as exc:
                # Unless something behind it has ended the connection already.
                self._protocol.fail(1007, f"{exc.reason} at position {exc.start}")
                self._disconnect_as_sent()
                return
        else:
            message = bytes(data)
        if not self._inbox.put(message):
            self._reading_paused = True

    def _disconnect_as_sent(self) -> None:
        sent = self._protocol.close_sent
        assert sent is not None
        self._disconnect(int(sent.code), sent.reason)  # no member of an enum

    def _disconnect(self, code: int, reason: str = "") -> None:
        # Without an inbox the session has not begun, or rejected it by itself.
        if self._inbox is not None:
            self._inbox.disconnect(code, reason)

    # Writing

    def _flush(self) -> None:
        """Write what the protocol has to send; an empty piece is its end of stream."""
        for data in self._protocol.data_to_send():
            if data:
                self._write(data)
        if self._protocol.eof_sent and self._writer is None:
            self._shutdown(socket.SHUT_WR)

    def _write(self, data: bytes) -> None:
        """Write now what the socket takes, and leave the rest to a greenlet.

        Whole frames in one order: they cannot interleave.
        """
        if self._lost:
            return
        # While the writer is there it may be in the middle of a piece.
        if self._writes_at_once and self._writer is None:
            try:
                written = os.write(self._fd, data)
            except BlockingIOError:
                written = 0
            except OSError:
                self._break()
                return
            if written == len(data):
                return
            self._append(memoryview(data)[written:])
        else:
            self._append(data)
        if self._writer is None:
            self._writer = gevent.spawn(self._write_pending)

    def _append(self, data: bytes | memoryview) -> None:
        if self._pending is None:
            self._pending = deque()
        self._pending.append(data)
        self._pending_size += len(data)

    def _write_pending(self) -> None:
        """Write until nothing is left; the body of the writer's greenlet."""
        try:
            while self._pending:
                piece = _next_piece(self._pending)
                self._sock.sendall(piece)
                self._pending_size -= len(piece)
                if self._pending_size <= _HIGH_WATER:
                    self._written()
        except OSError:
            self._break()
        finally:
            self._writer = None
        if self._protocol.eof_sent:
            self._shutdown(socket.SHUT_WR)

    def _break(self) -> None:
        """The socket takes no more; what the peer sent before may still be read."""
        self._lost = True
        self._pending = None
        self._pending_size = 0
        self._written()
        self._shutdown(socket.SHUT_RD)

    async def _until_written(self) -> None:
        waiter = self.runtime.waiter_factory()()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        self._write_waiters.append(wake)
        try:
            await waiter
        finally:
            if wake in self._write_waiters:
                self._write_waiters.remove(wake)

    def _written(self) -> None:
        waiters, self._write_waiters = self._write_waiters, []
        for wake in waiters:
            wake()

    # Keepalive and the end

    def _open(self) -> None:
        self._accepted = True
        self._decided.set()
        if self._ping_interval is not None:
            self._call_later("ping", self._ping_interval, self._ping)

    def _call_later(self, name: str, delay: float, callback: Callable[[], None]) -> None:
        """Have the hub call `callback`, in place of what waits under that name."""
        self._cancel_timer(name)
        timer = self._timers[name] = gevent.get_hub().loop.timer(delay, ref=False)
        timer.start(callback)

    def _cancel_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.close()

    def _ping(self) -> None:
        """Ping (RFC 6455, section 5.5.2), and expect the same back in time."""
        if self._lost or self._protocol.state is not State.OPEN:
            return
        self._ping_payload = struct.pack("!I", getrandbits(32))
        self._protocol.send_ping(self._ping_payload)
        self._flush()
        if self._ping_timeout is not None:
            self._call_later("ping", self._ping_timeout, self._ping_unanswered)
        else:
            assert self._ping_interval is not None
            self._call_later("ping", self._ping_interval, self._ping)

    def _take_pong(self, payload: bytes) -> None:
        if payload != self._ping_payload or self._ping_timeout is None:
            return
        assert self._ping_interval is not None
        self._ping_payload = None
        self._call_later("ping", self._ping_interval, self._ping)

    def _ping_unanswered(self) -> None:
        if self._protocol.state is not State.OPEN:
            return
        if self._reading_paused:
            # The pong may be there, behind messages that the handler has not
            # taken yet: that is no fault of the peer.
            assert self._ping_timeout is not None
            self._call_later("ping", self._ping_timeout, self._ping_unanswered)
            return
        self._disconnect(1006)
        self._protocol.fail(1011, "keepalive ping timeout")
        self._flush()
        self._cut()

    def _end_soon(self) -> None:
        """Give the peer the close timeout for its part of the closing handshake."""
        self._call_later("end", self._close_timeout, self._cut)

    def _cut(self) -> None:
        """End the connection whatever the peer does: the waiting read returns."""
        self._lost = True
        self._written()
        if self._writer is not None:
            self._writer.kill(block=False)
        self._shutdown(socket.SHUT_RDWR)

    def _shutdown(self, how: int) -> None:
        """Shut the TCP connection down, below TLS if there is any."""
        if self._released:
            return
        try:
            with socket.socket(fileno=os.dup(self._fd)) as duplicate:
                duplicate.shutdown(how)
        except OSError:
            return  # the peer was faster


def _next_piece(pending: deque[bytes | memoryview]) -> bytes | memoryview:
    piece = pending.popleft()
    if not pending or len(piece) >= _WRITE_SIZE:
        return piece
    joined = bytearray(piece)
    while pending and len(joined) + len(pending[0]) <= _WRITE_SIZE:
        joined += pending.popleft()
    return memoryview(joined)


class UpgradedTransport(GeventTransport):
    """A connection that gevent-websocket's own handler has upgraded already."""

    # gevent-websocket 0.10.1 has sent the 101 before the application runs.
    capabilities = Capabilities(accept_headers=False, subprotocol=False, http_rejection=False)

    def validate(self) -> bool:
        """The stock handler did; take the connection from its WebSocket."""
        # Closed in the stock handler's eyes, so that it sends nothing more.
        self._request_handler.websocket.closed = True
        if self._prepare.is_needed():
            self._prepare((101, b"", []))  # what comes of it can be sent no more
        return True

    def refuse(self) -> None:
        """The server is stopping: 1012."""
        self._protocol.send_close(1012)
        self._flush()
        self.release()

    def start(self, inbox: Inbox) -> None:
        """Feed `inbox` at once: the connection is open."""
        super().start(inbox)
        self._open()

    async def accept(self, subprotocol: str | None, headers: list[tuple[str, str]]) -> None:
        """Nothing is left to do."""
        if self._lost:
            raise ConnectionLost

    async def reject(self, status_code: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        """Close 1008 for 403, else 4000 + status."""
        await self.close(1008 if status_code == 403 else 4000 + status_code, "")


def _set_nodelay(sock: Any) -> None:
    # Without it small frames that follow each other wait 40 ms for an ACK.
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
