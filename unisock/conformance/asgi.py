"""The servers of ASGI applications: what each lacks, how it is started, and middleware.

What a server lacks has nothing to do with the framework on it, but for what stands
between the two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

from .harness import OWN_ANSWER, OwnError, around_handler, tell_own_error
from .serve import GRACE, LEFT, configure_logging, tell_error

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]

_ABSOLUTE = "does not understand a target in absolute form"
_H11_1_0 = "uvicorn 0.54 accepts handshakes of HTTP/1.0"
_500_AT_STOP = "uvicorn 0.54 answers 500 to a handshake that is still unanswered when it stops"
_WSPROTO = "wsproto 1.3"

_UVICORN_SANSIO = {
    "absolute_form": f"uvicorn 0.54 {_ABSOLUTE}",
    "http_1_0": _H11_1_0,
    "status_at_stop": _500_AT_STOP,
    "header_answer": "uvicorn 0.54 websockets-sansio does not answer when a header is too long",
    "quiet_utf8": "uvicorn 0.54 websockets-sansio logs a traceback for text that is not UTF-8",
}
_UVICORN_WEBSOCKETS = {
    "absolute_form": f"uvicorn 0.54 {_ABSOLUTE}",
    "http_1_0": _H11_1_0,
    "status_at_stop": _500_AT_STOP,
    "latin1": "uvicorn 0.54 websockets takes no header outside ASCII, and sends one as UTF-8",
    "error_code_told": "uvicorn 0.54 websockets tells the application 1006 for a protocol error",
    "large_early_end": "uvicorn 0.54 websockets may not tell of a peer that leaves behind 200 kB",
    "close_waits": "uvicorn 0.54 websockets does not wait with a close beside a send that waits",
    "any_status": "uvicorn 0.54 websockets sends registered statuses only: else a 403",
    "unread_close": "uvicorn 0.54 websockets does not tell of a close by a peer that does not read",
    "unread_shutdown": "uvicorn 0.54 websockets ends the process amid a close that nobody reads",
}
_UVICORN_UNISOCK = {"http_1_0": _H11_1_0}
_UVICORN_WSPROTO = {
    "absolute_form": f"uvicorn 0.54 {_ABSOLUTE}",
    "window_bits": f"{_WSPROTO} fails over a window size of many digits",
    "compressed_fragments": f"{_WSPROTO} does not inflate the fragments that follow a ping",
    "http_1_0": _H11_1_0,
    # h11 0.16 bounds what it holds of a head that is not complete, and no more.
    "header_limit": "uvicorn 0.54 wsproto takes a header of 100 KB that comes in one read",
    "status_at_stop": _500_AT_STOP,
    "key": f"{_WSPROTO} accepts any key",
    "error_codes": "uvicorn 0.54 wsproto ends the TCP connection on a protocol error",
    "frame_length": f"{_WSPROTO} waits for the payload, however long",
}
_HYPERCORN = {
    "absolute_form": f"hypercorn 0.18 {_ABSOLUTE}",
    "window_bits": f"{_WSPROTO} fails over a window size of many digits",
    "close_code": "hypercorn 0.18 tells the application 1006, whatever the peer said",
    "close_reason": "hypercorn 0.18 tells the application no reason",
    "early_end": "hypercorn 0.18 does not tell of a stream that ends after an early message",
    "failing_send": "hypercorn 0.18 lets sends to a peer that has gone pass: a receive tells",
    "unread_close": "hypercorn 0.18 does not tell of a close by a peer that does not read",
    "unread_shutdown": "hypercorn 0.18 does not end while a peer does not read",
    "compressed_fragments": f"{_WSPROTO} does not inflate the fragments that follow a ping",
    "key": f"{_WSPROTO} accepts any key",
    "error_codes": "hypercorn 0.18 ends the TCP connection on a protocol error",
    "frame_length": f"{_WSPROTO} waits for the payload, however long",
}
_GRANIAN = {
    "absolute_host": "granian 2.8 goes by the Host header, whatever host the target names",
    "fragment": "granian 2.8 drops the fragment of a target",
    "no_host": "granian 2.8 takes a request without a Host",
    "accept_headers": "granian 2.8 drops the headers of websocket.accept",
    "repeated_headers": "granian 2.8 dies of a rejection that repeats a header: the last is sent",
    "close_reason": "granian 2.8 tells the application no reason",
    "failing_send": "granian 2.8 lets sends to a peer that has gone pass: a receive tells",
    "shutdown": "granian 2.8 cuts its connections when it stops, and waits for no handler",
    "early_end": "granian 2.8 does not tell of a peer that leaves after an early message",
    "no_code": "granian 2.8 tells a close without a code as it does a broken connection",
    "http_1_0": "granian 2.8 accepts handshakes of HTTP/1.0",
    "method": "granian 2.8 accepts handshakes that are no GET",
    "header_limit": "granian 2.8 takes a header of 100 KB",
    "key": "granian 2.8 accepts any key",
    "error_codes": "granian 2.8 closes without a code on most protocol errors",
}
_DAPHNE = {
    "accept_headers": "Daphne 4.2 drops the headers of websocket.accept",
    "http_rejection": "Daphne 4.2 answers each rejection with its own 403",
    "close_reason": "Daphne 4.2 tells the application no reason",
    "own_close_code": "Daphne 4.2 takes the codes 1000 and 3000 to 4999: 4011 is sent for 1011",
    "own_close_reason": "Daphne 4.2 drops the reason of websocket.close",
    "send_waits": "Daphne 4.2 holds all that a peer does not read: no send ever waits",
    "pauses": "Daphne 4.2 reads on, and holds all that a handler has not taken",
    "empty_binary": "Daphne 4.2 drops binary messages that are empty",
    "repeated_lines": "Daphne 4.2 joins the lines of a repeated request header, Cookie too",
    "absolute_host": "Daphne 4.2 goes by the Host header, whatever host the target names",
    "proxy": "Daphne 4.2 tells neither scheme nor prefix: its row believes no proxy",
    "empty_subprotocols": "Daphne 4.2 refuses a list of subprotocols with an empty element",
    "malformed_answer": "Daphne 4.2 does not answer a Content-Length of many digits",
    "odd_window_bits": "Daphne 4.2 refuses a window size of many digits",
    "odd_origin": "Daphne 4.2 answers 400 to an Origin that is not a URL",
    "shutdown": "Daphne 4.2 cuts its connections when it stops",
    "prompt_log": "Daphne 4.2 logs an application's error up to a second later",
    "error_codes": "Daphne 4.2 ends the TCP connection on a protocol error",
    "header_answer": "Daphne 4.2 does not answer when a header is too long",
    "close_echo": "Daphne 4.2 answers a close frame with 1000 and no reason, whatever it said",
    "version": "Daphne 4.2 accepts version 8",
    "http_1_0": "Daphne 4.2 accepts handshakes of HTTP/1.0",
    "unsure_send": "Daphne 4.2 may let sends to a peer that has gone pass: a receive tells",
}

SERVERS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "uvicorn websockets-sansio": _UVICORN_SANSIO,
        "uvicorn websockets": _UVICORN_WEBSOCKETS,
        "uvicorn wsproto": _UVICORN_WSPROTO,
        "uvicorn unisock": _UVICORN_UNISOCK,
        "hypercorn": _HYPERCORN,
        "granian": _GRANIAN,
    }
)
"""What every ASGI framework runs on; the first is the one of the short matrix."""
DAPHNE: Mapping[str, Mapping[str, str]] = MappingProxyType({"daphne": _DAPHNE})
"""What Daphne lacks is the same on every framework: two of them show it."""
VARIANTS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "uvicorn unisock uvloop": _UVICORN_UNISOCK,
        "uvicorn unisock wrapped": _UVICORN_UNISOCK,
    }
)
"""The event loop, and middleware that wraps the server's callables, are the same on every
framework: one shows them."""


# Middleware


def around(app: ASGI) -> ASGI:
    """ASGI middleware that sets a context variable and tells of it."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        with around_handler(scope.get("query_string", b"").decode()):
            await app(scope, receive, send)

    return call


