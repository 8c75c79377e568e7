"""ASGI: a handler as an ASGI application, and what the ASGI frameworks share.

Speaks the ASGI WebSocket protocol (asgiref's ``www`` specification, 2.0 to
2.5) with the server, without a framework between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias, Unpack
from urllib.parse import quote, unquote, unquote_to_bytes

from unisock import Address, Capabilities, Handler
from unisock.handlers import prepare
from unisock.handshake import Handshake, client_address
from unisock.options import OptionsDict
from unisock.paths import PathTemplate
from unisock.transport import ConnectionLost, Disconnect, Inbox, PullTransport

from .direct import direct_server

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

# What a server's send() raises when the connection is gone: an OSError since
# spec version 2.4 (uvicorn), a RuntimeError where the server itself has sent a
# close frame just before (uvicorn 0.54: keepalive timeout, shutdown).
_LOST = (OSError, RuntimeError)

_HTTP_REJECTION = "websocket.http.response"

# What servers cannot do, told by the scope, for no server says its name there.
_COMPLETE = Capabilities()
# granian 2.8: accept headers are dropped, the peer's reason is not passed on.
_GRANIAN = Capabilities(accept_headers=False, close_reason=False)
# hypercorn 0.18: the code is always 1006, and there is no reason.
_BEFORE_2_4 = Capabilities(close_code=False, close_reason=False)
# Daphne 4.2: it can only accept or refuse a handshake, and sends only some close codes.
_DAPHNE = Capabilities(
    accept_headers=False,
    http_rejection=False,
    close_reason=False,
    own_close_code=False,
    own_close_reason=False,
)

# Seconds: in granian 2.8 a send that is cancelled as it ends never returns.
_GRANIAN_PATIENCE = 0.5
# How many seconds a rejected client has to end TLS.
_TLS_PATIENCE = 1.0

SERVERS: Mapping[str, Capabilities] = MappingProxyType(
    {
        "uvicorn": _COMPLETE,
        "hypercorn": _BEFORE_2_4,
        "granian": _GRANIAN,
        "daphne": _DAPHNE,
    }
)
"""The same by name, to be told without a connection."""


def capabilities_of(scope: Scope) -> Capabilities:
    """What the server of this connection can do.

    A server of spec version 2.4 or later (uvicorn) gives codes and reasons.
    """
    if _is_daphne(scope):
        return _DAPHNE
    # Starlette's TestClient leaves the whole entry out.
    version = (scope.get("asgi") or {}).get("spec_version", "2.0")
    has_rejection = _HTTP_REJECTION in (scope.get("extensions") or {})
    return _capabilities(version, _is_granian(scope), has_rejection)


@lru_cache  # a process has one server: they need not be made anew for each connection
def _capabilities(spec_version: str, is_granian: bool, has_rejection: bool) -> Capabilities:
    if tuple(int(n) for n in spec_version.split(".")) >= (2, 4):
        known = _COMPLETE
    elif is_granian:
        known = _GRANIAN
    else:
        known = _BEFORE_2_4
    return known if has_rejection else replace(known, http_rejection=False)


def _is_granian(scope: Scope) -> bool:
    # Of the servers of before 2.4 it is the one that offers this.
    return "http.response.pathsend" in (scope.get("extensions") or {})


def _is_daphne(scope: Scope) -> bool:
    # Daphne 4.2 is the one that names no version of the specification, nor of HTTP.
    asgi = scope.get("asgi") or {}
    return bool(asgi) and "spec_version" not in asgi and "http_version" not in scope


class _EmptyText(str):
    """An empty text that counts as true: Daphne 4.2 drops a text that counts as false."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return True


