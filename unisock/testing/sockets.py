"""A framework's server in this process, and a peer on a real socket to it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from inspect import signature
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from multidict import CIMultiDict, CIMultiDictProxy

from unisock.handlers import check_handler
from unisock.mounting import adapters, packages_of
from unisock.paths import Parameter
from unisock.serving import FRAMEWORKS, AppServer, Service, bind, prepare
from unisock.transport import ConnectionLost

from .watching import Watch, WatchedHandler
from .wires import Answer, Wire

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

    from .connecting import Request

MEMORY = "memory"
"""What stands for no framework and no server."""

_HOST = "127.0.0.1"
# Seconds that a server may take to start, with all its imports, on a slow machine.
_START_TIMEOUT = 60.0
# Seconds that connections have to end when a test stops their server.
_GRACE = 1.0
# Seconds more until a server whose loop is blocked is left to itself.
_MARGIN = 0.5
# How many messages are read ahead of the test, beside what the system holds.
_READ_AHEAD = 1


def check_framework(on: str) -> None:
    """Raise for a name that is none.

    Raises:
        ValueError: it is not; the message has those that are.
    """
    if on not in FRAMEWORKS and on != MEMORY:
        raise ValueError(f"on={on!r} is no framework: use one of {', '.join(FRAMEWORKS)}")


def framework_of(app: object) -> str | None:
    """The name of the framework that an application is of, or `None`."""
    for package in packages_of(type(app)):
        if package in FRAMEWORKS:
            return package
    try:
        signature(app).bind(None, None, None)  # type: ignore[arg-type]  # that is what is tried
    except (TypeError, ValueError):
        return None
    return "asgi"


def is_handler(target: Any) -> bool:
    """Whether `target` is a handler, and no application.

    Raises:
        TypeError: it is neither.
    """
    try:
        check_handler(target)
    except TypeError:
        if framework_of(target) is None:
            for package in packages_of(type(target)):
                if package in adapters():
                    raise TypeError(
                        f"{package} has an adapter, but there is no server for it here: run its "
                        "own, or connect() to the handler"
                    ) from None
            raise
        return False
    return True


def server_for(
    target: Any, on: str | None, path: str, options: Mapping[str, Any] = MappingProxyType({})
) -> AppServer:
    """The server for an application, or for a handler mounted on a framework.

    Raises:
        TypeError: neither of the two; `on` misses, or names another framework.
        ValueError: `on` is none that is known.
        unisock.serving.ServeError: a package is missing; the message names it.
    """
    if on is not None:
        check_framework(on)
    if is_handler(target):
        if on in (None, MEMORY):
            raise TypeError("a handler is served on a framework: say which with on=")
        assert on is not None
        return prepare(on, Service(target, path, options), _GRACE)
    if options or path != "/":
        raise TypeError("an application has its own routes and options")
    name = framework_of(target)
    assert name is not None
    if on not in (None, name):
        raise TypeError(f"on={on!r}, but this is an application of {name}: leave `on` out")
    return FRAMEWORKS[name].server(target, _GRACE)


class ServerThread:
    """A server that runs in a thread of this process, on a port of its own."""

    def __init__(self, server: AppServer) -> None:
        self._server = server
        self.port = 0
        self._changed = threading.Event()
        self._serves = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="unisock server", daemon=True)

    def _run(self) -> None:
        try:
            with bind(_HOST, 0) as listener:
                self.port = listener.getsockname()[1]
                self._server.run(listener, self._on_started)
        except BaseException as exc:  # noqa: BLE001  # told by `start`
            self._error = exc
        finally:
            self._changed.set()

    def _on_started(self) -> None:
        self._serves = True
        self._changed.set()

    def start(self) -> None:
        """Start, and wait until it serves.

        Raises:
            RuntimeError: it does not.
        """
        self._thread.start()
        self._changed.wait(_START_TIMEOUT)
        if not self._serves:
            why = self._error or "see its log"
            raise RuntimeError(f"the server has not started: {why}") from self._error

    def stop(self) -> None:
        """Stop, as at SIGTERM, and wait for the end."""
        if self._serves and self._thread.is_alive():
            self._server.stop()
        self._thread.join(_GRACE + _MARGIN)


class SharedServer:
    """A server for all the connections under test that are open at once to the same target.

    They share it, so that handlers may send to each other's peers.

    Args:
        target: a handler that is watched, or an application.
        on: the framework for the handler.
        path: what the handler is mounted at.

    Attributes:
        handler: the handler, if it is one.
        thread: the server.
    """

    _open: ClassVar[list[SharedServer]] = []
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, target: Any, on: str | None, path: str) -> None:
        self.handler = target if isinstance(target, WatchedHandler) else None
        self.thread = ServerThread(server_for(target, on, path))
        self._key = (self.handler.given if self.handler else target, on, path)
        self._users = 0

    @classmethod
    def acquire(cls, target: Any, on: str | None, path: str) -> SharedServer:
        """The one that runs, or a new one, started."""
        given = target.given if isinstance(target, WatchedHandler) else target
        with cls._lock:
            server = next((each for each in cls._open if each._key == (given, on, path)), None)
            if server is None:
                server = cls(target, on, path)
                server.thread.start()
                cls._open.append(server)
            server._users += 1
            return server

    def stop(self) -> None:
        """Stop it; whoever connects next gets another."""
        with self._lock:
            if self in self._open:
                self._open.remove(self)
        self.thread.stop()

    def release(self) -> None:
        """Stop it, if nobody else has it."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
            if self in self._open:  # while the lock is held: nobody gets what stops
                self._open.remove(self)
        self.thread.stop()


