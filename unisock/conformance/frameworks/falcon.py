"""Falcon."""

from __future__ import annotations

import logging
from typing import Any

from unisock.conformance.asgi import ASGI, SERVERS, around, serve_asgi
from unisock.conformance.harness import (
    OWN_ANSWER,
    OwnError,
    mount_all,
    tell_own_error,
    use_http_error,
)
from unisock.conformance.rows import FLASKS_OWN, rows_of
from unisock.conformance.serve import LEFT, tell_error

ROWS = rows_of(
    "falcon",
    SERVERS,
    lacks={
        "prefix": "Falcon 4.4 has no applications below others",
        "flask_context": FLASKS_OWN,
        "quiet_http_1_0": "Falcon 4.4 raises for HTTP/1.0, where the server tells of it",
    },
    on_lowest=["uvicorn websockets"],
    request_type="falcon.asgi.request.Request",
    no_route_status=403,
    by_hand={
        "on_websocket": "/by-hand/responder/{}",
        "WebSocketResource": "/by-hand/resource/{}",
    },
)


def make_app() -> ASGI:
    """The application of the suite."""
    import falcon
    import falcon.asgi

    from unisock.adapters.falcon import WebSocketResource, responder
    from unisock.conformance.clauses_mounting import tell_room

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
        tell_error(req.query_string, exc)
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
    return around(app)  # type: ignore[arg-type]  # Falcon has its own types for the three


def serve(server: str, port: int) -> None:
    """Serve until a signal comes."""
    serve_asgi("falcon", make_app, server, port)
