"""The server of these tests: plain functions as handlers, and pages beside them.

Takes its port and its kind from the environment: ``PORT``, ``KIND``; and for its
connections the seconds it waits when it stops, ``GRACE``.
"""

from __future__ import annotations

import os

if os.environ["KIND"] == "flask-patched":
    from gevent import monkey

    monkey.patch_all()

import asyncio
import gc
import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import unisock
from unisock import SyncWebSocket, WebSocketDisconnect
from unisock.frameworks import Framework, Service, find
from unisock.serving import bind

KIND = os.environ["KIND"]
PORT = int(os.environ["PORT"])
GRACE = int(os.environ.get("GRACE", "3"))
ON_GEVENT = KIND.startswith(("flask", "gunicorn"))

counts = {"sent": 0}
# One item for each handler that is about to wait; several threads may append at once.
waiting: list[str] = []


# Handlers


def echo(ws: SyncWebSocket) -> None:
    """Echo."""
    ws.accept()
    for message in ws:
        ws.send(message)


def impatient(ws: SyncWebSocket) -> None:
    """Wait shortly, again and again; with each message say how often it was in vain."""
    ws.accept()
    timeouts = 0
    while True:
        try:
            message = ws.receive_text(timeout=0.001)
        except TimeoutError:
            timeouts += 1
        else:
            ws.send(f"{message} {timeouts}")


def few(ws: SyncWebSocket) -> None:
    """Echo, to a few at once."""
    echo(ws)


def blocks(ws: SyncWebSocket) -> None:
    """Block where the path says until the server stops, and tell how it ended."""
    where = ws.path_params["where"]
    try:
        if not where.startswith("before-accept"):
            ws.accept()
        _WAITS[where.removeprefix("before-accept-")](ws)
    except WebSocketDisconnect as exc:
        tell(where, "disconnect", exc.code)
        raise
    finally:
        tell(where, "finally", ws.closed, ws.close_code)


def _receive(ws: SyncWebSocket) -> None:
    waiting.append(ws.path_params["where"])
    ws.receive()


def _receive_in_turns(ws: SyncWebSocket) -> None:
    waiting.append(ws.path_params["where"])
    while True:
        try:
            ws.receive(timeout=0.05)
        except TimeoutError:
            continue


def _send(ws: SyncWebSocket) -> None:
    waiting.append(ws.path_params["where"])
    while True:
        ws.send(b"x" * 65536)
        counts["sent"] += 1


def _wait_closed(ws: SyncWebSocket) -> None:
    waiting.append(ws.path_params["where"])
    tell("wait_closed", "returned", ws.wait_closed())


def _sleep(ws: SyncWebSocket) -> None:
    """Wait for what never comes, by other means than those of unisock."""
    waiting.append(ws.path_params["where"])
    if KIND == "flask":
        import gevent

        gevent.sleep(3600)
    elif ON_GEVENT:
        time.sleep(3600)
    else:
        threading.Event().wait()


def _beside(ws: SyncWebSocket) -> None:
    """Receive, while a function beside waits for the end."""
    ws.start_soon(lambda: tell("function", "returned", ws.wait_closed()))
    _receive(ws)


def _sleep_beside(ws: SyncWebSocket) -> None:
    """Receive, while a function beside waits elsewhere."""
    ws.start_soon(_sleep_beside_handler, ws)
    ws.receive()


def _sleep_beside_handler(ws: SyncWebSocket) -> None:
    try:
        _sleep(ws)
    finally:
        tell("function", "killed", ws.closed)


def _stubborn(ws: SyncWebSocket) -> None:
    """Go on calling after the end."""
    waiting.append(ws.path_params["where"])
    ends: list[object] = []
    calls: tuple[Callable[[], object], ...] = (
        ws.receive,
        lambda: ws.send("x"),
        lambda: ws.receive(timeout=0.01),
        ws.wait_closed,
        ws.close,
        ws.receive_json,
    )
    for call in calls:
        try:
            ends.append(call())
        except WebSocketDisconnect as exc:
            ends.append(f"disconnect {exc.code}")
    tell("stubborn", ends)


_WAITS: dict[str, Callable[[SyncWebSocket], None]] = {
    "receive": _receive,
    "receive-in-turns": _receive_in_turns,
    "send": _send,
    "wait_closed": _wait_closed,
    "sleep": _sleep,
    "beside": _beside,
    "sleep-beside": _sleep_beside,
    "stubborn": _stubborn,
    "nothing": lambda ws: None,
}


def tell(*words: object) -> None:
    """Tell the test, in a line of the log."""
    # One write: lines of several threads must not mix.
    sys.stdout.write(f"told: {' '.join(map(str, words))}\n")
    sys.stdout.flush()


HANDLERS: dict[str, tuple[Callable[[SyncWebSocket], None], dict[str, Any]]] = {
    "/echo": (echo, {}),
    "/impatient": (impatient, {"max_queue": 2}),
    "/few": (few, {"max_threads": 5}),
    "/blocks/{where}": (blocks, {}),
}


# Pages


def left() -> str:
    """What is in the process now."""
    gc.collect()
    # Those that gevent's pool runs are not known as threads, but as dummies of them.
    threads = [t for t in threading.enumerate() if not t.name.startswith("Dummy")]
    return json.dumps(
        counts
        | {
            "waiting": len(waiting),
            "threads": len(threads),
            "unisock threads": sum(t.name.startswith("unisock") for t in threads),
            "fds": len(os.listdir("/proc/self/fd")),
            "tasks": 0 if ON_GEVENT else len(asyncio.all_tasks()),
            "greenlets": _greenlets(),
        }
    )


