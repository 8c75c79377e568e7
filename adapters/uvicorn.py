"""uvicorn: a class that speaks the WebSocket protocol for it.

::

    uvicorn --ws unisock.adapters.uvicorn:WebSocketProtocol app:app

It serves any ASGI application, and a unisock handler without ASGI's events where nothing
stands between.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

from uvicorn.logging import TRACE_LOG_LEVEL
from uvicorn.protocols.utils import (
    ClientDisconnected,
    get_client_addr,
    get_local_addr,
    get_path_with_query_string,
    get_remote_addr,
    is_ssl,
)

from unisock.asyncio_carrier import AsyncioCarrier
from unisock.errors import check_close_code
from unisock.handshake import split_target
from unisock.printing import escaped
from unisock.transport import ConnectionLost, Inbox
from unisock.wire.deflate import Deflate
from unisock.wire.driver import Wire
from unisock.wire.opening import Opening, Refusal, build_head, build_response, check_opening

from .direct import DirectServer

logger = logging.getLogger("uvicorn.error")

# The head of a handshake: httptools has no limit, and h11 none for one that comes whole.
_MAX_HEAD = 64 * 1024
# What an application has not received: so many bytes, and the message that is one too many.
_MAX_UNREAD = 1024 * 1024


class WebSocketProtocol(asyncio.Protocol):
    """The class for ``uvicorn --ws`` and ``uvicorn.Config(ws=…)``.

    It means by uvicorn's options what uvicorn's own classes do.
    """

    # What uvicorn gives to such a class, and asks of it, it does not promise.  All of that
    # is in this class, and is as in uvicorn 0.34.3 to 0.54.

    def __init__(
        self,
        config: Any,
        server_state: Any,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._app: Callable[..., Awaitable[object]] = config.loaded_app
        self._loop = _loop or asyncio.get_running_loop()
        self._connections: set[Any] = server_state.connections
        self._tasks: set[asyncio.Task[None]] = server_state.tasks
        self._app_state = app_state
        self._events: ASGIConnection | None = None
        self._has_head = False
        self.asgi_version: str = config.asgi_version
        self.root_path: str = config.root_path
        self.default_headers: list[tuple[bytes, bytes]] = server_state.default_headers
        self.max_size: int = config.ws_max_size
        self.max_queue: int = config.ws_max_queue
        # uvicorn takes 0 for none.
        self.ping_interval: float | None = config.ws_ping_interval or None
        self.ping_timeout: float | None = config.ws_ping_timeout
        self.deflate = Deflate() if config.ws_per_message_deflate else None

    # asyncio's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A handshake has come, whose head uvicorn has read."""
        self._connections.add(self)
        self._transport = cast(asyncio.Transport, transport)
        _set_nodelay(transport)
        self._wire = Wire(AsyncioCarrier(self._transport, self._loop), self._loop.create_future)
        self._trace("made")

    def data_received(self, data: bytes) -> None:
        """The head, which uvicorn gives in one piece, and then what comes."""
        if self._has_head:
            self._wire.data_received(data)
        else:
            self._has_head = True
            self._open(data)

    def eof_received(self) -> None:
        """The peer sends nothing more."""
        self._wire.eof_received()

    def pause_writing(self) -> None:
        """The peer does not take what is sent."""
        self._wire.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self._wire.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._connections.discard(self)
        self._wire.connection_lost()
        self._trace("lost")

    def _trace(self, what: str) -> None:
        if logger.level <= TRACE_LOG_LEVEL:
            client = get_remote_addr(self._transport)
            prefix = f"{client[0]}:{client[1]} - " if client else ""
            logger.log(TRACE_LOG_LEVEL, "%sWebSocket connection %s", prefix, what)

    # uvicorn's calls

    def shutdown(self) -> None:
        """The server stops: 1012, or 503 for a handshake that nobody has answered."""
        if self._events is not None:
            self._events.shutdown()
        else:
            self._transport.close()

    def _open(self, head: bytes) -> None:
        try:
            method, target, headers = _parse_head(head)
            opening = check_opening(
                method,
                "1.1",  # which is what uvicorn writes for 1.0 as well
                [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers],
                deflate=self.deflate,
            )
        except Refusal as refusal:
            self._wire.refuse(refusal.response())
            return
        self._events = ASGIConnection(self, self._wire, opening, self._scope(target, headers))
        task = self._loop.create_task(self._events.run(self._app))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _scope(self, target: bytes, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
        raw_path, _, query_string = target.partition(b"?")
        offered = [value for name, value in headers if name == b"sec-websocket-protocol"]
        return {
            "type": "websocket",
            "asgi": {"version": self.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if is_ssl(self._transport) else "ws",
            "server": get_local_addr(self._transport),
            "client": get_remote_addr(self._transport),
            "root_path": self.root_path,
            "path": self.root_path + unquote(raw_path.decode("latin-1")),
            "raw_path": self.root_path.encode("ascii") + raw_path,
            "query_string": query_string,
            "headers": headers,
            "subprotocols": [
                name.strip() for value in offered for name in value.decode("latin-1").split(",")
            ],
            "state": self._app_state.copy(),
            "extensions": {"websocket.http.response": {}},
        }


def _parse_head(head: bytes) -> tuple[str, bytes, list[tuple[bytes, bytes]]]:
    """Method, target and headers of a request, which uvicorn has checked and written anew.

    Raises:
        Refusal: it is too long.
    """
    if len(head) > _MAX_HEAD:
        raise Refusal(431, b"the head of a handshake is 64 KiB at most\n")
    request_line, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    method, target, _ = request_line.decode("latin-1").split(" ")
    headers = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
    host, target = split_target(target)
    if host is not None:
        headers = [header for header in headers if header[0] != b"host"]
        headers.append((b"host", host.encode("latin-1")))
    return method, target.encode("latin-1"), headers


def _set_nodelay(transport: asyncio.BaseTransport) -> None:
    # asyncio does so, but not for a listener that was made elsewhere, as with --workers.
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class ASGIConnection(DirectServer):
    """One connection as an application sees it: ASGI's WebSocket events.

    Args:
        server: the protocol class, which has the options.
        wire: the connection.
        opening: its handshake.
        scope: ASGI's.
    """

    def __init__(
        self, server: WebSocketProtocol, wire: Wire, opening: Opening, scope: dict[str, Any]
    ) -> None:
        self._server = server
        self._wire = wire
        self._opening = opening
        self._scope = scope
        self._max_size = server.max_size
        self._connect_received = False
        self._is_answered = False
        # Status and headers of a rejection, whose body is still to come, and what has come.
        self._response: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._body = b""
        self._closed_by_app = False
        self._answered_by_server = False
        self.attach(
            Inbox(
                max_messages=server.max_queue,
                max_size=_MAX_UNREAD,
                max_message_size=server.max_size,
            )
        )

    async def run(self, app: Callable[..., Awaitable[object]]) -> None:
        """Run the application, and leave nothing open when it has ended."""
        code = 1011
        try:
            result = await app(self._scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except BaseException:  # as uvicorn's own classes, which leave no task that has failed
            logger.exception("Exception in ASGI application\n")
        else:
            code = 1000
            if not self._is_answered:
                logger.error("ASGI callable returned without completing handshake.")
            elif result is not None:
                logger.error("ASGI callable should return None, but returned '%s'.", result)
        self._end(code)

    def _end(self, code: int, *, at_once: bool = False, status_code: int = 500) -> None:
        if self._is_answered:
            self._wire.end(code, at_once=at_once)
            return
        self._answered_by_server = True
        with suppress(ConnectionLost):
            self._answer(status_code, HTTPStatus(status_code).phrase.encode(), [])

    def shutdown(self) -> None:
        """See `WebSocketProtocol.shutdown`."""
        self._inbox.disconnect(1012)
        self._end(1012, at_once=True, status_code=503)

    # Receiving

    def attach(self, inbox: Inbox, *, close_timeout: float = 10.0) -> None:
        """Feed `inbox`, which is that of a handler, from now on."""
        self._inbox = inbox
        self._max_size = min(self._max_size, inbox.max_message_size)
        self._wire.attach(inbox, max_early=_MAX_UNREAD, close_timeout=close_timeout)

    async def receive(self) -> dict[str, Any]:
        """ASGI's: the next event."""
        if not self._connect_received:
            self._connect_received = True
            return {"type": "websocket.connect"}
        try:
            event: dict[str, Any] = await self._inbox.get(_receive_event, _Ended)
        except _Ended as end:
            return end.event
        return event

    # Answering

    async def send(self, event: Any) -> None:
        """ASGI's: an event of the application.

        Raises:
            ClientDisconnected: the client has gone.
            RuntimeError: the event is none that may come now.
            ValueError: it closes with a code that may not be sent.
        """
        kind = event["type"]
        try:
            if self._response is not None and not self._is_answered:
                self._take_body(kind, event)
            elif not self._is_answered:
                self._take_answer(kind, event)
            elif self._answered_by_server:
                raise ConnectionLost
            elif self._closed_by_app:
                raise RuntimeError(
                    f"Unexpected ASGI message '{kind}', after sending 'websocket.close'."
                )
            elif kind == "websocket.send":
                await self._send(event)
            elif kind == "websocket.close":
                await self._close(event)
            else:
                raise RuntimeError(
                    "Expected ASGI message 'websocket.send' or 'websocket.close', "
                    f"but got '{kind}'."
                )
        except ConnectionLost:
            raise ClientDisconnected from None

    async def _send(self, event: Any) -> None:
        data: str | bytes | None = event.get("bytes")
        if data is None:
            data = event.get("text")
        if data is not None:
            await self._wire.send(data)

    async def _close(self, event: Any) -> None:
        code, reason = event.get("code", 1000), event.get("reason") or ""
        check_close_code(code)
        self._closed_by_app = True
        self._inbox.close(code, reason)
        await self._wire.close(code, reason)

    def _take_answer(self, kind: str, event: Any) -> None:
        if kind == "websocket.accept":
            self.accept(event.get("subprotocol"), list(event.get("headers", ())))
        elif kind == "websocket.close":
            self._closed_by_app = True
            self.reject(403, b"", [])
        elif kind == "websocket.http.response.start":
            status_code = event["status"]
            if not 100 <= status_code < 600:
                raise RuntimeError(f"Invalid HTTP status code '{status_code}' in response.")
            self._response = status_code, list(event.get("headers", ()))
        else:
            raise RuntimeError(
                "Expected ASGI message 'websocket.accept', 'websocket.close' "
                f"or 'websocket.http.response.start' but got '{kind}'."
            )

    def _take_body(self, kind: str, event: Any) -> None:
        assert self._response is not None
        if kind != "websocket.http.response.body":
            raise RuntimeError(
                f"Expected ASGI message 'websocket.http.response.body' but got '{kind}'."
            )
        self._body += event.get("body", b"")
        if not event.get("more_body", False):
            self._closed_by_app = True
            self.reject(self._response[0], self._body, self._response[1])

    def accept(self, subprotocol: str | None, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the 101."""
        self._log("[accepted]")
        more = _decoded([*self._server.default_headers, *headers])
        pairs = [*self._opening.headers(subprotocol or None), *more]
        self._wire.open(
            build_head(101, pairs),
            max_message_size=self._max_size,
            deflate=self._opening.deflate,
            ping_interval=self._server.ping_interval,
            ping_timeout=self._server.ping_timeout,
        )
        self._is_answered = True

    def reject(self, status_code: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the response, after which the connection ends."""
        self._log(str(status_code))
        self._inbox.disconnect(1006)
        self._answer(status_code, body, headers)

    def _answer(self, status_code: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self._is_answered = True
        pairs = _decoded(headers)
        if "content-type" not in {name.lower() for name, _ in pairs}:
            pairs.append(("content-type", "text/plain; charset=utf-8"))
        self._wire.refuse(build_response(status_code, body, pairs))

    def _log(self, outcome: str) -> None:
        if logger.isEnabledFor(logging.INFO):
            scope: Any = self._scope
            # A proxy's headers and the query may hold anything.
            client, path = get_client_addr(scope), get_path_with_query_string(scope)
            logger.info('%s - "WebSocket %s" %s', escaped(client), escaped(path), outcome)

    # Without events

    def send_message(self, data: str | bytes) -> Awaitable[None]:
        """Send a message; see `Wire.send`."""
        return self._wire.send(data)

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame; see `Wire.close`."""
        self._closed_by_app = True
        await self._wire.close(code, reason)


def _decoded(headers: list[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def _receive_event(message: str | bytes) -> dict[str, Any]:
    key = "text" if isinstance(message, str) else "bytes"
    return {"type": "websocket.receive", key: message}


class _Ended(Exception):
    """All that came before the end was received."""

    def __init__(self, inbox: Inbox) -> None:
        super().__init__()
        assert inbox.ended is not None
        code, reason = inbox.ended
        self.event = {"type": "websocket.disconnect", "code": code, "reason": reason}
