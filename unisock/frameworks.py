"""A framework is one record: what serves it, what that needs, what `doctor` knows of it.

An entry point of the group ``unisock.adapters`` leads to a module with a `Framework`
called ``FRAMEWORK``.  ``unisock serve``, ``unisock doctor`` and the servers of
`unisock.testing` ask it, for unisock's own frameworks as for a third party's.

A record is read to list frameworks, also where a framework is not installed.  So its
module imports the framework and the server in functions, when they are asked for.  A
distribution that requires its framework may have ``FRAMEWORK`` beside ``mount``, in
the adapter itself.
"""

from __future__ import annotations

import asyncio
import math
import signal
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from .handlers import Handler
from .mounting import adapters, install_command, missing_package, mount, only
from .transport import Capabilities

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 5
"""Seconds that open connections have to end when a server stops."""


class ServeError(Exception):
    """What the user has to know; `str` is one line that says what to do.

    Attributes:
        status: the exit status.
    """

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(" ".join(message.split()))
        self.status = status


class NotInstalled(ServeError):
    """A package of a framework is missing."""


@dataclass(frozen=True, slots=True)
class Service:
    """What to serve, on whichever framework.

    Attributes:
        handler: the handler, in any form.
        path: what it is mounted at.
        options: those of `unisock.mount`.
    """

    handler: Handler
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def mount_on(self, app: Any) -> Any:
        """Mount the handler on an application; return the application."""
        mount(app, self.path, self.handler, **self.options)
        return app


class AppServer(ABC):
    """A framework's server with an application, to be run once.

    Args:
        app: the application.
        grace: seconds that open connections have to end when it stops.
        lifespan: whether the application has anything to do when the server starts
            and stops.  Where it has not, an ASGI server need not ask: one that is
            interrupted amid that logs tracebacks.

    Attributes:
        app: the application.
        grace: the seconds.

    Raises:
        ModuleNotFoundError: a package that it needs is missing.
    """

    def __init__(self, app: Any, grace: float = GRACE, lifespan: bool = False) -> None:
        self.app = app
        self.grace = grace

    @abstractmethod
    def run(self, listener: socket.socket, on_started: Callable[[], None]) -> None:
        """Serve until `stop`; in the main thread until SIGINT or SIGTERM too.

        Args:
            listener: a listening socket.
            on_started: called when it serves.
        """

    @abstractmethod
    def stop(self) -> None:
        """End `run`, from any thread, as soon as it has called `on_started`."""


class AsyncioServer(AppServer):
    """A server that runs on asyncio."""

    _loop: asyncio.AbstractEventLoop
    _stopping: asyncio.Event

    def run(self, listener: socket.socket, on_started: Callable[[], None]) -> None:
        """Serve until `stop` or a signal; a second signal cancels `serve`."""
        with suppress(asyncio.CancelledError):
            asyncio.run(self._run(listener, on_started))

    def stop(self) -> None:
        """End `run`."""
        with suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._stopping.set)

    @abstractmethod
    async def serve(
        self, listener: socket.socket, on_started: Callable[[], None], stopping: asyncio.Event
    ) -> None:
        """Serve until `stopping` is set, and give connections `grace` seconds to end.

        Args:
            listener: a listening socket.
            on_started: to be called when it serves.
            stopping: is set by `stop` and by a signal.
        """

    async def _run(self, listener: socket.socket, on_started: Callable[[], None]) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        task = asyncio.current_task()
        assert task is not None
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self._loop.add_signal_handler(number, self._on_signal, task)
        await self.serve(listener, on_started, self._stopping)

    def _on_signal(self, task: asyncio.Task[None]) -> None:
        if self._stopping.is_set():
            task.cancel()
        self._stopping.set()


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that ``unisock doctor`` warns of.

    Attributes:
        code: its name, for machines.
        text: what happens.
        remedy: what to do.
    """

    code: str
    text: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What ``unisock doctor`` looks at.

    Attributes:
        gunicorn: gunicorn's settings, as pairs of the place and the text there.
        app: the application that was named, or `None`.
        names: what the application's module has.
    """

    gunicorn: Sequence[tuple[str, str]]
    app: Any = None
    names: Mapping[str, Any] = field(default_factory=dict)


