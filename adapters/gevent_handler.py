"""gevent: the request handler of a server, which leaves an upgrade to the application.

- `WebSocketHandler`, for `gevent.pywsgi.WSGIServer`: it bounds the head of a request, and
  lets the application answer a WebSocket handshake;
- ``wsgi.websocket`` of gevent-websocket, for code that is written for that package;
- `GeventHandshake`, the handshake that it has read.
"""

from __future__ import annotations

import http.client
import io
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from ssl import SSLError
from typing import Any
from urllib.parse import unquote

import gevent
from gevent.pywsgi import WSGIHandler
from geventwebsocket.handler import (  # type: ignore[import-untyped]  # there are no stubs
    Client,
)
from geventwebsocket.handler import (
    WebSocketHandler as StockWebSocketHandler,
)
from geventwebsocket.websocket import Stream  # type: ignore[import-untyped]  # as above
from geventwebsocket.websocket import WebSocket as StockWebSocket

from unisock import Address
from unisock.handshake import Handshake, client_address, split_target
from unisock.printing import MOST_OF_TEXT, escaped
from unisock.wire.opening import Refusal, check_opening

UPGRADE = "unisock.upgrade"
"""The key in the WSGI environ under which `WebSocketHandler` waits for `accept`."""
STOCK = "wsgi.websocket"
"""The key of gevent-websocket's own `WebSocket`, for code that is written for that package."""

# Method, target and version (RFC 9112, section 3), and without a version HTTP/0.9.
_REQUEST_LINE = re.compile(r"[!-~]+ [!-~]+( [!-~]+)?\r?\n")
# A line of the headers (section 5), and the one that ends them.
_HEADER_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*)?\r?\n")
_LENGTH = re.compile(r"[ \t]*[0-9]+[ \t]*")
# How much of a request that is refused is taken, and how long the next piece may take.
_MAX_DISCARDED = 1024 * 1024
_READ_SIZE = 64 * 1024
_LINGER = 0.1


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
    _client_key: Any = None

    def read_requestline(self) -> str:
        """As pywsgi's, in time."""
        self.environ = None  # that of the last request, which a log would take for this one's
        if self._has_read:
            self.rfile.peek(1)  # the next request may come whenever it will
        with gevent.Timeout(self.head_timeout, TimeoutError()):
            line: str = WSGIHandler.read_requestline(self)
            return line

    def read_request(self, raw_requestline: str) -> Any:
        """As pywsgi's, in time.

        Raises:
            ValueError: the request line has other characters than visible ASCII and single
                spaces.  pywsgi takes some of them for spaces: a path that a proxy forbids
                would be read out of another one, which the proxy has let through.
        """
        self._has_read = True
        if not _REQUEST_LINE.fullmatch(raw_requestline):
            raise ValueError(f"malformed request line: {raw_requestline!r}")
        with gevent.Timeout(self.head_timeout, TimeoutError()):
            return WSGIHandler.read_request(self, raw_requestline)

    def get_environ(self) -> dict[str, Any]:
        """As pywsgi's; of a target in absolute form its path and host (RFC 9112, section 3.2.2)."""
        handler: Any = self  # pywsgi's stubs say that there may be no path
        host, handler.path = split_target(handler.path)
        # Not pywsgi's own: gunicorn puts more into it.
        environ: dict[str, Any] = super().get_environ()
        if host is not None:
            environ["HTTP_HOST"] = host
        return environ

    def MessageClass(self, fp: Any, *args: Any) -> Any:  # noqa: N802  # pywsgi's name
        """As pywsgi's, which parses the headers, but not without a limit.

        Raises:
            ValueError: they are malformed (RFC 9112, section 5), or do not say where the body
                ends (section 6).
        """
        headers: Any = WSGIHandler.MessageClass(self, _Head(fp, self.max_head_size), *args)
        lengths = headers.get_all("content-length", [])
        codings = headers.get_all("transfer-encoding", [])
        is_known = all(coding.strip(" \t").lower() == "chunked" for coding in codings)
        if codings and self.request_version != "HTTP/1.1":
            is_known = False
        # `int` takes "+0" and "1_0" too.
        is_number = all(_LENGTH.fullmatch(length) for length in lengths)
        if len(lengths) + len(codings) > 1 or not is_known or not is_number:
            raise _HeadMalformed(f"it is not clear where the body ends: {lengths} {codings}")
        return headers

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
        command: Any = self.command
        version: Any = self.request_version
        try:
            opening = check_opening(command, version.removeprefix("HTTP/"), fields.raw_items())
        except Refusal as refusal:
            self.refuse(refusal.response())
            raise gevent.GreenletExit from None
        # A `geventwebsocket.Resource` knows which subprotocol its application speaks.
        app_protocol = getattr(self.application, "app_protocol", None)
        subprotocol = None if app_protocol is None else app_protocol(websocket.path_info)
        offered = environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "").split(",")
        if subprotocol not in [name.strip() for name in offered if name.strip()]:
            subprotocol = None
        response = opening.response(subprotocol, [])
        self.answered(response)
        with suppress(OSError):  # nobody is left to read it
            self.socket.sendall(response)
        self.websocket = websocket
        websocket.open(environ)
        # All that a server has, for those who send to all.
        server: Any = self.server
        server.clients = getattr(server, "clients", {})
        # On a unix socket a client has no address.
        self._client_key = self.client_address or websocket
        server.clients[self._client_key] = Client(self.client_address, websocket)

    @property
    def active_client(self) -> Any:
        """As gevent-websocket's: what the server lists of this connection."""
        server: Any = self.server
        return server.clients[self._client_key]

    def _end_websocket(self) -> None:
        """Close it, as gevent-websocket's handler does when the application has returned."""
        server: Any = self.server
        del server.clients[self._client_key]
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
        is_too_large = isinstance(ex, _HeadTooLarge | http.client.HTTPException)
        if is_too_large or isinstance(ex, _HeadMalformed):
            self._discard()
        if is_too_large:
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
        """As pywsgi's, but a client may leave while its request is refused."""
        with suppress(ConnectionError, SSLError):
            WSGIHandler.handle(self)

    def log_request(self) -> None:
        """As pywsgi's, to the server's log."""
        WSGIHandler.log_request(self)

    def format_request(self) -> str:
        """As pywsgi's, in one line: a request line that is refused may hold anything."""
        line: str = super().format_request()
        return escaped(line)

    def refuse(self, response: bytes) -> None:
        """Answer the handshake with an HTTP response, and do not upgrade."""
        self.answered(response)
        with suppress(OSError):  # nobody is left to read it
            self.socket.sendall(response)
        self._discard()

    def answered(self, response: bytes) -> None:
        """Note that this has answered the handshake, for WSGI and the access log."""
        head, _, body = response.partition(b"\r\n\r\n")
        status = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")[2]
        self.unisock_answered = True
        self.headers_sent = True
        self.status = self._orig_status = status
        self.code = int(status.partition(" ")[0])
        self.response_length = len(body)


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
        # After the upgrade too there is no `utf8validate_last`, until the first text message.
        if name not in StockWebSocket.__slots__ or self._request_handler.websocket is self:
            raise AttributeError(name)
        self._request_handler.upgrade(self)
        return getattr(self, name)

    def __del__(self) -> None:
        """The request handler closes it."""

    def open(self, environ: dict[str, Any]) -> None:
        """Have the attributes of one that is open."""
        super().__init__(environ, Stream(self._request_handler), self._request_handler)


