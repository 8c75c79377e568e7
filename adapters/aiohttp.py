"""aiohttp: a handler as a request handler of aiohttp's own server.

For ``web.run_app``, `web.AppRunner`, and gunicorn with aiohttp's worker.

`web.WebSocketResponse` is passed by, for it leaves too little in the hands of who
uses it (aiohttp 3.14): a close frame is answered while somebody receives and at no
other time; a close while somebody receives ends the TCP connection at once, without
waiting for the answer; a send that is cancelled while it waits cancels the others
that wait; unmasked frames are taken.
What it is made of is used instead: aiohttp's own reader and writer of frames.
"""

from __future__ import annotations

import asyncio
import base64
import contextvars
import hashlib
import re
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, Unpack, cast
from urllib.parse import unquote

from aiohttp import EofStream, WebSocketError, WSMsgType, hdrs, web
from aiohttp._websocket.reader_py import WebSocketDataQueue, WebSocketReader
from aiohttp.http import WS_KEY, HttpVersion11, WebSocketWriter, ws_ext_gen, ws_ext_parse
from aiohttp.web_urldispatcher import MatchInfoError
from multidict import CIMultiDict

from unisock import Address, Capabilities, Handler, UnisockError
from unisock.errors import check_close_code
from unisock.handlers import MountedHandler, prepare
from unisock.handshake import Handshake, client_address
from unisock.options import Options, OptionsDict
from unisock.paths import CONVERTERS, Parameter, PathTemplate
from unisock.runtime import adopt
from unisock.session import Session
from unisock.transport import ConnectionLost, Disconnect, HTTPError, Inbox, PullTransport
from unisock.websocket import cut_reason

View: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

APPLICATIONS = (web.Application, web.UrlDispatcher, web.RouteTableDef)

# What aiohttp's queue holds before it stops to read from the socket.
_QUEUE_SIZE = 32 * 1024
# The writer never waits by itself: `AiohttpTransport.send` does, before it writes.
_NO_LIMIT = 1 << 62
# Above this aiohttp compresses in a thread.
_SYNC_SIZE = 16 * 1024


class AiohttpHandshake(Handshake):
    """The handshake with aiohttp's request."""

    def __init__(self, request: web.Request, path_params: Mapping[str, Any]) -> None:
        self._request = request
        self._path_params = path_params
        # To be known after the end, too.
        self._client = _client(request)

    @property
    def scheme(self) -> str:
        """The request's, which a proxy's middleware may have changed."""
        return self._request.scheme

    @property
    def raw_path(self) -> str:
        """From the request line."""
        return self._request.rel_url.raw_path

    @property
    def query_string(self) -> str:
        """From the request line."""
        return self._request.rel_url.raw_query_string

    @property
    def raw_headers(self) -> Iterable[tuple[str, str]]:
        """Every line; ``request.headers`` are decoded as UTF-8.

        ``Host`` as a proxy's middleware may have set it.
        """
        request = self._request
        host = request.host
        if not request.raw_path.startswith("/"):
            # A target in absolute form names the host; aiohttp 3.14 forgets its port.
            host = request.url.raw_authority.rpartition("@")[2]
        is_changed = host != request.headers.get(hdrs.HOST)
        for name, value in request.raw_headers:
            is_other = is_changed and name.lower() == b"host"
            yield name.decode("latin-1"), host if is_other else value.decode("latin-1")

    @property
    def path_params(self) -> Mapping[str, Any]:
        """What the router found, converted."""
        return self._path_params

    @property
    def client(self) -> Address | None:
        """The peer, or what a proxy's middleware says; its port is 0 then."""
        return self._client

    @property
    def request(self) -> web.Request:
        """The request, as aiohttp's own handlers get it."""
        return self._request

    @property
    def framework_state(self) -> MutableMapping[str, Any]:
        """The request's mapping interface, where middleware leaves what it found."""
        # Not the request itself: since aiohttp 3.14 that warns of names, for it
        # would have keys of a type of its own.  Seen in aiohttp 3.14.
        return cast(MutableMapping[str, Any], self._request._state)


