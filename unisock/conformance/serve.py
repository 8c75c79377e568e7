"""The servers of the project's own rows.

    python -m unisock.conformance.serve FRAMEWORK SERVER PORT

Each application has every handler of the suite, a page at ``/page`` and another
beside the handler at ``/mounting/both``, middleware that leaves something for the
handler, the forms in which routes are registered by hand, itself once more below
``/prefix``, a hook of the framework's that tells of errors that reach it, and an
error handler for `OwnError`.  A proxy's ``X-Forwarded-For``, ``-Proto`` and
``-Prefix`` are believed, by what the server or the framework has for that.  This is
also the example for the server process of a third party's row.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs

from .harness import (
    OWN_ANSWER,
    OwnError,
    around_handler,
    journal_as,
    load_clauses,
    mount_all,
    tell_own_error,
    use_http_error,
)

LEFT = "left_by_middleware"
GRACE = 3  # seconds that a server waits for connections when it stops

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]


# Frameworks


def _asgi() -> ASGI:
    from unisock.adapters.asgi import ASGIApp
    from unisock.paths import PathTemplate

    from .clauses_mounting import tell_room

    table = [(PathTemplate.parse(p), ASGIApp(h, **options)) for p, h, options in load_clauses()]
    table.append((PathTemplate.parse("/by-hand/{room}"), ASGIApp(tell_room)))

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["path"]).removeprefix("/prefix")
        for template, endpoint in table:
            params = template.match(path)
            if params is not None:
                scope["path_params"] = params
                await endpoint(scope, receive, send)
                return
        await _answer(scope, receive, send)

    async def answer_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        await (table[0][1] if scope["type"] == "lifespan" else route)(scope, receive, send)

    return _around(_leaving(_telling(answer_lifespan)))


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close"})
        return
    found = scope["path"] == "/page"
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"8" if found else b"0")]
    await send({"type": "http.response.start", "status": 200 if found else 404, "headers": headers})
    await send({"type": "http.response.body", "body": b"the page" if found else b""})


def _around(app: ASGI) -> ASGI:
    """ASGI middleware that sets a context variable and tells of it."""

    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        with around_handler(scope.get("query_string", b"").decode()):
            await app(scope, receive, send)

    return around


def _leaving(app: ASGI) -> ASGI:
    """ASGI middleware that leaves something in the state."""

    async def leave(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            scope.setdefault("state", {})[LEFT] = "yes"
        await app(scope, receive, send)

    return leave


def _telling(app: ASGI) -> ASGI:
    """ASGI middleware that tells of the errors that pass."""

    async def tell(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except Exception as exc:
            _tell_error(scope.get("query_string", b"").decode(), exc)
            raise

    return tell


def _below(app: ASGI) -> ASGI:
    """ASGI middleware that believes ``X-Forwarded-Prefix``, for no server does."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        prefix = dict(scope.get("headers", ())).get(b"x-forwarded-prefix")
        if prefix is not None:
            scope["root_path"] = prefix.decode()
        await app(scope, receive, send)

    return call


def _tell_error(query: str, exc: BaseException | None) -> None:
    for connection_id in parse_qs(query).get("id", ()):
        journal_as(connection_id, "framework-error", type=type(exc).__name__)


def _own_error_handlers() -> Any:
    """The error handlers of Starlette and FastAPI."""
    from starlette.responses import Response
    from starlette.websockets import WebSocket

    async def on_own_error(websocket: WebSocket, exc: Exception) -> Response:
        tell_own_error(websocket.scope["query_string"].decode())
        status, body, headers = OWN_ANSWER
        return Response(body, status, headers)

    return {OwnError: on_own_error}


def _starlette() -> ASGI:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route, Router, WebSocketRoute

    import unisock
    from unisock.adapters.starlette import endpoint

    from .clauses_mounting import tell_room

    use_http_error(HTTPException)

    def page(request: Request) -> PlainTextResponse:  # runs in a thread of Starlette's
        return PlainTextResponse("the page")

    router = Router()
    unisock.mount(router, "/{room}", tell_room)
    below = Starlette(exception_handlers=_own_error_handlers())
    mount_all(below)
    app = Starlette(
        routes=[
            Route("/page", page),
            Route("/mounting/both", page),
            Mount("/routed", router),
            Mount("/prefix", below),
            WebSocketRoute("/by-hand/{room}", endpoint(tell_room)),
        ],
        # Within Starlette's own, as those of an application are.
        middleware=[Middleware(_around), Middleware(_leaving), Middleware(_telling)],
        exception_handlers=_own_error_handlers(),
    )
    mount_all(app)
    return app


