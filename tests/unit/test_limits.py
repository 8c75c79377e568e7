"""Limits on what a peer sends, and on a handler that does not answer, on a clock of the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest

from tests.unit.memory import MemoryTransport, Running, rejection, settle
from unisock import SyncWebSocket, WebSocket, WebSocketDisconnect, WebSocketEndpoint
from unisock.asyncio_runtime import AsyncioRuntime, LoopBackground
from unisock.limits import LimitedInbox
from unisock.options import Options
from unisock.runtime import run_blocking

Limit: TypeAlias = "Callable[..., Limited]"
Handle: TypeAlias = Callable[[WebSocket], Coroutine[Any, Any, Any]]

LATE = (503, b"the handler took too long")
TOO_MANY = ("close", 1008, "over 1 messages a second")


class ManualRuntime(AsyncioRuntime):
    """Whose timers fire when the test says so."""

    def __init__(self) -> None:
        self.timers: list[SimpleNamespace] = []
        self.start = LoopBackground().start

    def background(self) -> Any:
        return self

    def call_later(self, seconds: float, callback: Callable[[], None], /) -> SimpleNamespace:
        timer = SimpleNamespace(seconds=seconds, fire=callback, cancelled=False)
        timer.cancel = partial(setattr, timer, "cancelled", True)
        self.timers.append(timer)
        return timer


class Limited:
    """An inbox with limits, whose clock stands still unless the test moves it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.now = 1000.0
        monkeypatch.setattr("unisock.limits.time", SimpleNamespace(monotonic=lambda: self.now))
        self.ends: list[tuple[int, str]] = []
        asyncio.run(self._create(Options(**options)))

    async def _create(self, options: Options) -> None:
        runtime = ManualRuntime()
        self.timers = runtime.timers
        background = runtime.background()
        self.inbox = LimitedInbox(options, runtime, background, self._fail, lambda: "a handler")

    def _fail(self, code: int, reason: str) -> None:
        self.ends.append((code, reason))
        self.inbox.disconnect(code, reason)

    def sends(self, count: int, every: float = 0.0, taken_after: float = 0.0) -> int:
        """The peer sends, and the handler takes; return how many have come through."""
        for n in range(count):
            self.now += every
            if not self.inbox.put(""):
                self.inbox.call_on_room(lambda: None)
            self.now += taken_after
            if self.ends:
                return n
            run_blocking(self.inbox.get())
        return count

    def timer_fires(self, after: float) -> None:
        self.now += after
        self.timers[-1].fire()


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    return partial(Limited, monkeypatch)


class TestRate:
    def test_what_is_too_much_is_dropped_and_nothing_after_it_counts(self, limit: Limit) -> None:
        limited = limit(max_messages_per_second=2)
        limited.now += 3600  # however long none came
        assert all(limited.inbox.put(text) for text in "abcde")
        assert [run_blocking(limited.inbox.get()) for _ in range(2)] == ["a", "b"]
        with pytest.raises(WebSocketDisconnect, match="1008"):
            run_blocking(limited.inbox.get())
        assert limited.ends == [(1008, "over 2 messages a second")]

    @pytest.mark.parametrize("rate", [0.125, 8])
    def test_in_the_long_run_the_rate_is_the_limit(self, limit: Limit, rate: float) -> None:
        options = {"max_messages_per_second": rate, "message_burst": 4}
        assert limit(**options).sends(5000, every=1 / rate) == 5000
        # A sixteenth too fast uses up the burst, and no more.
        assert 4 <= limit(**options).sends(5000, every=16 / 17 / rate) <= 70

    def test_what_piled_up_behind_a_full_inbox_may_come(self, limit: Limit) -> None:
        limited = limit(max_messages_per_second=8, message_burst=16, max_queue=1)
        limited.sends(15)
        limited.sends(1, taken_after=50)
        assert limited.sends(1000) == 400  # at once, far more than a burst, and not twice

    @pytest.mark.parametrize(("speed", "passes"), [(8, True), (12, False)])
    def test_a_slow_handler_makes_no_flood_and_allows_none(
        self, limit: Limit, speed: float, passes: bool
    ) -> None:
        limited = limit(max_messages_per_second=8, message_burst=2, max_queue=1)
        sent = limited.sends(100, every=0.125 / speed, taken_after=0.875 / speed)
        assert (sent == 100) == passes