def _client(request: web.Request) -> Address | None:
    """The peer, or what a proxy's middleware says by ``request.clone(remote=…)``."""
    peer, host = request.get_extra_info("peername"), request.remote
    if not isinstance(peer, tuple):  # a unix socket's has a path, or nothing
        return client_address(None if host == str(peer) else host)
    # The very string of the socket: a proxy on the client's machine gives an equal
    # one, and has another port.
    return client_address(host, peer[1] if host is peer[0] else 0)


class _FrameReader(WebSocketReader):
    """aiohttp's reader of frames, which looks at what that leaves out.

    The one in Python, for the compiled one cannot be extended: `_handle_frame` and
    `_has_mask` are those of aiohttp 3.14.2 to 3.14.5.

    Attributes:
        heard: set by anything that comes.
    """

    def __init__(
        self, queue: WebSocketDataQueue, limit: int, compress: bool, on_lost: Callable[[], None]
    ) -> None:
        # To aiohttp a message of exactly the limit is too large.
        super().__init__(queue, limit + 1, compress=compress, decode_text=True)
        self.heard = asyncio.Event()
        self._on_lost = on_lost

    def feed_data(self, data: bytes | bytearray | memoryview) -> tuple[bool, bytes]:
        """Take what came; after an error it is dropped."""
        self.heard.set()
        super().feed_data(data)
        return False, b""  # never the end: who sends on is to read the close frame

    def feed_eof(self) -> None:
        """The connection is lost."""
        super().feed_eof()
        self._on_lost()

    def _handle_frame(self, fin: bool, opcode: int, payload: Any, compressed: int) -> None:
        if not self._has_mask:
            raise WebSocketError(1002, "a client masks its frames")
        try:
            super()._handle_frame(fin, opcode, payload, compressed)
        except zlib.error as exc:  # from where it would break the connection
            raise WebSocketError(1007, "compressed data is broken") from exc


