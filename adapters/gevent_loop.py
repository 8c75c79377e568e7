"""asyncio in gevent's hub: one event loop for each hub, running in a greenlet.

An ``async def`` handler under gevent uses all of asyncio, while the other
greenlets of the thread go on, and may run event loops of their own.  With and
without ``monkey.patch_all()``.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, TypeVarTuple, Unpack
from weakref import WeakKeyDictionary

import gevent
import gevent.hub

from unisock.asyncio_runtime import AsyncioRuntime, until_done
from unisock.runtime import Waiter

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _LoopGreenlet(gevent.Greenlet):  # type: ignore[type-arg]  # generic in the stubs only
    """The greenlet that a loop runs in, which carries the thread's asyncio marks.

    asyncio marks the running loop, and hooks async generators, once for a
    thread.  Whoever switches to this greenlet (the hub) swaps both in, and out
    again when it comes back: wherever the loop waits, be it in its selector or
    in a patched lock within a callback, every other greenlet finds its own,
    and may run another event loop.
    """

    _inner: tuple[Any, Any] = (None, (None, None))

    def switch(self, *args: Any, **kwargs: Any) -> Any:
        """Resume it, with its marks."""
        outer = self._enter()
        try:
            return super().switch(*args, **kwargs)
        finally:
            self._leave(outer)

    def throw(self, *args: Any) -> Any:
        """Resume it with an exception, with its marks."""
        outer = self._enter()
        try:
            return super().throw(*args)
        finally:
            self._leave(outer)

    def _enter(self) -> tuple[Any, Any]:
        outer = _marks()
        _set_marks(self._inner)
        return outer

    def _leave(self, outer: tuple[Any, Any]) -> None:
        self._inner = _marks()
        _set_marks(outer)


def _marks() -> tuple[Any, Any]:
    return asyncio._get_running_loop(), sys.get_asyncgen_hooks()


def _set_marks(marks: tuple[Any, Any]) -> None:
    loop, hooks = marks
    asyncio._set_running_loop(loop)
    sys.set_asyncgen_hooks(*hooks)


class _HubSelector(selectors.BaseSelector):
    """A selector that waits in gevent's hub, so that other greenlets run."""

    def __init__(self, hub: gevent.hub.Hub) -> None:
        self._hub = hub
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._watchers: dict[int, Any] = {}
        self._ready: dict[int, int] = {}
        self._waiter: Any = None

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch a file; see `selectors.BaseSelector`."""
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        if fd in self._keys:
            raise KeyError(f"{fileobj!r} is registered already")
        key = self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        # Unreferenced: an idle loop must not keep the process alive.
        watcher = self._hub.loop.io(fd, events, ref=False)
        self._watchers[fd] = watcher
        watcher.start(self._on_ready, fd, pass_events=True)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Stop to watch a file."""
        key = self.get_key(fileobj)
        del self._keys[key.fd]
        self._ready.pop(key.fd, None)
        watcher = self._watchers.pop(key.fd)
        watcher.stop()
        watcher.close()
        return key

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """The keys by file descriptor."""
        return self._keys

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """The key of a file, by the object or its descriptor."""
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        if fd in self._keys:
            return self._keys[fd]
        for key in self._keys.values():  # closed: it has no descriptor any more
            if key.fileobj is fileobj:
                return key
        raise KeyError(f"{fileobj!r} is not registered")

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Let other greenlets run until a file is ready, `wake` or the timeout."""
        if self._ready or (timeout is not None and timeout <= 0):
            gevent.sleep(0)
        else:
            self._wait(timeout)
        return self._collect()

    def wake(self) -> None:
        """End a `select` that is under way; from any greenlet of this thread."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self._hub.loop.run_callback(waiter.switch, None)

    def close(self) -> None:
        """Stop to watch everything."""
        for key in list(self._keys.values()):
            self.unregister(key.fd)

    def _wait(self, timeout: float | None) -> None:
        waiter = self._waiter = gevent.hub.Waiter(self._hub)
        timer = None
        if timeout is not None:
            timer = self._hub.loop.timer(timeout, ref=False)
            timer.start(waiter.switch, None)
        try:
            waiter.get()
        finally:
            self._waiter = None
            if timer is not None:
                timer.close()

    def _on_ready(self, events: int, fd: int) -> None:
        # Stopped until it is collected: libev would call without end.
        self._watchers[fd].stop()
        self._ready[fd] = events
        self.wake()

    def _collect(self) -> list[tuple[selectors.SelectorKey, int]]:
        if not self._ready:
            return []
        ready, self._ready = self._ready, {}
        for fd in ready:
            self._watchers[fd].start(self._on_ready, fd, pass_events=True)
        # gevent's READ and WRITE are those of selectors: 1 and 2.
        return [(self._keys[fd], events & self._keys[fd].events) for fd, events in ready.items()]


class HubEventLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop in a greenlet of gevent's hub.

    Any greenlet of the same thread may call it: a callback that is scheduled
    from outside wakes it.  Files are watched by the hub.

    Attributes:
        greenlet: what runs it.
    """

    greenlet: _LoopGreenlet

    def __init__(self, hub: gevent.hub.Hub) -> None:
        self._hub = hub
        self._hub_selector = _HubSelector(hub)
        self._ended = False
        super().__init__(self._hub_selector)

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """As asyncio's; from any greenlet of this thread."""
        handle = super().call_soon(callback, *args, context=context)
        self._hub_selector.wake()
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """As asyncio's; from any greenlet of this thread."""
        handle = super().call_at(when, callback, *args, context=context)
        self._hub_selector.wake()
        return handle

    def serve(self) -> None:
        """Run for ever; the body of the loop's greenlet."""
        while not self._ended:
            try:
                self.run_forever()
            except (KeyboardInterrupt, SystemExit) as exc:
                # What a task raised to end the process, as under asyncio.run;
                # the other connections' loop goes on until it ends.
                self._hub.handle_system_error(type(exc), exc)
        self.close()

    def end(self) -> None:
        """Cancel what still runs, let it see that, and close; `serve` returns soon."""
        self._ended = True
        for task in asyncio.all_tasks(self):
            task.cancel()
        self.call_soon(self.stop)


class HubRuntime(AsyncioRuntime):
    """Waiting on the hub's event loop."""

    def waiter_factory(self) -> Callable[[], Waiter[Any]]:
        """The loop's futures, also for who is not in it."""
        return hub_event_loop().create_future

    def place(self) -> Callable[[], object]:
        """The event loop: other greenlets of the thread may run others."""
        return asyncio._get_running_loop

    async def run_plain(self, function: Callable[[], T], *, releases: bool = False) -> T:
        """In a greenlet of its own."""
        del releases
        return await call_in_greenlet(function)


HUB = HubRuntime()


async def call_in_greenlet(function: Callable[[], T]) -> T:
    """Call what may block in a greenlet of its own, while the loop goes on.

    The function runs to its end, even if the task is cancelled meanwhile.

    Raises:
        BaseException: what the function raised.
        asyncio.CancelledError: the task was cancelled; the function has ended.
    """
    returned: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def call() -> None:
        try:
            returned.set_result(function())
        except BaseException as exc:  # noqa: BLE001  # it is raised in the task
            returned.set_exception(exc)

    gevent.spawn(call)
    return await until_done(returned)


_loops: WeakKeyDictionary[gevent.hub.Hub, HubEventLoop] = WeakKeyDictionary()


def hub_event_loop() -> HubEventLoop:
    """The loop of this thread's hub, started when it is first asked for."""
    hub = gevent.get_hub()
    loop = _loops.get(hub)
    if loop is None:
        loop = _loops[hub] = HubEventLoop(hub)
        # In a context of its own, lest it keep the first request's for ever.
        loop.greenlet = contextvars.Context().run(_LoopGreenlet.spawn, loop.serve)
    return loop


def end_hub() -> None:
    """End this thread's hub, and its loop; for a thread that ends before its process."""
    hub = gevent.get_hub()
    loop = _loops.pop(hub, None)
    if loop is not None:
        loop.end()
        loop.greenlet.join()
    hub.destroy(destroy_loop=True)