class ASGIHandshake(Handshake):
    """The handshake in an ASGI scope."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    @property
    def scheme(self) -> str:
        """The scope's scheme; hypercorn's ``ProxyFixMiddleware`` makes it ``https``."""
        return str(self.scope.get("scheme", "ws"))

    @property
    def raw_path(self) -> str:
        """The scope's raw path; made from the decoded one where there is none."""
        raw: bytes | None = self.scope.get("raw_path")
        if raw:
            return raw.decode("latin-1")
        # Litestar mounts an application at a path that does not begin with a slash.
        path: str = self.scope["path"]
        return quote(path if path.startswith("/") else f"/{path}")

    @property
    def removed_prefix(self) -> str:
        """The scope's root path, unless the path has it.

        By the specification and on uvicorn it has; not with hypercorn's
        ``--root-path`` and ``FastAPI(root_path=…)``.
        """
        root = str(self.scope.get("root_path", "")).rstrip("/")
        return "" if f"{unquote(self.raw_path)}/".startswith(f"{root}/") else root

    @property
    def query_string(self) -> str:
        """The scope's query string."""
        query: bytes = self.scope["query_string"]
        return query.decode("latin-1")

    @property
    def raw_headers(self) -> Iterable[tuple[str, str]]:
        """The scope's headers."""
        return (
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in self.scope["headers"]
        )

    @property
    def path_params(self) -> Mapping[str, Any]:
        """What a router left in the scope."""
        return _path_params(self.scope)

    def header_values(self, name: str) -> list[str]:
        """As `Handshake.header_values`; of most headers nothing need be decoded."""
        wanted = name.encode()
        headers: Iterable[tuple[bytes, bytes]] = self.scope["headers"]
        return [value.decode("latin-1") for header, value in headers if header.lower() == wanted]

    def hosts_and_subprotocols(self) -> tuple[list[str], list[str]]:
        """As `Handshake.hosts_and_subprotocols`; by the specification names are in lower case."""
        hosts: list[str] = []
        lines: list[str] = []
        for name, value in self.scope["headers"]:
            if name == b"host":
                hosts.append(value.decode("latin-1"))
            elif name == b"sec-websocket-protocol":
                lines.append(value.decode("latin-1"))
        return hosts, lines

    def offered(self, lines: list[str]) -> list[str]:
        """From the headers; uvicorn 0.54 on wsproto leaves them in the scope alone."""
        return super().offered(lines) or list(self.scope.get("subprotocols") or ())

    @property
    def client(self) -> Address | None:
        """The scope's client; granian 2.8 gives its port as a string."""
        client = self.scope.get("client")
        return client_address(client[0], client[1]) if client else None

    @property
    def request(self) -> Any:
        """The scope itself."""
        return self.scope

    @property
    def framework_state(self) -> MutableMapping[str, Any]:
        """The scope's state, where ASGI middleware leaves what it found."""
        state: MutableMapping[str, Any] = self.scope.setdefault("state", {})
        return state


