"""The forms of a handler, and how each is run.

=============================  ====================================================
``async def handler(ws)``      a coroutine on the connection's event loop
a `WebSocketEndpoint`          its hooks, one instance a connection
``def handler(ws)``            a thread on ASGI, the request's greenlet on gevent
=============================  ====================================================
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from inspect import Parameter, isasyncgenfunction, isfunction, isgeneratorfunction, signature
from types import FunctionType
from typing import TYPE_CHECKING, Any, Concatenate, TypeAlias, cast

from .endpoints import BaseEndpoint, end_endpoint, serve_endpoint
from .errors import WebSocketDisconnect, is_foreign
from .markers import Depends
from .options import Options, OptionsDict
from .runtime import NoThread, check_not_awaitable, is_async, name_of, passed_to
from .session import Session
from .sync_websocket import SyncWebSocket
from .transport import Transport
from .websocket import WebSocket

if TYPE_CHECKING:
    from .dependencies import Overrides, Plan
    from .parameters import Injects

logger = logging.getLogger("unisock")

AsyncFunction: TypeAlias = Callable[Concatenate[WebSocket, ...], Coroutine[Any, Any, None]]
SyncFunction: TypeAlias = Callable[Concatenate[SyncWebSocket, ...], None]

Handler: TypeAlias = AsyncFunction | SyncFunction | type[BaseEndpoint]
"""A function, or an object with ``__call__``, async or not; or an endpoint's class."""


def check_handler(handler: Handler, injects: Injects | None = None) -> Handler:
    """Return `handler` if it can be mounted.

    Args:
        handler: what is to be mounted.
        injects: tells which parameters are for the framework to inject.

    Raises:
        TypeError: it is none of the three forms, or has a parameter that cannot be had; the
            message says what to change.
    """
    check_form(handler)
    plan_of(handler, injects=injects)
    return handler


def check_form(handler: Handler) -> Handler:
    """Return `handler` if it is of one of the three forms.

    A `MountedHandler` is: it is a handler with its options.

    Raises:
        TypeError: it is not; the message says what to change.
    """
    if isinstance(handler, MountedHandler):
        return cast(Handler, handler)  # it has no place in the type that users see
    if isinstance(handler, BaseEndpoint):
        name = type(handler).__name__
        raise TypeError(f"mount the class {name}, not an instance: each connection has its own")
    if isinstance(handler, type):
        _check_class(handler)
        return handler
    if not callable(handler):
        raise TypeError(
            "a handler is `async def handler(ws)`, a plain `def handler(ws)` or a "
            f"WebSocketEndpoint class, not {handler!r}"
        )
    if _is_generator(handler) or _is_generator(type(handler).__call__):
        raise TypeError(f"a handler does not yield, as {name_of(handler)} does")
    kind = application_kind(handler)
    if kind is not None:
        raise TypeError(
            f"{name_of(handler)} is {kind}, and no handler: name the handler itself, "
            "`async def handler(ws)`"
        )
    return handler


def plan_of(
    handler: Handler,
    dependencies: Sequence[Depends] = (),
    overrides: Overrides | None = None,
    injects: Injects | None = None,
) -> Plan | None:
    """How the arguments of a handler are made; `None`: it takes the WebSocket alone.

    Args:
        handler: one of the three forms.
        dependencies: what runs before it.
        overrides: what is called in place of a dependency, in a test.
        injects: tells which parameters are for the framework to inject.

    Raises:
        TypeError: a parameter or a dependency that cannot be had; the message names it.
    """
    if isinstance(handler, MountedHandler):
        return handler.plan
    if not _needs_plan(handler) and not dependencies:
        return None
    # Here, for with msgspec it would be half of the time of `import unisock`.
    from .dependencies import NO_OVERRIDES, Plan  # noqa: PLC0415  # as just said
    from .parameters import injects_nothing  # noqa: PLC0415  # as just said

    return Plan(
        handler,
        dependencies,
        blocks=not isinstance(handler, type) and not is_async(handler),
        overrides=overrides or NO_OVERRIDES,
        injects=injects or injects_nothing,
    )


