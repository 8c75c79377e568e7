"""gevent: the WebSocket protocol on the socket of a WSGI request's greenlet.

What a WSGI framework on gevent needs beside the loop of `gevent_loop`:

- `WebSocketHandler`, the request handler for `gevent.pywsgi.WSGIServer` that
  leaves the upgrade to the application;
- `GeventTransport`, the connection: the request's own greenlet reads, the
  sans-I/O protocol of the `websockets` package parses, and what the peer does
  not take at once a second greenlet writes;
- `serve`, which runs a handler on it from the WSGI application: a coroutine on
  that loop, a plain function in the request's own greenlet.
"""

from __future__ import annotations

import asyncio
import contextvars
import email.utils
import http
import http.client
import io
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from random import getrandbits
from typing import Any, Protocol, TypeAlias
from weakref import WeakKeyDictionary

import gevent
import gevent.event
from gevent.pywsgi import WSGIHandler
from gevent.ssl import SSLSocket
from geventwebsocket.handler import (  # type: ignore[import-untyped]  # there are no stubs
    Client,
)
from geventwebsocket.handler import (
    WebSocketHandler as StockWebSocketHandler,
)
from geventwebsocket.websocket import Stream  # type: ignore[import-untyped]  # as above
from geventwebsocket.websocket import WebSocket as StockWebSocket
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeader
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from unisock import Address, Capabilities
from unisock.asyncio_runtime import ASYNCIO
from unisock.handlers import MountedHandler
from unisock.handshake import Handshake
from unisock.runtime import run_blocking
from unisock.transport import ConnectionLost, Inbox, Transport

from .gevent_loop import call_in_greenlet, hub_event_loop
from .gevent_runtime import GreenletRuntime

# The sans-I/O protocol tells of each connection at level INFO.
protocol_logger = logging.getLogger("unisock.protocol")
protocol_logger.setLevel(logging.WARNING)

UPGRADE = "unisock.upgrade"
"""The key in the WSGI environ under which `WebSocketHandler` waits for `accept`."""
STOCK = "wsgi.websocket"
"""The key of gevent-websocket's own `WebSocket`, for code that is written for that package."""

_READ_SIZE = 64 * 1024
# Amid a large frame: each piece that is joined to it may move all that came before.  Not
# always, for so many small messages would be more than the inbox should hold.
_LARGE_READ_SIZE = 256 * 1024
# What may wait to be written before a send waits: that of asyncio's transports.
_HIGH_WATER = 64 * 1024
# Small pieces are joined up to this size into one write.
_WRITE_SIZE = 64 * 1024
# A frame that is larger is made again for each connection.
_MAX_KEPT = 64 * 1024
# How much of a request that is refused is taken, and how long the next piece may take.
_MAX_DISCARDED = 1024 * 1024
_LINGER = 0.1
# How long a server that stops waits for its sessions, where it says nothing.
_STOP_TIMEOUT = 1.0


