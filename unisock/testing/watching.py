"""What a handler under test is doing: where it waits, how it failed, what it left running."""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from itertools import takewhile
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

from unisock.dependencies import Overrides
from unisock.endpoints import serve_endpoint
from unisock.handlers import Handler, MountedHandler, prepare
from unisock.options import OptionsDict
from unisock.runtime import Runtime
from unisock.session import Session
from unisock.transport import Inbox
from unisock.websocket import WebSocket

from .errors import PeerError, PeerTimeout

__tracebackhide__ = True  # pytest shows the lines of the test, and of the handler

_STRAY = "it awaited what another task has cancelled; catch that where it is awaited"
_NOWHERE = "  (no code of yours: it has not begun, or has returned)"
_NEXT_MESSAGE = "  (no code of yours: it waits for its next message)"
_CLOSING = "  (no code of yours: it closes the connection, and waits for the peer to read)"
# Modules whose frames say nothing about a handler.
_NOT_THE_USERS = ("unisock", "asyncio", "threading", "concurrent", "contextlib", "gevent")

# Seconds after which an event loop that has not turned is blocked.
_TURN = 0.1

UNBLOCK = (
    "await what it waits for, run it in asyncio.to_thread(), or write the handler as a plain `def`"
)
"""What to do about a handler that blocks its event loop."""

current: ContextVar[Watch | None] = ContextVar("unisock_testing_watch", default=None)
"""The watch over whatever runs: the handler's tasks and threads inherit it."""


class Watch:
    """One connection's handler, seen from the test, which may be in another thread.

    Args:
        name: the handler's.
        runtime: what its connection waits with.

    Attributes:
        name: the handler's.
        done: set when the handler has ended and the connection with it.
        error: what went on to the framework, if anything; a cancellation that no
            server has asked for is a `PeerError`.
        struck: what was raised where it blocked the event loop.
        said: the warnings and errors that unisock logged for the connection.
        tasks: the tasks that the handler and its tasks have started.
    """

    def __init__(self, name: str, runtime: Runtime) -> None:
        self.name = name
        self._runtime = runtime
        self._is_stopped = False
        self.done: futures.Future[None] = futures.Future()
        self.error: BaseException | None = None
        self.struck: PeerTimeout | None = None
        self.said: list[str] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self._called = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._thread: int | None = None
        self._greenlet: Any = None

    @property
    def failure(self) -> BaseException | None:
        """The handler's error; a cancellation by a server that stops is none."""
        return None if self._is_stopped else self.error

    def left(self) -> list[asyncio.Task[Any]]:
        """The tasks that are still running."""
        return [task for task in self.tasks if not task.done()]

    async def turn(self) -> bool:
        """Let the handler's event loop, or its server's, go round; return whether it did."""
        if self._loop is None or self._loop is asyncio.get_running_loop():
            await asyncio.sleep(0)
            return True
        turned: futures.Future[None] = futures.Future()
        with suppress(RuntimeError):  # it is closed: its tasks have ended
            self._loop.call_soon_threadsafe(turned.set_result, None)
            done, _ = await asyncio.wait([asyncio.wrap_future(turned)], timeout=_TURN)
            return bool(done)
        return False

    async def follow(self, running: Coroutine[Any, Any, None]) -> None:
        """Run a connection, and note how it goes."""
        self._called = True
        self._loop = loop = _running_loop()
        self._task = asyncio.current_task(loop) if loop else None
        self._thread = threading.get_ident()
        token = current.set(self)
        ear = _Ear(self)
        logger = logging.getLogger("unisock")
        logger.addHandler(ear)
        try:
            with _noting_tasks(loop) if loop else nullcontext():
                await running
        except BaseException as exc:
            self.error = exc
            self._is_stopped = self._runtime.is_cancellation(exc)
            if isinstance(exc, asyncio.CancelledError) and not self._is_stopped:
                self.error = PeerError(f"the handler {self.name} has raised {exc!r}: {_STRAY}")
                self.error.__cause__ = exc
            raise
        finally:
            logger.removeHandler(ear)
            current.reset(token)
            self.done.set_result(None)

    def follow_function(self) -> None:
        """Note that a plain function runs here, in a thread or greenlet."""
        self._task = None
        self._thread = threading.get_ident()
        greenlet = sys.modules.get("greenlet")
        self._greenlet = greenlet.getcurrent() if greenlet else None

    # What is told

    def describe(self) -> str:
        """What the handler is doing, with its stack, in a few lines."""
        if not self._called:
            return f"the handler {self.name} has not been called"
        if self.done.done():
            how = f"has raised {self.error!r}" if self.error else "has ended"
            return f"the handler {self.name} {how}"
        frames = self._frames()
        lines = [f"the handler {self.name} is at:", *(_format(frames) or [_elsewhere(frames)])]
        if self._blocks():
            lines += [f"and blocks its event loop: {UNBLOCK}"]
        for task in self.left():
            frames = list(_frames_of_task(task))
            if frames and _module(frames[0][0]) != "unisock":  # no reader, no call of a thread
                lines += [f"its task {task.get_name()} is at:", *(_format(frames) or [_NOWHERE])]
        return "\n".join(line for line in lines if line)

    def hints(self) -> list[str]:
        """What unisock itself said of the connection."""
        return [f"unisock logged: {text}" for text in self.said]

    def _blocks(self) -> bool:
        """Whether it stands still on a server's event loop, and that with it."""
        if self._loop is None or self._task is None or not _is_running(self._task):
            return False
        turned = threading.Event()
        self._loop.call_soon_threadsafe(turned.set)
        return not turned.wait(_TURN)

    def _frames(self) -> list[tuple[FrameType, int]]:
        if self._task is not None and not _is_running(self._task):
            return list(_frames_of_task(self._task))
        # None for a greenlet that runs: then it is its thread's.
        frame: FrameType | None = getattr(self._greenlet, "gr_frame", None)
        if frame is not None:
            return _outermost_first(frame)
        return _frames_of_thread(self._thread) if self._thread is not None else []