def _needs_plan(handler: Handler) -> bool:
    """Whether a function takes more than the WebSocket, or a class takes anything.

    Raises:
        TypeError: a function that does not take a WebSocket.
    """
    if isinstance(handler, type):
        return bool(passed_to(handler))
    try:
        passed = passed_to(handler)
        if not passed:
            signature(handler).bind(None)
            return False
    except (TypeError, ValueError) as exc:  # ValueError: a builtin's signature is not known
        raise TypeError(
            f"a handler takes one argument, the WebSocket, and perhaps parameters: "
            f"{name_of(handler)}: {exc}"
        ) from exc
    return len(passed) > 1 or passed[0].kind is Parameter.KEYWORD_ONLY


def functions_of(handler: Handler) -> Iterator[FunctionType]:
    """The functions that a handler is made of, and those that decorators have put around them.

    For an adapter that knows a decorator of its framework by its function.
    """
    function: Any = handler.handler if isinstance(handler, MountedHandler) else handler
    candidates = [function]
    if isinstance(function, type):
        candidates = [value for base in function.__mro__ for value in vars(base).values()]
    elif not isfunction(function):
        candidates.append(type(function).__call__)
    for candidate in candidates:
        function = candidate
        while function is not None:
            function = getattr(function, "__func__", function)  # a method's
            if isfunction(function):
                yield function
            # As functools.wraps and functools.partial leave it.
            function = getattr(function, "__wrapped__", getattr(function, "func", None))


def application_kind(given: object) -> str | None:
    """What kind of application something is, by the names of its arguments; else `None`."""
    try:
        names = tuple(signature(cast(Callable[..., object], given)).parameters)
    except (TypeError, ValueError):  # it cannot be called, or does not tell
        return None
    return _APPLICATIONS.get(names)


_APPLICATIONS: dict[tuple[str, ...], str] = {
    ("scope", "receive", "send"): "an ASGI application",
    ("environ", "start_response"): "a WSGI application",
}


def _is_generator(function: object) -> bool:
    return isgeneratorfunction(function) or isasyncgenfunction(function)


def _check_class(handler: type) -> None:
    if not issubclass(handler, BaseEndpoint):
        raise TypeError(
            f"{handler.__name__} is a class, and no endpoint: derive it from "
            "unisock.WebSocketEndpoint, or mount an instance with a __call__"
        )


def prepare(
    handler: Handler,
    options: OptionsDict,
    overrides: Overrides | None = None,
    injects: Injects | None = None,
) -> MountedHandler:
    """Check a handler and its options, and make them what an adapter serves.

    Args:
        handler: one of the three forms.
        options: those of `unisock.Options`.
        overrides: what is called in place of a dependency, in a test.
        injects: tells which parameters are for the framework to inject; an adapter that
            gives it gives `Transport.injected` as well.

    Raises:
        TypeError: no handler, or an unknown option, or options for what has them
            already.
        ValueError: an option's value.
    """
    check_form(handler)
    if isinstance(handler, MountedHandler):
        if options:
            raise TypeError(f"{handler.name} is mounted with its own options: leave out {options}")
        return handler
    parsed = Options.parse(options)
    plan = plan_of(handler, parsed.dependencies, overrides, injects)
    if isinstance(handler, type):
        return _Endpoint(handler, parsed, plan)
    if is_async(handler):
        return _Async(cast(AsyncFunction, handler), parsed, plan)
    return _Sync(cast(SyncFunction, handler), parsed, plan)


class MountedHandler(ABC):
    """A handler with its options, in whatever form it was written.

    Attributes:
        handler: as it was written.
        name: what a router may call the route.
        options: the options.
        blocks: whether it is a plain function.  An adapter that has no event
            loop of its own serves such a handler on a blocking
            `unisock.runtime.Runtime`.
        plan: how its arguments are made, if it takes more than the WebSocket.
    """

    blocks = False

    def __init__(self, handler: object, options: Options, plan: Plan | None) -> None:
        self.handler = handler
        self.plan = plan
        self.name: str = getattr(handler, "__name__", type(handler).__name__)
        self.options = options
        self._qualname = name_of(handler)
        # Connections may be of several loops, each in its own thread.
        limit = options.max_connections
        self._places = None if limit is None else threading.BoundedSemaphore(limit)

    def session(self, transport: Transport) -> Session:
        """A session for one connection, not yet run.

        Raises:
            TypeError: the adapter has left out a part of the transport.
        """
        transport.check()
        return Session(self._qualname, transport, self.options)

    # No coroutines of their own: each message would pass through them.

    def serve(self, transport: Transport) -> Coroutine[Any, Any, None]:
        """Serve one connection to its end.

        Raises:
            Exception: what the handler raised, where it goes on to the
                framework (see `unisock.session`).
            asyncio.CancelledError: the server stops.
        """
        return self.run(self.session(transport))

    def run(self, session: Session) -> Coroutine[Any, Any, None]:
        """As `serve`, for a session of this handler."""
        return session.run(self._run if self._places is None else self._run_if_there_is_room)

    async def _run_if_there_is_room(self, session: Session) -> None:
        assert self._places is not None
        if not self._places.acquire(blocking=False):
            await self._refuse(
                session,
                f"has {self.options.max_connections} connections already; "
                "to allow more mount with max_connections=",
            )
            return
        try:
            await self._run(session)
        finally:
            self._places.release()

    async def _refuse(self, session: Session, reason: str) -> None:
        """Reject, and tell the client to come again."""
        logger.warning("%s: handshake rejected: it %s", session.transport._describe(), reason)
        await session.ws.reject(503, b"too many connections", {"retry-after": "1"})

    @abstractmethod
    def _run(self, session: Session) -> Coroutine[Any, Any, None]:
        """Run the handler by `Session.conclude`."""


