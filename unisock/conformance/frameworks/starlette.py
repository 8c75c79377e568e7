"""Starlette."""

from __future__ import annotations

from unisock.conformance.asgi import (
    ASGI,
    DAPHNE,
    SERVERS,
    VARIANTS,
    around,
    leaving,
    own_error_handlers,
    serve_asgi,
    telling,
)
from unisock.conformance.harness import mount_all, use_http_error
from unisock.conformance.rows import FLASKS_OWN, rows_of

ROWS = rows_of(
    "starlette",
    {**SERVERS, **DAPHNE, **VARIANTS},
    lacks={"flask_context": FLASKS_OWN},
    on_lowest=["uvicorn websockets", "uvicorn unisock"],
    request_type="starlette.requests.HTTPConnection",
    no_route_status=403,
    routers={"Router": "/routed/{}"},
    by_hand={"WebSocketRoute": "/by-hand/{}"},
)


def make_app() -> ASGI:
    """The application of the suite."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route, Router, WebSocketRoute

    import unisock
    from unisock.adapters.starlette import endpoint
    from unisock.conformance.clauses_mounting import tell_room

    use_http_error(HTTPException)

    def page(request: Request) -> PlainTextResponse:  # runs in a thread of Starlette's
        return PlainTextResponse("the page")

    router = Router()
    unisock.mount(router, "/{room}", tell_room)
    below = Starlette(exception_handlers=own_error_handlers())
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
        middleware=[Middleware(around), Middleware(leaving), Middleware(telling)],
        exception_handlers=own_error_handlers(),
    )
    mount_all(app)
    return app


def serve(server: str, port: int) -> None:
    """Serve until a signal comes."""
    serve_asgi("starlette", make_app, server, port)