def _no_traps(_: Surroundings) -> Iterable[Finding]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """A framework, to be served and examined.  Its name is that of its entry point.

    Attributes:
        application: makes an application with a service on it.
        server: makes the server of an application, as `AppServer`.
        packages: the modules that both import, by the name that pip knows them by.
        adapter: the name of the module with ``mount`` and ``APPLICATIONS``, where
            that is not the record's own module.
        command: how an application is run, with ``{}`` for ``MODULE:APP``.
        capabilities: what each server can do.  A key is the name of the server's
            package, as ``"gunicorn"``; ``"gunicorn, stock handler"`` is a variant of it.
        traps: finds what is in the way.  It is called where the framework is installed.
    """

    application: Callable[[Service], Any]
    server: Callable[[Any, float, bool], AppServer]
    packages: Mapping[str, str]
    adapter: str | None = None
    command: str | None = None
    capabilities: Mapping[str, Capabilities] = field(default_factory=dict)
    traps: Callable[[Surroundings], Iterable[Finding]] = _no_traps

    def is_installed(self) -> bool:
        """Whether all of it can be imported."""
        return all(map(find_spec, self.packages.values()))


def names() -> list[str]:
    """The frameworks that have an adapter or a record, in alphabetical order."""
    return list(adapters())


def find(name: str) -> Framework:
    """The record of a framework.

    Raises:
        NotInstalled: its module imports a package that is missing.
        ServeError: there is no record, or none that can be loaded.
    """
    try:
        entry = only(adapters()[name])
        module = entry.load()
    except KeyError:
        raise ServeError(f"{name} has no adapter: one of {', '.join(names())} has") from None
    except ModuleNotFoundError as exc:
        raise NotInstalled(_missing(name, exc)) from exc
    except Exception as exc:  # whatever a broken module raises
        raise ServeError(f"the adapter of {name} cannot be loaded: {exc}") from exc
    record = getattr(module, "FRAMEWORK", None)
    if not isinstance(record, Framework):
        raise ServeError(
            f"{name} has an adapter, but {entry.module} has no FRAMEWORK that says what serves it: "
            "run the framework's own server"
        )
    return record


def why_not(name: str) -> str:
    """Why nothing can be served on a framework; empty where it can."""
    try:
        found = find(name)
    except ServeError as exc:
        return str(exc)
    if found.is_installed():
        return ""
    return f"{name} is not installed: {install_command(adapters()[name])}"


def prepare(name: str, service: Service, grace: float = GRACE) -> AppServer:
    """Import the framework `name` and its server, and put the service on them.

    Raises:
        NotInstalled: a package is missing.
        ServeError: it has no record that can be loaded.
    """
    framework = find(name)
    try:
        return framework.server(framework.application(service), grace, False)
    except ModuleNotFoundError as exc:
        raise NotInstalled(_missing(name, exc)) from exc


def _missing(name: str, exc: ModuleNotFoundError) -> str:
    return f"serving on {name} {missing_package(exc, adapters()[name])}"


# The server of the ASGI frameworks

UVICORN = {"uvicorn": "uvicorn", "websockets": "websockets"}
"""What `Uvicorn` needs: a part of the `packages` of an ASGI framework."""


class Uvicorn(AppServer):
    """uvicorn with unisock's WebSocket class, for the applications of any ASGI framework."""

    def __init__(self, app: Any, grace: float = GRACE, lifespan: bool = False) -> None:
        super().__init__(app, grace, lifespan)
        import uvicorn

        config = uvicorn.Config(
            self._stoppable,
            ws="unisock.adapters.uvicorn:WebSocketProtocol",
            lifespan="auto" if lifespan else "off",
            interface="asgi3",  # it does not see that of a method
            log_config=None,
            # There is no proxy, and the other servers believe nobody either.
            proxy_headers=False,
            # uvicorn counts whole seconds
            timeout_graceful_shutdown=math.ceil(grace),
        )
        config.load()  # the class, which needs the package websockets
        self._server = uvicorn.Server(config)

    def run(self, listener: socket.socket, on_started: Callable[[], None]) -> None:
        """Serve until `stop` or a signal."""
        startup = self._server.startup

        async def start(sockets: list[socket.socket] | None = None) -> None:
            await startup(sockets)
            if self._server.started:  # not where the application's own startup failed
                on_started()

        self._server.startup = start  # type: ignore[method-assign]  # it has no hook for that
        self._server.run([listener])

    def stop(self) -> None:
        """End `run`."""
        self._server.should_exit = True

    async def _stoppable(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self.app(scope, receive, send)
        except asyncio.CancelledError:
            # A handler that had not ended by itself; uvicorn would log it as
            # an error, with a traceback.
            if not self._server.should_exit:
                raise