class WebSocketHandler(StockWebSocketHandler):  # type: ignore[misc]  # untyped package
    """The request handler for ``WSGIServer(…, handler_class=WebSocketHandler)``.

    A WebSocket handshake goes to the application like any request.  The
    upgrade waits until a unisock handler accepts, so that it may choose a
    subprotocol, add headers, or answer with a response of its own.

    Code that is written for gevent-websocket finds its ``wsgi.websocket`` in the
    environ.  The first use of that object is the upgrade.

    The head of any request is bounded in time and size, for pywsgi waits for ever.

    Attributes:
        head_timeout: seconds that a request line may take, and then the headers.
            Late headers are a 408, a late request line is the connection's end.
            Between requests there is no limit.
        max_head_size: bytes of all headers; more are a 431.

    A subclass may set others.
    """

    head_timeout: float = 10.0
    max_head_size: int = 64 * 1024

    _has_read = False
    unisock_answered = False
    """Whether the handshake was answered here: WSGI then answers nothing more."""
    unisock_serves = False
    """Whether a unisock handler has the connection."""
    websocket: Any = None
    """The `WebSocket` of gevent-websocket, once it has the connection."""

    def read_requestline(self) -> str:
        """As pywsgi's, in time."""
        self.environ = None  # that of the last request, which a log would take for this one's
        if self._has_read:
            self.rfile.peek(1)  # the next request may come whenever it will
        with gevent.Timeout(self.head_timeout, TimeoutError()):
            line: str = WSGIHandler.read_requestline(self)
            return line

    def read_request(self, raw_requestline: str) -> Any:
        """As pywsgi's, in time."""
        self._has_read = True
        with gevent.Timeout(self.head_timeout, TimeoutError()):
            return WSGIHandler.read_request(self, raw_requestline)

    def MessageClass(self, fp: Any, *args: Any) -> Any:  # noqa: N802  # pywsgi's name
        """As pywsgi's, which parses the headers, but not without a limit."""
        return WSGIHandler.MessageClass(self, _Head(fp, self.max_head_size), *args)

    def run_application(self) -> None:
        """Run the application; a WebSocket handshake finds `UPGRADE` in its environ."""
        environ: dict[str, Any] = self.environ or {}
        if environ.get("HTTP_UPGRADE", "").lower() != "websocket":
            WSGIHandler.run_application(self)
            return
        environ[UPGRADE] = self
        websocket = environ[STOCK] = _StockWebSocket(self, environ["PATH_INFO"])
        environ[f"{STOCK}_version"] = environ.get("HTTP_SEC_WEBSOCKET_VERSION")
        try:
            WSGIHandler.run_application(self)
            if self.status is None:
                # Applications for gevent-websocket give no response.  This one has not
                # used its `WebSocket` either: the client sees an upgrade and a close.
                self.upgrade(websocket)
        finally:
            # Whatever the answer: a client that was refused the upgrade may
            # have sent frames, and they must not be taken for a request.
            self.close_connection = True
            del environ[UPGRADE]
            environ[STOCK] = None
            if self.websocket is not None:
                self._end_websocket()

    def upgrade(self, websocket: _StockWebSocket) -> None:
        """Answer the handshake, and hand the connection over to gevent-websocket.

        Raises:
            GreenletExit: the handshake is not valid, and the answer says so.  This ends the
                application without a log: gevent-websocket does not call it at all.
            RuntimeError: a unisock handler has the connection, or the application has
                given another answer.
        """
        if self.unisock_serves:
            raise RuntimeError(f"a unisock handler serves this connection: do not use {STOCK}")
        if self.headers_sent:
            raise RuntimeError(f"{STOCK} is used too late: the handshake is answered")
        environ: Any = self.environ
        fields: Any = self.headers
        raw_headers = [(name, value.strip(" \t")) for name, value in fields.raw_items()]
        response = _answer_to_handshake(self, raw_headers, ServerProtocol(logger=protocol_logger))
        accepted = response.status_code == 101
        # A `geventwebsocket.Resource` knows which subprotocol its application speaks.
        app_protocol = getattr(self.application, "app_protocol", None)
        if accepted and app_protocol is not None:
            subprotocol = app_protocol(websocket.path_info)
            offered = environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "").split(",")
            if subprotocol in [name.strip() for name in offered if name.strip()]:
                response.headers["Sec-WebSocket-Protocol"] = subprotocol
        self.answered(_status_line(response), len(response.body))
        self.socket.sendall(_serialize(response))
        if not accepted:
            raise gevent.GreenletExit
        self.websocket = websocket
        websocket.open(environ)
        # All that a server has, for those who send to all.
        server: Any = self.server
        server.clients = getattr(server, "clients", {})
        server.clients[self.client_address] = Client(self.client_address, websocket)

    def _end_websocket(self) -> None:
        """Close it, as gevent-websocket's handler does when the application has returned."""
        server: Any = self.server
        del server.clients[self.client_address]
        if not self.websocket.closed:
            self.websocket.close()
        self.websocket = None

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """As WSGI's, but nothing after the handshake was answered."""
        if self.unisock_answered:
            return self.write
        started: Callable[[bytes], None] = WSGIHandler.start_response(
            self, status, headers, exc_info
        )
        return started

    def write(self, data: bytes) -> None:
        """As WSGI's, but nothing after the handshake was answered."""
        if not self.unisock_answered:
            WSGIHandler.write(self, data)

    def _handle_client_error(self, ex: Exception) -> Any:
        # http.client's: more than 100 headers.
        if isinstance(ex, _HeadTooLarge | http.client.HTTPException):
            self._discard()
            return _refusal("431 Request Header Fields Too Large")
        if isinstance(ex, TimeoutError):
            return _refusal("408 Request Timeout")
        # gevent 26.9 prints a traceback for a client that resets amid its
        # request; there is nobody left to answer.
        if isinstance(ex, ConnectionError):
            return None
        if not isinstance(ex, (ValueError, OSError)):
            # It prints a traceback of others as well, as the IndexError of "HTTP/1".
            ex = ValueError(f"{type(ex).__name__}: {ex}")
        inherited: Any = WSGIHandler  # whose stubs do not have it
        return inherited._handle_client_error(self, ex)

    def _discard(self) -> None:
        """Take what is under way: closing before it has come would reset, and lose the answer."""
        self.socket.settimeout(_LINGER)
        with suppress(OSError):
            for _ in range(_MAX_DISCARDED // _READ_SIZE):
                if not self.socket.recv(_READ_SIZE):
                    return

    def handle(self) -> None:
        """As pywsgi's, but that a client may leave while its request is refused."""
        with suppress(ConnectionError):
            WSGIHandler.handle(self)

    def log_request(self) -> None:
        """As pywsgi's, to the server's log."""
        WSGIHandler.log_request(self)

    def answered(self, status: str, length: int) -> None:
        """Note that the handshake was answered, for WSGI and the access log."""
        self.unisock_answered = True
        self.headers_sent = True
        self.status = self._orig_status = status
        self.code = int(status.partition(" ")[0])
        self.response_length = length


class _StockWebSocket(StockWebSocket):  # type: ignore[misc]  # untyped package
    """A `WebSocket` of gevent-websocket, whose first use is the upgrade.

    Before that it has none of the attributes that the constructor sets.
    """

    __slots__ = ("_request_handler", "path_info")

    def __init__(self, request_handler: WebSocketHandler, path_info: str) -> None:
        self._request_handler = request_handler
        # A dispatcher within the application changes that of the environ.
        self.path_info = path_info

    def __getattr__(self, name: str) -> Any:
        """Upgrade: an attribute is not there yet, and whatever is done with this reads one."""
        # There is one more that is not there, as `hasattr` may find.
        if name not in StockWebSocket.__slots__ or self._request_handler.websocket is self:
            raise AttributeError(name)
        self._request_handler.upgrade(self)
        return getattr(self, name)

    def __del__(self) -> None:
        """The request handler closes it."""

    def open(self, environ: dict[str, Any]) -> None:
        """Have the attributes of one that is open."""
        super().__init__(environ, Stream(self._request_handler), self._request_handler)


class _HeadTooLarge(ValueError):
    """The headers of a request are more than `WebSocketHandler.max_head_size`."""


class _Head(io.BufferedIOBase):
    """The lines of a request's headers, as many as may be."""

    def __init__(self, fp: Any, size: int) -> None:
        self._fp = fp
        self._left = size

    def readline(self, size: int | None = -1, /) -> bytes:
        """The next line."""
        line: bytes = self._fp.readline(size)
        self._left -= len(line)
        if self._left < 0:
            raise _HeadTooLarge
        return line


def _refusal(status: str) -> tuple[str, bytes]:
    """What pywsgi answers a request with that it has not read to its end."""
    answer = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    return status, answer.encode()


class GeventHandshake(Handshake):
    """The handshake in a WSGI environ and its request handler."""

    def __init__(self, environ: Mapping[str, Any], path_params: Mapping[str, Any]) -> None:
        self._environ = environ
        self._path_params = path_params
        self._target: str = request_handler(environ).path

    @property
    def scheme(self) -> str:
        """``wss`` where the server says ``https``."""
        return "wss" if self._environ["wsgi.url_scheme"] == "https" else "ws"

    @property
    def raw_path(self) -> str:
        """From the request line, for WSGI decodes and splits it."""
        return self._target.partition("?")[0]

    @property
    def query_string(self) -> str:
        """From the request line."""
        return self._target.partition("?")[2]

    @property
    def raw_headers(self) -> Iterable[tuple[str, str]]:
        """From the request, for WSGI joins repeated ones.

        ``Host`` from the environ, where a proxy fix may have set another.
        """
        # Raw, for items() looks at each value for what only a mail has.
        for name, value in request_handler(self._environ).headers.raw_items():
            is_host = name.lower() == "host"
            yield name, self._environ["HTTP_HOST"] if is_host else value.strip(" \t")

    def header_values(self, name: str) -> list[str]:
        """As `Handshake.header_values`; the environ tells whether there are any."""
        is_there = f"HTTP_{name.upper().replace('-', '_')}" in self._environ
        return super().header_values(name) if is_there else []

    @property
    def path_params(self) -> Mapping[str, Any]:
        """What the framework's router found."""
        return self._path_params

    @property
    def client(self) -> Address | None:
        """``REMOTE_ADDR`` and ``REMOTE_PORT``, which a proxy fix may have changed."""
        host, port = self._environ.get("REMOTE_ADDR"), self._environ.get("REMOTE_PORT", "")
        return Address(host, int(port)) if host and port.isdigit() else None


def request_handler(environ: Mapping[str, Any]) -> Any:
    """The request handler that serves this environ.

    Raises:
        RuntimeError: the server has no WebSockets; the message says which has.
    """
    if UPGRADE in environ:
        return environ[UPGRADE]
    if environ.get(STOCK) is not None:
        return environ[STOCK].handler
    raise RuntimeError(
        "this server cannot upgrade to a WebSocket: serve with gevent.pywsgi.WSGIServer("
        "…, handler_class=unisock.adapters.flask.WebSocketHandler), or with "
        "gunicorn -k unisock.adapters.gunicorn.WebSocketWorker"
    )


def _has_body(handler: Any) -> bool:
    return bool(handler.content_length) or "HTTP_TRANSFER_ENCODING" in handler.environ


class _LastFrame:
    """The frame of the last message: what is sent to many is made once.

    A server's frames are alike on all connections that have no extensions, as here.
    """

    def __init__(self) -> None:
        # Message and frame at once: threads may serve side by side.
        self._last: tuple[str | bytes | None, bytes] = (None, b"")

    def of(self, data: str | bytes) -> bytes:
        """The frame of a message (RFC 6455, section 5.2)."""
        last, frame = self._last
        if data is last:
            return frame
        if isinstance(data, str):
            frame = Frame(Opcode.TEXT, data.encode()).serialize(mask=False)
        else:
            frame = Frame(Opcode.BINARY, data).serialize(mask=False)
        if len(frame) <= _MAX_KEPT:
            self._last = (data, frame)
        return frame


_last_frame = _LastFrame()


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
        """What is to be sent; where that is no 101 any more, the handshake is rejected.

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
        self.runtime = GreenletRuntime() if handler.blocks else ASYNCIO
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

        def accept() -> None:
            status_code, body, prepared = self._prepare((101, b"", headers))
            if self._lost:
                raise ConnectionLost
            if status_code != 101:
                self.answer(_response(status_code, body, prepared))
                self._disconnect(1006)
                raise ConnectionLost
            response, self._response = self._response, None
            assert response is not None
            if subprotocol is not None:
                response.headers["Sec-WebSocket-Protocol"] = subprotocol
            for name, value in prepared:
                response.headers[name] = value
            self._request_handler.answered("101 Switching Protocols", 0)
            self._write(_serialize(response))
            self._open()

        await self._call(accept)

    async def reject(self, status_code: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        """Send the response at once; WSGI's own is dropped."""

        def reject() -> None:
            answer = self._prepare((status_code, body, headers))
            if self._lost:
                raise ConnectionLost
            self.answer(_response(*answer))

        await self._call(reject)

    async def _call(self, function: Callable[[], None]) -> None:
        """Call what may block; not in the event loop, which others are served on."""
        if self._lost:
            raise ConnectionLost
        if not self._prepare.is_needed():
            function()
        elif isinstance(self.runtime, GreenletRuntime):
            this = gevent.getcurrent()
            self.runtime.shielded.add(this)
            try:
                function()
            finally:
                self.runtime.shielded.discard(this)
        else:
            await call_in_greenlet(function)

    async def send(self, data: str | bytes) -> None:
        """Write a frame; wait first while too much is still to be written."""
        while self._pending_size > _HIGH_WATER and self._is_open():
            await self._until_written()
        if not self._is_open():
            raise ConnectionLost
        self._write(_last_frame.of(data))

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
        response = _answer_to_handshake(self._request_handler, headers, self._protocol)
        if response.status_code == 101:
            self._response = response
            return True
        self.answer(response)
        return False

    def refuse(self) -> None:
        """The server is stopping: 503."""
        self.answer(_response(503, b"the server is stopping\n", []))

    def answer(self, response: Response) -> None:
        """Answer the handshake with an HTTP response that is no 101."""
        self._request_handler.answered(_status_line(response), len(response.body))
        self._write(_serialize(response))

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
        if not _has_body(handler):
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


def serve(handler: MountedHandler, transport: GeventTransport, server: Any) -> None:
    """Run `handler` on `transport` in a WSGI request's greenlet, until all has ended.

    It sees the greenlet's context variables.

    Raises:
        Exception: what the handler raised, for the framework.
    """
    if not transport.validate():
        return
    sessions = _sessions_of(server)
    if sessions.closed:
        transport.refuse()
    elif handler.blocks:
        _serve_blocking(handler, transport, sessions)
    else:
        _serve_on_loop(handler, transport, sessions)


def _serve_on_loop(
    handler: MountedHandler, transport: GeventTransport, sessions: _Sessions
) -> None:
    """Serve on the hub's event loop, while this greenlet reads."""
    ended = gevent.event.Event()
    loop = hub_event_loop()
    session = handler.session(transport)
    task = loop.create_task(handler.run(session), context=contextvars.copy_context())
    stopping: list[asyncio.Task[None]] = []  # the loop holds it weakly

    def stop() -> None:
        task.cancel()
        loop.call_soon(loop.call_soon, stop_anyway)

    def stop_anyway() -> None:
        """A handler that has swallowed its cancellation sees a disconnect."""
        if not task.done():
            stopping.append(loop.create_task(session.stop()))

    def on_done(done: asyncio.Task[None]) -> None:
        transport.session_ended()
        if not done.cancelled():
            done.exception()  # seen, also where the greenlet is gone before it is raised there
        ended.set()

    task.add_done_callback(on_done)
    with sessions.running(stop):
        try:
            transport.read()
            ended.wait()
        except BaseException:
            # Killed, or struck by a `gevent.Timeout` of the application's: nobody
            # reads any more, so the handler has to end as well.
            task.cancel()
            ended.wait(_STOP_TIMEOUT)
            raise
        finally:
            transport.release()
    if not task.cancelled():
        task.result()


def _serve_blocking(
    handler: MountedHandler, transport: GeventTransport, sessions: _Sessions
) -> None:
    """Serve in this greenlet, while another one reads."""
    session = handler.session(transport)
    runtime, this = transport.runtime, gevent.getcurrent()
    assert isinstance(runtime, GreenletRuntime)

    def stop() -> None:
        """End the session: a call sees a disconnect, and what waits elsewhere is killed."""
        run_blocking(session.stop())
        if this not in runtime.calling:
            gevent.kill(this)

    with sessions.running(lambda: gevent.spawn(stop)):
        reader = gevent.spawn(transport.read_to_end)
        try:
            run_blocking(handler.run(session))
        finally:
            try:
                transport.session_ended()
                reader.join()
            finally:
                reader.kill(block=False)
                transport.release()


class _Sessions:
    """The sessions of a server, which are ended when it closes."""

    def __init__(self) -> None:
        self.closed = False
        self._running: dict[gevent.event.Event, Callable[[], object]] = {}

    @contextmanager
    def running(self, cancel: Callable[[], object]) -> Generator[None]:
        """A session that runs within the block, and is ended by `cancel`."""
        gone = gevent.event.Event()
        self._running[gone] = cancel
        try:
            yield
        finally:
            del self._running[gone]
            gone.set()

    def close(self, timeout: float) -> None:
        """End all, and wait until they are gone."""
        running = dict(self._running)
        # Once: a server is closed twice by `stop` under `serve_forever`, and what a
        # handler does in its `finally` must not be struck.
        if not self.closed:
            self.closed = True
            for cancel in running.values():
                cancel()
        if gevent.getcurrent() is not gevent.get_hub():  # a signal's callback may not wait
            gevent.wait(list(running), timeout=timeout)


_servers: WeakKeyDictionary[Any, _Sessions] = WeakKeyDictionary()


def _sessions_of(server: Any) -> _Sessions:
    """Those of `server`; from the first on, its `close` ends them.

    gevent 26.9 tells connections of a stopping server only where it has a
    pool, by killing them; so its `close`, which every way to stop it calls,
    is wrapped.
    """
    sessions = _servers.get(server)
    if sessions is None:
        sessions = _servers[server] = _Sessions()
        close = server.close

        def close_with_sessions() -> None:
            close()
            sessions.close(getattr(server, "stop_timeout", None) or _STOP_TIMEOUT)

        server.close = close_with_sessions
    return sessions


def _answer_to_handshake(
    handler: Any, raw_headers: Iterable[tuple[str, str]], protocol: ServerProtocol
) -> Response:
    """A 101, unless the handshake is not valid (RFC 6455, section 4.2.1)."""
    if handler.command != "GET" or handler.request_version != "HTTP/1.1":
        return _response(400, b"a WebSocket handshake is a GET of HTTP/1.1\n", [])
    if _has_body(handler):
        # Its bytes would be taken for frames.
        return _response(400, b"a WebSocket handshake has no body\n", [])
    try:
        headers = Headers(raw_headers)
    except InvalidHeader:
        return _response(400, b"a header has a character that none may have\n", [])
    response = protocol.accept(Request(handler.path, headers))
    if response.status_code != 101 and "13" not in headers.get_all("Sec-WebSocket-Version"):
        # Section 4.2.2: tell the versions that are spoken here.
        response.status_code, response.reason_phrase = 426, "Upgrade Required"
        response.headers["Sec-WebSocket-Version"] = "13"
    return response


def _status_line(response: Response) -> str:
    return f"{response.status_code} {response.reason_phrase}"


def _response(status_code: int, body: bytes, headers: list[tuple[str, str]]) -> Response:
    fields = Headers(headers)
    fields["Date"] = email.utils.formatdate(usegmt=True)
    fields["Connection"] = "close"
    try:
        phrase = http.HTTPStatus(status_code).phrase
    except ValueError:  # not a registered one
        phrase = ""
    return Response(status_code, phrase, fields, body)


def _serialize(response: Response) -> bytes:
    # By hand: websockets before 17 sends headers as UTF-8.
    head = f"HTTP/1.1 {response.status_code} {response.reason_phrase}\r\n{response.headers}"
    return head.encode("latin-1") + (response.body or b"")


def _set_nodelay(sock: Any) -> None:
    # Without it small frames that follow each other wait 40 ms for an ACK.
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