def _greenlets() -> int:
    """Those that have begun and not ended, of all threads."""
    if not ON_GEVENT:
        return 0
    from greenlet import greenlet

    return sum(isinstance(each, greenlet) and not each.dead for each in gc.get_objects())


def in_pool() -> str:
    """Run by each framework in a thread of a pool of its own."""
    return threading.current_thread().name


def page() -> str:
    """The application's own page."""
    return "the page"


PAGES = {"/left": left, "/page": page}


# Frameworks


def _asgi() -> Any:
    from unisock.adapters.asgi import ASGIApp
    from unisock.paths import PathTemplate

    table = [(PathTemplate.parse(p), ASGIApp(h, **o)) for p, (h, o) in HANDLERS.items()]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await table[0][1](scope, receive, send)
        elif scope["type"] == "websocket":
            for template, endpoint in table:
                if (params := template.match(scope["path"])) is not None:
                    scope["path_params"] = params
                    await endpoint(scope, receive, send)
        else:
            path = scope["path"]
            body = await asyncio.to_thread(in_pool) if path == "/pool" else PAGES[path]()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body.encode()})

    return app


def _starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def own(request: Request) -> PlainTextResponse:
        return PlainTextResponse(PAGES[request.url.path]())

    def pool(request: Request) -> PlainTextResponse:
        return PlainTextResponse(in_pool())

    return _mounted(Starlette(routes=[*(Route(path, own) for path in PAGES), Route("/pool", pool)]))


def _fastapi() -> Any:
    from fastapi import FastAPI, Request
    from fastapi.responses import PlainTextResponse

    async def own(request: Request) -> PlainTextResponse:
        return PlainTextResponse(PAGES[request.url.path]())

    def pool() -> PlainTextResponse:
        return PlainTextResponse(in_pool())

    app = FastAPI()
    for path in PAGES:
        # Annotations are strings here, and Request is of this function.
        own.__annotations__["request"] = Request
        app.get(path)(own)
    app.get("/pool", response_model=None)(pool)
    return _mounted(app)


def _falcon() -> Any:
    import falcon.asgi

    class Page:
        async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
            in_a_thread = req.path == "/pool"
            resp.text = await asyncio.to_thread(in_pool) if in_a_thread else PAGES[req.path]()

    app: falcon.asgi.App[Any, Any] = falcon.asgi.App()
    for path in (*PAGES, "/pool"):
        app.add_route(path, Page())
    return _mounted(app)


def flask_app() -> Any:
    """The application of Flask; for gunicorn too."""
    import gevent
    from flask import Flask

    app = Flask("tests", static_folder=None)
    for path, show in PAGES.items():
        app.add_url_rule(path, path[1:], show)

    @app.get("/pool")
    def pool() -> str:
        told: str = gevent.get_hub().threadpool.apply(in_pool)
        return told

    return _mounted(app)


def _any(framework: Framework) -> Any:
    """The application of a framework that has none here: its pages are told by sockets."""

    def tell(show: Callable[[], str]) -> Any:
        async def handler(ws: unisock.WebSocket) -> None:
            await ws.accept()
            await ws.send(await asyncio.to_thread(show) if show is in_pool else show())

        return handler

    app = framework.application(Service(echo, "/unused"))
    for path, show in {**PAGES, "/pool": in_pool}.items():
        unisock.mount(app, path, tell(show))
    return _mounted(app)


def _mounted(app: Any) -> Any:
    for path, (handler, options) in HANDLERS.items():
        unisock.mount(app, path, handler, **options)
    return app


# Servers


def _serve_asgi(app: Any) -> None:
    import uvicorn

    uvicorn.run(app, port=PORT, timeout_graceful_shutdown=GRACE, access_log=False)


def _serve_embedded(app: Any) -> None:
    """Serve in an event loop of the application's own, and end as any program does."""
    import contextlib
    import signal

    import uvicorn

    async def stoppable(scope: Any, receive: Any, send: Any) -> None:
        # uvicorn takes the cancellation of a handler for an error of the application.
        with contextlib.suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(stoppable, port=PORT, timeout_graceful_shutdown=GRACE))
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]  # the signal is taken below

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, setattr, server, "should_exit", True)
        await server.serve()

    asyncio.run(main())


def _serve_gevent(app: Any) -> None:
    import signal

    import gevent
    import gevent.event
    from gevent.pywsgi import WSGIServer

    from unisock.adapters.flask import WebSocketHandler

    server = WSGIServer(("127.0.0.1", PORT), app, handler_class=WebSocketHandler, log=None)
    server.stop_timeout = GRACE
    stopping = gevent.event.Event()
    gevent.signal_handler(signal.SIGTERM, stopping.set)
    server.start()
    stopping.wait()
    server.stop()


def _serve_gunicorn() -> None:
    os.execv(
        sys.executable,
        [
            sys.executable,
            "-m",
            "gunicorn",
            "--worker-class=unisock.adapters.gunicorn.WebSocketWorker",
            f"--bind=127.0.0.1:{PORT}",
            f"--graceful-timeout={GRACE}",
            "--no-control-socket",
            f"--chdir={os.path.dirname(__file__)}",
            f"{os.path.basename(__file__).removesuffix('.py')}:flask_app()",
        ],
    )


ASGI_APPS = {"asgi": _asgi, "starlette": _starlette, "fastapi": _fastapi, "falcon": _falcon}

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    if KIND == "gunicorn":
        _serve_gunicorn()
    elif ON_GEVENT:
        _serve_gevent(flask_app())
    elif KIND == "embedded":
        _serve_embedded(_starlette())
    elif KIND in ASGI_APPS:
        _serve_asgi(ASGI_APPS[KIND]())
    else:
        found = find(KIND)
        server = found.server(_any(found), GRACE, False)
        server.run(bind("127.0.0.1", PORT), lambda: None)
