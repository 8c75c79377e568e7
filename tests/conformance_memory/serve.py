"""The server process of the in-memory row: ``python serve.py PORT``.

A bridge: each connection of a client goes on in memory, as `unisock.testing.connect`
has them.  `unisock.wire` has the frames, and h11 the head of the request.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import signal
import sys
from contextlib import suppress
from typing import cast
from urllib.parse import parse_qs, unquote

import h11

from unisock import Address, Deflate, WebSocketDisconnect
from unisock.asyncio_carrier import AsyncioCarrier
from unisock.conformance.clauses_mounting import tell_room
from unisock.conformance.harness import journal_as, load_clauses, mounted
from unisock.options import OptionsDict
from unisock.paths import PathTemplate
from unisock.testing import Peer
from unisock.testing.connecting import Request
from unisock.testing.watching import WatchedHandler
from unisock.testing.wires import MemoryWire
from unisock.transport import ConnectionLost, Inbox
from unisock.wire.driver import Wire
from unisock.wire.opening import Opening, Refusal, build_response, check_opening

logger = logging.getLogger("memory")

bridges: set[Bridge] = set()
MADE_ANEW = ("host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version")
ALL = 1 << 62
# What is read of a client before the peer in memory has taken it.
READ_AHEAD = 65536
MIB = 1024 * 1024
MAX_HEAD = 65536

mounted("/by-hand/{room}")(tell_room)
ROUTES = [
    (PathTemplate.parse(prefix + path), WatchedHandler(handler, cast(OptionsDict, options)))
    for path, handler, options in load_clauses()
    for prefix in ("", "/prefix")
]


def open_memory(target: str, headers: list[tuple[str, str]], client: Address) -> MemoryWire:
    """The connection in memory that a client asks for.

    Raises:
        Refusal: there is no such path.
    """
    path = unquote(target.partition("?")[0])
    (host,) = [value for name, value in headers if name.lower() == "host"]
    template, handler = next((r for r in ROUTES if r[0].match(path) is not None), (None, None))
    if template is None or handler is None:
        raise Refusal(404, b"")
    asked = Request(
        scheme="ws",
        host=host,
        target=target,
        template=template,
        headers=[(name, value) for name, value in headers if name.lower() not in MADE_ANEW],
        subprotocols=(),  # among the headers
        client=client,
        state={"left_by_middleware": "yes"},
    )
    watched = copy.copy(handler)  # it counts the threads of all; each is watched alone
    watched.watches = {}
    return MemoryWire(watched, asked.in_memory())


class Bridge(asyncio.Protocol):
    """One client on a socket, and its connection in memory."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.SERVER)
        self._has_head = False
        self._read = 0
        self._inbox = Inbox(max_messages=1, max_size=READ_AHEAD, max_message_size=ALL)
        self._running: asyncio.Task[None] | None = None
        self.peer: Peer | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast(asyncio.Transport, transport)
        loop = asyncio.get_running_loop()
        self._wire = Wire(AsyncioCarrier(self._transport, loop), loop.create_future)
        self._wire.attach(self._inbox, max_early=MIB, close_timeout=10.0)

    def data_received(self, data: bytes) -> None:
        """The head of a request, and then frames."""
        if self._has_head:
            self._wire.data_received(data)
            return
        self._read += len(data)
        try:
            self._http.receive_data(data)
            request = self._http.next_event()
            if isinstance(request, h11.Request):
                self._has_head = True
                early = self._http.trailing_data[0]
                # h11 has no limit for a head that comes whole.
                if self._read - len(early) > MAX_HEAD:
                    raise Refusal(431, b"")
                self._on_request(request)
                self._wire.data_received(early)
        except h11.RemoteProtocolError as exc:
            self._refuse(Refusal(exc.error_status_hint, b""))
        except Refusal as refusal:
            self._refuse(refusal)

    def eof_received(self) -> None:
        """The client sends nothing more."""
        self._wire.eof_received()

    def pause_writing(self) -> None:
        """The client does not read."""
        self._wire.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self._wire.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._wire.connection_lost()

    def _refuse(self, refusal: Refusal) -> None:
        self._has_head = True
        self._wire.refuse(refusal.response())

    def _on_request(self, request: h11.Request) -> None:
        target = request.target.decode("latin-1")
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in request.headers.raw_items()
        ]
        if target.startswith("/page"):
            raise Refusal(200, b"the page")
        method, version = request.method.decode(), request.http_version.decode()
        opening = check_opening(method, version, headers, deflate=Deflate())
        address = Address(*self._transport.get_extra_info("peername"))
        memory = open_memory(target, headers, address)
        self.peer = Peer(memory, timeout=3600.0)  # the suite has its own timeouts
        self._running = asyncio.create_task(self._run(opening, memory, self.peer, target))

    async def _run(self, opening: Opening, memory: MemoryWire, peer: Peer, target: str) -> None:
        """Go on until both ends have ended."""
        bridges.add(self)
        hearing = asyncio.create_task(self._hear(peer))
        answer = await memory.open()
        headers = list(answer.headers.items())
        with suppress(ConnectionLost):  # the client has gone, or has closed
            if answer.status_code != 101:
                self._wire.refuse(build_response(answer.status_code, answer.body, headers))
            else:
                self._wire.open(
                    opening.response(answer.subprotocol, headers),
                    max_message_size=ALL,
                    deflate=opening.deflate,
                    ping_interval=None,
                    ping_timeout=None,
                )
                while True:
                    await self._tell(peer)
        assert memory.watch is not None
        await asyncio.wrap_future(memory.watch.done)
        if isinstance(error := memory.watch.error, Exception):
            connection_id = parse_qs(target.partition("?")[2])["id"][0]
            journal_as(connection_id, "framework-error", type=type(error).__name__)
            logger.error("the handler failed", exc_info=error)
        await hearing
        await self._wire.wait_lost()
        bridges.remove(self)

    async def _hear(self, peer: Peer) -> None:
        """Give the handler the client's messages, and its close."""
        with suppress(WebSocketDisconnect):
            while True:
                message = await self._inbox.get()
                with suppress(WebSocketDisconnect):  # the handler has closed
                    await peer.send(message)
        assert self._inbox.ended is not None
        code, reason = self._inbox.ended
        if code == 1006:
            peer.vanish()
        else:
            await peer.close(None if code == 1005 else code, reason)

    async def _tell(self, peer: Peer) -> None:
        """Give the client the handler's next message, or its close."""
        try:
            message = await peer.receive()
        except WebSocketDisconnect as exc:
            if exc.code == 1006:
                self._transport.abort()
                raise ConnectionLost from exc
            await self._wire.close(exc.code, exc.reason)
        else:
            await self._wire.send(message)


async def main(port: int) -> None:
    """Serve until a signal comes; then stop the handlers as servers do."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = await loop.create_server(Bridge, "127.0.0.1", port)
    await stopping.wait()
    server.close()
    for peer in [bridge.peer for bridge in bridges if bridge.peer is not None]:
        await peer.stop_server()
    async with asyncio.timeout(3):
        while bridges:
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    with suppress(TimeoutError):  # some have not ended in their grace
        asyncio.run(main(int(sys.argv[1])))
