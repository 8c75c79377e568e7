"""gevent: the socket of a WSGI request as a carrier of `unisock.wire`, and its transports.

`GeventCarrier` is the socket, and `GeventTransport` the connection on it.  `gevent_sessions`
runs a handler on that.
"""

from __future__ import annotations

import io
import os
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeAlias

import gevent
from gevent.hub import Waiter
from gevent.ssl import SSLSocket

from unisock import Capabilities
from unisock.handlers import MountedHandler
from unisock.handshake import Handshake
from unisock.runtime import Timer
from unisock.transport import ConnectionLost, Inbox
from unisock.wire.carrier import WriteGauge
from unisock.wire.driver import Wire
from unisock.wire.frames import ABNORMAL, CLOSE, build_close, build_frame
from unisock.wire.opening import Opening, build_response, check_opening
from unisock.wire.options import WireOptions
from unisock.wire.transport import WireTransport

from .gevent_handler import has_body
from .gevent_loop import HUB, call_in_greenlet
from .gevent_runtime import GreenletRuntime, HubBackground

_READ_SIZE = 64 * 1024
# For the access log: what nginx logs for a client that has left.
_CLIENT_LEFT = b"HTTP/1.1 499 Client Closed Request\r\n\r\n"
_BACKGROUND = HubBackground()


class GeventCarrier:
    """A socket of gevent's; see `unisock.wire.carrier.Carrier`.

    A greenlet reads, by `read`.  What the peer does not take at once another one writes.

    Args:
        sock: the socket, which others close.
    """

    __slots__ = (
        "_end", "_fd", "_gauge", "_hub", "_is_broken", "_is_ended", "_is_reading", "_is_tls",
        "_pending", "_sock", "_soon", "_waiter", "_wire", "_writer",
    )  # fmt: skip

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._fd: int = sock.fileno()
        self._is_tls = isinstance(sock, SSLSocket)
        self._hub = gevent.get_hub()
        self._is_reading = True
        # What the greenlet that reads is to call, and what it waits with.
        self._soon: list[Callable[[], None]] = []
        self._waiter: Any = None
        # What is still to be written, by whom, and what is to be shut down then.
        self._pending: list[bytes | memoryview] = []
        self._writer: gevent.Greenlet[[], None] | None = None
        self._end: int | None = None
        self._is_broken = False
        self._is_ended = False
        # Without it small frames that follow each other wait 40 ms for an ACK.
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def carry(self, wire: Wire) -> None:
        """Call `wire` from now on."""
        self._wire = wire
        self._gauge = WriteGauge(wire)

    def call_later(self, seconds: float, callback: Callable[[], None], /) -> Timer:
        """In the hub."""
        return _BACKGROUND.call_later(seconds, callback)

    def call_soon(self, callback: Callable[[], None], /) -> None:
        """In the hub."""
        self._hub.loop.run_callback(callback)

    # Reading

    def read(self) -> None:
        """Hand what comes to the wire until the connection has ended.

        The greenlet may be killed meanwhile.

        The others have their turn before each piece, and before each callback.
        """
        readable: Any = self._hub.loop.io(self._fd, 1)
        try:
            while not self._is_ended:
                self._wait(readable)
                if self._soon:
                    self._soon.pop(0)()
                elif self._is_reading:
                    self._receive()
        finally:
            readable.close()

    def _wait(self, readable: Any) -> None:
        """Wait until there is something to do, and for a look at all sockets at least."""
        waiter: Any = Waiter(self._hub)
        self._waiter = waiter
        if self._soon or (self._is_tls and self._is_reading and self._sock.pending()):
            # A timer, for the hub runs many callbacks between two looks at the sockets.
            _BACKGROUND.call_later(0, partial(waiter.switch, None))
        elif self._is_reading:
            readable.start(waiter.switch, None)
        try:
            waiter.get()
        finally:
            readable.stop()
            self._waiter = None

    def _wake(self) -> None:
        """End the wait, if there is one; from any greenlet of this thread."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self._hub.loop.run_callback(waiter.switch, None)

    def _receive(self) -> None:
        try:
            data = self._read_tls() if self._is_tls else os.read(self._fd, _READ_SIZE)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            self.abort()
            return
        if data:
            self._wire.data_received(data)
        else:
            self._wire.eof_received()

    def _read_tls(self) -> bytes:
        """What has come, without a wait for the rest of a record."""
        timeout = self._sock.gettimeout()
        self._sock.settimeout(0)
        try:
            data: bytes = self._sock.recv(_READ_SIZE)
        finally:
            self._sock.settimeout(timeout)
        return data

    def pause_reading(self) -> None:
        """Read no more."""
        self._is_reading = False
        if self._is_broken:
            self.abort()

    def resume_reading(self) -> None:
        """Read again."""
        if self._end != socket.SHUT_RDWR:
            self._is_reading = True
            self._wake()

    def read_soon(self, callback: Callable[[], None], /) -> None:
        """Have the greenlet that reads call `callback`."""
        self._soon.append(callback)
        self._wake()

    # Writing

    def get_write_buffer_size(self) -> int:
        """How many bytes the peer has not taken yet."""
        return self._gauge.size

    def set_write_buffer_limits(self, high: int, /) -> None:
        """Those of what is kept."""
        self._gauge.set_limit(high)

    def write(self, data: bytes, /) -> None:
        """Write now what the socket takes, and leave the rest to a greenlet."""
        if self._is_ended or self._is_broken:
            return
        rest: bytes | memoryview = data
        # While the writer is there it may be in the middle of a piece.  TLS has no write
        # that does not wait.
        if self._writer is None and not self._is_tls:
            try:
                written = os.write(self._fd, data)
            except BlockingIOError:
                written = 0
            except OSError:
                self._break()
                return
            if written == len(data):
                return
            rest = memoryview(data)[written:]
        self._pending.append(rest)
        if self._writer is None:
            self._writer = gevent.spawn(self._write_pending)
        self._gauge.kept(len(rest))

    def _write_pending(self) -> None:
        """Write until nothing is left; the body of the writer's greenlet."""
        try:
            while self._pending:
                pieces, self._pending = self._pending, []
                rest = memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
                while rest:
                    written = self._sock.send(rest)
                    rest = rest[written:]
                    self._gauge.taken(written)
        except OSError:
            self._break()
        finally:
            self._writer = None
        if self._end is not None:
            self._shut_down(self._end)

    def _break(self) -> None:
        """The socket takes no more; what the peer sent before may still be read."""
        self._is_broken = True
        self._pending.clear()
        if self._is_reading:
            self._shut_down(socket.SHUT_RD)
        else:
            self.abort()

    # The end

    def write_eof(self) -> None:
        """Half-close, when all is written; below TLS if there is any."""
        self._end_writing(socket.SHUT_WR)

    def close(self) -> None:
        """End the connection, when all is written."""
        self._is_reading = False
        self._end_writing(socket.SHUT_RDWR)

    def _end_writing(self, how: int) -> None:
        self._end = how
        if self._writer is None:
            self._shut_down(how)

    def abort(self) -> None:
        """End the connection at once: `read` returns."""
        self._shut_down(socket.SHUT_RDWR)

    def _shut_down(self, how: int) -> None:
        """Shut the TCP connection down, below TLS if there is any; others close it."""
        if self._is_ended:
            return  # the descriptor may be another connection's
        try:
            with socket.socket(fileno=os.dup(self._fd)) as duplicate:
                duplicate.shutdown(how)
        except OSError:
            how = socket.SHUT_RDWR  # the peer was faster
        if how == socket.SHUT_RDWR:
            self.let_go()

    def let_go(self) -> None:
        """Do nothing more with the socket, which stays as it is."""
        self._is_ended = True
        self._pending.clear()
        if self._writer is not None:
            self._writer.kill(block=False)
        self._wake()

    def release(self, seconds: float) -> None:
        """Close, and let go of the socket; what is not written yet has so many seconds."""
        try:
            self.close()
            if self._writer is not None:
                self._writer.join(seconds)
        finally:
            self.abort()


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


