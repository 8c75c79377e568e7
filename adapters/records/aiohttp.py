"""aiohttp on its own server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from unisock.frameworks import GRACE, AsyncioServer, Framework, Service
from unisock.transport import Capabilities


def application(service: Service) -> Any:
    """An application of aiohttp's."""
    from aiohttp.web import Application

    return service.mount_on(Application())


class Server(AsyncioServer):
    """aiohttp's own server."""

    def __init__(self, app: Any, grace: float = GRACE, lifespan: bool = False) -> None:
        super().__init__(app, grace, lifespan)
        from aiohttp.web import AppRunner, SockSite

        # It waits so long for handlers to end, and once more when they are cancelled.
        self._runner = AppRunner(app, shutdown_timeout=grace / 2)
        self._site_class = SockSite

    async def serve(
        self, listener: socket.socket, on_started: Callable[[], None], stopping: asyncio.Event
    ) -> None:
        """Serve until `stopping` is set."""
        await self._runner.setup()
        try:
            await self._site_class(self._runner, listener).start()
            on_started()
            await stopping.wait()
        finally:
            await self._runner.cleanup()


FRAMEWORK = Framework(
    application=application,
    server=Server,
    packages={"aiohttp": "aiohttp", "websockets": "websockets"},
    adapter="unisock.adapters.aiohttp",
    command="gunicorn -k aiohttp.GunicornWebWorker {}",
    capabilities={"aiohttp": Capabilities()},
)
