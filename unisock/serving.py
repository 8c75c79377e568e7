"""Run a handler on a framework and its server, for the command line.

One framework is one row of `FRAMEWORKS`.  A framework and its server are
imported when they are asked for, and no earlier.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

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
    origins: Iterable[str] | Literal["*"] | None


Run: TypeAlias = Callable[[socket.socket, Callable[[], None]], None]
"""Serve on a listening socket until SIGINT or SIGTERM; call back when it serves."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket: from now on no other process can take the port.

    Raises:
        ServeError: the host or the port cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listener = socket.create_server(address, family=family)
    except (OSError, UnicodeError) as exc:
        raise ServeError(_why_not_bound(exc, host, port)) from exc
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


def prepare(name: str, service: Service) -> Run:
    """Import the framework `name` and its server, and put the service on them.

    Raises:
        ServeError: a package of the extra is missing.
    """
    framework = FRAMEWORKS[name]
    try:
        return framework.server(framework.app(service))
    except ModuleNotFoundError as exc:
        raise ServeError(
            f"serving on {name} needs the package {exc.name}: pip install 'unisock[{name}]'"
        ) from exc


# Applications


def _asgi(service: Service) -> Any:
    from .adapters.asgi import ASGIApp

    return ASGIApp(service.handler, path=service.path, origins=service.origins)


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


def _mounted(app: Any, service: Service) -> Any:
    mount(app, service.path, service.handler, origins=service.origins)
    return app


# Servers


def _uvicorn(app: Any) -> Run:
    import uvicorn

    class Server(uvicorn.Server):
        on_started: Callable[[], None]

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            self.on_started()

    async def stoppable(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            # A handler that had not ended by itself; uvicorn would log it as
            # an error, with a traceback.
            if not server.should_exit:
                raise

    config = uvicorn.Config(
        stoppable, lifespan="off", log_config=None, timeout_graceful_shutdown=GRACE
    )
    config.load()
    if config.ws_protocol_class is None:
        raise ModuleNotFoundError(name="websockets")
    server = Server(config)

    def run(listener: socket.socket, on_started: Callable[[], None]) -> None:
        server.on_started = on_started
        server.run([listener])

    return run


def _gevent(app: Any) -> Run:
    import gevent
    from gevent.event import Event
    from gevent.pywsgi import WSGIServer

    from .adapters.flask import WebSocketHandler

    logger = logging.getLogger("gevent.pywsgi")

    def run(listener: socket.socket, on_started: Callable[[], None]) -> None:
        server = WSGIServer(
            listener, app, handler_class=WebSocketHandler, log=logger, error_log=logger
        )
        server.stop_timeout = GRACE
        stopping = Event()
        watchers = [gevent.signal_handler(each, stopping.set) for each in STOP_SIGNALS]
        server.start()
        on_started()
        stopping.wait()
        server.stop()
        # Else libev sets the signals to their default when the hub is destroyed,
        # and a second Ctrl-C kills what is ending.
        for watcher in watchers:
            watcher.cancel()

    return run


@dataclass(frozen=True, slots=True)
class Framework:
    """How an application with the service on it is made, and what serves that."""

    app: Callable[[Service], Any]
    server: Callable[[Any], Run]


FRAMEWORKS: Mapping[str, Framework] = MappingProxyType(
    {
        "asgi": Framework(_asgi, _uvicorn),
        "starlette": Framework(_starlette, _uvicorn),
        "fastapi": Framework(_fastapi, _uvicorn),
        "falcon": Framework(_falcon, _uvicorn),
        "flask": Framework(_flask, _gevent),
    }
)
"""The frameworks by name; ``--on all`` counts their ports in this order."""
