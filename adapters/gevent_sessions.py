"""gevent: a handler's session in the greenlet of a WSGI request, and its end with the server.

`serve` runs a handler on a `GeventTransport`: a coroutine on the event loop of
`gevent_loop`, a plain function in the request's own greenlet.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import gevent
import gevent.event

from unisock.handlers import MountedHandler
from unisock.runtime import adopt, run_blocking

from .gevent import GeventTransport
from .gevent_loop import hub_event_loop
from .gevent_runtime import GreenletRuntime

# How long a server that stops waits for its sessions, where it says nothing.
_STOP_TIMEOUT = 1.0


def serve(handler: MountedHandler, transport: GeventTransport, server: Any) -> None:
    """Run `handler` on `transport` in a WSGI request's greenlet, until all has ended.

    It sees the greenlet's context variables, and the greenlet then those that it has set.

    Raises:
        Exception: what the handler raised, for the framework.
    """
    sessions = _sessions_of(server)
    if sessions.closed:
        transport.refuse()
    elif handler.blocks:
        _serve_blocking(handler, transport, sessions)
    else:
        _serve_on_loop(handler, transport, sessions)


def _serve_on_loop(
    handler: MountedHandler, transport: GeventTransport, sessions: _Sessions
) -> None:
    """Serve on the hub's event loop, while this greenlet reads."""
    ended = gevent.event.Event()
    loop = hub_event_loop()
    session = handler.session(transport)
    context = contextvars.copy_context()
    task = loop.create_task(handler.run(session), context=context)
    stopping: list[asyncio.Task[None]] = []  # the loop holds it weakly

    def stop() -> None:
        transport.server_stops()
        task.cancel()
        loop.call_soon(loop.call_soon, stop_anyway)

    def stop_anyway() -> None:
        """A handler that has swallowed its cancellation sees a disconnect."""
        if not task.done():
            stopping.append(loop.create_task(session.stop()))

    def on_done(done: asyncio.Task[None]) -> None:
        transport.session_ended()
        if not done.cancelled():
            done.exception()  # seen, also where the greenlet is gone before it is raised there
        ended.set()

    task.add_done_callback(on_done)
    with sessions.running(stop):
        try:
            transport.read()
            ended.wait()
        except BaseException:
            # Killed, or struck by a `gevent.Timeout` of the application's: nobody
            # reads any more, so the handler has to end as well.
            task.cancel()
            ended.wait(_STOP_TIMEOUT)
            raise
        finally:
            transport.release()
    adopt(context)
    if not task.cancelled():
        task.result()


def _serve_blocking(
    handler: MountedHandler, transport: GeventTransport, sessions: _Sessions
) -> None:
    """Serve in this greenlet, while another one reads."""
    session = handler.session(transport)
    runtime, this = transport.runtime, gevent.getcurrent()
    assert isinstance(runtime, GreenletRuntime)

    def stop() -> None:
        """End the session: a call sees a disconnect, and what waits elsewhere is killed."""
        transport.server_stops()
        run_blocking(session.stop())
        if this not in runtime.calling:
            gevent.kill(this)

    with sessions.running(lambda: gevent.spawn(stop)):
        reader = gevent.spawn(transport.read_to_end)
        try:
            run_blocking(handler.run(session))
        finally:
            try:
                transport.session_ended()
                reader.join()
            finally:
                reader.kill(block=False)
                transport.release()


class _Sessions:
    """The sessions of a server, which are ended when it closes."""

    def __init__(self) -> None:
        self.closed = False
        self._running: dict[gevent.event.Event, Callable[[], object]] = {}

    @contextmanager
    def running(self, cancel: Callable[[], object]) -> Generator[None]:
        """A session that runs within the block, and is ended by `cancel`."""
        gone = gevent.event.Event()
        self._running[gone] = cancel
        try:
            yield
        finally:
            del self._running[gone]
            gone.set()

    def close(self, timeout: float) -> None:
        """End all, and wait until they are gone."""
        running = dict(self._running)
        # Once: a server is closed twice by `stop` under `serve_forever`, and what a
        # handler does in its `finally` must not be struck.
        if not self.closed:
            self.closed = True
            for cancel in running.values():
                cancel()
        if gevent.getcurrent() is not gevent.get_hub():  # a signal's callback may not wait
            gevent.wait(list(running), timeout=timeout)


_servers: WeakKeyDictionary[Any, _Sessions] = WeakKeyDictionary()


def _sessions_of(server: Any) -> _Sessions:
    """Those of `server`; from the first on, its `close` ends them.

    gevent 26.9 tells connections of a stopping server only where it has a
    pool, by killing them; so its `close`, which every way to stop it calls,
    is wrapped.
    """
    sessions = _servers.get(server)
    if sessions is None:
        sessions = _servers[server] = _Sessions()
        close = server.close

        def close_with_sessions() -> None:
            close()
            sessions.close(getattr(server, "stop_timeout", None) or _STOP_TIMEOUT)

        server.close = close_with_sessions
    return sessions