def _fastapi() -> ASGI:
    from fastapi import APIRouter, FastAPI, HTTPException
    from fastapi.responses import PlainTextResponse

    import unisock
    from unisock.adapters.fastapi import endpoint

    from .clauses_mounting import tell_room

    use_http_error(HTTPException)

    app = FastAPI(exception_handlers=_own_error_handlers())
    app.add_middleware(_telling)
    app.add_middleware(_leaving)
    app.add_middleware(_around)

    @app.get("/page")
    @app.get("/mounting/both")
    def page() -> PlainTextResponse:  # runs in a thread of FastAPI's
        return PlainTextResponse("the page")

    router = APIRouter(prefix="/routed")
    unisock.mount(router, "/{room}", tell_room)
    app.include_router(router)
    app.add_api_websocket_route("/by-hand/{room}", endpoint(tell_room))
    below = FastAPI(exception_handlers=_own_error_handlers())
    mount_all(below)
    app.mount("/prefix", below)
    mount_all(app)
    return app


def _falcon() -> ASGI:
    import falcon
    import falcon.asgi

    from unisock.adapters.falcon import WebSocketResource, responder

    from .clauses_mounting import tell_room

    use_http_error(falcon.HTTPError)

    class Leave:
        async def process_request_ws(self, req: falcon.asgi.Request, ws: Any) -> None:
            req.context[LEFT] = "yes"

    class Page:
        async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
            resp.text = "the page"

    class Both(Page):
        on_websocket = responder(tell_room)

    class Resource(Page, WebSocketResource):
        """A page and a handler on one resource."""

    async def tell(
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response | None,
        exc: Exception,
        params: dict[str, Any],
        ws: Any = None,
    ) -> None:
        _tell_error(req.query_string, exc)
        logging.getLogger("falcon").error("an unhandled error", exc_info=exc)
        raise falcon.HTTPInternalServerError

    async def on_own_error(req: falcon.asgi.Request, *_: Any, ws: Any = None) -> None:
        tell_own_error(req.query_string)
        status, body, headers = OWN_ANSWER
        raise falcon.HTTPStatus(status, headers=headers, text=body.decode())

    app: falcon.asgi.App[Any, Any] = falcon.asgi.App(middleware=[Leave()])
    app.add_error_handler(Exception, tell)
    app.add_error_handler(OwnError, on_own_error)
    app.add_route("/page", Page())
    app.add_route("/mounting/both", Page())
    app.add_route("/by-hand/responder/{room}", Both())
    app.add_route("/by-hand/resource/{room}", Resource(tell_room))
    mount_all(app)
    return _around(app)  # type: ignore[arg-type]  # Falcon has its own types for the three


def flask_app() -> Any:
    """The Flask application; for gunicorn too."""
    from flask import Blueprint, Flask, Response, abort, g, got_request_exception, request
    from werkzeug.exceptions import HTTPException
    from werkzeug.middleware.dispatcher import DispatcherMiddleware
    from werkzeug.middleware.proxy_fix import ProxyFix

    import unisock
    from unisock.adapters.flask import view

    from .clauses_mounting import tell_room

    def make_http_error(status: int) -> Exception:
        try:
            abort(status)
        except HTTPException as exc:
            return exc

    use_http_error(make_http_error)

    def tell(sender: Flask, exception: BaseException, **extra: Any) -> None:
        _tell_error(request.query_string.decode(), exception)

    def on_own_error(exc: Exception) -> Response:
        tell_own_error(request.query_string.decode())
        status, body, headers = OWN_ANSWER
        return Response(body, status, headers)

    def before() -> None:
        setattr(g, LEFT, "yes")
        g.around = ExitStack()
        g.around.enter_context(around_handler(request.query_string.decode()))

    def tell_status(response: Any) -> Any:
        if "flask-answer" in request.path:
            journal_as(request.args["id"], "after-request", status=response.status_code)
        return response

    def make(name: str) -> Flask:
        app = Flask(name, static_folder=None)
        app.secret_key = "for the tests"
        app.before_request(before)
        app.after_request(tell_status)
        app.teardown_request(lambda exc: g.around.close())
        got_request_exception.connect(tell, app, weak=False)
        app.register_error_handler(OwnError, on_own_error)
        mount_all(app)
        return app

    app = make("suite")

    @app.get("/page")
    def page() -> str:
        return "the page"

    app.add_url_rule("/mounting/both", "page_beside", page)
    blueprint = Blueprint("routed", "routed", url_prefix="/routed")
    unisock.mount(blueprint, "/{room}", tell_room)
    app.register_blueprint(blueprint)
    app.add_url_rule("/by-hand/<room>", "by_hand", view(tell_room), websocket=True)
    both = DispatcherMiddleware(app.wsgi_app, {"/prefix": make("below").wsgi_app})
    app.wsgi_app = ProxyFix(both, x_prefix=1)  # type: ignore[method-assign]  # Flask's own way
    return app


