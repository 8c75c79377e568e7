"""Waiting on asyncio's event loop, with plain functions in threads beside it."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent import futures
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

from .errors import is_disconnect
from .runtime import NoThread, Runtime, Waiter, Workers, WorkersStopped, adopt, get_ident

logger = logging.getLogger("unisock")

T = TypeVar("T")


class AsyncioRuntime(Runtime):
    """Waiting on the running event loop."""

    def waiter_factory(self) -> Callable[[], Waiter[Any]]:
        """The loop's futures."""
        return asyncio.get_running_loop().create_future

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """Asyncio's."""
        return asyncio.timeout(seconds)

    def background(self) -> LoopBackground:
        """The loop's timers, and tasks of it."""
        return LoopBackground()

    def place(self) -> Callable[[], object]:
        """The thread, which runs one event loop."""
        return get_ident

    async def checkpoint(self) -> None:
        """One pass of the loop."""
        await asyncio.sleep(0)

    def current(self) -> asyncio.Task[Any] | None:
        """The running task."""
        return asyncio.current_task()

    def is_cancellation(self, exc: BaseException) -> bool:
        """Whether the task was cancelled, and not only what it waited for."""
        task = asyncio.current_task()
        return (
            isinstance(exc, asyncio.CancelledError) and task is not None and task.cancelling() > 0
        )

    async def run_plain(self, function: Callable[[], T], *, releases: bool = False) -> T:
        """In a thread of the loop's pool; one that releases has a thread of its own."""
        # Not a task, as that of asyncio.to_thread: a loop that ends cancels it, and the
        # function would go on.
        loop = asyncio.get_running_loop()
        if not releases:
            return await until_done(loop.run_in_executor(None, function))
        result: futures.Future[T] = futures.Future()
        threading.Thread(target=_call_into, args=(result, function), daemon=True).start()
        return await until_done(asyncio.wrap_future(result))

    def create_workers(self, describe: Callable[[], str]) -> Workers:
        """Threads."""
        return ThreadWorkers(describe)


def _call_into(result: futures.Future[T], function: Callable[[], T]) -> None:
    try:
        result.set_result(function())
    except BaseException as exc:  # noqa: BLE001  # it is raised where the result is awaited
        result.set_exception(exc)


ASYNCIO = AsyncioRuntime()


async def until_done(running: asyncio.Future[T]) -> T:
    """Wait for what cannot be cancelled, also where the caller is.

    Raises:
        BaseException: what it has ended with.
        asyncio.CancelledError: the caller was cancelled; `running` is done.
    """
    cancellation: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as exc:
            cancellation = exc
    if cancellation is not None:
        running.exception()  # asyncio logs one that nobody has looked at
        raise cancellation
    return running.result()


# Those of `LoopBackground`: an event loop holds its tasks weakly.
_background: set[asyncio.Task[None]] = set()