class ASGITransport(PullTransport):
    """A connection on an ASGI server, after its ``websocket.connect`` event.

    Where the server is unisock's own, and nothing stands between, there are no events.
    """

    close_timeout = 10.0
    """The option."""
    answered = False
    """Whether an answer to the handshake was sent, or begun."""

    def __init__(self, handshake: ASGIHandshake, receive: Receive, send: Send) -> None:
        self.handshake = handshake
        self.scope = handshake.scope
        self._direct = direct_server(receive, send)
        self.capabilities = capabilities_of(handshake.scope)
        self._is_granian = _is_granian(handshake.scope)
        self._is_daphne = self.capabilities is _DAPHNE
        # Or another server of before 2.4; not Starlette's TestClient, which says no version.
        has_version = bool(handshake.scope.get("asgi"))
        self._is_hypercorn = has_version and self.capabilities is _BEFORE_2_4
        self._drains = False
        self._receive = receive
        self._asgi_send = send
        self._loop = asyncio.get_running_loop()
        # One send at a time: whose it is in the server, and who comes next.
        self._is_sending = False
        self._sender: asyncio.Task[Any] | None = None
        self._turns: deque[asyncio.Future[None]] | None = None
        self._is_over = False
        # How often the sender was cancelled when it was broken off.
        self._broken_off: int | None = None

    def start(self, inbox: Inbox) -> None:
        """Read; and break off a send when the connection has ended."""
        if self._direct is not None:
            self._direct.attach(inbox, close_timeout=self.close_timeout)
            return
        super().start(inbox)
        inbox.call_on_end(self._on_end)

    async def accept(self, subprotocol: str | None, headers: list[tuple[str, str]]) -> None:
        """``websocket.accept``."""
        self.answered = True
        encoded = _encode_headers(headers)
        if self._direct is not None:
            self._direct.accept(subprotocol, encoded)
            return
        await self._translated(
            {"type": "websocket.accept", "subprotocol": subprotocol, "headers": encoded}
        )
        self._drains = self._is_hypercorn

    async def reject(self, status_code: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        """``websocket.http.response``; without that extension a close, which is a 403."""
        self.answered = True
        if self._direct is not None:
            self._direct.reject(status_code, body, _encode_headers(headers))
            return
        if not self.capabilities.http_rejection:
            await self._translated({"type": "websocket.close", "code": 1000})
            return
        if self._is_granian:
            # granian 2.8 dies, the whole process, of a name that is repeated.
            headers = list(dict(headers).items())
        try:
            await self._translated(
                {
                    "type": "websocket.http.response.start",
                    "status": status_code,
                    "headers": _encode_headers(headers),
                }
            )
        except ValueError:
            # uvicorn 0.54 on `websockets` takes registered statuses only.
            await self._translated({"type": "websocket.close", "code": 1000})
            return
        await self._translated({"type": "websocket.http.response.body", "body": body})
        # uvicorn 0.54 complains of an application that returns before its
        # transport has closed, as if nobody had answered.
        await asyncio.sleep(0)
        if self.capabilities is _COMPLETE and self.handshake.is_secure:
            await self._until_closed()

    async def _until_closed(self) -> None:
        """Wait for the end of TLS.  uvicorn sends one more event after it."""
        with suppress(TimeoutError, *_LOST):
            async with asyncio.timeout(_TLS_PATIENCE):
                if self._reader is None:
                    await self._receive()
                else:
                    await asyncio.wait([self._reader])
                await self._receive()

    def send(self, data: str | bytes) -> Awaitable[None]:
        """``websocket.send``."""
        if self._direct is not None:
            return self._direct.send_message(data)
        return self._send_event(data)

    async def _send_event(self, data: str | bytes) -> None:
        key = "text" if isinstance(data, str) else "bytes"
        if self._is_daphne and isinstance(data, str) and not data:
            data = _EmptyText()
        # uvicorn 0.54 on `websockets` fails where two sends wait for the peer.  No
        # asyncio.Lock, whose three coroutines cost more than all else here.
        if self._is_sending:
            await self._turn()
        self._is_sending = True
        # With the loop, for to find it takes a system call on Python 3.11.
        self._sender = asyncio.current_task(self._loop)
        try:
            await self._asgi_send({"type": "websocket.send", key: data})
        except _LOST as exc:
            raise ConnectionLost from exc
        except asyncio.CancelledError as exc:
            if not self._was_broken_off():
                raise
            raise ConnectionLost from exc
        finally:
            if self._broken_off is not None:
                self._was_broken_off()  # the server has made something else of it
            self._sender = None
            if self._turns:
                self._hand_over()
            else:
                self._is_sending = False

    async def _turn(self) -> None:
        """Wait for the sends that came before."""
        turn = self._loop.create_future()
        if self._turns is None:
            self._turns = deque()  # half a KiB, which most connections never need
        self._turns.append(turn)
        try:
            await turn
            if self._is_over:
                raise ConnectionLost
        except BaseException:
            if turn.done() and not turn.cancelled():  # it was given, and is not taken
                self._hand_over()
            raise

    def _hand_over(self) -> None:
        """Give the turn to the next that waits for it."""
        while self._turns:
            turn = self._turns.popleft()
            if not turn.cancelled():
                turn.set_result(None)
                return
        self._is_sending = False

    async def stop(self) -> None:
        """Stop to read, on hypercorn when the peer has done with what it sends."""
        task = asyncio.current_task()
        is_cancelled = task is not None and task.cancelling() > 0  # as by a server that stops
        try:
            if self._drains and self._reader is not None and not is_cancelled:
                # What comes is dropped.  Else hypercorn 0.18 keeps a connection for ever
                # whose peer has sent more than eleven messages that nobody has taken.
                await asyncio.wait([self._reader], timeout=self.close_timeout)
        finally:
            await super().stop()

    def _on_end(self) -> None:
        """The peer has left, or the handler has: who waits for the peer to read waits for ever."""
        self._is_over = True
        if self._sender is None:
            return
        if self._is_granian:
            self._loop.call_later(_GRANIAN_PATIENCE, self._break_off)
        else:
            # Servers that know of the end by now wake it by themselves.
            self._loop.call_soon(self._loop.call_soon, self._break_off)

    def _break_off(self) -> None:
        if self._sender is not None:
            self._broken_off = self._sender.cancelling()
            self._sender.cancel()

    def _was_broken_off(self) -> bool:
        """Whether the cancellation that strikes is of `_break_off`, and of nobody else."""
        before, self._broken_off = self._broken_off, None
        assert self._sender is not None
        return before is not None and self._sender.uncancel() <= before

    async def close(self, code: int, reason: str) -> None:
        """``websocket.close``."""
        if self._direct is not None:
            await self._direct.close(code, reason)
            return
        if self._is_granian and asyncio.current_task() is not self._reader:
            # granian 2.8 holds a close back while a receive waits.  There is
            # nothing more to be received: the core has dropped it all.
            await self.stop()
        if self._is_daphne and 1000 < code < 3000:
            code += 3000  # Daphne 4.2 fails for one that only a protocol may give
        try:
            await self._translated({"type": "websocket.close", "code": code, "reason": reason})
        except AssertionError:
            # uvicorn 0.54 on `websockets` has written the frame, and then asserts
            # that no send waits for the peer; to wait for that send is no close.
            return

    def receive(self) -> Awaitable[Message]:
        """The server's."""
        return self._receive()

    def message_of(self, received: Message) -> str | bytes | Disconnect:
        """``websocket.receive`` or ``websocket.disconnect``."""
        if received["type"] == "websocket.receive":
            # hypercorn 0.18 puts both keys, one of them None.
            text: str | None = received.get("text")
            return bytes(received["bytes"]) if text is None else text
        code = received.get("code", 1005)
        if self._is_daphne:
            code = code or 1005  # Daphne 4.2 says None
        elif code == 1005 and "reason" not in received:
            # uvicorn 0.54 tells a broken connection from a close frame without
            # a code only by this; granian 2.8 does not tell them apart.
            code = 1006
        return Disconnect(code, received.get("reason") or "")

    async def _translated(self, message: Message) -> None:
        try:
            await self._asgi_send(message)
        except _LOST as exc:
            raise ConnectionLost from exc


class FrameworkAnswer:
    """What a framework's error handler sends when a unisock handler has failed.

    A response is given to the client if the handshake waits for its answer.  On a
    connection that is over, all is dropped: servers raise for it.
    """

    def __init__(self, transport: ASGITransport) -> None:
        self._transport = transport
        self._is_over = transport.answered
        self._start: Message = {}
        self._body = b""

    async def send(self, message: Message) -> None:
        """As the server's ``send``."""
        if self._is_over:
            return
        # Starlette 0.46 sends a response in pieces by the names of HTTP.
        match message["type"].removeprefix("websocket."):
            case "http.response.start":
                self._start = message
            case "http.response.body":
                self._body += message.get("body", b"")
                if not message.get("more_body"):
                    await self._respond()
            case _:
                self._transport.answered = True
                await self._transport._asgi_send(message)

    async def _respond(self) -> None:
        headers = [
            (bytes(name).decode("latin-1"), bytes(value).decode("latin-1"))
            for name, value in self._start["headers"]
        ]
        with suppress(ConnectionLost):
            await self._transport.reject(self._start["status"], self._body, headers)


class ASGIApp:
    """A handler as an ASGI application, for any ASGI server or framework.

    Answers the lifespan protocol, and a request that is no WebSocket
    handshake with 426.

    Args:
        handler: as `unisock.mount` takes it.
        path: a template as `unisock.mount` takes it; another path is a 404.
            By default every path is served, and ``ws.path_params`` are those
            that a router left in the scope.
        **options: those of `unisock.Options`.

    Raises:
        TypeError: not a handler, or an unknown option.
        ValueError: a malformed path, or an option's value.
    """

    transport_class: ClassVar[type[ASGITransport]] = ASGITransport
    handshake_class: ClassVar[type[ASGIHandshake]] = ASGIHandshake

    @staticmethod
    def injects(given: object, /) -> bool:
        """Whether what stands in `Annotated` is for the framework to inject."""
        del given
        return False

    def __init__(
        self, handler: Handler, *, path: str | None = None, **options: Unpack[OptionsDict]
    ) -> None:
        self._mounted = prepare(handler, options, injects=self.injects)
        self._template = None if path is None else PathTemplate.parse(path)
        # Routers name a route after its endpoint.
        self.__name__ = self._mounted.name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection (ASGI 3.0)."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] == "http":
            await _upgrade_required(send)
            return
        # Here, and not in a coroutine of its own, which each connection would keep.
        _require_asyncio()
        if (await receive())["type"] == "websocket.connect":
            transport = self.transport_class(self.handshake_class(scope), receive, send)
            if self._routes(scope):
                transport.close_timeout = self._mounted.options.close_timeout
                try:
                    await self._mounted.serve(transport)
                except Exception as exc:  # noqa: BLE001  # it is raised again
                    await self._hand_on(exc, transport)
            else:
                await transport.reject(404, b"", [("content-length", "0")])

    async def _hand_on(self, exc: Exception, transport: ASGITransport) -> None:
        """Give an error of the handler to what is around this application."""
        raise exc

    def _routes(self, scope: Scope) -> bool:
        """Whether the path is this application's; then its parameters are in the scope."""
        if self._template is None:
            return True
        params = self._template.match(_path_below_mounts(scope))
        if params is not None:
            scope["path_params"] = {**_path_params(scope), **params}
        return params is not None


def _path_params(scope: Scope) -> Mapping[str, Any]:
    """What routers left in the scope: ``path_params``, and Channels' ``url_route``."""
    params: Mapping[str, Any] = scope.get("path_params") or {}
    route: Mapping[str, Any] | None = scope.get("url_route")
    return {**route["kwargs"], **params} if route else params


def _path_below_mounts(scope: Scope) -> str:
    """The path without the prefixes of what the application is mounted in."""
    remaining: str = scope.get("path_remaining", "")
    if remaining:  # what Channels' router has not matched
        return f"/{remaining}"
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if path == root or path.startswith(f"{root}/"):
        path = path.removeprefix(root)
    # Litestar 2.25 takes a slash away in front of the path, and puts one behind it.
    raw: bytes = scope.get("raw_path") or b"/"
    if path.endswith("/") and not unquote_to_bytes(raw).endswith(b"/"):
        path = path.removesuffix("/")
    return path if path.startswith("/") else f"/{path}"


def _require_asyncio() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "unisock runs on asyncio, and this server runs another event loop: "
            "start it with its asyncio worker"
        ) from None


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


async def _upgrade_required(send: Send) -> None:
    body = b"this is a WebSocket endpoint\n"
    headers = [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", str(len(body))),
        ("upgrade", "websocket"),
        ("connection", "upgrade"),
    ]
    await send({"type": "http.response.start", "status": 426, "headers": _encode_headers(headers)})
    await send({"type": "http.response.body", "body": body})


def _encode_headers(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