class _Async(MountedHandler):
    """A coroutine function."""

    def __init__(self, handler: AsyncFunction, options: Options, plan: Plan | None) -> None:
        super().__init__(handler, options, plan)
        self._handler = handler

    def _run(self, session: Session) -> Coroutine[Any, Any, None]:
        if self.plan is None:
            return session.conclude(partial(self._handler, session.ws))
        return self.plan.conclude(session, self._handler)


class _Endpoint(MountedHandler):
    """A class whose instance serves one connection."""

    def __init__(
        self, endpoint_class: type[BaseEndpoint], options: Options, plan: Plan | None
    ) -> None:
        super().__init__(endpoint_class, options, plan)
        self._endpoint_class = endpoint_class

    async def _run(self, session: Session) -> None:
        connected: list[BaseEndpoint] = []

        async def serve(*args: Any, **kwargs: Any) -> None:
            endpoint = self._endpoint_class(*args, **kwargs)
            endpoint.websocket = session.ws
            connected.append(endpoint)
            await serve_endpoint(endpoint)

        async def leave() -> None:
            for endpoint in [] if session.is_abandoned() else connected:
                await session.conclude(partial(end_endpoint, endpoint), with_tasks=False)

        async def serve_with(*args: Any, **kwargs: Any) -> None:
            try:
                await serve(*args, **kwargs)
            except WebSocketDisconnect as exc:
                # No hook has failed.  The dependencies see a normal end.
                if is_foreign(exc, is_open=not session.ws._has_ended):
                    raise

        if self.plan is not None:
            await self.plan.conclude(session, serve_with, leave)
            return
        try:
            await session.conclude(serve)
        finally:
            await leave()


class _Sync(MountedHandler):
    """A plain function, which blocks."""

    blocks = True

    def __init__(self, handler: SyncFunction, options: Options, plan: Plan | None) -> None:
        super().__init__(handler, options, plan)
        self._handler = handler
        self._threads = threading.BoundedSemaphore(options.max_threads)

    async def _run(self, session: Session) -> None:
        workers = session.ws._runtime.create_workers(session.transport._describe)
        if workers.are_threads and not self._threads.acquire(blocking=False):
            await self._refuse(
                session,
                f"runs in {self.options.max_threads} threads already; to allow more mount "
                "with max_threads=, or write it as `async def`",
            )
            return
        release = self._threads.release if workers.are_threads else _nothing
        ws = SyncWebSocket(session, workers)
        call = partial(self._call, session, ws)

        async def run() -> None:
            try:
                await workers.run(self._qualname, call, release)
            except NoThread:
                await self._refuse(
                    session,
                    "needs a thread, and the system has no more: lower max_threads=, raise "
                    "the limit (ulimit -u, ulimit -v), or write it as `async def`",
                )

        try:
            await session.conclude(run)
        except BaseException as exc:
            if not session.is_abandoned():
                await ws._end(self.options.close_timeout, exc)
            raise
        await ws._end(self.options.close_timeout, None)

    def _call(self, session: Session, ws: SyncWebSocket) -> None:
        if self.plan is None:
            returned: object = self._handler(ws)
        else:
            returned = self.plan.call(session, ws, self._handler)
        check_not_awaitable(returned, self._handler)


def _nothing() -> None:
    """What is to be done at the end of a greenlet."""
