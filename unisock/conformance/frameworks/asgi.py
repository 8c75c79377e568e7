"""Bare ASGI."""

from __future__ import annotations

from unisock.conformance.asgi import (
    ASGI,
    DAPHNE,
    SERVERS,
    Receive,
    Scope,
    Send,
    around,
    leaving,
    serve_asgi,
    telling,
)
from unisock.conformance.harness import load_clauses
from unisock.conformance.rows import FLASKS_OWN, rows_of

_NO_MOUNT = "bare ASGI has no router to mount on: ASGIApp is the form"

ROWS = rows_of(
    "asgi",
    {**SERVERS, **DAPHNE},
    lacks={
        "http_error": "bare ASGI has no HTTP error of its own",
        "error_handler": (
            "bare ASGI has no error handlers: what a handler raises goes on to the server"
        ),
        "mount": _NO_MOUNT,
        "page_beside": _NO_MOUNT,
        "flask_context": FLASKS_OWN,
    },
    on_lowest=["uvicorn websockets"],
    request_type="builtins.dict",
    no_route_status=403,
    by_hand={"ASGIApp": "/by-hand/{}"},
)


def make_app() -> ASGI:
    """The application of the suite."""
    from unisock.adapters.asgi import ASGIApp
    from unisock.conformance.clauses_mounting import tell_room
    from unisock.paths import PathTemplate

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

    return around(leaving(telling(answer_lifespan)))


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close"})
        return
    found = scope["path"] == "/page"
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"8" if found else b"0")]
    await send({"type": "http.response.start", "status": 200 if found else 404, "headers": headers})
    await send({"type": "http.response.body", "body": b"the page" if found else b""})


def serve(server: str, port: int) -> None:
    """Serve until a signal comes."""
    serve_asgi("asgi", make_app, server, port)