class AiohttpTransport(PullTransport):
    """A connection whose handshake aiohttp has routed.

    Attributes:
        response: what was answered, if anything was.
        lost: set when the TCP connection has ended.
    """

    capabilities = Capabilities()
    framework_answers = True
    _inbox: Inbox

    def __init__(
        self,
        handshake: AiohttpHandshake,
        options: Options,
        *,
        ping_interval: float | None,
        ping_timeout: float | None,
        compress: bool,
    ) -> None:
        self.handshake = handshake
        request = self._request = handshake.request
        self.response: web.StreamResponse | None = None
        self._protocol = request.protocol
        assert request.transport is not None  # see `_sessions_of`
        self._connection = request.transport
        self._options = options
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        bits, no_takeover = _compression(request) if compress else (0, False)
        self._writer = WebSocketWriter(
            self._protocol, self._connection, compress=bits, notakeover=no_takeover, limit=_NO_LIMIT
        )
        loop = asyncio.get_running_loop()
        self._queue = WebSocketDataQueue(self._protocol, _QUEUE_SIZE, loop=loop)
        self._frames = _FrameReader(
            self._queue, options.max_message_size, bool(bits), self._on_lost
        )
        # At once, for a loss is told to a parser only.
        self._protocol.set_parser(self._frames)
        self._turn = asyncio.Lock()
        self._close_sent = False
        self._server_stops = False
        # Set when it is known whether there will be messages.
        self._decided = asyncio.Event()
        self.lost = asyncio.Event()
        # Set at the end of the connection, which may come long before it is lost.
        self._over: asyncio.Future[None] = loop.create_future()
        self._pinging: asyncio.Task[None] | None = None
        self._end_timer: asyncio.TimerHandle | None = None

    # The handshake

    def start(self, inbox: Inbox) -> None:
        """Take what the connection has handed over."""
        self._inbox = inbox
        inbox.call_on_end(self._on_end)
        super().start(inbox)

    async def accept(self, subprotocol: str | None, headers: list[tuple[str, str]]) -> None:
        """Send the 101; signals ``on_response_prepare`` are sent for it."""
        key = self._request.headers[hdrs.SEC_WEBSOCKET_KEY].encode()
        digest = hashlib.sha1(key + WS_KEY).digest()  # noqa: S324  # the RFC's
        response = web.StreamResponse(status=101, headers=CIMultiDict(headers))
        response.headers[hdrs.UPGRADE] = "websocket"
        response.headers[hdrs.CONNECTION] = "Upgrade"
        response.headers[hdrs.SEC_WEBSOCKET_ACCEPT] = base64.b64encode(digest).decode()
        if subprotocol is not None:
            response.headers[hdrs.SEC_WEBSOCKET_PROTOCOL] = subprotocol
        if self._writer.compress:
            response.headers[hdrs.SEC_WEBSOCKET_EXTENSIONS] = ws_ext_gen(
                self._writer.compress, isserver=True, server_notakeover=self._writer.notakeover
            )
        await self._answer(response)
        self._protocol.keep_alive(False)
        self._decided.set()
        if self._ping_interval is not None:
            self._pinging = asyncio.create_task(self._keep_alive(self._ping_interval))

    async def reject(self, status_code: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        """Send the response at once; signals ``on_response_prepare`` are sent for it."""
        # aiohttp-session tries to add a cookie to a `web.Response` that was already sent.
        response = web.StreamResponse(status=status_code, headers=CIMultiDict(headers))
        await self._answer(response, body)

    async def _answer(self, response: web.StreamResponse, body: bytes = b"") -> None:
        response.force_close()
        try:
            await response.prepare(self._request)
            self.response = response
            if response.status != 101:
                await response.write_eof(body)
        except ConnectionError as exc:
            raise ConnectionLost from exc

    # Messages

    async def send(self, data: str | bytes) -> None:
        """Write a message; wait first while the peer does not read."""
        await self._until_taken()
        if isinstance(data, str):
            payload, opcode = data.encode(), WSMsgType.TEXT
        else:
            payload, opcode = data, WSMsgType.BINARY
        sending = self._write(payload, opcode)
        # What aiohttp compresses in a thread is sent whole, whoever is cancelled.
        sent = await (asyncio.shield(sending) if len(payload) > _SYNC_SIZE else sending)
        if not sent:
            raise ConnectionLost

    async def _until_taken(self) -> None:
        while self._protocol.writing_paused and not self._over.done():
            # In a task of its own: aiohttp 3.14 shares one future among those who
            # wait, and a cancellation of one would be that of all.
            drained = asyncio.create_task(self._drain())
            await asyncio.wait([drained, self._over], return_when=asyncio.FIRST_COMPLETED)

    async def _drain(self) -> None:
        with suppress(ConnectionError):
            await self._request.writer.drain()

    async def _write(self, payload: bytes, opcode: WSMsgType) -> bool:
        """Write a frame in its turn, none after the close frame; return whether it was."""
        async with self._turn:
            if self._close_sent and opcode is not WSMsgType.CLOSE:
                return False
            try:
                await self._writer.send_frame(payload, opcode)
            except ConnectionError:
                return False
            return True

    async def receive(self) -> str | bytes | Disconnect:
        """The next message of aiohttp's reader; pings are answered in their turn."""
        if not self._decided.is_set():
            await self._decided.wait()
        while True:
            try:
                kind, data, extra = await self._queue.read()
            except WebSocketError as exc:
                too_big = f"over {self._options.max_message_size} bytes"
                return await self._break(exc.code, too_big if exc.code == 1009 else str(exc))
            except EofStream:
                return Disconnect(1006)
            if kind is WSMsgType.TEXT or kind is WSMsgType.BINARY:
                return cast("str | bytes", data)
            if kind is WSMsgType.PING:
                self._inbox.pause()
                await self._until_taken()
                self._inbox.resume()
                await self._write(data, WSMsgType.PONG)
            elif kind is WSMsgType.CLOSE:
                return await self._closed_by_peer(data, extra or "")

    # The end

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame; the peer has the close timeout to answer it."""
        if self._close_sent:
            raise ConnectionLost
        self._close_sent = True
        self._end_soon()
        payload = code.to_bytes(2) + reason.encode() if code else b""
        if not await self._write(payload, WSMsgType.CLOSE):
            raise ConnectionLost
        if self._server_stops:
            self._end_stream()

    def on_server_stop(self) -> None:
        """Wait no more for a close frame: aiohttp has ceased to read from its connections."""
        self._server_stops = True
        if self._close_sent and not self._turn.locked():
            self._end_stream()

    async def finish(self) -> None:
        """Wait until the connection has ended, if it is known how; leave nothing behind."""
        if self.response is None:
            # Once aiohttp has answered: what the client has sent by now is no request.
            self._protocol.close()
        elif self.response.status == 101:
            self._end_soon()
            # What comes now is of no interest, but for the peer's close frame.
            while not isinstance(await self.receive(), Disconnect):
                pass
            await self.lost.wait()
        else:
            # What an error's middleware would answer is nobody's any more.
            self._connection.close()

    async def _closed_by_peer(self, code: int, reason: str) -> Disconnect:
        try:
            if code:  # else there was none
                check_close_code(code)
        except ValueError:
            return await self._break(1002, "no such close code")
        with suppress(ConnectionLost):
            await self.close(code, "")
        self._connection.close()
        return Disconnect(code or 1005, reason)

    async def _break(self, code: int, reason: str) -> Disconnect:
        """Fail the connection (RFC 6455, section 7.1.7)."""
        reason = cut_reason(reason)
        with suppress(ConnectionLost):
            await self.close(code, reason)
        self._end_stream()
        return Disconnect(code, reason)

    def _end_stream(self) -> None:
        """Have the peer see the end, and go on to read, for a reset would lose what was sent."""
        if not self._connection.can_write_eof():  # TLS
            self._connection.close()
        elif not self._connection.is_closing():
            with suppress(OSError):  # the peer was faster
                self._connection.write_eof()

    def _end_soon(self) -> None:
        """Give the peer the close timeout for its part of the closing handshake."""
        if self._end_timer is None and not self.lost.is_set():
            loop = asyncio.get_running_loop()
            self._end_timer = loop.call_later(self._options.close_timeout, self._connection.abort)

    def _on_end(self) -> None:
        """A peer that has closed, or been closed, need not read: no send waits for that."""
        if not self._over.done():
            self._over.set_result(None)

    def _on_lost(self) -> None:
        if self._end_timer is not None:
            self._end_timer.cancel()
        if self._pinging is not None:
            self._pinging.cancel()
        self._decided.set()
        self.lost.set()
        self._on_end()

    async def _keep_alive(self, interval: float) -> None:
        """Ping (RFC 6455, section 5.5.2); whatever comes after it is a sign of life."""
        while True:
            await asyncio.sleep(interval)
            self._frames.heard.clear()
            sent = await self._write(b"", WSMsgType.PING)
            if self._ping_timeout is None or not sent:
                continue
            try:
                async with asyncio.timeout(self._ping_timeout):
                    await self._frames.heard.wait()
            except TimeoutError:
                # While reading pauses, the answer may stand behind what is not read.
                if self._connection.is_reading():
                    self._inbox.disconnect(1006)
                    await self._break(1011, "keepalive ping timeout")
                    return

    def translate(self, exc: Exception) -> UnisockError | None:
        """`HTTPException`, which aiohttp answers itself."""
        return HTTPError(exc.status, exc.reason) if isinstance(exc, web.HTTPException) else None


def view(
    handler: Handler,
    *,
    ping_interval: float | None = 20.0,
    ping_timeout: float | None = 20.0,
    compress: bool = True,
    **options: Unpack[OptionsDict],
) -> View:
    """A request handler for ``web.get("/ws", view(handler))``.

    Args:
        handler: as `unisock.mount` takes it.
        ping_interval: seconds between keepalive pings, `None` for none.
        ping_timeout: seconds until a peer of which nothing is heard after one
            counts as gone, `None` for never.
        compress: whether messages are compressed for a client that offers it.
        **options: those of `unisock.Options`.

    Raises:
        TypeError: not a handler, or an unknown option.
        ValueError: an option's value.
    """
    return _view(handler, None, ping_interval, ping_timeout, compress, options)


def mount(
    app: web.Application | web.UrlDispatcher | web.RouteTableDef,
    template: PathTemplate,
    handler: Handler,
    *,
    name: str | None = None,
    ping_interval: float | None = 20.0,
    ping_timeout: float | None = 20.0,
    compress: bool = True,
    **options: Unpack[OptionsDict],
) -> None:
    """Add a route for handshakes; see `unisock.mount` and `view`.

    A page may have a route for GET at the same path, added before or after.

    Args:
        app: an application, its router or a route table.
        template: the path.
        handler: as `unisock.mount` takes it.
        name: the resource's, for ``app.router[name].url_for()``.
        ping_interval: as `view`.
        ping_timeout: as `view`.
        compress: as `view`.
        **options: as `view`.
    """
    websocket_view = _view(handler, template, ping_interval, ping_timeout, compress, options)
    socket = _Socket(_aiohttp_path(template), websocket_view, name)
    router = app.router if isinstance(app, web.Application) else app
    if isinstance(router, web.RouteTableDef):
        # There is no public way to add a definition of one's own; seen in aiohttp 3.14.
        router._items.append(socket)
    else:
        socket.register(router)


class _SocketResource(web.Resource):
    """A resource for handshakes, which `_Sockets` finds.

    To aiohttp's router it matches nothing, so that the page at the same path has a
    resource of its own, before or after this one.
    """

    async def resolve(self, request: web.Request) -> tuple[None, set[str]]:
        """Nothing."""
        return None, set()

    def raw_match(self, path: str) -> bool:
        """Always false, so the next route at this path gets a resource of its own."""
        return False


class _PlainSocket(_SocketResource, web.PlainResource):
    """One whose path has no parameters."""


class _DynamicSocket(_SocketResource, web.DynamicResource):
    """One whose path has parameters."""


@dataclass(frozen=True)
class _Socket(web.AbstractRouteDef):
    """The definition of a route for handshakes, which a route table may hold."""

    path: str
    view: View
    name: str | None

    def register(self, router: web.UrlDispatcher) -> list[web.AbstractRoute]:
        """Add the route to a router."""
        resource_class = _DynamicSocket if "{" in self.path else _PlainSocket
        resource = resource_class(self.path, name=self.name)
        route = resource.add_route(hdrs.METH_GET, self.view)
        routes = _sockets_of(router).routes
        if any(resource.get_info() == other.get_info() for other in routes):
            raise ValueError(f"{self.path} has a handler already")
        router.register_resource(resource)
        routes[resource] = route
        return [route]


class _Sockets:
    """The sockets of a router, whose `resolve` is replaced to look for them.

    Where a socket and another route match, aiohttp's rule counts for a handshake: the more
    explicit path.  Where the paths are equally explicit, it is for the socket, while any other
    GET is for the page.  aiohttp itself has one route for GET at a path.

    Attributes:
        routes: the route of each resource.
    """

    def __init__(self, router: web.UrlDispatcher) -> None:
        self.routes: dict[_SocketResource, web.ResourceRoute] = {}
        self._resolve = router.resolve
        router.resolve = self.resolve  # type: ignore[method-assign]  # as said above

    async def resolve(self, request: web.Request) -> web.UrlMappingMatchInfo:
        """Find the route for a request."""
        found = await self._resolve(request)
        error = found.http_exception
        if error is None and not _is_handshake(request):
            return found
        path = request.rel_url.path_safe
        matches = {each: match for each in self.routes if (match := each._match(path)) is not None}
        if not matches:
            return found
        if request.method != hdrs.METH_GET:
            others = error.allowed_methods if isinstance(error, web.HTTPMethodNotAllowed) else ()
            return MatchInfoError(web.HTTPMethodNotAllowed(request.method, {"GET", *others}))
        resource = max(matches, key=_explicitness)
        # A page, a WebSocket of aiohttp's own, or what a sub-application has found.
        other = found.route.resource
        if other is not None and _explicitness(other) > _explicitness(resource):
            return found
        return web.UrlMappingMatchInfo(matches[resource], self.routes[resource])


def _explicitness(resource: web.AbstractResource) -> int:
    """What aiohttp's router goes by: how long a path is before its first parameter."""
    return len(resource.canonical.partition("{")[0])


def _sockets_of(router: web.UrlDispatcher) -> _Sockets:
    sockets = getattr(router.resolve, "__self__", None)
    return sockets if isinstance(sockets, _Sockets) else _Sockets(router)


def _view(
    handler: Handler,
    template: PathTemplate | None,
    ping_interval: float | None,
    ping_timeout: float | None,
    compress: bool,
    options: OptionsDict,
) -> View:
    mounted = prepare(handler, options)
    for name, value in (("ping_interval", ping_interval), ("ping_timeout", ping_timeout)):
        if value is not None and not value > 0:
            raise ValueError(f"{name}= is above 0 or None, not {value!r}")

    async def websocket_view(request: web.Request) -> web.StreamResponse:
        sessions = _sessions_of(request)
        if sessions is None or sessions.closed:
            return _refuse(503, "the server is stopping")  # or the client has left: nobody reads it
        if (refusal := _refusal(request)) is not None:
            return refusal
        transport = AiohttpTransport(
            AiohttpHandshake(request, _path_params(request, template)),
            mounted.options,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            compress=compress,
        )
        await sessions.serve(mounted, transport)
        return transport.response or _refuse(500, "the client has left")  # nobody reads it

    websocket_view.__name__ = mounted.name
    return websocket_view


def _compression(request: web.Request) -> tuple[int, bool]:
    """The window's size for compressed messages, 0 for none, and whether each is for itself."""
    offered = ", ".join(request.headers.getall(hdrs.SEC_WEBSOCKET_EXTENSIONS, ()))
    try:
        return ws_ext_parse(offered, isserver=True)
    except ValueError:  # a number of more digits than Python takes
        return 0, False


_KEY = re.compile("[A-Za-z0-9+/]{22}==")  # 16 bytes in base64
_UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}


