"""`connect`: a handler and a peer, as a context manager of async and of plain tests."""

from __future__ import annotations

import asyncio
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import TracebackType
from typing import Any, Protocol, TypeAlias, cast
from urllib.parse import quote, unquote, urlsplit

from multidict import CIMultiDict

from unisock.dependencies import Overrides
from unisock.errors import HeadersInput
from unisock.handshake import Address
from unisock.options import OptionsDict
from unisock.paths import PathTemplate

from .errors import ConnectionRejected, PeerError
from .peer import Peer
from .servers import MEMORY, check_framework, is_handler
from .sockets import SocketWire
from .sync import LoopThread, SyncPeer
from .watchdog import Watchdog
from .watching import WatchedHandler
from .wires import CLIENT, MemoryHandshake, MemoryWire, Wire

__tracebackhide__ = True  # pytest shows the lines of the test, and of the handler

Raises: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]

DEFAULT_TIMEOUT = 1.0
"""Seconds; `unisock.testing.connect` says what they are for."""

# The arguments of `connect` beside the options.
_OWN = (
    "on", "path", "headers", "subprotocols", "cookies", "client", "state", "timeout", "raises",
    "check_leaks", "overrides",
)  # fmt: skip
# What every handshake has (RFC 6455, section 4.1).
_HANDSHAKE = (
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The handshake that a test asks for.

    Attributes:
        scheme: ``"ws"`` or ``"wss"``.
        host: the Host header.
        target: path and query, percent-encoded.
        template: what the path is an instance of.
        headers: headers beside the handshake's own.
        subprotocols: what is offered.
        client: the peer's address.
        state: what middleware has left.
    """

    scheme: str
    host: str
    target: str
    template: PathTemplate
    headers: list[tuple[str, str]]
    subprotocols: tuple[str, ...]
    client: Address | None
    state: dict[str, Any]

    @property
    def path(self) -> str:
        """The path, percent-encoded."""
        return self.target.partition("?")[0]

    def in_memory(self) -> MemoryHandshake:
        """What the handler sees where no server stands between."""
        params = self.template.match(unquote(self.path))
        assert params is not None
        offer = [("Sec-WebSocket-Protocol", ", ".join(self.subprotocols))]
        return MemoryHandshake(
            scheme=self.scheme,
            raw_path=self.path,
            query_string=self.target.partition("?")[2],
            raw_headers=[
                ("Host", self.host),
                *_HANDSHAKE,
                *(offer if self.subprotocols else ()),
                *self.headers,
            ],
            path_params=params,
            client=self.client,
            framework_state=dict(self.state),
        )


class Connect(Protocol):
    """What `connect` is, and the fixtures that give it."""

    def __call__(self, target: Any, url: str = "/", **options: Any) -> Connecting:
        """As `connect`."""
        ...


def connect(
    target: Any,
    url: str = "/",
    *,
    on: str | None = None,
    path: str | None = None,
    headers: HeadersInput = (),
    subprotocols: Iterable[str] = (),
    cookies: Mapping[str, str] | None = None,
    client: tuple[str, int] | None = None,
    state: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    raises: Raises | None = None,
    check_leaks: bool = True,
    overrides: Overrides | None = None,
    **options: Any,
) -> Connecting:
    """Run a handler for one connection, and be its peer.

    ::

        async with connect(chat, "/rooms/7", path="/rooms/{room:int}") as peer:
            await peer.send_text("hi")
            assert await peer.receive_text() == "hi"

    In a plain test the same with ``with``, and without ``await``.  Entering the
    block makes the connection.  Leaving it closes, waits for the handler's end,
    and raises what the handler has raised.

    Args:
        target: a handler, in any form; or a framework's application, which is
            served by its own server.
        url: ``/rooms/7?x=1``, or all of ``ws://app.example/rooms/7``.
        on: the framework to mount the handler on, as ``"falcon"``, behind its
            server and a real socket; ``"memory"``, or `None`, for neither.
        path: the template that the handler is mounted with; by default the path
            of `url` itself.
        headers: request headers, a mapping or pairs.
        subprotocols: what the client offers.
        cookies: names and values.
        client: host and port that the client comes from; in memory only.
        state: what `WebSocket.state` holds, as middleware would leave it.
        timeout: seconds that each wait may take, 1 by default; the message of
            `PeerTimeout` says what was awaited, where the handler is and what it
            has sent.
        raises: what the handler is expected to raise, an exception or several.
        check_leaks: whether tasks that the handler leaves running are an error.
        overrides: what is called in place of a dependency: ``{get_db: fake_db}``.
        **options: those of `unisock.mount`.

    Returns:
        A context manager, async and plain; its value is a `Peer` or a `SyncPeer`.

    Raises (on entering):
        ConnectionRejected: the handshake was answered with an HTTP response.
        PeerTimeout: the handler neither accepts nor rejects.
        Exception: what the handler raised before it accepted, unless `raises` says
            so: then it is the cause of `ConnectionRejected`.

    Raises (on leaving):
        PeerTimeout: the handler has not ended.
        LeakedTasks: it has, but not tasks that it has started.
        PeerError: it has not raised what `raises` says.
        Exception: what the handler has raised and `raises` does not say.
    """
    request = _request(url, path, headers, cookies, subprotocols, client, state)
    wait = DEFAULT_TIMEOUT if timeout is None else timeout
    if wait <= 0:
        raise ValueError(f"timeout= must be above 0, not {timeout!r}")
    if on is not None:
        check_framework(on)
    for name in options:
        if name not in OptionsDict.__annotations__ and (close := get_close_matches(name, _OWN, 1)):
            raise TypeError(f"unknown argument {name!r}; did you mean {close[0]!r}?")
    handler = _handler(target, cast(OptionsDict, options), overrides)
    if handler is None and (path or state or raises or options or overrides):
        raise TypeError("an application has its own routes and options: give the URL alone")
    if handler is not None and on in (None, MEMORY):
        return Connecting(
            lambda: MemoryWire(handler, request.in_memory()), wait, raises, check_leaks
        )
    if client is not None or request.scheme == "wss":
        raise TypeError("a client of one's choice and wss:// are of connections in memory")
    return Connecting(lambda: SocketWire(handler or target, request, on), wait, raises, check_leaks)


class Connecting:
    """One connection under test, to be entered once: see `connect`."""

    def __init__(
        self,
        create_wire: Callable[[], Wire],
        timeout: float,
        raises: Raises | None,
        check_leaks: bool,
    ) -> None:
        self._create_wire = create_wire
        self._timeout = timeout
        self._raises = raises
        self._check_leaks = check_leaks

    async def __aenter__(self) -> Peer:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                "connect() needs asyncio: run the test on it, or write it plain, with `with`"
            ) from None
        if hasattr(self, "_wire"):
            raise RuntimeError("one connect() is one connection: call connect() again")
        self._wire = self._create_wire()
        self._watchdog = Watchdog(self._timeout)
        self._peer = Peer(self._wire, self._timeout)
        self._watchdog.start()
        try:
            await self._peer._open()
        except BaseException as exc:
            await self._take_down()
            failure = self._peer.exception
            if isinstance(exc, ConnectionRejected) and failure and not self._expects(failure):
                failure.add_note(str(exc))
                raise failure from None
            raise
        return self._peer

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            error = await self._peer._finish(self._check_leaks)
        finally:
            await self._take_down()
        self._judge(exc, error)

    def _expects(self, failure: BaseException) -> bool:
        return self._raises is not None and isinstance(failure, self._raises)

    def _judge(self, exc: BaseException | None, error: PeerError | None) -> None:
        """Raise what is wrong, the handler's failure before all else.

        Args:
            exc: what the block has raised.
            error: what is wrong with the handler's end.
        """
        failure = self._peer.exception
        if failure is not None and self._expects(failure):
            failure = None
        elif failure is None and error is None and self._raises:
            error = self._peer._not_raised(self._raises)
        if exc is not None and (failure is None or not isinstance(exc, Exception)):
            # The block's own, as of an assertion; also Ctrl-C, and pytest.fail().
            for other in (failure, error):
                if other is not None:
                    exc.add_note(f"{type(other).__name__}: {other}")
        elif failure is not None:
            raise failure
        elif error is not None:
            raise error

    async def _take_down(self) -> None:
        # In a task of its own, for this one may be cancelled again and again, as by
        # anyio's scopes; what was started has to end all the same.
        await asyncio.shield(asyncio.create_task(self._end()))

    async def _end(self) -> None:
        try:
            await self._wire.end(self._timeout, self._check_leaks)
        finally:
            self._watchdog.stop()

    # For plain tests: the same in an event loop of its own

    def __enter__(self) -> SyncPeer:
        self._thread = LoopThread.acquire()
        try:
            peer = self._thread.call(self.__aenter__(), self._timeout)
        except BaseException:
            self._thread.release()
            raise
        return SyncPeer(peer, self._thread, self._timeout)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            if not self._thread.blocked:
                self._thread.call(self.__aexit__(exc_type, exc, tb), self._timeout)
        finally:
            self._thread.release()


def _handler(
    target: Any, options: OptionsDict, overrides: Overrides | None
) -> WatchedHandler | None:
    """The handler to be watched, or `None` for an application."""
    if not is_handler(target):
        return None
    return WatchedHandler(target, options, overrides)


def _request(
    url: str,
    path: str | None,
    headers: HeadersInput,
    cookies: Mapping[str, str] | None,
    subprotocols: Iterable[str],
    client: tuple[str, int] | None,
    state: Mapping[str, Any] | None,
) -> Request:
    scheme, host, target = _split(url)
    decoded = unquote(target.partition("?")[0])
    # A path of its own may hold what a template may not.
    literal = PathTemplate(tuple(decoded[1:].split("/")))
    template = literal if path is None else PathTemplate.parse(path)
    if template.match(decoded) is None:
        raise ValueError(f"{decoded} is no instance of path={path!r}: nothing would be found there")
    if isinstance(subprotocols, str):
        raise TypeError(f"subprotocols= takes a list, as [{subprotocols!r}]")
    pairs = CIMultiDict(headers or ()).items()
    listed = [_check_header(name, value) for name, value in pairs]
    if cookies:
        jar = "; ".join(f"{name}={value}" for name, value in cookies.items())
        listed.append(_check_header("Cookie", jar))
    return Request(
        scheme=scheme,
        host=host,
        target=target,
        template=template,
        headers=listed,
        subprotocols=tuple(subprotocols),
        client=CLIENT if client is None else Address(*client),
        state=dict(state or {}),
    )


def _split(url: str) -> tuple[str, str, str]:
    """Scheme, host and target of a URL, or of its path and query alone."""
    if not isinstance(url, str):
        raise TypeError(f"a URL is a str, not {type(url).__name__}")
    parts = urlsplit(url)
    if url.startswith("/") and not parts.netloc:
        scheme, host = "ws", "localhost"
    elif parts.scheme in ("ws", "wss") and parts.netloc:
        scheme, host = parts.scheme, parts.netloc
    else:
        raise ValueError(f"{url!r} is no URL of a WebSocket: write /rooms/7 or ws://host/rooms/7")
    if parts.fragment:
        raise ValueError(f"{url!r}: a WebSocket's URL has no fragment (RFC 6455, section 3)")
    query = f"?{parts.query}" if parts.query else ""
    target = f"{parts.path or '/'}{query}"
    return scheme, host, quote(target, safe=string.punctuation)  # as clients do


def _check_header(name: str, value: str) -> tuple[str, str]:
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(f"a header's name and value are str: {name!r}, {value!r}")
    if any(c in f"{name}{value}" for c in "\r\n\0"):
        raise ValueError(f"a header holds no line break: {name!r}, {value!r}")
    return name, value
