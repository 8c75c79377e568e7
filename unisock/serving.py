"""Run a handler on a framework and its server, for the command line.

One framework is one row of `FRAMEWORKS`.  A framework and its server are
imported when they are asked for, and no earlier.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import signal
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

from .handlers import Handler
from .mounting import mount

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


@dataclass(frozen=True, slots=True)
class Service:
    """What to serve, on whichever framework."""

    handler: Handler
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)


class AppServer(ABC):
    """A framework's server with an application, to be run once.

    Args:
        app: the application.
        grace: seconds that open connections have to end when it stops.
        lifespan: whether the application has anything to do when the server starts
            and stops.  Where it has not, an ASGI server need not ask: one that is
            interrupted amid that logs tracebacks.
    """

    def __init__(self, app: Any, grace: float = GRACE, lifespan: bool = False) -> None:
        self._app = app
        self._grace = grace

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


def bind(host: str, port: int) -> socket.socket:
    """A listening socket: from now on no other process can take the port.

    Raises:
        ServeError: the host or the port cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        created = socket.create_server(address, family=family)
    except (OSError, UnicodeError) as exc:
        raise ServeError(_why_not_bound(exc, host, port)) from exc
    # Python asks the system for the protocol only of a descriptor.  Without it asyncio sets
    # no TCP_NODELAY, and small messages wait for the peer's acknowledgement.
    listener = socket.socket(fileno=created.detach())
    listener.setblocking(False)  # gevent takes a socket as it is
    return listener


def _why_not_bound(exc: Exception, host: str, port: int) -> str:
    if isinstance(exc, socket.gaierror | UnicodeError):
        return f"cannot resolve the host {host!r}: give a name or an address with --host"
    match getattr(exc, "errno", None):
        case errno.EADDRINUSE:
            return f"port {port} on {host} is taken: choose another with --port"
        case errno.EACCES:
            return f"port {port} needs more rights: choose one above 1023 with --port"
        case errno.EADDRNOTAVAIL:
            return f"{host} is not an address of this machine: choose another with --host"
        case _:
            return f"cannot listen on {host}, port {port}: {exc}"


def prepare(name: str, service: Service, grace: float = GRACE) -> AppServer:
    """Import the framework `name` and its server, and put the service on them.

    Raises:
        ServeError: a package of the extra is missing.
    """
    framework = FRAMEWORKS[name]
    try:
        return framework.server(framework.app(service), grace, False)
    except ModuleNotFoundError as exc:
        raise ServeError(
            f"serving on {name} needs the package {exc.name}: pip install 'unisock[{name}]'"
        ) from exc


# Applications


def _asgi(service: Service) -> Any:
    from .adapters.asgi import ASGIApp

    return ASGIApp(service.handler, path=service.path, **service.options)


def _starlette(service: Service) -> Any:
    from starlette.applications import Starlette

    return _mounted(Starlette(), service)


def _fastapi(service: Service) -> Any:
    from fastapi import FastAPI

    return _mounted(FastAPI(), service)


def _falcon(service: Service) -> Any:
    from falcon.asgi import App

    return _mounted(App(), service)


def _flask(service: Service) -> Any:
    from flask import Flask

    return _mounted(Flask(__name__, static_folder=None), service)


def _aiohttp(service: Service) -> Any:
    from aiohttp.web import Application

    return _mounted(Application(), service)


def _mounted(app: Any, service: Service) -> Any:
    mount(app, service.path, service.handler, **service.options)
    return app


# Servers