class GeventTransport(WireTransport):
    """A connection whose handshake waits for `accept`.

    Two greenlets share it: one reads, and the verbs run in the other, which is that of the
    event loop or the request's own.  Each can be interrupted only where it waits.

    Args:
        handshake: the handshake.
        request_handler: the server's, which has the socket.
        handler: what is to be served.
        wire_options: those of the connection.
        prepare: what the framework does with the answer; called once at most.

    Raises:
        unisock.wire.opening.Refusal: the request is not a valid handshake.
    """

    def __init__(
        self,
        handshake: Handshake,
        request_handler: Any,
        handler: MountedHandler,
        wire_options: WireOptions,
        *,
        prepare: Preparation,
    ) -> None:
        self._request_handler = request_handler
        self._prepare = prepare
        self._inbox: Inbox | None = None
        self._is_answered = False
        self._is_accepted = False
        self._is_lost = False
        self._close_timeout = handler.options.close_timeout
        request_handler.unisock_serves = True
        opening = self._check(handshake, wire_options)
        self.carrier = GeventCarrier(request_handler.socket)
        runtime = GreenletRuntime() if handler.blocks else HUB
        super().__init__(
            handshake, self.carrier, opening, handler.options, wire_options, runtime=runtime
        )
        self.carrier.carry(self.wire)

    def _check(self, handshake: Handshake, wire_options: WireOptions) -> Opening:
        """The handshake, checked; see `check_opening`."""
        handler = self._request_handler
        version = handler.request_version.removeprefix("HTTP/")
        headers = handshake.raw_headers
        return check_opening(handler.command, version, headers, deflate=wire_options.deflate)

    # Verbs

    def start(self, inbox: Inbox) -> None:
        """Feed `inbox`."""
        self._inbox = inbox
        super().start(inbox)

    async def accept(self, subprotocol: str | None, headers: list[tuple[str, str]]) -> None:
        """Send the 101."""

        def accept(answer: Answer) -> None:
            status_code, _, prepared = answer
            if status_code != 101:
                self._refuse(answer)
                assert self._inbox is not None
                self._inbox.disconnect(ABNORMAL)
                raise ConnectionLost
            response = self._opening.response(subprotocol, prepared)
            self.open(response)
            self._is_accepted = True
            self._answered(response)

        await self._send_prepared((101, b"", headers), accept)

    async def reject(self, status_code: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        """Send the response at once; WSGI's own is dropped."""
        await self._send_prepared((status_code, body, headers), self._refuse)

    def _refuse(self, answer: Answer) -> None:
        response = build_response(*answer)
        self.wire.refuse(response)
        self._answered(response)

    def _answered(self, response: bytes) -> None:
        self._is_answered = True
        self._request_handler.answered(response)

    async def _send_prepared(self, answer: Answer, send: Callable[[Answer], None]) -> None:
        """Send what the framework makes of an answer.

        That may block: so it is not done in the event loop, which others are served on.
        """
        if self.wire.is_lost:
            raise ConnectionLost
        if not self._prepare.is_needed():
            send(answer)
            return

        def prepare_and_send() -> None:
            send(self._prepare(answer))

        if isinstance(self.runtime, GreenletRuntime):
            this = gevent.getcurrent()
            self.runtime.shielded.add(this)
            try:
                prepare_and_send()
            finally:
                self.runtime.shielded.discard(this)
        else:
            await call_in_greenlet(prepare_and_send)

    # The request's greenlet

    def refuse(self) -> None:
        """The server is stopping: 503."""
        self._request_handler.refuse(build_response(503, b"the server is stopping\n", []))

    def server_stops(self) -> None:
        """Close with 1012 where it is open, and wait for no peer: the server does not either."""
        if self._is_accepted:
            assert self._inbox is not None
            self._inbox.disconnect(1012)
            self.wire.end(1012)

    def read(self) -> None:
        """Read until the connection has ended."""
        early = self._read_buffered()
        if early:
            self.wire.data_received(early)
        self.carrier.read()
        self._lose()

    def read_to_end(self) -> None:
        """As `read`, in a greenlet of its own: whatever happens, the handler learns the end."""
        try:
            self.read()
        finally:
            self._lose()

    def session_ended(self) -> None:
        """The handler has ended: what is left is the closing handshake."""
        if self._is_answered:
            self.wire.end(1011)
        elif self.wire.is_lost:
            self._answered(_CLIENT_LEFT)  # WSGI has nobody to answer
        else:
            self.carrier.let_go()  # WSGI may answer yet, so only the reading must end

    def release(self) -> None:
        """Write what is left, and let go of the socket, which is closed after this."""
        try:
            self.carrier.release(self._close_timeout)
        finally:
            self._lose()

    def _lose(self) -> None:
        if not self._is_lost:
            self._is_lost = True
            self.wire.connection_lost()

    def _read_buffered(self) -> bytes:
        """What came together with the handshake, and so is in the request's buffer.

        The buffer, which holds 8 KiB for as long as the request lives, is closed.
        """
        handler = self._request_handler
        rfile, sock = handler.rfile, handler.socket
        timeout = sock.gettimeout()
        sock.settimeout(0)
        try:
            data: bytes = rfile.read1(_READ_SIZE) if rfile.peek(1) else b""
        except OSError:  # of TLS, that there is nothing yet
            data = b""
        finally:
            sock.settimeout(timeout)
        # Of a request with a body WSGI reads what is left before it answers.
        if not has_body(handler):
            rfile.close()
            handler.environ["wsgi.input"] = io.BytesIO()  # a framework may ask for the body
        return data


class UpgradedTransport(GeventTransport):
    """A connection that gevent-websocket's own handler has upgraded already."""

    # gevent-websocket 0.10.1 has sent the 101 before the application runs.
    capabilities = Capabilities(accept_headers=False, subprotocol=False, http_rejection=False)

    def _check(self, handshake: Handshake, wire_options: WireOptions) -> Opening:
        """The stock handler did; take the connection from its WebSocket."""
        # Closed in the stock handler's eyes, so that it sends nothing more.
        self._request_handler.websocket.closed = True
        self._is_answered = True
        if self._prepare.is_needed():
            self._prepare((101, b"", []))  # what comes of it can be sent no more
        return Opening("", None)

    def refuse(self) -> None:
        """The server is stopping: 1012."""
        self._request_handler.socket.sendall(build_frame(CLOSE, build_close(1012, "")))

    def start(self, inbox: Inbox) -> None:
        """Feed `inbox` at once: the connection is open."""
        super().start(inbox)
        self.open(b"")

    async def accept(self, subprotocol: str | None, headers: list[tuple[str, str]]) -> None:
        """Nothing is left to do."""
        if self.wire.is_lost:
            raise ConnectionLost
        self._is_accepted = True

    async def reject(self, status_code: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        """Close 1008 for 403, else 4000 + status."""
        await self.close(1008 if status_code == 403 else 4000 + status_code, "")
