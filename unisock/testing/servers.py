"""Servers in this process, for handlers and applications under test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from contextlib import suppress
from inspect import isclass, isroutine, signature
from types import MappingProxyType, TracebackType
from typing import Any, ClassVar

from unisock.frameworks import AppServer, ServeError, Service, find, names, prepare
from unisock.handlers import check_handler
from unisock.mounting import adapter_of
from unisock.serving import bind

from .watching import WatchedHandler

MEMORY = "memory"
"""What stands for no framework and no server."""

HOST = "127.0.0.1"
# Seconds that a server may take to start, with all its imports, on a slow machine.
_START_TIMEOUT = 60.0
# Seconds that connections have to end when a test stops their server.
_GRACE = 1.0
# Seconds more until a server whose loop is blocked is left to itself.
_MARGIN = 0.5


def check_framework(on: str) -> None:
    """Raise for a name that is not a framework's.

    Raises:
        ValueError: it is not; the message has those that are.
    """
    if on != MEMORY and on not in (known := names()):
        raise ValueError(f"on={on!r} is no framework: use one of {', '.join(known)}")


def framework_of(app: object) -> str | None:
    """The name of the framework that an application is of, or `None`."""
    entry = adapter_of(app)
    if entry is not None:
        with suppress(ServeError):  # it has no record
            find(entry.name)
            return entry.name
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
            _check_served(target)
            raise
        return False
    if isroutine(target) or isclass(target) or adapter_of(target) is None:
        return True
    _check_served(target)  # an application that may be called with one argument, as a handler is
    return False


def _check_served(app: object) -> None:
    """Raise for an application of a framework that nothing here serves."""
    entry = adapter_of(app)
    if entry is not None and framework_of(app) is None:
        raise TypeError(
            f"{entry.name} has an adapter, but there is no server for it here: run its "
            "own, or connect() to the handler"
        )


def server_for(
    target: Any, on: str | None, path: str, options: Mapping[str, Any] = MappingProxyType({})
) -> AppServer:
    """The server for an application, or for a handler mounted on a framework.

    Raises:
        TypeError: neither of the two; `on` misses, or names another framework.
        ValueError: `on` is none that is known.
        unisock.frameworks.ServeError: a package is missing; the message names it.
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
    return find(name).server(target, _GRACE, True)


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
            with bind(HOST, 0) as listener:
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

    The framework's server runs in a thread, on a free port of 127.0.0.1: the one that
    ``unisock serve`` runs.  Leaving the block stops it as SIGTERM would.

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
        return f"ws://{HOST}:{self._thread.port}"

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
