"""What a handler is called with: its parameters, and what its dependencies give.

A `Plan` is made when a handler is mounted, from its signature and those of its dependencies.
For each connection the values of all parameters are read first, so that a request that does not
fit is rejected before anything runs.  Then each dependency is called once, those that others
need first.  What yields is closed after the connection's end, the last first.

==========================  =======================================  ==================
a dependency                for an async handler or a class          for a plain function
==========================  =======================================  ==================
``async def``               on the event loop                        a `TypeError` at mount
``def``                     in a thread, on gevent in a greenlet     where the function runs
a generator of either kind  each half as a function of that kind     as above
a class                     on the event loop                        where the function runs
==========================  =======================================  ==================
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, isasyncgenfunction, isclass, isgeneratorfunction, unwrap
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

from .errors import HandshakeRejected
from .markers import Depends
from .parameters import (
    Argument,
    BadParameter,
    Injects,
    Value,
    arguments_of,
    check_path,
    injects_nothing,
)
from .paths import PathTemplate
from .runtime import adopt, check_not_awaitable, is_async, name_of
from .session import Session
from .sync_websocket import SyncWebSocket

logger = logging.getLogger("unisock")

T = TypeVar("T")

Overrides: TypeAlias = Mapping[Callable[..., Any], Callable[..., Any]]
"""What is called in place of a dependency, in a test."""

_CONTEXTLIB = contextmanager.__code__.co_filename

NO_OVERRIDES: Overrides = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """A dependency that is to be called.

    Attributes:
        function: what is called.
        arguments: its arguments.
        gives: the place of each `Depends` among the arguments in the list of steps.
    """

    function: Callable[..., Any]
    arguments: tuple[Argument, ...]
    gives: Mapping[str, int]


_Bound: TypeAlias = tuple[list[Any], dict[str, Any]]


class Plan:
    """How the arguments of a handler are made.

    Args:
        function: the handler's function, or its class.
        before: dependencies that run before all others.
        blocks: whether it is a plain function.
        overrides: what is called in place of a dependency.
        injects: tells what is for the framework to inject.

    Attributes:
        injected: the handler's parameters that the framework injects.

    Raises:
        TypeError: a parameter or a dependency that cannot be had; the message names it.
        ValueError: the signature is not known.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        before: Sequence[Depends] = (),
        *,
        blocks: bool,
        overrides: Overrides = NO_OVERRIDES,
        injects: Injects = injects_nothing,
    ) -> None:
        self._name = name_of(function)
        self._blocks = blocks
        self._overrides = overrides
        self._replaced: set[Callable[..., Any]] = set()
        _check_overrides(overrides)
        self._steps: list[_Step] = []
        self._places: dict[object, int] = {}
        for depends in before:
            self._place_of(depends, ())
        arguments = arguments_of(
            function, blocks=blocks, first_is_websocket=not isclass(function), injects=injects
        )
        self._target = self._step_of(function, arguments, ())
        for unused in overrides.keys() - self._replaced:
            raise TypeError(f"overrides=: {self._name} does not depend on {name_of(unused)}")
        sources = [argument.source for argument in arguments]
        self.injected = tuple(each for each in sources if isinstance(each, Parameter))
        self._values = tuple(
            argument.source
            for step in (*self._steps, self._target)
            for argument in step.arguments
            if isinstance(argument.source, Value)
        )

    def check_path(self, template: PathTemplate) -> None:
        """Raise unless the parameters that stand in the path can be what they are annotated as.

        Raises:
            TypeError: one cannot; the message names it.
        """
        check_path(self._values, template, self._name)

    def _step_of(
        self,
        function: Callable[..., Any],
        arguments: tuple[Argument, ...],
        above: tuple[Callable[..., Any], ...],
    ) -> _Step:
        gives = {
            argument.name: self._place_of(argument.source, (*above, function))
            for argument in arguments
            if isinstance(argument.source, Depends)
        }
        return _Step(function, arguments, gives)

    def _place_of(self, depends: Depends, above: tuple[Callable[..., Any], ...]) -> int:
        """The place of a dependency in the list, which has what it needs before it."""
        function = depends.dependency
        if function in self._overrides:
            self._replaced.add(function)
            function = self._overrides[function]
        if depends.use_cache and function in self._places:
            return self._places[function]
        if function in above:
            chain = " needs ".join(map(name_of, (*above[above.index(function) :], function)))
            raise TypeError(f"{self._name}: {chain}")
        if self._blocks and (is_async(function) or isasyncgenfunction(_bare(function))):
            raise TypeError(
                f"{self._name} is a plain function, and {name_of(function)} is async: make "
                f"{name_of(function)} a plain `def`, or the handler `async def`"
            )
        owner = f"{name_of(function)}, a dependency of {self._name}"
        if getattr(getattr(function, "__code__", None), "co_filename", "") == _CONTEXTLIB:
            raise TypeError(
                f"{owner}, is decorated as a context manager: take the decorator off, a generator "
                "is closed without it"
            )
        step = self._step_of(
            function, arguments_of(function, owner=owner, blocks=self._blocks), above
        )
        self._steps.append(step)
        place = len(self._steps) - 1
        if depends.use_cache:
            self._places[function] = place
        return place

    # On a connection

    def read(self, session: Session) -> Mapping[Value, Any]:
        """The values of all parameters.

        Raises:
            HandshakeRejected: some are missing or do not fit: 400, with a line for each.
        """
        handshake = session.transport.handshake
        values: dict[Value, Any] = {}
        problems: list[str] = []
        for value in self._values:
            try:
                values[value] = value.read(handshake)
            except BadParameter as exc:
                problems.extend(exc.problems)
        if problems:
            logger.info(
                "%s: handshake rejected: %s", session.transport._describe(), "; ".join(problems)
            )
            text = "".join(f"{problem}\n" for problem in problems)
            raise HandshakeRejected(400, text.encode(errors="replace"))
        return values

    async def conclude(
        self,
        session: Session,
        function: Callable[..., Awaitable[object]],
        leave: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Call an async function with its arguments, and end the connection as `Session.conclude`.

        Args:
            session: the connection's.
            function: the handler.
            leave: called when the connection has ended, before the dependencies are closed.

        Raises:
            Exception: as `Session.conclude`.
        """
        injection = _Injection(self, session)
        try:
            try:
                await session.conclude(partial(injection.call, function))
            finally:
                if leave is not None:
                    await leave()
        finally:
            if injection.must_close and not session.is_abandoned():
                await session.conclude(injection.close, with_tasks=False)

    def call(self, session: Session, ws: SyncWebSocket, function: Callable[..., T]) -> T:
        """Call a plain function with its arguments, where this is called; return what it does.

        Raises:
            HandshakeRejected: a parameter is missing or does not fit.
            Exception: what a dependency or `function` raised.
        """
        failure: BaseException | None = None
        with ExitStack() as stack:
            binding = _Binding(self, session, ws)
            try:
                for dependency, bound in binding.steps():
                    if isgeneratorfunction(_bare(dependency)):
                        binding.give(stack.enter_context(contextmanager(bound)()))
                    else:
                        binding.give(_checked(bound(), dependency))
                args, kwargs = binding.arguments()
                returned = _checked(function(*args, **kwargs), function)
                if session.ws._accepted:
                    ws.close()  # the connection ends before what it depends on
            except BaseException as exc:
                failure = exc
                raise
        # A dependency that swallows it changes nothing.
        if failure is not None:
            raise failure
        return returned


class _Binding:
    """The arguments for one connection, as far as they are known."""

    def __init__(self, plan: Plan, session: Session, ws: object) -> None:
        self._plan = plan
        self._ws = ws
        self._values = plan.read(session)
        self._injected = session.transport.injected
        self._inbox = session.ws._inbox
        self._given: list[Any] = []

    def steps(self) -> Iterator[tuple[Callable[..., Any], Callable[..., Any]]]:
        """Each dependency, and it with its arguments; `give` comes before the next."""
        for step in self._plan._steps:
            args, kwargs = self._bind(step)
            yield step.function, partial(step.function, *args, **kwargs)
            self._raise_if_ended()

    def _raise_if_ended(self) -> None:
        """The client has left, or a dependency has rejected: nothing else is called."""
        if self._inbox.ended is not None:
            raise self._inbox.disconnected()

    def give(self, value: Any) -> None:
        """What the last dependency has given."""
        self._given.append(value)

    def arguments(self) -> _Bound:
        """Those of the handler, when all dependencies have given."""
        return self._bind(self._plan._target)

    def _bind(self, step: _Step) -> _Bound:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for argument in step.arguments:
            source = argument.source
            if source is None:
                value = self._ws
            elif isinstance(source, Value):
                value = self._values[source]
            elif isinstance(source, Depends):
                value = self._given[step.gives[argument.name]]
            else:
                value = self._injected[argument.name]
            if argument.is_positional:
                args.append(value)
            else:
                kwargs[argument.name] = value
        return args, kwargs


class _Injection:
    """The dependencies of an async handler on one connection."""

    def __init__(self, plan: Plan, session: Session) -> None:
        self._plan = plan
        self._session = session
        self._stack = AsyncExitStack()
        self._failure: BaseException | None = None
        self.must_close = False
        """Whether `close` has anything to do."""

    async def call(self, function: Callable[..., Awaitable[object]]) -> None:
        """Call `function` with the handler's arguments.

        Raises:
            HandshakeRejected: a parameter is missing or does not fit.
            Exception: what a dependency or `function` raised.
        """
        try:
            binding = _Binding(self._plan, self._session, self._session.ws)
            for dependency, bound in binding.steps():
                binding.give(await self._enter(dependency, bound))
            args, kwargs = binding.arguments()
            await function(*args, **kwargs)
        except BaseException as exc:
            self._failure = exc
            raise

    async def _enter(self, dependency: Callable[..., Any], bound: Callable[..., Any]) -> Any:
        bare = _bare(dependency)
        if isclass(dependency):
            return bound()
        if is_async(dependency):
            return await bound()
        if isasyncgenfunction(bare):
            self.must_close = True
            return await self._stack.enter_async_context(asynccontextmanager(bound)())
        if isgeneratorfunction(bare):
            self.must_close = True
            return await self._enter_plain(contextmanager(bound)())
        context = contextvars.copy_context()
        given = await self._run_plain(context, bound)
        adopt(context)
        return _checked(given, dependency)

    async def _enter_plain(self, manager: AbstractContextManager[T]) -> T:
        # Both halves have one context, as they would in a thread of their own.
        context = contextvars.copy_context()
        entered: list[T] = []

        async def leave(*exc_info: Any) -> bool | None:
            left = partial(manager.__exit__, *exc_info)
            return await self._run_plain(context, left, releases=True)

        try:
            await self._run_plain(context, lambda: entered.append(manager.__enter__()))
        finally:
            # A cancellation may have come meanwhile.
            if entered:
                self._stack.push_async_exit(leave)
        adopt(context)
        return entered[0]

    async def _run_plain(
        self, context: contextvars.Context, function: Callable[[], T], *, releases: bool = False
    ) -> T:
        def run() -> T:
            try:
                return context.run(function)
            except StopIteration as exc:  # as in a generator (PEP 479): no future takes it
                raise RuntimeError("a dependency has raised StopIteration") from exc

        return await self._session.ws._runtime.run_plain(run, releases=releases)

    async def close(self) -> None:
        """Resume each generator, the last one first, with the exception that ended the handler.

        Raises:
            Exception: what one of them raised beyond that.
        """
        # The exception itself is not raised again, for a context manager that lets it pass
        # returns false.
        await self._stack.__aexit__(*_exc_info(self._failure))


def _check_overrides(overrides: object) -> None:
    if not isinstance(overrides, Mapping):
        raise TypeError(f"overrides= takes a dict of functions, not {overrides!r}")
    for function, other in overrides.items():
        if not callable(function) or not callable(other):
            raise TypeError(f"overrides= takes a dict of functions: {function!r}: {other!r}")


def _exc_info(exc: BaseException | None) -> tuple[Any, Any, Any]:
    return (None, None, None) if exc is None else (type(exc), exc, exc.__traceback__)


def _checked(returned: T, dependency: Callable[..., Any]) -> T:
    check_not_awaitable(returned, dependency)
    return returned


def _bare(function: Callable[..., Any]) -> Any:
    """The innermost function: partials and decorators are removed."""
    while isinstance(function, partial):
        function = function.func
    function = unwrap(function)
    is_function = (
        isclass(function) or hasattr(function, "__code__") or hasattr(function, "__func__")
    )
    return function if is_function else type(function).__call__
