"""How a connection waits, and where the plain functions of a handler run.

The core is written in coroutines, which run on asyncio.  Where a plain function
is served without an event loop, its adapter gives a `Runtime` whose waits block:
nothing ever suspends then, and `run_blocking` drives a coroutine in one go.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from functools import partial
from inspect import Parameter, isawaitable, iscoroutine, iscoroutinefunction, signature, unwrap
from typing import Any, ClassVar, Protocol, TypeVar

T = TypeVar("T")

_UNSET = object()
_REST = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)

# One for all who compare: gevent's monkey.patch_all() gives those that look it up later
# another one, which tells greenlets apart.
get_ident = threading.get_ident


class Waiter(Protocol[T]):
    """What one waits for and another sets: an `asyncio.Future`, or what is like it."""

    def set_result(self, result: T, /) -> None:
        """End the wait; what is awaited is `result`."""

    def result(self) -> T:
        """What it was set to."""
        ...

    def done(self) -> bool:
        """Whether it is set, or given up."""
        ...

    def cancelled(self) -> bool:
        """Whether it is given up."""
        ...

    def __await__(self) -> Generator[Any, Any, T]: ...


class Timer(Protocol):
    """A call that is to come: an `asyncio.TimerHandle`, or what is like it."""

    def cancel(self) -> None:
        """It does not come; nothing happens if it has."""


class Background(Protocol):
    """What runs beside the handler of a connection, from whatever its transport calls."""

    def call_later(self, seconds: float, callback: Callable[[], None], /) -> Timer:
        """Call `callback`, which does not wait, in so many seconds."""
        ...

    def start(self, coroutine: Coroutine[Any, Any, None], /) -> None:
        """Run a coroutine, which must not fail."""


class WorkersStopped(Exception):
    """Raised by `Workers.call` when the connection's end broke the call off."""


class NoThread(Exception):
    """Raised by `Workers.run` when the system gives no thread for a function."""


class Workers(ABC):
    """The plain functions of one connection, each in a thread or greenlet of its own."""

    are_threads: ClassVar[bool]
    """Whether each function takes a thread, of which a process has not many."""
    killed: ClassVar[tuple[type[BaseException], ...]]
    """What a function is ended with from outside."""

    @abstractmethod
    def call(
        self,
        function: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        to_its_end: bool = False,
    ) -> T:
        """Run a coroutine function of the connection and block until it is done.

        For the functions that run here, and for threads of theirs.

        Args:
            function: what to run.
            *args: its arguments.
            to_its_end: whether `break_off` leaves it alone.

        Raises:
            WorkersStopped: the connection has ended, and the call with it.
            RuntimeError: called where it would block what it waits for.
        """

    @abstractmethod
    async def run(self, name: str, function: Callable[[], T], on_end: Callable[[], object]) -> T:
        """Run a function, and wait for it.

        Cancelling leaves the function running; `stop` waits for it.

        Args:
            name: the function's, for the log.
            function: what to run.
            on_end: called when the function has ended, or could not be started.

        Raises:
            NoThread: the system has no thread for it; it was not called.
        """

    @abstractmethod
    def start(self, name: str, function: Callable[[], None]) -> None:
        """Start a function beside the one that calls this.

        Raises:
            WorkersStopped: the connection has ended.
        """

    @abstractmethod
    def break_off(self) -> None:
        """End the calls that wait on, as a send to a peer that does not read.

        Called when the connection has ended, which ends the other calls.
        """

    @abstractmethod
    async def stop(self, grace: float) -> None:
        """Wait for the functions, when the connection has ended.

        A function that does not end within `grace` seconds is left alone, with a
        warning.
        """


class Runtime(ABC):
    """What the coroutines of a connection wait with."""

    @abstractmethod
    def waiter_factory(self) -> Callable[[], Waiter[Any]]:
        """A function that creates waiters; asked for once a connection."""

    @abstractmethod
    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """As `asyncio.timeout`: after so long the block raises `TimeoutError`."""

    @abstractmethod
    def background(self) -> Background:
        """What runs beside the handler; asked for where the connection begins."""

    @abstractmethod
    def place(self) -> Callable[[], object] | None:
        """A function that tells the place it is called in; `None` where workers mind that.

        All calls of a connection must be made in one place.
        """

    @abstractmethod
    async def checkpoint(self) -> None:
        """Let the others have their turn."""

    @abstractmethod
    def current(self) -> object:
        """The task, or what is like it, that runs."""

    @abstractmethod
    def is_cancellation(self, exc: BaseException) -> bool:
        """Whether `exc` says that what runs is ended from outside, by a server that stops."""

    async def run_plain(self, function: Callable[[], T], *, releases: bool = False) -> T:
        """Call a plain function that may block, so that the other connections go on.

        It runs to its end even if the caller is cancelled meanwhile.  Here it is called at
        once, for waits block anyway.

        Args:
            function: what is called.
            releases: whether it gives up what others may wait for, so that it must not wait
                for them.
        """
        del releases
        return function()

    @abstractmethod
    def create_workers(self, describe: Callable[[], str]) -> Workers:
        """The workers for one connection.

        Args:
            describe: what a line of the log about the connection begins with.
        """


def adopt(context: Context) -> None:
    """Copy the values in `context` into the caller's context.

    Then the framework's code that runs after a handler sees what the handler has set in a
    task or thread of its own.
    """
    for variable, value in context.items():
        if variable.get(_UNSET) is not value:
            variable.set(value)


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Drive a coroutine whose every wait blocks.

    Raises:
        RuntimeError: it suspends: its waits are none of a blocking `Runtime`.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise RuntimeError("a coroutine waits for an event loop where there is none")


def check_not_awaitable(returned: object, function: object) -> None:
    """Raise if a plain function has returned what it should have awaited.

    Raises:
        TypeError: it has.
    """
    if isawaitable(returned):
        if iscoroutine(returned):
            returned.close()
        raise TypeError(
            f"{name_of(function)} is no async function, but returns an awaitable: "
            "write it as `async def`, and for an async handler"
        )


def is_async(function: Callable[..., object]) -> bool:
    """Whether a call returns a coroutine; also through `partial` and `functools.wraps`."""
    while isinstance(function, partial):
        function = function.func
    if iscoroutinefunction(function) or iscoroutinefunction(unwrap(function)):
        return True
    return iscoroutinefunction(type(function).__call__)


def passed_to(function: Callable[..., object]) -> list[Parameter]:
    """The parameters for which a caller passes something.

    Not ``*args`` and ``**kwargs``, nor what `functools.partial` has bound by name.

    Raises:
        ValueError: the signature is not known, as that of a builtin.
    """
    inner = unwrap(function)
    bound = inner.keywords if isinstance(inner, partial) else {}
    return [
        parameter
        for name, parameter in signature(function).parameters.items()
        if parameter.kind not in _REST and name not in bound
    ]


def name_of(function: object) -> str:
    """A function's name, for the log."""
    return getattr(function, "__qualname__", None) or type(function).__qualname__
