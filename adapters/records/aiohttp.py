"""aiohttp on its own server."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from unisock.frameworks import GRACE, STOP_SIGNALS, AppServer, Framework, Service
from unisock.transport import Capabilities


def application(service: Service) -> Any:
    """An application of aiohttp's."""
    from aiohttp.web import Application

    return service.mount_on(Application())


class Server(AppServer):
    """aiohttp's own server."""

    _loop: asyncio.AbstractEventLoop
    _stopping: asyncio.Event

    def __init__(self, app: Any, grace: float = GRACE, lifespan: bool = False) -> None:
        super().__init__(app, grace, lifespan)
        from aiohttp.web import AppRunner, SockSite

        # It waits so long for handlers to end, and once more when they are cancelled.
        self._runner = AppRunner(app, shutdown_timeout=grace / 2)
        self._site_class = SockSite

    def run(self, listener: socket.socket, on_started: Callable[[], None]) -> None:
        """Serve until `stop` or a signal."""
        # A second signal has cancelled it.
        with suppress(asyncio.CancelledError):
            asyncio.run(self._serve(listener, on_started))

    def stop(self) -> None:
        """End `run`."""
        with suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def _serve(self, listener: socket.socket, on_started: Callable[[], None]) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        task = asyncio.current_task()
        assert task is not None
        for number in _signals():
            self._loop.add_signal_handler(number, self._on_signal, task)
        await self._runner.setup()
        try:
            await self._site_class(self._runner, listener).start()
            on_started()
            await self._stopping.wait()
        finally:
            await self._runner.cleanup()

    def _on_signal(self, task: asyncio.Task[None]) -> None:
        if self._stopping.is_set():
            task.cancel()
        self._stopping.set()


def _signals() -> Iterable[signal.Signals]:
    return STOP_SIGNALS if threading.current_thread() is threading.main_thread() else ()


FRAMEWORK = Framework(
    application=application,
    server=Server,
    packages={"aiohttp": "aiohttp"},
    adapter="unisock.adapters.aiohttp",
    command="gunicorn -k aiohttp.GunicornWebWorker {}",
    capabilities={"aiohttp": Capabilities()},
)