class _HeadMalformed(ValueError):
    """The headers of a request are malformed."""


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
        # A longer one is refused by http.client.
        if len(line) != size and not _HEADER_LINE.fullmatch(line):
            raise _HeadMalformed(f"malformed header: {line[:MOST_OF_TEXT]!r}")
        return line


def _refusal(status: str) -> tuple[str, bytes]:
    """What pywsgi answers a request with that it has not read to its end."""
    answer = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    return status, answer.encode()


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
        "this server cannot upgrade to a WebSocket: serve with "
        "unisock.adapters.flask.WSGIServer(…).serve_forever(), or with "
        "gunicorn -k unisock.adapters.gunicorn.WebSocketWorker"
    )


class GeventHandshake(Handshake):
    """The handshake in a WSGI environ and its request handler."""

    def __init__(self, environ: Mapping[str, Any], path_params: Mapping[str, Any]) -> None:
        self._environ = environ
        self._path_params = path_params
        handler = request_handler(environ)
        self._target: str = handler.path
        self._peer: Any = handler.client_address

    @property
    def scheme(self) -> str:
        """WSGI's, which a proxy fix may have changed."""
        return str(self._environ["wsgi.url_scheme"])

    @property
    def raw_path(self) -> str:
        """From the request line, for WSGI decodes and splits it."""
        return self._target.partition("?")[0]

    @property
    def removed_prefix(self) -> str:
        """What a proxy fix has put into ``SCRIPT_NAME``, and the request line has not."""
        whole: str = self._environ["SCRIPT_NAME"] + self._environ["PATH_INFO"]
        path = unquote(self.raw_path, "latin-1")  # as WSGI has it
        if not whole.endswith(path):
            return ""
        return whole.removesuffix(path).encode("latin-1").decode(errors="replace")

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
        """``REMOTE_ADDR``; with ``REMOTE_PORT``, unless a proxy fix has changed the former."""
        host = self._environ.get("REMOTE_ADDR")
        # The very string that the server has put there: a proxy on the client's
        # machine gives an equal one, and has another port.
        is_peer = isinstance(self._peer, tuple) and host is self._peer[0]
        return client_address(host, self._environ["REMOTE_PORT"] if is_peer else 0)


def has_body(handler: Any) -> bool:
    """Whether the request that a handler serves has a body."""
    # Not pywsgi's number, for which it takes "+0" and "1_0" too.
    length = handler.environ.get("CONTENT_LENGTH", "0")
    return length.strip("0") != "" or "HTTP_TRANSFER_ENCODING" in handler.environ
