"""A test's peer on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from multidict import CIMultiDict, CIMultiDictProxy

from unisock.paths import Parameter
from unisock.transport import ConnectionLost

from .servers import HOST, SharedServer
from .watching import Watch, WatchedHandler
from .wires import Answer, Wire

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

    from .connecting import Request

# How many messages are read ahead of the test, beside what the system holds.
_READ_AHEAD = 1


class SocketWire(Wire):
    """A connection to a server in this process.

    Args:
        target: a handler that is watched, or an application.
        request: the handshake.
        on: the framework for the handler.
    """

    def __init__(self, target: Any, request: Request, on: str | None) -> None:
        super().__init__()
        self._target = target
        self._request = request
        self._on = on
        self._acquiring: asyncio.Task[SharedServer] | None = None
        self._server: SharedServer | None = None
        self._key = ""
        self._reading = asyncio.Event()
        self._reading.set()
        self._ws: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def watch(self) -> Watch | None:
        """The watch over the handler; `None` if it is in an application."""
        handler = self._server.handler if self._server else None
        return handler.watches.get(self._key) if handler else None

    async def prepare(self) -> None:
        """Start the server, unless it runs."""
        if find_spec("websockets") is None:
            raise ModuleNotFoundError(
                "a peer on a socket needs the package websockets: pip install websockets",
                name="websockets",
            )
        path = _spell(self._request) if isinstance(self._target, WatchedHandler) else "/"
        acquiring = asyncio.to_thread(SharedServer.acquire, self._target, self._on, path)
        # A task, for who is cancelled while it starts has to stop it: see `end`.
        self._acquiring = asyncio.create_task(acquiring)
        self._server = await asyncio.shield(self._acquiring)

    async def open(self) -> Answer:
        """Connect, with the client of the `websockets` package."""
        # Imported here and below: in memory nobody needs the package.
        from websockets.asyncio.client import ClientConnection, connect  # noqa: PLC0415  # as said

        request = self._request
        assert self._server is not None
        handler = self._server.handler
        clients: list[ClientConnection] = []

        def create(protocol: Any, **settings: Any) -> ClientConnection:
            self._key = protocol.key
            if handler is not None:
                handler.states[self._key] = request.state
            clients.append(ClientConnection(protocol, **settings))
            return clients[0]

        # One that is connected: the environment's proxy is not asked.
        connection = socket.create_connection((HOST, self._server.thread.port))
        try:
            self._ws = await connect(
                f"ws://{request.host}{request.target}",
                sock=connection,
                additional_headers=request.headers,
                subprotocols=list(request.subprotocols) or None,  # type: ignore[arg-type]  # a NewType
                compression=None,
                max_size=None,
                max_queue=_READ_AHEAD,
                open_timeout=None,
                ping_interval=None,
                create_connection=create,  # type: ignore[arg-type]  # it is called, and no more
            )
        except Exception:
            # That of a redirect, too, which it would follow if it could.
            response = clients[0].response if clients else None
            if response is None or response.status_code == 101:
                raise
            self.inbox.disconnect(1006)
            return _answer(response, None)
        self._reader = asyncio.create_task(self._read(self._ws))
        assert self._ws.response is not None
        return _answer(self._ws.response, self._ws.subprotocol)

    async def _read(self, ws: ClientConnection) -> None:
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415  # as in `open`

        room = asyncio.Event()
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self._reading.wait()
                message = await ws.recv()
                await self._reading.wait()
                if not self.deliver(message):
                    room.clear()
                    self.inbox.call_on_room(room.set)
                    await room.wait()
        self.inbox.disconnect(ws.close_code or 1006, ws.close_reason or "")

    async def send(self, message: str | bytes) -> None:
        """Send it in one frame."""
        await self._send(message)

    async def send_fragments(self, fragments: Iterable[str] | Iterable[bytes]) -> None:
        """Send each in a frame of its own."""
        await self._send(fragments)

    async def _send(self, data: str | bytes | Iterable[str] | Iterable[bytes]) -> None:
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415  # as in `open`

        try:
            await self._open_ws.send(data)
        except ConnectionClosed as exc:
            assert self._reader is not None
            await asyncio.wait([self._reader])  # it knows the code
            raise ConnectionLost from exc

    @property
    def _open_ws(self) -> ClientConnection:
        assert self._ws is not None
        return self._ws

    async def close(self, code: int | None, reason: str) -> None:
        """Send the close frame, and wait for the answer."""
        ws = self._open_ws
        self.inbox.unbound()  # the answer stands behind what the handler has sent
        if code is None:
            async with ws.send_context():
                ws.protocol.send_close()
        else:
            await ws.close(code, reason)
        assert self._reader is not None
        await asyncio.wait([self._reader])

    def vanish(self) -> None:
        """Abort the TCP connection."""
        self._open_ws.transport.abort()

    def pause_reading(self) -> None:
        """Leave in the system's buffers what comes."""
        self._reading.clear()

    def resume_reading(self) -> None:
        """Read on."""
        self._reading.set()

    async def stop_server(self) -> None:
        """Stop it as at SIGTERM."""
        assert self._server is not None
        await asyncio.to_thread(self._server.stop)

    async def end(self, patience: float, cancel_left: bool) -> None:
        """Drop the connection, and the server, which ends what the handler has left."""
        try:
            if self._ws is not None:
                self._ws.transport.abort()
            if self._reader is not None:
                self._reader.cancel()
                await asyncio.wait([self._reader])
        finally:
            if self._acquiring is not None:
                await asyncio.wait([self._acquiring])
                if self._acquiring.exception() is None:
                    await asyncio.to_thread(self._acquiring.result().release)


def _answer(response: Any, subprotocol: str | None) -> Answer:
    headers = CIMultiDictProxy(CIMultiDict(response.headers.raw_items()))
    return Answer(response.status_code, headers, bytes(response.body or b""), subprotocol)


def _spell(request: Request) -> str:
    """The template as `unisock.mount` takes it."""
    return request.template.render(_spell_parameter)


def _spell_parameter(parameter: Parameter) -> str:
    return f"{{{parameter.name}:{parameter.converter.name}}}"
