"""Flask on gevent's WSGIServer and on gunicorn."""

from __future__ import annotations

import logging
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from unisock.frameworks import GRACE, AppServer, Finding, Framework, Service, Surroundings
from unisock.transport import Capabilities


def application(service: Service) -> Any:
    """An application of Flask's."""
    from flask import Flask

    return service.mount_on(Flask(__name__, static_folder=None))


class Server(AppServer):
    """gevent's WSGIServer, with unisock's handler class."""

    _stop: Any

    def __init__(self, app: Any, grace: float = GRACE, lifespan: bool = False) -> None:
        super().__init__(app, grace, lifespan)
        from unisock.adapters.flask import WSGIServer

        self._server_class = WSGIServer

    def run(self, listener: socket.socket, on_started: Callable[[], None]) -> None:
        """Serve until `stop` or a signal."""
        try:
            self._run(listener, on_started)
        finally:
            if threading.current_thread() is not threading.main_thread():
                from unisock.adapters.gevent_loop import end_hub

                end_hub()  # a hub holds descriptors until it is told to end

    def _run(self, listener: socket.socket, on_started: Callable[[], None]) -> None:
        import gevent

        logger = logging.getLogger("gevent.pywsgi")
        server = self._server_class(listener, self.app, log=logger, error_log=logger)
        self._stop = gevent.get_hub().loop.async_()  # what another thread may wake a hub with
        self._stop.start(server.close)
        # Before the greenlet is there: the hub runs while the host's name is looked up.
        server.start()
        gevent.spawn(on_started)  # when it serves, and a signal stops it
        server.serve_forever(self.grace)
        self._stop.close()

    def stop(self) -> None:
        """End `run`."""
        self._stop.send()


# What is in the way


def traps(surroundings: Surroundings) -> Iterator[Finding]:
    """gevent-websocket's handler in place of unisock's, and rules without ``websocket=True``."""
    for place, text in surroundings.gunicorn:
        if re.search(r"^[^#\n]*(-k|worker.class)[\s=\"']*geventwebsocket\.", text, re.MULTILINE):
            yield _stock_handler(
                f"gunicorn's worker in {place}",
                "gunicorn -k unisock.adapters.gunicorn.WebSocketWorker",
            )
    app = surroundings.app
    if hasattr(app, "url_map") and hasattr(app, "view_functions"):
        yield from _check_rules(app)
    stock = getattr(sys.modules.get("geventwebsocket.handler"), "WebSocketHandler", None)
    if stock is not None and any(value is stock for value in surroundings.names.values()):
        yield _stock_handler(
            "the application's WebSocketHandler",
            "serve with WSGIServer of unisock.adapters.flask, which has unisock's handler class",
        )


def _check_rules(app: Any) -> Iterator[Finding]:
    for rule in app.url_map.iter_rules():
        view = app.view_functions.get(rule.endpoint)
        # functools.wraps keeps the module of a view that is decorated.
        if getattr(view, "__module__", "") == "unisock.adapters.flask" and not rule.websocket:
            yield Finding(
                "flask-rule",
                f"the rule {rule.rule} has a view of unisock's without websocket=True: "
                "each handshake is answered with 400",
                "add_url_rule(…, websocket=True), or unisock.mount",
            )


def _stock_handler(what: str, remedy: str) -> Finding:
    return Finding(
        "stock-handler",
        f"{what} is gevent-websocket's own, which sends the 101 before the handler is asked: "
        "a rejection becomes a close frame, and headers and the subprotocol of accept() are lost",
        remedy,
    )


# gevent-websocket's handler has sent the 101 before the application is asked.
_STOCK = Capabilities(accept_headers=False, subprotocol=False, http_rejection=False)

FRAMEWORK = Framework(
    application=application,
    server=Server,
    packages={
        "flask": "flask",
        "gevent": "gevent",
        "gevent-websocket": "geventwebsocket",
        "websockets": "websockets",
    },
    adapter="unisock.adapters.flask",
    command="gunicorn -k unisock.adapters.gunicorn.WebSocketWorker {}",
    capabilities={
        "gevent": Capabilities(),
        "gevent, stock handler": _STOCK,
        "gunicorn": Capabilities(),
        "gunicorn, stock handler": _STOCK,
    },
    traps=traps,
)
