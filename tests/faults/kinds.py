"""The applications of these tests on every kind of server, in processes of their own.

Such a process takes from the environment ``PORT``, its ``KIND``, the seconds that it waits
for its connections when it stops, ``GRACE``, and ``PING``: the seconds between keepalive
pings and until a peer that answers none counts as gone, 0 for none; by default the server's.
With ``TRUST`` the application believes ``X-Forwarded-Host``.  ``UVICORN_WS`` is uvicorn's
option ``--ws``: with ``unisock.adapters.uvicorn:WebSocketProtocol`` its kinds run on that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import unisock
from tests.frameworks import FRAMEWORKS
from tests.servers import Server
from unisock.frameworks import Service, find
from unisock.serving import bind

KIND = os.environ.get("KIND", "")
GRACE = int(os.environ.get("GRACE", "4"))
PING = float(os.environ.get("PING", "0"))

MAIN = FRAMEWORKS
"""The kinds that are a framework on its main server."""
KINDS = (*MAIN, "hypercorn", "gunicorn")
"""Starlette on hypercorn and Flask on gunicorn as well."""
UVICORN = tuple(name for name in MAIN if "uvicorn" in find(name).packages)
GEVENT = ("flask", "gunicorn")


class KindServer(Server):
    """A kind of server with the handlers of a module of this folder."""

    def __init__(
        self, folder: Path, kind: str, handlers: str = "serving", **environment: str
    ) -> None:
        self.kind = kind
        source = f"from tests.faults.kinds import main\nmain({handlers!r})\n"
        root = str(Path(__file__).parents[2])
        super().__init__(folder, source, KIND=kind, PYTHONPATH=root, **environment)


def handshake(path: str, *headers: str, host: str = "localhost") -> bytes:
    """The bytes of a handshake, for a client that sends them when it likes."""
    lines = [
        f"GET {path} HTTP/1.1",
        *([f"Host: {host}"] if host else []),
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


# In the server's process


def _pings(prefix: str = "") -> dict[str, float | None]:
    """The options of keepalive, where they are not the server's own."""
    names = (f"{prefix}ping_interval", f"{prefix}ping_timeout") if "PING" in os.environ else ()
    return dict.fromkeys(names, PING or None)


def make_app(framework: str, handlers: str) -> Any:
    """An application with all handlers of a module."""
    logging.basicConfig(level=logging.INFO)
    table = import_module(f"tests.faults.{handlers}").HANDLERS
    if framework == "asgi":
        app = _bare_asgi(table)
    else:
        pings: Any = {} if framework in UVICORN else _pings()  # unisock's own
        app = find(framework).application(Service(_nobody, "/unused"))
        for path, (handler, options) in table.items():
            unisock.mount(app, path, handler, **options, **pings)
    return _behind_proxy(framework, app) if "TRUST" in os.environ else app


async def _nobody(ws: unisock.WebSocket) -> None:
    await ws.reject()


def _bare_asgi(table: dict[str, Any]) -> Any:
    from unisock.adapters.asgi import ASGIApp
    from unisock.paths import PathTemplate

    # An ASGIApp serves one path; the first refuses those of none.
    apps = [(PathTemplate.parse(p), ASGIApp(h, path=p, **o)) for p, (h, o) in table.items()]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        found = (each for template, each in apps if template.match(path) is not None)
        await next(found, apps[0][1])(scope, receive, send)

    return app


def _behind_proxy(framework: str, app: Any) -> Any:
    """As an application does it whose proxy can be trusted."""
    if framework == "flask":
        from werkzeug.middleware.proxy_fix import ProxyFix

        app.wsgi_app = ProxyFix(app.wsgi_app, x_host=1)
        return app
    if framework == "aiohttp":
        from aiohttp import web

        @web.middleware
        async def fix(request: web.Request, handler: Any) -> Any:
            host = request.headers.get("X-Forwarded-Host")
            return await handler(request.clone(host=host) if host else request)

        app.middlewares.append(fix)
        return app

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers", ()))
        if host := headers.pop(b"x-forwarded-host", None):
            scope = scope | {"headers": [*(headers | {b"host": host}).items()]}
        await app(scope, receive, send)

    return wrapped


def _serve_uvicorn(app: Any, port: int) -> None:
    import uvicorn

    pings: Any = _pings("ws_")
    ws = os.environ.get("UVICORN_WS", "auto")
    uvicorn.run(app, port=port, timeout_graceful_shutdown=GRACE, access_log=False, ws=ws, **pings)


def _serve_hypercorn(app: Any, port: int) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config.from_mapping(bind=f"127.0.0.1:{port}", graceful_timeout=GRACE)
    asyncio.run(serve(app, config))


def _serve_gunicorn(port: int, handlers: str) -> None:
    worker = "unisock.adapters.gunicorn.WebSocketWorker"
    command = [sys.executable, "-m", "gunicorn", f"--worker-class={worker}"]
    command += [f"--bind=127.0.0.1:{port}", f"--graceful-timeout={GRACE}", "--no-control-socket"]
    os.execv(sys.executable, [*command, f"tests.faults.kinds:make_app('flask', {handlers!r})"])


def main(handlers: str) -> None:
    """Serve until a signal comes."""
    port = int(os.environ["PORT"])
    if KIND == "gunicorn":
        _serve_gunicorn(port, handlers)
    app = make_app("starlette" if KIND == "hypercorn" else KIND, handlers)
    if KIND in UVICORN:
        _serve_uvicorn(app, port)
    elif KIND == "hypercorn":
        _serve_hypercorn(app, port)
    else:
        find(KIND).server(app, GRACE, False).run(bind("127.0.0.1", port), lambda: None)
