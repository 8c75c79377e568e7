"""The server process of the in-memory row: ``python serve.py PORT``.

A bridge: each connection of a client goes on in memory, as `unisock.testing.connect`
has them.  What is of HTTP and of frames is done here, by the `websockets` package.
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

from websockets import http11
from websockets.datastructures import Headers
from websockets.exceptions import InvalidMessage, InvalidState
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from unisock import Address, WebSocketDisconnect
from unisock.conformance.clauses_mounting import tell_room
from unisock.conformance.harness import journal_as, load_clauses, mounted
from unisock.options import OptionsDict
from unisock.paths import PathTemplate
from unisock.testing import Peer
from unisock.testing.connecting import Request
from unisock.testing.watching import WatchedHandler
from unisock.testing.wires import Answer, MemoryWire

logger = logging.getLogger("memory")

bridges: set[Bridge] = set()
MADE_ANEW = ("host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version")

mounted("/by-hand/{room}")(tell_room)
ROUTES = [
    (PathTemplate.parse(prefix + path), WatchedHandler(handler, cast(OptionsDict, options)))
    for path, handler, options in load_clauses()
    for prefix in ("", "/prefix")
]


def open_wire(request: http11.Request, client: Address) -> MemoryWire | None:
    """The connection in memory that a client asks for, if there is such a path."""
    path = unquote(request.path.partition("?")[0])
    hosts = request.headers.get_all("host")
    template, handler = next((r for r in ROUTES if r[0].match(path) is not None), (None, None))
    if template is None or handler is None:
        return None
    asked = Request(
        scheme="ws",
        host=hosts[0],
        target=request.path,
        template=template,
        headers=[
            *((n, v) for n, v in request.headers.raw_items() if n.lower() not in MADE_ANEW),
            *(("Host", host) for host in hosts[1:]),
        ],
        subprotocols=(),  # among the headers
        client=client,
        state={"left_by_middleware": "yes"},
    )
    watched = copy.copy(handler)  # it counts the threads of all; each is watched alone
    watched.watches = {}
    return MemoryWire(watched, asked.in_memory())


class Bridge:
    """One client on a socket, and its connection in memory."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = ServerProtocol(max_size=None, extensions=[ServerPerMessageDeflateFactory()])
        self._frames: list[Frame] = []
        self._serving: asyncio.Task[None] | None = None
        self.peer: Peer | None = None

    async def run(self) -> None:
        """Go on until both ends have ended."""
        bridges.add(self)
        with suppress(ConnectionError):
            while data := await self._reader.read(65536):
                self._http.receive_data(data)
                if isinstance(self._http.handshake_exc, InvalidMessage):  # it was not parsed
                    self._writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                self._flush()
                for event in self._http.events_received():
                    if isinstance(event, http11.Request):
                        self._on_request(event)
                    elif isinstance(event, Frame) and self.peer and event.opcode in DATA_OPCODES:
                        await self._on_frame(event, self.peer)
                # The client's own, or the one with which its connection has failed.
                close = self._http.close_rcvd or self._http.close_sent
                if close is not None and self.peer is not None:
                    await self.peer.close(None if close.code == 1005 else close.code, close.reason)
        self._http.receive_eof()
        self._flush()
        if self.peer is not None and self._serving is not None:
            self.peer.vanish()
            await self._serving
        self._writer.close()
        bridges.remove(self)

    def _on_request(self, request: http11.Request) -> None:
        reply = self._http.accept(request)
        if request.path.startswith("/page"):
            reply = self._http.reject(200, "the page")
        elif not request.headers.get_all("host"):
            reply = self._http.reject(400, "")
        elif reply.status_code == 101:
            wire = open_wire(request, Address(*self._writer.get_extra_info("peername")))
            if wire is not None:
                self.peer = peer = Peer(wire, timeout=3600.0)  # the suite has its own timeouts
                self._serving = asyncio.create_task(self._serve(wire, peer, request.path, reply))
                return
            reply = self._http.reject(404, "")
        self._http.send_response(reply)
        self._flush()

    async def _on_frame(self, frame: Frame, peer: Peer) -> None:
        self._frames.append(frame)
        if not frame.fin:
            return
        data = b"".join(bytes(each.data) for each in self._frames)
        first, self._frames = self._frames[0], []
        try:
            await peer.send(data.decode() if first.opcode is Opcode.TEXT else data)
        except UnicodeDecodeError:
            self._http.fail(1007)
            self._flush()
        except WebSocketDisconnect:
            return  # the handler has closed, and receives no more

    async def _serve(self, wire: MemoryWire, peer: Peer, path: str, reply: http11.Response) -> None:
        """Give the client the handler's answer, messages and close; wait for its end."""
        answer = await wire.open()
        with suppress(ConnectionError, InvalidState):  # the client has gone, or has closed
            if not self._http.eof_sent:
                self._http.send_response(_response(answer, reply))
                self._flush()
            while self._http.state is OPEN:
                await self._send_next(peer)
        assert wire.watch is not None
        await asyncio.wrap_future(wire.watch.done)
        if isinstance(error := wire.watch.error, Exception):
            connection_id = parse_qs(path.partition("?")[2])["id"][0]
            journal_as(connection_id, "framework-error", type=type(error).__name__)
            logger.error("the handler failed", exc_info=error)

    async def _send_next(self, peer: Peer) -> None:
        try:
            message = await peer.receive()
        except WebSocketDisconnect as exc:
            if exc.code == 1006:
                self._writer.transport.abort()
                raise ConnectionAbortedError from exc
            self._http.send_close(exc.code, exc.reason)
        else:
            if isinstance(message, str):
                self._http.send_text(message.encode())
            else:
                self._http.send_binary(message)
        self._flush()
        await self._writer.drain()

    def _flush(self) -> None:
        with suppress(OSError):  # the client was first
            for data in self._http.data_to_send():
                if data:
                    self._writer.write(data)
                else:
                    self._writer.write_eof()


def _response(answer: Answer, reply: http11.Response) -> http11.Response:
    """What a handler has answered, in HTTP."""
    headers = reply.headers if answer.status_code == 101 else Headers(Connection="close")
    headers.update(answer.headers.items())
    if answer.subprotocol is not None:
        headers["Sec-WebSocket-Protocol"] = answer.subprotocol
    return http11.Response(answer.status_code, "", headers, answer.body)


async def main(port: int) -> None:
    """Serve until a signal comes; then stop the handlers as servers do."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    server = await asyncio.start_server(lambda *both: Bridge(*both).run(), "127.0.0.1", port)
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
