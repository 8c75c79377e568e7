"""FastAPI."""

from __future__ import annotations

from unisock.conformance.asgi import (
    ASGI,
    SERVERS,
    around,
    leaving,
    own_error_handlers,
    serve_asgi,
    telling,
)
from unisock.conformance.harness import mount_all, use_http_error
from unisock.conformance.rows import FLASKS_OWN, rows_of

ROWS = rows_of(
    "fastapi",
    SERVERS,
    lacks={"flask_context": FLASKS_OWN},
    on_lowest=["uvicorn websockets"],
    request_type="starlette.requests.HTTPConnection",
    no_route_status=403,
    routers={"APIRouter": "/routed/{}"},
    by_hand={"add_api_websocket_route": "/by-hand/{}"},
)


def make_app() -> ASGI:
    """The application of the suite."""
    from fastapi import APIRouter, FastAPI, HTTPException
    from fastapi.responses import PlainTextResponse

    import unisock
    from unisock.adapters.fastapi import endpoint
    from unisock.conformance.clauses_mounting import tell_room

    use_http_error(HTTPException)

    app = FastAPI(exception_handlers=own_error_handlers())
    app.add_middleware(telling)
    app.add_middleware(leaving)
    app.add_middleware(around)

    @app.get("/page")
    @app.get("/mounting/both")
    def page() -> PlainTextResponse:  # runs in a thread of FastAPI's
        return PlainTextResponse("the page")

    router = APIRouter(prefix="/routed")
    unisock.mount(router, "/{room}", tell_room)
    app.include_router(router)
    app.add_api_websocket_route("/by-hand/{room}", endpoint(tell_room))
    below = FastAPI(exception_handlers=own_error_handlers())
    mount_all(below)
    app.mount("/prefix", below)
    mount_all(app)
    return app


def serve(server: str, port: int) -> None:
    """Serve until a signal comes."""
    serve_asgi("fastapi", make_app, server, port)
