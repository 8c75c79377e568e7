"""Flask on gevent's WSGIServer and on gunicorn."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any

from unisock.conformance.harness import (
    OWN_ANSWER,
    OwnError,
    around_handler,
    journal_as,
    mount_all,
    tell_own_error,
    use_http_error,
)
from unisock.conformance.rows import rows_of
from unisock.conformance.serve import GRACE, LEFT, tell_error

_GEVENT_RESET = "gevent 26.9 logs tracebacks for a client that resets amid its handshake"
_UPGRADED = "gevent-websocket 0.10 has sent the 101 before the application is asked"
_GUNICORN = {"sigint": "gunicorn's SIGINT is its quick shutdown: it cuts every connection"}
_STOCK = {
    "absolute_form": "gevent 26.9 does not understand a target in absolute form",
    "no_host": "gevent 26.9 takes a request without a Host",
    "accept_headers": _UPGRADED,
    "subprotocol": _UPGRADED,
    "http_rejection": _UPGRADED,
    "deferred_upgrade": f"{_UPGRADED}: a rejection is a close 1008 or 4000 + status",
    "no_route": f"{_UPGRADED}: what no route matches is closed without a code",
    "version": "gevent-websocket 0.10 accepts versions 7 and 8",
    "http_1_0": "gevent-websocket 0.10 answers HTTP/1.0 with 402",
    "quiet_reset": _GEVENT_RESET,
    "quiet_handshake": "gevent-websocket 0.10 on Python 3 fails while it answers a bad handshake",
}

ROWS = rows_of(
    "flask",
    {
        "WSGIServer unpatched": {},
        "WSGIServer patched": {},
        "WSGIServer stock": _STOCK,
        "gunicorn unisock": _GUNICORN,
        "gunicorn stock": {**_STOCK, **_GUNICORN},
    },
    # As users patch: before anything else is imported.
    run_by={"WSGIServer patched": ("gevent.monkey", "--module")},
    on_lowest=["WSGIServer unpatched"],
    request_type="flask.wrappers.Request",
    routers={"Blueprint": "/routed/{}"},
    by_hand={"add_url_rule": "/by-hand/{}"},
)


def make_app() -> Any:
    """The application of the suite."""
    from flask import Blueprint, Flask, Response, abort, g, got_request_exception, request
    from werkzeug.exceptions import HTTPException
    from werkzeug.middleware.dispatcher import DispatcherMiddleware
    from werkzeug.middleware.proxy_fix import ProxyFix

    import unisock
    from unisock.adapters.flask import view
    from unisock.conformance.clauses_mounting import tell_room

    def make_http_error(status: int) -> Exception:
        try:
            abort(status)
        except HTTPException as exc:
            return exc

    use_http_error(make_http_error)

    def tell(sender: Flask, exception: BaseException, **extra: Any) -> None:
        tell_error(request.query_string.decode(), exception)

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


def serve(server: str, port: int) -> None:
    """Serve until a signal comes."""
    kind, _, variant = server.partition(" ")
    if kind == "gunicorn":
        _gunicorn(variant, port)
    else:
        _gevent(variant, port)


def _gevent(variant: str, port: int) -> None:
    from unisock.adapters.flask import WSGIServer

    log = logging.getLogger("gevent.pywsgi")
    server = WSGIServer(("127.0.0.1", port), make_app(), log=log, error_log=log)
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
            "unisock.conformance.frameworks.flask:make_app()",
        ],
    )