def _refusal(request: web.Request) -> web.Response | None:
    """The answer to what is no handshake (RFC 6455, section 4.2.1)."""
    if request.method != hdrs.METH_GET:
        return _refuse(405, "a WebSocket handshake is a GET", Allow="GET")
    if "websocket" not in _tokens(request, hdrs.UPGRADE):
        return _refuse(426, "this is a WebSocket endpoint", **_UPGRADE)
    if request.version < HttpVersion11 or "upgrade" not in _tokens(request, hdrs.CONNECTION):
        return _refuse(400, "a WebSocket handshake is an upgrade of HTTP/1.1")
    if _tokens(request, hdrs.SEC_WEBSOCKET_VERSION) != ["13"]:
        return _refuse(426, "version 13 of the WebSocket protocol is spoken here", **_UPGRADE)
    if not _KEY.fullmatch(",".join(request.headers.getall(hdrs.SEC_WEBSOCKET_KEY, ()))):
        return _refuse(400, "a WebSocket key is 16 bytes in base64")
    # Its bytes would be a body or frames, depending on when they come.
    return _refuse(400, "a WebSocket handshake has no body") if _has_body(request) else None


def _has_body(request: web.Request) -> bool:
    headers = request.headers
    return headers.get(hdrs.CONTENT_LENGTH, "0") != "0" or hdrs.TRANSFER_ENCODING in headers