def leaving(app: ASGI) -> ASGI:
    """ASGI middleware that leaves something in the state."""

    async def leave(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            scope.setdefault("state", {})[LEFT] = "yes"
        await app(scope, receive, send)

    return leave


def telling(app: ASGI) -> ASGI:
    """ASGI middleware that tells of the errors that pass."""

    async def tell(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except Exception as exc:
            tell_error(scope.get("query_string", b"").decode(), exc)
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


def own_error_handlers() -> Any:
    """The error handlers of Starlette and FastAPI."""
    from starlette.responses import Response
    from starlette.websockets import WebSocket

    async def on_own_error(websocket: WebSocket, exc: Exception) -> Response:
        tell_own_error(websocket.scope["query_string"].decode())
        status, body, headers = OWN_ANSWER
        return Response(body, status, headers)

    return {OwnError: on_own_error}


# In the server's process


def serve_asgi(framework: str, make_app: Callable[[], ASGI], server: str, port: int) -> None:
    """Serve the application of a framework until a signal comes."""
    kind, _, variant = server.partition(" ")
    if kind == "granian":
        _granian(framework, port)  # it makes the application in its worker process
    elif kind == "daphne":
        _daphne(make_app(), port)
    elif kind == "hypercorn":
        _hypercorn(_below(make_app()), port)
    else:  # believes 127.0.0.1 by itself
        _uvicorn(_below(make_app()), variant, port)


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

    configure_logging()
    make_app = import_module(f"unisock.conformance.frameworks.{framework}").make_app
    believing: ASGI = wrap_asgi_with_proxy_headers(_below(make_app()))
    return believing