class WatchedHandler(MountedHandler):
    """A handler as it is mounted, whose connections are watched.

    Args:
        handler: the handler.
        options: those of `unisock.mount`.
        overrides: what is called in place of a dependency.

    Attributes:
        given: the three, to be compared.
        watches: one for each connection, by its Sec-WebSocket-Key.
        states: what connections find in their `state`, by the same.
    """

    def __init__(
        self, handler: Handler, options: OptionsDict, overrides: Overrides | None = None
    ) -> None:
        check = prepare(handler, options, overrides)
        super().__init__(handler, check.options, check.plan)
        self.given = (handler, options, overrides)
        self.watches: dict[str, Watch] = {}
        self.states: dict[str, Mapping[str, Any]] = {}
        self.blocks = check.blocks
        self._mounted = check
        if check.blocks and not isinstance(handler, MountedHandler):
            # Prepared anew, around the function: only within is known where it runs.
            self._mounted = prepare(_noting(handler), options, overrides)

    def run(self, session: Session) -> Coroutine[Any, Any, None]:
        """Run a session and watch it."""
        handshake = session.transport.handshake
        # Not the client's port, which a server may take from X-Forwarded-For.
        key = handshake.headers.get("sec-websocket-key", "")
        watch = self.watches[key] = Watch(self._qualname, session.transport.runtime)
        for name, value in self.states.pop(key, {}).items():
            handshake.state[name] = value
        return watch.follow(self._mounted.run(session))

    def _run(self, session: Session) -> Coroutine[Any, Any, None]:
        return self._mounted._run(session)


def _noting(handler: Callable[..., Any]) -> Any:
    @functools.wraps(handler)
    def noting(*args: Any, **kwargs: Any) -> Any:
        watch = current.get()
        if watch is not None:
            watch.follow_function()
        return handler(*args, **kwargs)

    return noting


