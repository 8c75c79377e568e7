"""One connection from handshake to end: the checks of the handshake, the handler, its ending.

How a handler ends decides how the connection does:

================================  ====================  ==========================
the handler                       before ``accept``     connection open
================================  ====================  ==========================
returns                           403, one warning      close 1000
raises `WebSocketException`       403                   close with its code
lets `InvalidMessage` escape      --                    close with its code, a warning
lets `WebSocketDisconnect` escape  nothing              nothing
raises `HandshakeRejected`        that response         close 4000 + status
raises the framework's HTTPError  the framework's       close 4000 + status
raises anything else              500, goes on          close 1011, goes on
is cancelled                      503, goes on          close 1012, goes on
================================  ====================  ==========================

The disconnect of another connection is an error like any other, as long as this
connection is open.

The same holds for each hook of a class endpoint, and for what `start_soon` has
started.

The 500 is the framework's, where that has error handlers of the application's to
ask (`Transport.framework_answers`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator

from .errors import (
    HandshakeRejected,
    HeadersInput,
    InvalidMessage,
    UnisockError,
    WebSocketDisconnect,
    WebSocketException,
    is_foreign,
)
from .options import Options
from .printing import MOST_OF_TEXT, printable
from .transport import HTTPError, HTTPResponse, Transport
from .websocket import WebSocket

logger = logging.getLogger("unisock")

# Exceptions that say how the connection ends, so that they go no further.
_ENDINGS = (WebSocketDisconnect, WebSocketException, InvalidMessage, HandshakeRejected, HTTPError)


class Session:
    """A handler's life on one connection.

    Args:
        name: the handler's, for the log.
        transport: the connection.
        options: those that the handler was mounted with.

    Attributes:
        ws: what the handler gets; there from `run` on.
    """

    __slots__ = ("_runner", "name", "options", "transport", "ws")

    ws: WebSocket

    def __init__(self, name: str, transport: Transport, options: Options) -> None:
        self.name = transport._handler_name = name
        self.transport = transport
        self.options = options

    async def run(self, serve: Callable[[Session], Awaitable[None]]) -> None:
        """Have `serve` run a handler, by `conclude`, unless the handshake is not allowed.

        Leaves nothing behind: no task, no reader.

        Raises:
            Exception: what `serve` raised.
        """
        self.ws = WebSocket(self.transport, self.options)
        self._runner = self.ws._runtime.current()
        self.transport.start(self.ws._inbox)
        try:
            problem = self.transport.handshake.problem()
            if problem is not None:
                logger.debug("handshake rejected: %s", problem)
                await self.ws.reject(400, problem.encode())
            elif not _host_allowed(self.ws, self.options):
                await self.ws.reject(400, b"host not allowed")
            elif not _origin_allowed(self.ws, self.options):
                await self.ws.reject(403, b"origin not allowed")
            elif self.options.handler_timeout is None:
                await serve(self)
            else:
                await self._serve_in_time(serve, self.options.handler_timeout)
        finally:
            if not self.is_abandoned():
                await self._leave()

    async def _leave(self) -> None:
        try:
            if self.ws._finishing:  # a last step beside the handler
                await self.ws._until_finished()
        finally:
            await self.transport.stop()

    def is_abandoned(self) -> bool:
        """Whether nothing may be awaited any more.

        That is so where the coroutine is closed before its end, which raises
        `GeneratorExit` in it: an event loop has ended and has left its tasks behind.
        """
        try:
            return self.ws._runtime.current() is not self._runner
        except RuntimeError:  # no event loop runs
            return True

    async def _serve_in_time(
        self, serve: Callable[[Session], Awaitable[None]], seconds: float
    ) -> None:
        """Have `serve` run the handler, but not for longer without an answer to the client."""
        background = self.ws._runtime.background()
        timer = background.call_later(seconds, lambda: background.start(self._refuse_late(seconds)))
        try:
            await serve(self)
        finally:
            timer.cancel()

    async def _refuse_late(self, seconds: float) -> None:
        if self.ws._connecting and not self.ws._has_ended:
            # The log comes after: it may wait, and the handler may answer meanwhile.
            await self.ws._refuse(503, b"the handler took too long")
            logger.warning(
                "%s: handshake rejected: the handler has not answered it within %g seconds",
                self.transport._describe(),
                seconds,
            )

    async def conclude(
        self, part: Callable[[], Awaitable[object]], *, with_tasks: bool = True
    ) -> None:
        """Run the handler, or a part of it, and end the connection as the table says.

        Args:
            part: what to run.
            with_tasks: whether it may `start_soon`.

        Raises:
            Exception: what the handler raised, where the table says that it
                goes on to the framework.
            asyncio.CancelledError: the server stops.
        """
        task = self.ws._runtime.current() if with_tasks else None
        self.ws._handler_task = task if isinstance(task, asyncio.Task) else None
        try:
            # Not a coroutine of its own: each message would pass through it.
            try:
                await part()
            except BaseException as exc:
                failure = await self._end_tasks(exc)
                if failure is None:
                    raise
            else:
                failure = await self._end_tasks(None)
            if failure is not None:
                raise failure
        except BaseException as exc:
            if self.is_abandoned():
                raise
            await self._end_after(exc)
        else:
            if self.ws._connecting and not self.ws._has_ended:
                logger.warning(
                    "%s: returned without accept() or reject(): rejected with 403",
                    self.transport._describe(),
                )
            await _end(self.ws, 403, 1000)

    async def _end_after(self, exc: BaseException) -> None:
        """End the connection as what the handler has raised says, and raise what goes on."""
        if isinstance(exc, Exception):
            await self.end_by(exc)
            return
        if self.ws._runtime.is_cancellation(exc):
            await self.stop()
        else:  # what the handler waited for was cancelled, and not the handler
            await _end(self.ws, 500, 1011)
        raise exc

    async def stop(self) -> None:
        """End the connection as for a handler that is cancelled."""
        await self.ws._stop()

    async def _end_tasks(self, handler_error: BaseException | None) -> BaseException | None:
        """End what `start_soon` has started; return an error of it that is to be raised."""
        self.ws._handler_task = None
        tasks, self.ws._tasks = self.ws._tasks, None
        if tasks is None or self.is_abandoned():
            return None
        # A task that has closed must not be cancelled before its close frame is sent.
        return await tasks.end(handler_error, self.ws._until_finished())

    async def end_by(self, exc: BaseException) -> None:
        """End the connection as `exc` says, and raise what goes on to the framework."""
        ws = self.ws
        failure = exc
        foreign = is_foreign(exc, is_open=not ws._has_ended)
        hands_over = self.transport.framework_answers and _is_answerable(ws)
        try:
            ending = None if foreign else _ending_of(exc, self.transport)
            if ending is not None and not _framework_answers(ending, ws):
                await _end_as(ending, ws)
                return
            if ending is not None and ending.__cause__ is not None:
                failure, hands_over = ending.__cause__, True
        except (TypeError, ValueError, AttributeError) as invalid:
            # Its status, code or headers are none that can be sent.
            failure = invalid
        if foreign:
            exc.add_note(
                "this is the end of another connection, and closes the one of handler "
                f"{self.name}: to go on, catch WebSocketDisconnect where you use others"
            )
        if hands_over:
            ws._hand_over()
        else:
            await _end(ws, 500, 1011)
        raise failure


def _host_allowed(ws: WebSocket, options: Options) -> bool:
    if options.host_patterns is None or options.allows_host(ws.url.hostname):
        return True
    logger.warning(
        "%s: handshake rejected: the Host header says %r, which is none of allowed_hosts=. If it "
        "is your own, add it; behind a proxy see that the browser's Host is passed on",
        ws._transport._describe(),
        ws.headers.get("host", "")[:MOST_OF_TEXT],
    )
    return False


def _origin_allowed(ws: WebSocket, options: Options) -> bool:
    if options.allowed_origins is None:
        return True
    # Not ws.headers, which most handlers never ask for.
    origins = ws._handshake.header_values("origin")
    if not origins:
        return True
    host = ws.headers.get("host", "")
    is_secure = ws._handshake.is_secure
    if len(origins) == 1 and options.allows_origin(origins[0], host, is_secure=is_secure):
        return True
    origin = ", ".join(origins)
    if len(origins) == 1 and options.allows_origin(origins[0], host):
        logger.warning(
            "%s: handshake rejected: the page of origin %r came without TLS, and this connection "
            "has it: serve the page by https; to allow it all the same mount with origins=[%r]",
            ws._transport._describe(),
            origin[:MOST_OF_TEXT],
            origin[:MOST_OF_TEXT],
        )
        return False
    logger.warning(
        "%s: handshake rejected: origin %r is not this host: the Host header says %r. If it is "
        "your own page, have the proxy pass the browser's Host on (nginx: proxy_set_header Host "
        "$http_host); to allow another page's origin mount with origins=[%r]",
        ws._transport._describe(),
        origin[:MOST_OF_TEXT],
        host[:MOST_OF_TEXT],
        origin[:MOST_OF_TEXT],
    )
    return False


def _framework_answers(ending: BaseException, ws: WebSocket) -> bool:
    """Whether the framework gives its own HTTP error a body, if it goes on to it."""
    return (
        isinstance(ending, HTTPError)
        and ending.response is None
        and ending.__cause__ is not None
        and _is_answerable(ws)
    )


def _is_answerable(ws: WebSocket) -> bool:
    """Whether the framework can answer the handshake, with a response of its own."""
    return (
        ws._connecting
        and not ws._has_ended
        and ws.capabilities.http_rejection
        and not ws._options.visible_rejections
    )


async def _end_as(ending: BaseException, ws: WebSocket) -> None:
    match ending:
        case WebSocketException():
            await _end(ws, 403, ending.code, ending.reason)
        case InvalidMessage():
            if not ws._has_ended:
                logger.warning(
                    "%s: closing with %s: %s",
                    ws._transport._describe(),
                    ending.code,
                    printable(ending.reason),
                )
            await _end(ws, 403, ending.code, ending.reason)
        case HandshakeRejected():
            await _reject_or_close(ws, ending.status_code, "", ending.body, ending.headers)
        case HTTPError():
            response = ending.response or HTTPResponse()
            await _reject_or_close(
                ws, ending.status_code, ending.title, response.body, response.headers
            )
        case _:
            if logger.isEnabledFor(logging.DEBUG):  # else the text need not be made
                logger.debug(
                    "handler %s ended by the disconnect: %s", ws._transport._handler_name, ending
                )
            await _end(ws, 403, 1000)


async def _reject_or_close(
    ws: WebSocket,
    status_code: int,
    title: str,
    body: bytes,
    headers: HeadersInput | None,
) -> None:
    if ws._connecting:
        if ws._options.visible_rejections:
            body = body or title.encode(errors="replace")
        await ws._refuse(status_code, body, headers)
    else:
        await _end(ws, status_code, 4000 + status_code, title)


async def _end(ws: WebSocket, status_code: int, code: int, reason: str = "") -> None:
    """Reject if the handshake is still open, else close."""
    if ws._connecting:
        await ws._refuse(status_code)
    else:
        # What the reason comes from may hold what UTF-8 cannot say.
        reason = reason.encode(errors="replace").decode()
        await ws.close(code, reason)


def _ending_of(exc: BaseException, transport: Transport) -> BaseException | None:
    """The ending that `exc` means, or `None` if it is an error like any other.

    A task group wraps what its tasks raised: a group counts as what it holds
    if that is one ending, disconnects not counted.
    """
    endings = []
    for leaf in _leaves(exc):
        if isinstance(leaf, _ENDINGS):
            ending: UnisockError | None = leaf
        else:
            ending = transport.translate(leaf) if isinstance(leaf, Exception) else None
        if ending is None:
            return None
        if ending is not leaf:
            ending.__cause__ = leaf
        endings.append(ending)
    decisive = [e for e in endings if not isinstance(e, WebSocketDisconnect)]
    if len(decisive) > 1:
        return None
    return decisive[0] if decisive else endings[0]


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc
