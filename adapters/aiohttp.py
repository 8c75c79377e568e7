"""aiohttp: a handler as a request handler of aiohttp's own server.

For ``web.run_app``, `web.AppRunner`, and gunicorn with aiohttp's worker.

aiohttp reads the head of the handshake, finds the route, runs the middleware, and sends the
answer.  Then the connection is that of `unisock.wire`.
"""

from __future__ import annotations

import asyncio
import contextvars
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, Unpack, cast
from urllib.parse import unquote

from aiohttp import hdrs, web
from aiohttp.web_urldispatcher import MatchInfoError
from multidict import CIMultiDict

from unisock import Address, Handler, UnisockError
from unisock.asyncio_carrier import AsyncioCarrier
from unisock.handlers import MountedHandler, prepare
from unisock.handshake import Handshake, client_address
from unisock.options import Options, OptionsDict
from unisock.paths import CONVERTERS, Parameter, PathTemplate
from unisock.runtime import adopt
from unisock.session import Session
from unisock.transport import ConnectionLost, HTTPError
from unisock.wire.driver import Wire
from unisock.wire.opening import Opening, Refusal, check_opening
from unisock.wire.options import Compression, WireOptions
from unisock.wire.transport import WireTransport

View: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

APPLICATIONS = (web.Application, web.UrlDispatcher, web.RouteTableDef)


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


class _Protocol(asyncio.Protocol):
    """Takes the connection from aiohttp's protocol, and calls the wire.

    By `set_protocol`, asyncio's own way to hand a connection on.  aiohttp's protocol tells
    nobody when writing pauses, and drops what it reads once the server stops.  What it has
    read behind the head of the handshake it gives to `set_parser`, as to its own WebSockets,
    and does not take for another request then.  That is no documented interface, but a
    public one.  Seen in aiohttp 3.14.2 to 3.14.5.
    """

    def __init__(self, aiohttp: web.RequestHandler, wire: Wire) -> None:
        self._aiohttp = aiohttp
        self._wire = wire
        # The wire's own: each message would pass through a method.
        self.data_received = wire.data_received  # type: ignore[method-assign]  # as just said
        self.eof_received = wire.eof_received  # type: ignore[method-assign]  # as just said
        self.pause_writing = wire.pause_writing  # type: ignore[method-assign]  # as just said
        self.resume_writing = wire.resume_writing  # type: ignore[method-assign]  # as just said

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell aiohttp as well that the connection has ended."""
        self._wire.connection_lost()
        self._aiohttp.connection_lost(exc)

    # aiohttp's calls

    def feed_data(self, data: bytes) -> None:
        """What has come behind the head."""
        self._wire.data_received(data)

    def feed_eof(self) -> None:
        """Do nothing: `connection_lost` tells of the end."""


class AiohttpTransport(WireTransport):
    """A connection whose handshake aiohttp has routed.

    Attributes:
        response: what was answered, if anything was.
        abort: cuts the connection.
    """

    framework_answers = True

    def __init__(
        self,
        handshake: AiohttpHandshake,
        opening: Opening,
        options: Options,
        wire_options: WireOptions,
    ) -> None:
        request = self._request = handshake.request
        self.response: web.StreamResponse | None = None
        connection = request.transport
        assert connection is not None  # see `_sessions_of`
        carrier = AsyncioCarrier(connection, asyncio.get_running_loop())
        self.abort = connection.abort
        super().__init__(handshake, carrier, opening, options, wire_options)
        protocol = _Protocol(request.protocol, self.wire)
        request.protocol.set_parser(cast(Any, protocol))
        connection.set_protocol(protocol)

    async def accept(self, subprotocol: str | None, headers: list[tuple[str, str]]) -> None:
        """Send the 101; signals ``on_response_prepare`` are sent for it."""
        await self._answer(101, [*self._opening.headers(subprotocol), *headers])
        self.open(b"")

    async def reject(self, status_code: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        """Send the response at once; signals ``on_response_prepare`` are sent for it."""
        await self._answer(status_code, headers, body)
        self.wire.refuse(b"")

    async def _answer(
        self, status_code: int, headers: list[tuple[str, str]], body: bytes = b""
    ) -> None:
        # aiohttp-session tries to add a cookie to a `web.Response` that was already sent.
        response = web.StreamResponse(status=status_code, headers=CIMultiDict(headers))
        response.force_close()
        try:
            await response.prepare(self._request)
            self.response = response
            await response.write_eof(body)
        except ConnectionError as exc:
            raise ConnectionLost from exc

    async def finish(self) -> None:
        """Wait until the connection has ended, if it was answered; leave nothing behind."""
        if self.response is None:
            # Once aiohttp has answered: what the client has sent by now is no request.
            self._request.protocol.close()
        else:
            await self.wire.wait_lost()

    def translate(self, exc: Exception) -> UnisockError | None:
        """`HTTPException`, which aiohttp answers itself."""
        return HTTPError(exc.status, exc.reason) if isinstance(exc, web.HTTPException) else None


def view(
    handler: Handler,
    *,
    ping_interval: float | None = 20.0,
    ping_timeout: float | None = 20.0,
    compression: Compression = "deflate",
    **options: Unpack[OptionsDict],
) -> View:
    """A request handler for ``web.get("/ws", view(handler))``.

    Args:
        handler: as `unisock.mount` takes it.
        ping_interval: seconds between keepalive pings, `None` for none.
        ping_timeout: seconds until a peer of which nothing is heard after one
            counts as gone, `None` for never.
        compression: how messages are compressed for a client that offers it: ``"deflate"``,
            a `unisock.Deflate`, or `None` for not at all.
        **options: those of `unisock.Options`.

    Raises:
        TypeError: not a handler, or an unknown option.
        ValueError: an option's value.
    """
    wire_options = WireOptions(
        ping_interval=ping_interval, ping_timeout=ping_timeout, compression=compression
    )
    return _view(handler, None, wire_options, options)


def mount(
    app: web.Application | web.UrlDispatcher | web.RouteTableDef,
    template: PathTemplate,
    handler: Handler,
    *,
    name: str | None = None,
    ping_interval: float | None = 20.0,
    ping_timeout: float | None = 20.0,
    compression: Compression = "deflate",
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
        compression: as `view`.
        **options: as `view`.
    """
    wire_options = WireOptions(
        ping_interval=ping_interval, ping_timeout=ping_timeout, compression=compression
    )
    websocket_view = _view(handler, template, wire_options, options)
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
    wire_options: WireOptions,
    options: OptionsDict,
) -> View:
    mounted = prepare(handler, options)

    async def websocket_view(request: web.Request) -> web.StreamResponse:
        sessions = _sessions_of(request)
        if sessions is None or sessions.closed:  # if the client has left nobody reads it
            return _response(Refusal(503, b"the server is stopping\n"))
        handshake = AiohttpHandshake(request, _path_params(request, template))
        try:
            opening = check_opening(
                request.method,
                f"{request.version.major}.{request.version.minor}",
                handshake.raw_headers,
                deflate=wire_options.deflate,
            )
        except Refusal as refusal:
            return _response(refusal)
        transport = AiohttpTransport(handshake, opening, mounted.options, wire_options)
        await sessions.serve(mounted, transport)
        return transport.response or _response(Refusal(500, b""))  # the client has left

    websocket_view.__name__ = mounted.name
    return websocket_view


