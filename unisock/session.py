"""One connection from handshake to end: the origin check, the handler, its ending.

How a handler ends decides how the connection does:

================================  ====================  ==========================
the handler                       before ``accept``     connection open
================================  ====================  ==========================
returns                           403, one warning      close 1000
raises `WebSocketException`       403                   close with its code
lets `InvalidMessage` escape      --                    close 1003 or 1007, a warning
lets `WebSocketDisconnect` escape  nothing              nothing
raises `HandshakeRejected`        that response         close 4000 + status
raises the framework's HTTPError  the framework's       close 4000 + status
raises anything else              500, goes on          close 1011, goes on
is cancelled                      503, goes on          close 1012, goes on
================================  ====================  ==========================
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from inspect import iscoroutinefunction, signature
from typing import Any, TypeAlias

from .errors import (
    HandshakeRejected,
    HeadersInput,
    InvalidMessage,
    WebSocketDisconnect,
    WebSocketException,
)
from .options import Options
from .transport import HTTPError, HTTPResponse, Transport
from .websocket import WebSocket

logger = logging.getLogger("unisock")

Handler: TypeAlias = Callable[[WebSocket], Coroutine[Any, Any, None]]
"""An ``async def`` function, or an object with an async ``__call__``."""

# Exceptions that say how the connection ends, so that they go no further.
_ENDINGS = (WebSocketDisconnect, WebSocketException, InvalidMessage, HandshakeRejected, HTTPError)


def check_handler(handler: Handler) -> Handler:
    """Return `handler` if it can be mounted.

    Raises:
        TypeError: it is not an async function of one argument; the message
            says what to change.
    """
    if not callable(handler):
        raise TypeError(f"a handler is `async def handler(ws)`, not {handler!r}")
    if isinstance(handler, type):
        raise TypeError(f"{handler.__name__} is a class: mount an instance with an async __call__")
    if not iscoroutinefunction(handler) and not iscoroutinefunction(type(handler).__call__):
        raise TypeError(f"a handler is `async def handler(ws)`: {_name(handler)} is not async")
    try:
        signature(handler).bind(None)
    except TypeError as exc:
        raise TypeError(
            f"a handler takes one argument, the WebSocket: {_name(handler)}: {exc}"
        ) from exc
    return handler


async def run(handler: Handler, transport: Transport, options: Options) -> None:
    """Run `handler` on one connection and end it as the table above says.

    Leaves nothing behind: no task, no reader.

    Raises:
        Exception: what the handler raised, where the table says that it goes
            on to the framework.
        asyncio.CancelledError: the server stops.
    """
    ws = WebSocket(transport, options)
    transport.start(ws._inbox)
    try:
        if _origin_allowed(ws, options):
            await _run_handler(handler, ws, transport)
        else:
            await ws.reject(403, b"origin not allowed")
    finally:
        await transport.stop()


def _origin_allowed(ws: WebSocket, options: Options) -> bool:
    origins = ws.headers.getall("origin", ())
    if not origins or options.allowed_origins is None:
        return True
    if len(origins) == 1 and options.allows_origin(origins[0], ws.headers.get("host", "")):
        return True
    origin = ", ".join(origins)
    logger.warning(
        "handshake rejected: origin %r is not this host; to allow it mount with origins=[%r]",
        origin,
        origin,
    )
    return False


async def _run_handler(handler: Handler, ws: WebSocket, transport: Transport) -> None:
    try:
        await handler(ws)
    except asyncio.CancelledError:
        if _is_cancelled():
            await _end(ws, 503, 1012)
        else:  # what the handler waited for was cancelled, and not the handler
            await _end(ws, 500, 1011)
        raise
    except Exception as exc:  # noqa: BLE001  # what it is decides how the connection ends
        await _end_by(exc, ws, transport)
    else:
        if ws._connecting and not ws.closed:
            logger.warning(
                "handler %s returned without accept() or reject(): rejected with 403",
                _name(handler),
            )
        await _end(ws, 403, 1000)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _end_by(exc: Exception, ws: WebSocket, transport: Transport) -> None:
    """End the connection as `exc` says, and raise what goes on to the framework."""
    try:
        ending = _ending_of(exc, transport)
        if ending is not None and not _framework_answers(ending, ws):
            await _end_as(ending, ws)
            return
    except (TypeError, ValueError, AttributeError):
        # Its status, code or headers are none that can be sent.
        await _end(ws, 500, 1011)
        raise
    if ending is not None and ending.__cause__ is not None:
        raise ending.__cause__
    await _end(ws, 500, 1011)
    raise exc


def _framework_answers(ending: BaseException, ws: WebSocket) -> bool:
    """Whether the framework gives its own HTTP error a body, if it goes on to it."""
    return (
        isinstance(ending, HTTPError)
        and ending.response is None
        and ws.capabilities.http_rejection
        and ending.__cause__ is not None
        and ws._connecting
        and not ws.closed
    )


async def _end_as(ending: BaseException, ws: WebSocket) -> None:
    match ending:
        case WebSocketException():
            await _end(ws, 403, ending.code, ending.reason)
        case InvalidMessage():
            logger.warning("closing with %s: %s", ending.code, ending.reason)
            await _end(ws, 403, ending.code, ending.reason)
        case HandshakeRejected():
            await _reject_or_close(ws, ending.status_code, "", ending.body, ending.headers)
        case HTTPError():
            response = ending.response or HTTPResponse()
            await _reject_or_close(
                ws, ending.status_code, ending.title, response.body, response.headers
            )
        case _:
            logger.debug("handler ended by the disconnect: %s", ending)
            await _end(ws, 403, 1000)


async def _reject_or_close(
    ws: WebSocket,
    status_code: int,
    title: str,
    body: bytes,
    headers: HeadersInput | None,
) -> None:
    if ws._connecting:
        await ws.reject(status_code, body, headers)
    else:
        await _end(ws, status_code, 4000 + status_code, title)


async def _end(ws: WebSocket, status_code: int, code: int, reason: str = "") -> None:
    """Reject if the handshake is still open, else close."""
    if ws._connecting:
        await ws.reject(status_code)
    else:
        # What the reason comes from may hold what UTF-8 cannot say.
        reason = reason.encode(errors="replace").decode()
        await ws.close(code, reason)


def _ending_of(exc: Exception, transport: Transport) -> BaseException | None:
    """The ending that `exc` means, or `None` if it is an error like any other.

    A task group wraps what its tasks raised: a group counts as what it holds
    if that is one ending, disconnects not counted.
    """
    endings = []
    for leaf in _leaves(exc):
        ending = leaf if isinstance(leaf, _ENDINGS) else transport.translate(leaf)
        if ending is None:
            return None
        if ending is not leaf:
            ending.__cause__ = leaf
        endings.append(ending)
    decisive = [e for e in endings if not isinstance(e, WebSocketDisconnect)]
    if len(decisive) > 1:
        return None
    return decisive[0] if decisive else endings[0]


def _leaves(exc: Exception) -> Iterator[Exception]:
    if isinstance(exc, ExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc


def _name(handler: object) -> str:
    return getattr(handler, "__qualname__", None) or type(handler).__qualname__