class _Ear(logging.Handler):
    """Hears what unisock logs for one connection."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(logging.WARNING)
        self._watch = watch

    def emit(self, record: logging.LogRecord) -> None:
        if current.get() is self._watch:
            self._watch.said.append(record.getMessage())


# The tasks of handlers

_noted_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, int] = WeakKeyDictionary()


@contextmanager
def _noting_tasks(loop: asyncio.AbstractEventLoop) -> Generator[None]:
    """Have the loop's new tasks noted by the watch that they are created under."""
    _noted_loops[loop] = _noted_loops.get(loop, 0) + 1
    if _noted_loops[loop] == 1:
        loop.set_task_factory(_NotingFactory(loop.get_task_factory()))
    try:
        yield
    finally:
        _noted_loops[loop] -= 1
        factory = loop.get_task_factory()
        # Else somebody has set another one meanwhile, which is left to him.
        if not _noted_loops[loop] and isinstance(factory, _NotingFactory):
            loop.set_task_factory(factory.previous)


class _NotingFactory:
    """A task factory that notes the tasks of watched handlers."""

    def __init__(self, previous: Any) -> None:
        self.previous = previous

    def __call__(self, loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> Any:
        make = self.previous or _make_task
        task = make(loop, coro, **kwargs)
        watch = current.get()
        if watch is not None:
            watch.tasks.append(task)
        return task


def _make_task(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
    return asyncio.Task(coro, loop=loop, **kwargs)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs; none does under a plain function on gevent."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


# Stacks


def _is_running(task: asyncio.Task[Any]) -> bool:
    """Whether the task is the one that its loop runs just now."""
    return getattr(task.get_coro(), "cr_running", False)


def _frames_of_task(task: asyncio.Task[Any]) -> Iterator[tuple[FrameType, int]]:
    """The frames of a task that waits, outermost first: `Task.get_stack` has that one only."""
    waiting: Any = task.get_coro()
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is not None:
            yield frame, frame.f_lineno
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)


def _format(frames: list[tuple[FrameType, int]]) -> list[str]:
    # What is before the watch is the server's and the framework's.
    start = max((n for n, (frame, _) in enumerate(frames) if _is_watch(frame)), default=0)
    # So is what an adapter calls for the handler.
    called = takewhile(lambda pair: not _is_adapter(pair[0]), frames[start:])
    users = [pair for pair in called if _module(pair[0]) not in _NOT_THE_USERS]
    summary = traceback.StackSummary.extract(iter(users))
    return [line.rstrip() for line in summary.format()]


def _elsewhere(frames: list[tuple[FrameType, int]]) -> str:
    """What a handler is doing when none of its own code runs."""
    running = {frame.f_code for frame, _ in frames}
    if WebSocket.close.__code__ in running:
        return _CLOSING
    return _NEXT_MESSAGE if {serve_endpoint.__code__, Inbox.get.__code__} <= running else _NOWHERE


def describe_task(task: asyncio.Task[Any]) -> str:
    """A task's name, and what it runs."""
    coroutine = task.get_coro()
    return f"{task.get_name()}: {getattr(coroutine, '__qualname__', coroutine)}"


def format_thread(ident: int) -> str:
    """The stack of another thread, that runs a handler."""
    return format_frame(sys._current_frames().get(ident))


def format_frame(frame: FrameType | None) -> str:
    """The stack that ends with a frame."""
    return "\n".join(_format(_outermost_first(frame)) or [_NOWHERE])


def _frames_of_thread(ident: int) -> list[tuple[FrameType, int]]:
    return _outermost_first(sys._current_frames().get(ident))


def _outermost_first(frame: FrameType | None) -> list[tuple[FrameType, int]]:
    return list(traceback.walk_stack(frame))[::-1] if frame else []


def _is_watch(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__") == __name__


def _is_adapter(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("unisock.adapters.")


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
