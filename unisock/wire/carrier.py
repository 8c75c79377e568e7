"""What a socket must give to carry a connection.

The names are those of `asyncio.Transport`, `asyncio.AbstractEventLoop` and
`asyncio.Protocol`, and so are their meanings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from unisock.runtime import Timer


class Carrier(Protocol):
    """A socket, or what is like it.

    It calls the `Receiver`: `Receiver.data_received` with what comes, and at the end
    `Receiver.connection_lost`, once, whoever has ended it.  Nothing here waits.
    """

    def write(self, data: bytes, /) -> None:
        """Send `data`, after all that came before; keep what the socket does not take."""

    def set_write_buffer_limits(self, high: int, /) -> None:
        """Call `Receiver.pause_writing` while more than `high` bytes are kept.

        It is resumed at a quarter of that: with a `high` of 1 when all was taken.
        """

    def get_write_buffer_size(self) -> int:
        """How many bytes are kept: fewer than before is a sign that the peer reads."""
        ...

    def pause_reading(self) -> None:
        """Read no more."""

    def resume_reading(self) -> None:
        """Read again."""

    def write_eof(self) -> None:
        """Half-close, when all that is kept was sent; reading goes on.

        As `close` where there is no half of a close, as with TLS.
        """

    def close(self) -> None:
        """Close, when all that is kept was sent."""

    def abort(self) -> None:
        """Close at once."""

    def call_later(self, seconds: float, callback: Callable[[], None], /) -> Timer:
        """Call `callback`, which does not wait, in so many seconds."""
        ...

    def call_soon(self, callback: Callable[[], None], /) -> object:
        """Call `callback`, which does not wait, when the others had their turn."""

    def read_soon(self, callback: Callable[[], None], /) -> object:
        """As `call_soon`, from where `Receiver.data_received` is called."""


class Receiver(Protocol):
    """What a carrier calls: a `unisock.wire.driver.Wire`."""

    def data_received(self, data: bytes, /) -> None:
        """Some bytes have come, also while reading is paused."""

    def eof_received(self) -> None:
        """The peer sends nothing more."""

    def connection_lost(self) -> None:
        """The socket is closed."""

    def pause_writing(self) -> None:
        """More is kept than `Carrier.set_write_buffer_limits` allows."""

    def resume_writing(self) -> None:
        """Little enough is kept again."""


class WriteGauge:
    """Tells a receiver when to pause writing, for a carrier that keeps what is not taken.

    Args:
        receiver: who is told.

    Attributes:
        size: how many bytes are kept.
    """

    __slots__ = ("_high", "_is_paused", "_receiver", "size")

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._high = HIGH_WATER
        self._is_paused = False
        self.size = 0

    def kept(self, size: int) -> None:
        """So many bytes more are kept."""
        self.size += size
        if self.size > self._high and not self._is_paused:
            self._is_paused = True
            self._receiver.pause_writing()

    def taken(self, size: int) -> None:
        """So many were taken."""
        self.size -= size
        # As asyncio: at a quarter.
        if self._is_paused and self.size <= self._high // 4:
            self._is_paused = False
            self._receiver.resume_writing()

    def set_limit(self, high: int) -> None:
        """As `Carrier.set_write_buffer_limits`."""
        self._high = high
        self.kept(0)


HIGH_WATER = 64 * 1024
"""How much may be kept before sends wait: that of asyncio's transports."""
