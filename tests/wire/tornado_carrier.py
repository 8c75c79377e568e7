"""Tornado's IOStream as a carrier: what an adapter for a raw socket comes to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from tornado.iostream import IOStream, StreamClosedError
from tornado.web import RequestHandler

from unisock import Address, Handler
from unisock.handlers import prepare
from unisock.handshake import Handshake
from unisock.options import OptionsDict
from unisock.wire.carrier import WriteGauge
from unisock.wire.driver import Wire
from unisock.wire.opening import Refusal, check_opening
from unisock.wire.transport import WireTransport


class TornadoHandshake(Handshake):
    """The handshake in Tornado's request."""

    def __init__(self, handler: RequestHandler) -> None:
        self._handler, self._request = handler, handler.request

    @property
    def scheme(self) -> str:
        return "wss" if self._request.protocol == "https" else "ws"

    @property
    def raw_path(self) -> str:
        return self._request.path

    @property
    def query_string(self) -> str:
        return self._request.query

    @property
    def raw_headers(self) -> Iterable[tuple[str, str]]:
        return self._request.headers.get_all()

    @property
    def path_params(self) -> Mapping[str, Any]:
        return self._handler.path_kwargs

    @property
    def client(self) -> Address | None:
        return None

    @property
    def request(self) -> Any:
        return self._request


class TornadoCarrier:
    """An IOStream, which is read in a task and keeps what its socket does not take."""

    def __init__(self, stream: IOStream) -> None:
        self._stream = stream
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._is_closing = False
        loop = asyncio.get_running_loop()
        self.call_later = loop.call_later
        self.call_soon = self.read_soon = loop.call_soon
        self.pause_reading = self._may_read.clear
        self.resume_reading = self._may_read.set
        self.abort = stream.close

    def carry(self, wire: Wire) -> asyncio.Task[None]:
        """Hand what comes to `wire`, until the end, in a task."""
        self._gauge = WriteGauge(wire)
        self.set_write_buffer_limits = self._gauge.set_limit
        self._stream.set_close_callback(wire.connection_lost)
        return asyncio.create_task(self._read(wire))

    async def _read(self, wire: Wire) -> None:
        try:
            while True:
                await self._may_read.wait()
                wire.data_received(await self._stream.read_bytes(65536, partial=True))
        except StreamClosedError:
            return

    def get_write_buffer_size(self) -> int:
        return self._gauge.size

    def write(self, data: bytes) -> None:
        if self._stream.closed():
            return
        self._gauge.kept(len(data))
        written = self._stream.write(data)
        written.add_done_callback(lambda done: self._taken(done, len(data)))

    def _taken(self, done: asyncio.Future[None], size: int) -> None:
        done.exception()  # the close callback tells of it
        self._gauge.taken(size)
        if self._is_closing and not self._gauge.size:
            self._stream.close()

    def write_eof(self) -> None:
        self.close()  # an IOStream has no half of a close

    def close(self) -> None:
        self._is_closing = True
        if not self._gauge.size:
            self._stream.close()


def route(handler: Handler, **options: Unpack[OptionsDict]) -> type[RequestHandler]:
    """A class for Tornado's routes that serves `handler`."""
    mounted = prepare(handler, options)

    class Route(RequestHandler):
        async def get(self, **_: str) -> None:
            handshake = TornadoHandshake(self)
            version = self.request.version.removeprefix("HTTP/")
            stream = self.detach()
            try:
                opening = check_opening("GET", version, handshake.raw_headers)
            except Refusal as refusal:
                stream.write(refusal.response()).add_done_callback(lambda done: done.exception())
                return
            carrier = TornadoCarrier(stream)
            transport = WireTransport(handshake, carrier, opening, mounted.options)
            reading = carrier.carry(transport.wire)
            await mounted.serve(transport)
            await transport.wire.wait_lost()
            await reading

    return Route