class LoopBackground:
    """The event loop that runs when this is made; called in its thread, be it in a task or not."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.call_later = self._loop.call_later

    def start(self, coroutine: Coroutine[Any, Any, None], /) -> None:
        """As a task."""
        task = self._loop.create_task(coroutine)
        _background.add(task)
        task.add_done_callback(_background.discard)


_Ended: TypeAlias = "asyncio.Future[futures.Future[T]]"

# How long the process's end waits for threads that nobody has given up, in seconds.
_LAST_STEPS = 1.0
# They, of all connections.
_threads: set[threading.Thread] = set()


class _Running(NamedTuple):
    name: str
    thread: threading.Thread


class ThreadWorkers(Workers):
    """Functions in threads, whose calls run on the event loop of the connection.

    A thread each, and no pool: a connection lives for minutes or hours, and
    beside that the start of a thread is nothing.  They are daemons, for one that
    blocks elsewhere must not keep the process from its end.
    """

    are_threads = True
    killed = ()

    def __init__(self, describe: Callable[[], str]) -> None:
        self._describe = describe
        self._loop = asyncio.get_running_loop()
        self._loop_thread = get_ident()
        self._tasks: set[asyncio.Task[Any]] = set()
        # Those that `break_off` ends.
        self._calls: set[asyncio.Task[Any]] = set()
        self._stopping = False
        # What tells of a thread's end, and whose that is.
        self._running: dict[_Ended[Any], _Running] = {}

    def call(
        self,
        function: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        to_its_end: bool = False,
    ) -> T:
        """Run it as a task of the loop."""
        if get_ident() == self._loop_thread:
            raise RuntimeError(
                "a SyncWebSocket blocks until the event loop has done the work: on the loop "
                "itself it would wait for ever; there an async handler's WebSocket is used"
            )
        result: futures.Future[T] = futures.Future()
        try:
            self._loop.call_soon_threadsafe(self._begin, result, function, args, to_its_end)
        except RuntimeError:  # the loop is closed, long after the connection's end
            raise WorkersStopped from None
        try:
            return result.result()
        except futures.CancelledError:
            raise WorkersStopped from None

    def _begin(
        self,
        result: futures.Future[T],
        function: Callable[..., Coroutine[Any, Any, T]],
        args: tuple[Any, ...],
        to_its_end: bool,
    ) -> None:
        run = function if to_its_end else partial(self._run_call, function)
        task = self._loop.create_task(run(*args))
        self._tasks.add(task)  # the loop holds it weakly
        task.add_done_callback(partial(self._finish, result))

    async def _run_call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        # From here on, and not from the task's creation: a call that begins when
        # the connection has ended ends by itself, and as it says.
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        try:
            return await function(*args)
        finally:
            self._calls.discard(task)

    def _finish(self, result: futures.Future[T], task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            result.cancel()
        elif (exc := task.exception()) is not None:
            result.set_exception(exc)
        else:
            result.set_result(task.result())

    async def run(self, name: str, function: Callable[[], T], on_end: Callable[[], object]) -> T:
        """In a thread, with this task's context variables."""
        context = contextvars.copy_context()
        try:
            ended = self._start_thread(name, function, context, on_end)
        except RuntimeError as exc:
            raise NoThread from exc
        try:
            # Not awaited itself: a cancellation of this must not be one of it.
            await asyncio.wait([ended])
        except asyncio.CancelledError:
            ended.add_done_callback(self._forget)
            raise
        del self._running[ended]
        adopt(context)
        return ended.result().result()

    def start(self, name: str, function: Callable[[], None]) -> None:
        """In a thread, with the context variables of the thread that calls."""
        context = contextvars.copy_context()

        async def start_thread() -> None:
            if self._stopping:
                raise WorkersStopped
            ended = self._start_thread(name, function, context, None)
            ended.add_done_callback(self._forget)

        self.call(start_thread)

    def _start_thread(
        self,
        name: str,
        function: Callable[[], T],
        context: contextvars.Context,
        on_end: Callable[[], object] | None,
    ) -> _Ended[T]:
        ended: _Ended[T] = self._loop.create_future()

        def body() -> None:
            outcome: futures.Future[T] = futures.Future()
            try:
                outcome.set_result(context.run(function))
            except BaseException as exc:  # noqa: BLE001  # handed on to who waits
                outcome.set_exception(exc)
            _threads.discard(thread)
            if on_end is not None:
                on_end()
            try:
                self._loop.call_soon_threadsafe(ended.set_result, outcome)
            except RuntimeError:  # the loop is closed: nobody waits any more
                self._log_error(name, outcome)

        thread = threading.Thread(target=body, name=f"unisock {name}", daemon=True)
        _threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads
            _threads.discard(thread)
            if on_end is not None:
                on_end()
            raise
        self._running[ended] = _Running(name, thread)
        return ended

    def _forget(self, ended: _Ended[Any]) -> None:
        """A function has ended that nobody waits for but `stop`."""
        self._log_error(self._running.pop(ended).name, ended.result())

    def _log_error(self, name: str, outcome: futures.Future[Any]) -> None:
        """Log an error that nobody waits for any more; a disconnect is a normal end."""
        exc = outcome.exception()
        if exc is not None and not is_disconnect(exc):
            logger.error(
                "%s: %s failed after its connection had ended",
                self._describe(),
                name,
                exc_info=exc,
            )

    def break_off(self) -> None:
        """Cancel them, when those that the end has woken have had their turn."""
        self._loop.call_soon(self._loop.call_soon, self._cancel_calls)

    def _cancel_calls(self) -> None:
        for call in self._calls:
            call.cancel()

    async def stop(self, grace: float) -> None:
        """Wait for the threads; none can be ended from outside."""
        self._stopping = True
        if self._running:
            _, left = await asyncio.wait(self._running, timeout=grace)
            for ended in left:
                name, thread = self._running[ended]
                _threads.discard(thread)
                logger.warning(
                    "%s: %s is still running %s s after its connection has ended: "
                    "what it waits for cannot be broken off",
                    self._describe(),
                    name,
                    grace,
                )


def _wait_for_threads() -> None:
    """Let the process not end in the middle of their `finally` blocks.

    A server that is in haste cancels the wait of `ThreadWorkers.stop` as well.
    """
    deadline = time.monotonic() + _LAST_STEPS
    for thread in [t for t in _threads.copy() if t.ident is not None]:  # that is: started
        thread.join(max(0.0, deadline - time.monotonic()))


atexit.register(_wait_for_threads)
