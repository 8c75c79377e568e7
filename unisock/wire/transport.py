"""The verbs of a `Transport`, on a `Wire`: for every adapter that has a raw socket."""

from __future__ import annotations

from collections.abc import Awaitable

from unisock.asyncio_runtime import ASYNCIO
from unisock.handshake import Handshake
from unisock.options import Options
from unisock.runtime import Runtime
from unisock.transport import Capabilities, Inbox, Transport

from .carrier import Carrier
from .driver import Wire
from .opening import Opening, build_response
from .options import WireOptions

_DEFAULTS = WireOptions()


class WireTransport(Transport):
    """A connection whose handshake was checked, and waits for `accept`.

    Args:
        handshake: what the handler reads.
        carrier: the socket, which calls `wire`.
        opening: what `unisock.wire.opening.check_opening` has made of the request.
        options: those of the handler.
        wire_options: those of the connection.
        runtime: what the handler waits with.

    Attributes:
        wire: what the carrier calls.
    """

    capabilities = Capabilities()

    def __init__(
        self,
        handshake: Handshake,
        carrier: Carrier,
        opening: Opening,
        options: Options,
        wire_options: WireOptions = _DEFAULTS,
        *,
        runtime: Runtime = ASYNCIO,
    ) -> None:
        self.handshake = handshake
        self.runtime = runtime
        self._opening = opening
        self._options = options
        self._wire_options = wire_options
        self.wire = Wire(carrier, runtime.waiter_factory())

    def start(self, inbox: Inbox) -> None:
        """Feed `inbox`; the carrier does so."""
        options = self._options
        self.wire.attach(
            inbox, max_early=options.max_queue_size, close_timeout=options.close_timeout
        )

    async def accept(self, subprotocol: str | None, headers: list[tuple[str, str]]) -> None:
        """Send the 101."""
        self.open(self._opening.response(subprotocol, headers))

    def open(self, response: bytes) -> None:
        """Messages may come; `response` is what is still to be sent of the 101."""
        self.wire.open(
            response,
            max_message_size=self._options.max_message_size,
            deflate=self._opening.deflate,
            ping_interval=self._wire_options.ping_interval,
            ping_timeout=self._wire_options.ping_timeout,
        )

    async def reject(self, status_code: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        """Send the response, after which the connection ends."""
        self.wire.refuse(build_response(status_code, body, headers))

    def send(self, data: str | bytes) -> Awaitable[None]:
        """Write a message; see `Wire.send`."""
        return self.wire.send(data)

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame; see `Wire.close`."""
        await self.wire.close(code, reason)

    async def stop(self) -> None:
        """The closing handshake goes on without the handler."""
