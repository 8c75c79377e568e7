"""Pings, and when a peer of which nothing is heard counts as gone (RFC 6455, section 5.5.2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from unisock.runtime import Timer

from .connection import Connection


class Keepalive:
    """Pings a peer, and looks whether anything came since.

    Any byte is a sign of life, for a pong may stand behind a large frame.  So is silence
    while we do not read.

    Args:
        connection: the peer's.
        interval: seconds between two pings.
        timeout: seconds without a sign of life after a ping; `None`: any.
        call_later: the carrier's.
        is_reading: whether we read.
        on_silence: called when the peer counts as gone.
    """

    __slots__ = (
        "_call_later", "_connection", "_interval", "_is_reading", "_on_silence", "_timeout",
        "_timer",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        interval: float,
        timeout: float | None,
        *,
        call_later: Callable[[float, Callable[[], None]], Timer],
        is_reading: Callable[[], bool],
        on_silence: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._interval = interval
        self._timeout = timeout
        self._call_later = call_later
        self._is_reading = is_reading
        self._on_silence = on_silence
        self._timer = call_later(interval, self._ping)

    def stop(self) -> None:
        """Send no more pings."""
        self._timer.cancel()

    def _ping(self) -> None:
        self._connection.ping()
        if self._timeout is None:
            self._timer = self._call_later(self._interval, self._ping)
        else:
            first = min(self._interval, self._timeout)
            self._timer = self._call_later(first, partial(self._look, first, self._timeout))

    def _look(self, waited: float, timeout: float) -> None:
        """Look whether the peer was heard, so many seconds after the ping."""
        if self._connection.heard or not self._is_reading():
            self._timer = self._call_later(max(self._interval - waited, 0), self._ping)
        elif waited < timeout:
            rest = timeout - waited
            self._timer = self._call_later(rest, partial(self._look, timeout, timeout))
        else:
            self._on_silence()