class serve:  # noqa: N801  # a context manager that is used like a function, as contextlib's
    """Serve an application, or a handler on a framework, in this process.

    ::

        with serve(app) as url:
            ...  # url is as "ws://127.0.0.1:49152"

    The framework's server runs in a thread, on a free port of 127.0.0.1: uvicorn,
    gevent's for Flask, aiohttp's own.  Leaving the block stops it as SIGTERM would.

    Args:
        target: an application, or a handler in any form.
        on: the framework, where `target` is a handler.
        path: where the handler is mounted.
        **options: those of `unisock.mount`, for the handler.

    Raises:
        TypeError, ValueError: what cannot be served; the message says why.
        RuntimeError: on entering, when the server does not start.
    """

    def __init__(self, target: Any, on: str | None = None, path: str = "/", **options: Any) -> None:
        self._thread = ServerThread(server_for(target, on, path, options))

    def __enter__(self) -> str:
        self._thread.start()
        return f"ws://{_HOST}:{self._thread.port}"

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._thread.stop()

    async def __aenter__(self) -> str:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self._thread.stop)


class SocketWire(Wire):
    """A connection to a server in this process.

    Args:
        target: a handler that is watched, or an application.
        request: the handshake.
        on: the framework for the handler.
    """

    def __init__(self, target: Any, request: Request, on: str | None) -> None:
        super().__init__()
        self._target = target
        self._request = request
        self._on = on
        self._acquiring: asyncio.Task[SharedServer] | None = None
        self._server: SharedServer | None = None
        self._key = ""
        self._reading = asyncio.Event()
        self._reading.set()
        self._ws: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def watch(self) -> Watch | None:
        """The watch over the handler; `None` if it is in an application."""
        handler = self._server.handler if self._server else None
        return handler.watches.get(self._key) if handler else None

    async def prepare(self) -> None:
        """Start the server, unless it runs."""
        if find_spec("websockets") is None:
            raise ModuleNotFoundError(
                "a peer on a socket needs the package websockets: pip install websockets",
                name="websockets",
            )
        path = _spell(self._request) if isinstance(self._target, WatchedHandler) else "/"
        acquiring = asyncio.to_thread(SharedServer.acquire, self._target, self._on, path)
        # A task, for who is cancelled while it starts has to stop it: see `end`.
        self._acquiring = asyncio.create_task(acquiring)
        self._server = await asyncio.shield(self._acquiring)

    async def open(self) -> Answer:
        """Connect, with the client of the `websockets` package."""
        # For sockets alone:
        from websockets.asyncio.client import ClientConnection, connect  # noqa: PLC0415

        request = self._request
        assert self._server is not None
        handler = self._server.handler
        clients: list[ClientConnection] = []

        def create(protocol: Any, **settings: Any) -> ClientConnection:
            self._key = protocol.key
            if handler is not None:
                handler.states[self._key] = request.state
            clients.append(ClientConnection(protocol, **settings))
            return clients[0]

        # One that is connected: the environment's proxy is not asked.
        connection = socket.create_connection((_HOST, self._server.thread.port))
        try:
            self._ws = await connect(
                f"ws://{request.host}{request.target}",
                sock=connection,
                additional_headers=request.headers,
                subprotocols=list(request.subprotocols) or None,  # type: ignore[arg-type]  # a NewType
                compression=None,
                max_size=None,
                max_queue=_READ_AHEAD,
                open_timeout=None,
                ping_interval=None,
                create_connection=create,  # type: ignore[arg-type]  # it is called, and no more
            )
        except Exception:
            # That of a redirect, too, which it would follow if it could.
            response = clients[0].response if clients else None
            if response is None or response.status_code == 101:
                raise
            self.inbox.disconnect(1006)
            return _answer(response, None)
        self._reader = asyncio.create_task(self._read(self._ws))
        assert self._ws.response is not None
        return _answer(self._ws.response, self._ws.subprotocol)

    async def _read(self, ws: ClientConnection) -> None:
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415

        room = asyncio.Event()
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self._reading.wait()
                message = await ws.recv()
                await self._reading.wait()
                if not self.deliver(message):
                    room.clear()
                    self.inbox.call_on_room(room.set)
                    await room.wait()
        self.inbox.disconnect(ws.close_code or 1006, ws.close_reason or "")

    async def send(self, message: str | bytes) -> None:
        """Send it in one frame."""
        await self._send(message)

    async def send_fragments(self, fragments: Iterable[str] | Iterable[bytes]) -> None:
        """Send each in a frame of its own."""
        await self._send(fragments)

    async def _send(self, data: str | bytes | Iterable[str] | Iterable[bytes]) -> None:
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415

        try:
            await self._open_ws.send(data)
        except ConnectionClosed as exc:
            assert self._reader is not None
            await asyncio.wait([self._reader])  # it knows the code
            raise ConnectionLost from exc

    @property
    def _open_ws(self) -> ClientConnection:
        assert self._ws is not None
        return self._ws

    async def close(self, code: int | None, reason: str) -> None:
        """Send the close frame, and wait for the answer."""
        ws = self._open_ws
        self.inbox.unbound()  # the answer stands behind what the handler has sent
        if code is None:
            async with ws.send_context():
                ws.protocol.send_close()
        else:
            await ws.close(code, reason)
        assert self._reader is not None
        await asyncio.wait([self._reader])

    def vanish(self) -> None:
        """Abort the TCP connection."""
        self._open_ws.transport.abort()

    def pause_reading(self) -> None:
        """Leave in the system's buffers what comes."""
        self._reading.clear()

    def resume_reading(self) -> None:
        """Read on."""
        self._reading.set()

    async def stop_server(self) -> None:
        """Stop it as at SIGTERM."""
        assert self._server is not None
        await asyncio.to_thread(self._server.stop)

    async def end(self, patience: float, cancel_left: bool) -> None:
        """Drop the connection, and the server, which ends what the handler has left."""
        try:
            if self._ws is not None:
                self._ws.transport.abort()
            if self._reader is not None:
                self._reader.cancel()
                await asyncio.wait([self._reader])
        finally:
            if self._acquiring is not None:
                await asyncio.wait([self._acquiring])
                if self._acquiring.exception() is None:
                    await asyncio.to_thread(self._acquiring.result().release)


def _answer(response: Any, subprotocol: str | None) -> Answer:
    headers = CIMultiDictProxy(CIMultiDict(response.headers.raw_items()))
    return Answer(response.status_code, headers, bytes(response.body or b""), subprotocol)


def _spell(request: Request) -> str:
    """The template as `unisock.mount` takes it."""
    return request.template.render(_spell_parameter)


def _spell_parameter(parameter: Parameter) -> str:
    return f"{{{parameter.name}:{parameter.converter.name}}}"