def _response(refusal: Refusal) -> web.Response:
    response = web.Response(
        status=refusal.status_code,
        text=refusal.body.decode(),
        headers=CIMultiDict(refusal.headers),
    )
    response.force_close()
    return response


def _is_handshake(request: web.Request) -> bool:
    values = ",".join(request.headers.getall(hdrs.UPGRADE, ()))
    tokens = {token.strip().lower() for token in values.split(",")}
    return request.method == hdrs.METH_GET and "websocket" in tokens


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
        """Close every connection, and do as aiohttp does."""
        self.closed = True
        await asyncio.gather(
            *(_stop(session, transport) for session, (transport, _) in self._running.items()),
            self._cut(timeout),
            self._cancel_late(timeout and timeout / 2),
        )

    async def _cancel_late(self, seconds: float | None) -> None:
        """Cancel the handlers that have not ended by then, and cut peers that do not read.

        aiohttp cancels when all of its time is over, and needs the same again for what they
        do then.  gunicorn allows the worker that time alone, and kills it before.
        """
        running = {task: transport for transport, task in self._running.values()}
        if running:
            _, late = await asyncio.wait(running, timeout=seconds)
            for task in late:
                task.cancel()
                running[task].abort()

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


async def _stop(session: Session, transport: AiohttpTransport) -> None:
    await session.stop()
    transport.wire.end(1012, at_once=True)


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
            if transport.wire.is_lost:
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