class _Uvicorn(AppServer):
    def __init__(self, app: Any, grace: float = GRACE, lifespan: bool = False) -> None:
        super().__init__(app, grace, lifespan)
        import uvicorn

        from .adapters.uvicorn import WebSocketProtocol

        config = uvicorn.Config(
            self._stoppable,
            ws=WebSocketProtocol,
            lifespan="auto" if lifespan else "off",
            interface="asgi3",  # it does not see that of a method
            log_config=None,
            # There is no proxy, and the other servers believe nobody either.
            proxy_headers=False,
            # uvicorn counts whole seconds
            timeout_graceful_shutdown=math.ceil(grace),
        )
        self._server = uvicorn.Server(config)

    def run(self, listener: socket.socket, on_started: Callable[[], None]) -> None:
        startup = self._server.startup

        async def start(sockets: list[socket.socket] | None = None) -> None:
            await startup(sockets)
            if self._server.started:  # not where the application's own startup failed
                on_started()

        self._server.startup = start  # type: ignore[method-assign]  # it has no hook for that
        self._server.run([listener])

    def stop(self) -> None:
        self._server.should_exit = True

    async def _stoppable(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            # A handler that had not ended by itself; uvicorn would log it as
            # an error, with a traceback.
            if not self._server.should_exit:
                raise


class _Gevent(AppServer):
    _stop: Any

    def __init__(self, app: Any, grace: float = GRACE, lifespan: bool = False) -> None:
        super().__init__(app, grace, lifespan)
        from .adapters.flask import WSGIServer

        self._server_class = WSGIServer

    def run(self, listener: socket.socket, on_started: Callable[[], None]) -> None:
        try:
            self._run(listener, on_started)
        finally:
            if threading.current_thread() is not threading.main_thread():
                from .adapters.gevent_loop import end_hub

                end_hub()  # a hub holds descriptors until it is told to end

    def _run(self, listener: socket.socket, on_started: Callable[[], None]) -> None:
        import gevent

        logger = logging.getLogger("gevent.pywsgi")
        server = self._server_class(listener, self._app, log=logger, error_log=logger)
        self._stop = gevent.get_hub().loop.async_()  # what another thread may wake a hub with
        self._stop.start(server.close)
        # Before the greenlet is there: the hub runs while the host's name is looked up.
        server.start()
        gevent.spawn(on_started)  # when it serves, and a signal stops it
        server.serve_forever(self._grace)
        self._stop.close()

    def stop(self) -> None:
        self._stop.send()


class _Aiohttp(AppServer):
    _loop: asyncio.AbstractEventLoop
    _stopping: asyncio.Event

    def __init__(self, app: Any, grace: float = GRACE, lifespan: bool = False) -> None:
        super().__init__(app, grace, lifespan)
        from aiohttp.web import AppRunner, SockSite

        # It waits so long for handlers to end, and once more when they are cancelled.
        self._runner = AppRunner(app, shutdown_timeout=grace / 2)
        self._site_class = SockSite

    def run(self, listener: socket.socket, on_started: Callable[[], None]) -> None:
        # A second signal has cancelled it.
        with suppress(asyncio.CancelledError):
            asyncio.run(self._serve(listener, on_started))

    def stop(self) -> None:
        with suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def _serve(self, listener: socket.socket, on_started: Callable[[], None]) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        task = asyncio.current_task()
        assert task is not None
        for number in _signals():
            self._loop.add_signal_handler(number, self._on_signal, task)
        await self._runner.setup()
        try:
            await self._site_class(self._runner, listener).start()
            on_started()
            await self._stopping.wait()
        finally:
            await self._runner.cleanup()

    def _on_signal(self, task: asyncio.Task[None]) -> None:
        if self._stopping.is_set():
            task.cancel()
        self._stopping.set()


def _signals() -> Iterable[signal.Signals]:
    return STOP_SIGNALS if threading.current_thread() is threading.main_thread() else ()


@dataclass(frozen=True, slots=True)
class Framework:
    """How an application with the service on it is made, and what serves that.

    Attributes:
        app: makes the application.
        server: makes its server, as `AppServer`.
        packages: what both import.
    """

    app: Callable[[Service], Any]
    server: Callable[[Any, float, bool], AppServer]
    packages: tuple[str, ...]

    def is_installed(self) -> bool:
        """Whether all of it can be imported."""
        return all(map(find_spec, self.packages))


_UVICORN = ("uvicorn", "websockets")  # our class for it needs both


FRAMEWORKS: Mapping[str, Framework] = MappingProxyType(
    {
        "asgi": Framework(_asgi, _Uvicorn, _UVICORN),
        "starlette": Framework(_starlette, _Uvicorn, ("starlette", *_UVICORN)),
        "fastapi": Framework(_fastapi, _Uvicorn, ("fastapi", *_UVICORN)),
        "falcon": Framework(_falcon, _Uvicorn, ("falcon", *_UVICORN)),
        "flask": Framework(_flask, _Gevent, ("flask", "gevent", "geventwebsocket", "websockets")),
        "aiohttp": Framework(_aiohttp, _Aiohttp, ("aiohttp",)),
    }
)
"""The frameworks by name; ``--on all`` counts their ports in this order."""
