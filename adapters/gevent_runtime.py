"""Waiting in greenlets: what a plain function under gevent is served with.

No event loop is started.  Each wait of the core blocks the greenlet that it runs
in, and so lets the others run.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, TypeVar

import gevent
import gevent.event
from gevent.monkey import get_original

from unisock.runtime import Runtime, Waiter, Workers, WorkersStopped, run_blocking

logger = logging.getLogger("unisock")

T = TypeVar("T")

# Passes of the hub from an event to those that wait for it, and one more.
_TURNS = 3

# The thread's own, also where threads are greenlets.
_thread_ident: Callable[[], int] = get_original("_thread", "get_ident")


class GreenletRuntime(Runtime):
    """Waiting in the greenlet that runs; one for each connection.

    Attributes:
        calling: the greenlets of the connection that are in a call of it.
        shielded: those of them that run the framework's functions, and so are not broken off.
    """

    def __init__(self) -> None:
        self.calling: set[object] = set()
        self.shielded: set[object] = set()

    def waiter_factory(self) -> Callable[[], Waiter[Any]]:
        """Events."""
        return _Waiter

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """Gevent's."""
        return _Timeout(seconds)

    def background(self) -> HubBackground:
        """The hub's timers, and greenlets."""
        return HubBackground()

    def place(self) -> None:
        """`GreenletWorkers` minds it."""

    async def checkpoint(self) -> None:
        """One pass of the hub."""
        gevent.sleep(0)

    def current(self) -> object:
        """The running greenlet."""
        return gevent.getcurrent()

    def is_cancellation(self, exc: BaseException) -> bool:
        """Whether the greenlet is killed."""
        return isinstance(exc, gevent.GreenletExit)

    def create_workers(self, describe: Callable[[], str]) -> GreenletWorkers:
        """The handler's own greenlet, and one for each function beside it."""
        return GreenletWorkers(self.calling, self.shielded, describe)


class _Waiter:
    """An event that is awaited by blocking."""

    __slots__ = ("_event", "_result")

    def __init__(self) -> None:
        self._event = gevent.event.Event()
        self._result: Any = None

    def set_result(self, result: Any, /) -> None:
        """Wake who waits."""
        self._result = result
        self._event.set()

    def result(self) -> Any:
        """What it was set to."""
        return self._result

    def done(self) -> bool:
        """Whether it is set."""
        return self._event.is_set()

    def cancelled(self) -> bool:
        """Never: a wait that is given up is over when anybody else runs."""
        return False

    def __await__(self) -> Generator[Any, Any, Any]:
        self._event.wait()
        return self._result
        yield  # what makes this a generator


class _Timeout:
    """`gevent.Timeout` as an asynchronous context manager."""

    def __init__(self, seconds: float) -> None:
        self._timeout = gevent.Timeout(max(seconds, 0), TimeoutError())

    async def __aenter__(self) -> None:
        self._timeout.start()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timeout.close()


class HubBackground:
    """The hub of the running greenlet."""

    def call_later(self, seconds: float, callback: Callable[[], None], /) -> _Timer:
        """In the hub itself."""
        # Unreferenced: what may be done later must not keep the process alive.
        timer = gevent.get_hub().loop.timer(seconds, ref=False)
        timer.start(callback)
        return _Timer(timer)

    def start(self, coroutine: Coroutine[Any, Any, None], /) -> None:
        """In a greenlet of its own."""
        gevent.spawn(run_blocking, coroutine)


class _Timer:
    def __init__(self, timer: Any) -> None:
        self._timer = timer

    def cancel(self) -> None:
        """Close it."""
        self._timer.close()


class GreenletWorkers(Workers):
    """Functions in greenlets of the thread that serves the connection."""

    are_threads = False
    killed = (gevent.GreenletExit,)

    def __init__(
        self, calling: set[object], shielded: set[object], describe: Callable[[], str]
    ) -> None:
        self._describe = describe
        self._calling = calling
        self._shielded = shielded
        # Those that were in a call when the connection ended.
        self._told: set[object] = set()
        # Those that `break_off` strikes.
        self._breakable: set[Any] = set()
        self._thread = _thread_ident()
        self._beside: dict[gevent.Greenlet[..., Any], str] = {}

    def call(
        self,
        function: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        to_its_end: bool = False,
    ) -> T:
        """Run it in the greenlet that calls."""
        self._check_thread()
        this = gevent.getcurrent()
        self._calling.add(this)
        if not to_its_end:
            self._breakable.add(this)
        try:
            return run_blocking(function(*args))
        finally:
            self._breakable.discard(this)
            self._calling.discard(this)

    def _check_thread(self) -> None:
        if _thread_ident() != self._thread:
            raise RuntimeError(
                "a SyncWebSocket under gevent is used in the thread that serves it: "
                "pass the data to one of its greenlets"
            )

    async def run(self, name: str, function: Callable[[], T], on_end: Callable[[], object]) -> T:
        """In this greenlet, which is the connection's."""
        try:
            return function()
        finally:
            on_end()

    def start(self, name: str, function: Callable[[], None]) -> None:
        """In a greenlet of its own."""
        self._check_thread()
        greenlet = gevent.spawn(contextvars.copy_context().run, function)
        self._beside[greenlet] = name
        greenlet.link(self._beside.pop)

    def break_off(self) -> None:
        """Strike them where they wait, when those that the end has woken have had their turn."""
        self._told = set(self._calling)
        self._break_off_after(_TURNS)

    def _break_off_after(self, turns: int) -> None:
        if turns:
            gevent.get_hub().loop.run_callback(self._break_off_after, turns - 1)
            return
        # In the hub nobody runs: each of them waits within its call.
        for greenlet in self._breakable - self._shielded:
            greenlet.throw(WorkersStopped)

    async def stop(self, grace: float) -> None:
        """Wait for those that a call has told of the end, and kill the others where they wait."""
        beside = dict(self._beside)
        gevent.killall([g for g in beside if g not in self._told], block=False)
        gevent.joinall(list(beside), grace)
        gevent.killall([g for g in beside if not g.dead], block=False)
        gevent.sleep(0)
        for greenlet, name in beside.items():
            if not greenlet.dead:
                logger.warning(
                    "%s: %s is still running %s s after its connection has ended",
                    self._describe(),
                    name,
                    grace,
                )