# Servers


def _uvicorn(app: ASGI, variant: str, port: int) -> None:
    import uvicorn

    ws: Any = variant
    if variant.startswith("unisock"):
        from unisock.adapters.uvicorn import WebSocketProtocol

        ws = WebSocketProtocol
    uvicorn.run(
        _wrapped(app) if variant.endswith("wrapped") else app,
        port=port,
        ws=ws,
        http="h11",
        loop="uvloop" if variant.endswith("uvloop") else "asyncio",
        log_config=None,
        timeout_graceful_shutdown=GRACE,
    )


def _wrapped(app: ASGI) -> ASGI:
    """The application below middleware that sees each event."""

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        async def seen(event: Any) -> None:
            await send(event)

        await app(scope, receive, seen)

    return middleware


def _hypercorn(app: ASGI, port: int) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config
    from hypercorn.middleware import ProxyFixMiddleware

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.graceful_timeout = GRACE
    believing: Any = ProxyFixMiddleware(app)  # type: ignore[arg-type]  # its own types for the three
    asyncio.run(serve(believing, config))


def _daphne(app: ASGI, port: int) -> None:
    from daphne.server import Server  # type: ignore[import-untyped]  # has no types

    Server(
        app,
        endpoints=[f"tcp:{port}:interface=127.0.0.1"],
        # Its own defaults are 1 MiB.
        websocket_max_message_size=2**24,
        websocket_max_frame_size=2**24,
        application_close_timeout=GRACE,
    ).run()


def _granian(framework: str, port: int) -> None:
    from granian.constants import Interfaces, Loops
    from granian.server import Server

    Server(
        framework,
        port=port,
        interface=Interfaces.ASGI,
        loop=Loops.asyncio,
        workers_kill_timeout=GRACE,
    ).serve(target_loader=_load)


def _load(framework: str) -> ASGI:
    """The application, in granian's worker process."""
    from granian.utils.proxies import wrap_asgi_with_proxy_headers

    _configure_logging()
    believing: ASGI = wrap_asgi_with_proxy_headers(_below(FRAMEWORKS[framework]()))
    return believing


def _gevent(variant: str, port: int) -> None:
    from unisock.adapters.flask import WSGIServer

    log = logging.getLogger("gevent.pywsgi")
    server = WSGIServer(("127.0.0.1", port), flask_app(), log=log, error_log=log)
    if variant == "stock":
        from geventwebsocket.handler import (  # type: ignore[import-untyped]  # has no types
            WebSocketHandler,
        )

        server.handler_class = WebSocketHandler
    server.serve_forever(GRACE)


_GUNICORN_WORKERS = MappingProxyType(
    {
        "unisock": "unisock.adapters.gunicorn.WebSocketWorker",
        "stock": "geventwebsocket.gunicorn.workers.GeventWebSocketWorker",
    }
)


def _gunicorn(worker: str, port: int) -> None:
    os.execv(
        sys.executable,
        [
            sys.executable,
            "-m",
            "gunicorn",
            f"--worker-class={_GUNICORN_WORKERS[worker]}",
            f"--bind=127.0.0.1:{port}",
            f"--graceful-timeout={GRACE}",
            "--no-control-socket",
            "unisock.conformance.serve:flask_app()",
        ],
    )


FRAMEWORKS = MappingProxyType(
    {"asgi": _asgi, "starlette": _starlette, "fastapi": _fastapi, "falcon": _falcon}
)


def _configure_logging() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")


def main(framework: str, server: str, port: int) -> None:
    """Serve until a signal comes."""
    _configure_logging()
    kind, _, variant = server.partition(" ")
    if kind == "gunicorn":
        _gunicorn(variant, port)
    elif kind == "WSGIServer":
        _gevent(variant, port)
    elif kind == "granian":
        _granian(framework, port)
    elif kind == "daphne":
        _daphne(FRAMEWORKS[framework](), port)
    elif kind == "hypercorn":
        _hypercorn(_below(FRAMEWORKS[framework]()), port)
    else:  # believes 127.0.0.1 by itself
        _uvicorn(_below(FRAMEWORKS[framework]()), variant, port)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
