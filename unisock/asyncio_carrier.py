"""asyncio's transports as carriers of `unisock.wire`."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class AsyncioCarrier:
    """An `asyncio.Transport`; its protocol hands on what it is called with.

    See `unisock.wire.carrier.Carrier`.
    """

    __slots__ = (
        "_transport",
        "call_later",
        "call_soon",
        "get_write_buffer_size",
        "read_soon",
        "write",
    )

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        # The transport's and the loop's own: each message would pass through a method.
        self.write = transport.write
        self.get_write_buffer_size = transport.get_write_buffer_size
        self.call_later = loop.call_later
        self.call_soon = loop.call_soon
        self.read_soon = loop.call_soon

    def set_write_buffer_limits(self, high: int) -> None:
        """The transport's."""
        self._transport.set_write_buffer_limits(high)

    def pause_reading(self) -> None:
        """The transport's."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """The transport's."""
        self._transport.resume_reading()

    def write_eof(self) -> None:
        """The transport's; TLS has none."""
        if not self._transport.can_write_eof():
            self._transport.close()
        elif not self._transport.is_closing():
            with suppress(OSError):  # the peer was faster
                self._transport.write_eof()

    def close(self) -> None:
        """The transport's."""
        self._transport.close()

    def abort(self) -> None:
        """The transport's."""
        self._transport.abort()
