"""Limits on what a peer sends: how many messages a second, and how long none.

Nothing of this exists for a connection whose handler was mounted without them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

from .options import Options
from .runtime import Background, Runtime, Timer
from .transport import Inbox

logger = logging.getLogger("unisock")

# RFC 6455, section 7.4.1: the code of "a message that violates its policy".
_POLICY_VIOLATION = 1008
# A timer may fire a little early; the next one must not be at once.
_SHORTEST = 0.001

Fail: TypeAlias = Callable[[int, str], None]


class LimitedInbox(Inbox):
    """An inbox that ends the connection when the peer sends too much, or nothing for too long.

    Args:
        options: what the limits are.
        runtime: as `Inbox`.
        background: what its timers run in.
        fail: ends the connection with a code and a reason; does not block.
        describe: says whose it is, for the log.
    """

    __slots__ = (
        "_background",
        "_bucket",
        "_describe",
        "_fail",
        "_heard_at",
        "_nothing_came",
        "_options",
        "_paused_at",
        "_timer",
    )

    def __init__(
        self,
        options: Options,
        runtime: Runtime,
        background: Background,
        fail: Fail,
        describe: Callable[[], str],
    ) -> None:
        super().__init__(
            max_messages=options.max_queue,
            max_size=options.max_queue_size,
            max_message_size=options.max_message_size,
            send_timeout=options.send_timeout,
            runtime=runtime,
        )
        self._options = options
        self._background = background
        self._fail = fail
        self._describe = describe
        rate = options.max_messages_per_second
        self._bucket = None if rate is None else _Bucket(rate, options.burst, time.monotonic())
        self._heard_at = 0.0
        self._nothing_came = True
        # When the transport ceased to read; `None` while it reads.
        self._paused_at: float | None = None
        self._timer: Timer | None = None

    def opened(self) -> None:
        """The connection is open: from now on time counts."""
        self._heard_at = time.monotonic()
        self.call_on_end(self._stop)
        self._watch()

    def put(self, message: str | bytes) -> bool:
        """As `Inbox.put`; the message that is too many is dropped, and ends the connection."""
        if self.ended is not None:
            return True
        now = self._heard_at = time.monotonic()
        self._nothing_came = False
        if self._bucket is not None and not self._bucket.take(now):
            reason = f"over {self._options.max_messages_per_second:g} messages a second"
            self._fail(_POLICY_VIOLATION, reason)
            logger.warning("%s: closing with %s: %s", self._describe(), _POLICY_VIOLATION, reason)
            return True
        return super().put(message)

    def call_on_room(self, callback: Callable[[], None]) -> None:
        """As `Inbox.call_on_room`; until then nobody reads."""
        self.pause()

        def on_room() -> None:
            self.resume()
            callback()

        super().call_on_room(on_room)

    def pause(self) -> None:
        """What is not read from now on is no fault of the peer."""
        self._paused_at = time.monotonic()

    def resume(self) -> None:
        """What has come meanwhile may come at once."""
        assert self._paused_at is not None
        seconds = time.monotonic() - self._paused_at
        self._paused_at = None
        self._heard_at += seconds
        if self._bucket is not None:
            self._bucket.allow_for(seconds)

    # Time

    def _watch(self) -> None:
        """Look again when the next of the limits may be reached."""
        self._stop()
        limits = [seconds for seconds, _, _ in self._time_limits()]
        if limits and self.ended is None:
            left = min(limits)
            if self._paused_at is None:  # else it cannot be heard
                left -= time.monotonic() - self._heard_at
            self._timer = self._background.call_later(max(left, _SHORTEST), self._check)

    def _check(self) -> None:
        silent = time.monotonic() - self._heard_at
        for seconds, code, reason in self._time_limits():
            if silent >= seconds and self._paused_at is None:
                self._fail(code, reason)
                return
        self._watch()

    def _time_limits(self) -> Iterator[tuple[float, int, str]]:
        """Seconds without a message, and the code and reason that they lead to."""
        options = self._options
        if options.first_message_timeout is not None and self._nothing_came:
            seconds = options.first_message_timeout
            yield seconds, _POLICY_VIOLATION, f"no message within {seconds:g} seconds"
        if options.idle_timeout is not None:
            seconds = options.idle_timeout
            yield seconds, options.idle_close_code, f"no message for {seconds:g} seconds"

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class _Bucket:
    """A token bucket: each message takes a token, and so many come back each second."""

    __slots__ = ("_burst", "_rate", "_tokens", "_updated_at")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._updated_at = now

    def take(self, now: float) -> bool:
        """Take a token; return whether there was one."""
        gained = (now - self._updated_at) * self._rate
        self._updated_at = now
        if self._tokens > self._burst:
            # From `allow_for`: for what has piled up, which comes soon or not at all.
            self._tokens = max(self._burst, self._tokens - gained)
        else:
            self._tokens = min(self._burst, self._tokens + gained)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def allow_for(self, seconds: float) -> None:
        """Messages of so long a time, which ends now, may come at once."""
        self._tokens += seconds * self._rate
        self._updated_at += seconds
