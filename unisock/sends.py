"""How long a send may wait for a peer that takes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

from .runtime import Timer

# How often it is looked at within the time: a send may wait for a quarter longer.
_LOOKS = 4


class SendClock:
    """Runs while sends wait, and begins anew with each sign that the peer takes something.

    Args:
        seconds: how long nothing may be taken.
        call_later: what its timer is made with.
        look: whether something was taken since it was asked last; `None` where no send waits.
        on_silence: called when nothing was taken for so long.
    """

    __slots__ = ("_call_later", "_look", "_on_silence", "_seconds", "_since", "_timer")

    def __init__(
        self,
        seconds: float,
        call_later: Callable[[float, Callable[[], None]], Timer],
        look: Callable[[], bool | None],
        on_silence: Callable[[str], None],
    ) -> None:
        self._seconds = seconds
        self._call_later = call_later
        self._look = look
        self._on_silence = on_silence
        self._since = 0.0
        self._timer: Timer | None = None

    @property
    def is_running(self) -> bool:
        """Whether it looks again by itself."""
        return self._timer is not None

    def start(self) -> None:
        """A send waits from now on; nothing happens if it runs already."""
        if self._timer is None:
            self._look()
            self._since = time.monotonic()
            self._look_later()

    def stop(self) -> None:
        """No send waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_later(self) -> None:
        self._timer = self._call_later(self._seconds / _LOOKS, self._check)

    def _check(self) -> None:
        self._timer = None
        was_taken = self._look()
        if was_taken is None:
            return
        now = time.monotonic()
        if was_taken:
            self._since = now
        if now - self._since >= self._seconds:
            self._on_silence(f"the peer took nothing for {self._seconds:g} seconds")
        else:
            self._look_later()