class TestSilence:
    def test_the_time_is_that_since_the_last_message(self, limit: Limit) -> None:
        limited = limit(first_message_timeout=2, idle_timeout=5, idle_close_code=4000)
        limited.inbox.opened()
        limited.now += 1
        limited.inbox.put("")
        limited.timer_fires(after=1)
        assert not limited.ends
        limited.timer_fires(after=4)
        assert limited.ends == [(4000, "no message for 5 seconds")]
        limited.inbox.opened()  # is too late
        assert [timer.seconds for timer in limited.timers] == [2, 4]
        assert limited.timers[-1].cancelled

    @pytest.mark.parametrize("idle_timeout", [5, 60])
    def test_a_timer_that_is_early_comes_again(self, limit: Limit, idle_timeout: float) -> None:
        limited = limit(first_message_timeout=5, idle_timeout=idle_timeout)
        limited.now += 60  # nothing counts before accept()
        limited.inbox.opened()
        limited.timer_fires(after=4.99999)
        assert 0.001 <= limited.timers[-1].seconds < 0.01  # not at once
        limited.timer_fires(after=0.00002)
        assert limited.ends == [(1008, "no message within 5 seconds")]

    def test_nobody_is_silent_while_nobody_listens(self, limit: Limit) -> None:
        limited = limit(idle_timeout=5, max_queue=1)
        limited.inbox.opened()
        limited.inbox.put("")
        limited.inbox.call_on_room(lambda: None)
        limited.timer_fires(after=60)
        assert limited.timers[-1].seconds == 5
        limited.now += 4
        run_blocking(limited.inbox.get())
        limited.timer_fires(after=2.5)
        assert not limited.ends
        limited.timer_fires(after=2.5)
        assert limited.ends == [(1001, "no message for 5 seconds")]


class StoppableTransport(MemoryTransport):
    """Notes when it is stopped as well."""

    async def stop(self) -> None:
        self._note("stop")
        await super().stop()


async def _iterate(ws: WebSocket) -> None:
    assert [message async for message in ws] == [""]
    assert (ws.close_code, ws.close_reason) == TOO_MANY[1:]


async def _leave_tasks(ws: WebSocket) -> None:
    ws.start_soon(_iterate, ws)
    ws.start_soon(asyncio.Event().wait)
    await ws.wait_closed()


async def _be_cancelled(ws: WebSocket) -> None:
    with pytest.raises(WebSocketDisconnect, match="1008"):
        async with ws.while_connected():
            await asyncio.Event().wait()
    await ws.close(4001)  # is too late


@pytest.mark.parametrize("handle", [_iterate, _leave_tasks, _be_cancelled])
@pytest.mark.parametrize("close_timeout", [0.01, 10])
def test_the_close_frame_goes_out_before_the_connection_stops(
    handle: Handle, close_timeout: float
) -> None:
    """If the peer reads at last; else it is waited for as long as may be."""

    async def main() -> list[tuple[object, ...]]:
        transport = StoppableTransport()

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            transport.flowing.clear()
            transport.peer_sends("", "")
            await handle(ws)

        running = Running(
            handler, transport, max_messages_per_second=1, close_timeout=close_timeout
        )
        if close_timeout == 10:
            await settle()
            assert transport.blocked.is_set() and not running.task.done()
            transport.flowing.set()
        sent = await running.end()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return sent

    frame = [TOO_MANY] if close_timeout == 10 else []
    assert asyncio.run(main()) == [*frame, ("stop",)]


def test_a_handler_that_is_late_sees_a_disconnect() -> None:
    codes = []

    class Endpoint(WebSocketEndpoint):
        async def on_connect(self, ws: WebSocket) -> None:
            await ws.wait_closed()
            await ws.accept()

        async def on_disconnect(self, ws: WebSocket, close_code: int) -> None:
            codes.append(close_code)

    def handler(ws: SyncWebSocket) -> None:
        codes.append(ws.wait_closed())
        ws.accept()

    for late in (Endpoint, handler):
        assert rejection(late, handler_timeout=0.01)[0][1:3] == LATE
    assert codes == [1006, 1006]


async def accept(ws: WebSocket) -> None:
    await ws.accept()


@pytest.mark.parametrize(
    ("handler", "steps", "answer"),
    [
        (WebSocket.wait_closed, "time leave, answer", ("reject", 503)),
        (WebSocket.wait_closed, "leave time, answer", ("reject", 403)),
        (accept, "time, answer", ("accept", None)),
    ],
)
def test_who_is_late_is_answered_once(handler: Handle, steps: str, answer: object) -> None:
    async def main() -> list[tuple[object, ...]]:
        transport, runtime = StoppableTransport(), ManualRuntime()
        transport.runtime = runtime
        transport.accepting.clear()
        running = Running(handler, transport, handler_timeout=5)
        await settle()
        (timer,) = runtime.timers
        can: dict[str, Callable[[], None]] = {
            "time": timer.fire, "answer": transport.accepting.set, "leave": transport.peer_leaves
        }  # fmt: skip
        for turn in steps.split(", "):
            for step in turn.split():
                can[step]()
            await settle()
        await running.end()
        assert timer.cancelled and timer.seconds == 5
        return [sent[:2] for sent in transport.sent if sent[0] != "close"]

    assert asyncio.run(main()) == [answer, ("stop",)]