def _is_handshake(request: web.Request) -> bool:
    return request.method == hdrs.METH_GET and "websocket" in _tokens(request, hdrs.UPGRADE)


def _refuse(status: int, text: str, **headers: str) -> web.Response:
    response = web.Response(status=status, text=f"{text}\n", headers=headers)
    response.force_close()
    return response


def _tokens(request: web.Request, name: str) -> list[str]:
    values = ",".join(request.headers.getall(name, ()))
    return [token.strip().lower() for token in values.split(",")]


class _Running(NamedTuple):
    transport: AiohttpTransport
    task: asyncio.Task[None]


class _Sessions:
    """The sessions on one server.

    aiohttp closes no WebSocket when it stops: it cuts them after
    ``shutdown_timeout``.  The signals ``on_shutdown`` take no function once the
    application runs, so the server's `shutdown`, which comes after them, is
    replaced.

    Attributes:
        closed: whether the server is stopping.
    """

    def __init__(self, server: web.Server) -> None:
        self.closed = False
        self._running: dict[Session, _Running] = {}
        self._cut = server.shutdown
        server.shutdown = self.shutdown  # type: ignore[method-assign]  # as said above

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  # aiohttp's
        """Close every connection, then do as aiohttp does."""
        self.closed = True
        for transport, _ in self._running.values():
            transport.on_server_stop()
        await asyncio.gather(*(session.stop() for session in self._running))
        await asyncio.gather(self._cut(timeout), self._cancel_late(timeout and timeout / 2))

    async def _cancel_late(self, seconds: float | None) -> None:
        """Cancel the handlers that have not ended by then.

        aiohttp cancels when all of its time is over, and needs the same again for what they
        do then.  gunicorn allows the worker that time alone, and kills it before.
        """
        tasks = [task for _, task in self._running.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()

    async def serve(self, mounted: MountedHandler, transport: AiohttpTransport) -> None:
        """Serve a connection to its end."""
        session = mounted.session(transport)
        # In a task of its own: see `_until_done`.
        context = contextvars.copy_context()
        task = asyncio.create_task(mounted.run(session), context=context)
        self._running[session] = _Running(transport, task)
        try:
            await _until_done(task, transport)
        finally:
            adopt(context)
            try:
                await transport.finish()
            finally:
                del self._running[session]


def _sessions_of(request: web.Request) -> _Sessions | None:
    """Those of the request's server; `None` if the client has left."""
    # A request has no public way to its server; seen in aiohttp 3.14.
    server = request.protocol._manager
    if server is None:
        return None
    sessions = getattr(server.shutdown, "__self__", None)
    return sessions if isinstance(sessions, _Sessions) else _Sessions(server)


async def _until_done(task: asyncio.Task[None], transport: AiohttpTransport) -> None:
    """Wait for a session's task, which is cancelled where this is.

    But not when the client has left: with ``handler_cancellation``, as in aiohttp's
    test server, aiohttp then cancels a request handler.  Ours see a disconnect.
    """
    this = asyncio.current_task()
    assert this is not None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            if transport.lost.is_set():
                this.uncancel()
            else:
                task.cancel()
    task.result()


_REGEXES = {name: converter.regex for name, converter in CONVERTERS.items()}
# aiohttp matches before it decodes a slash; elsewhere that parts two segments.
_REGEXES["str"] = "(?:(?!%2F)[^/])+"


def _aiohttp_path(template: PathTemplate) -> str:
    """The template in aiohttp's spelling, with the neutral converters as expressions."""
    if not any(isinstance(segment, Parameter) for segment in template.segments):
        return template.render(str)
    return "/" + "/".join(_spell(n, segment) for n, segment in enumerate(template.segments))


def _spell(number: int, segment: str | Parameter) -> str:
    if isinstance(segment, Parameter):
        return f"{{{segment.name}:{_REGEXES[segment.converter.name]}}}"
    if segment.isascii():
        return segment
    # aiohttp 3.14 quotes what stands beside a parameter, and compares it with what
    # it has unquoted; an expression it leaves as it is.
    return f"{{unisock_{number}:{re.escape(segment)}}}"


def _path_params(request: web.Request, template: PathTemplate | None) -> Mapping[str, Any]:
    """What the router found; converted, where the template is unisock's."""
    found = _found(request)
    if template is None:
        return dict(found)
    parameters = (s for s in template.segments if isinstance(s, Parameter))
    return {p.name: p.converter.convert(found[p.name]) for p in parameters}


def _found(request: web.Request) -> Mapping[str, str]:
    """What the router found, decoded as elsewhere: bytes that are not UTF-8 become U+FFFD."""
    found = request.match_info
    # aiohttp 3.14 leaves such bytes as they are, and then they cannot be told from an
    # escaped percent sign.  So they are looked for in the path that it matches.
    path = request.rel_url.path_safe
    resource = found.route.resource
    pattern = resource.get_info().get("pattern") if "%" in path and resource is not None else None
    match = pattern.fullmatch(path) if pattern is not None else None
    if match is None:
        return found
    return {name: unquote(value) for name, value in match.groupdict().items()}
