"""One echo over a real socket with the installed wheel, outside the checkout."""

from __future__ import annotations

import asyncio
import socket
import sysconfig
from pathlib import Path

import starlette.applications
import uvicorn
import websockets

import unisock
import unisock.adapters.starlette


async def echo(ws: unisock.WebSocket) -> None:
    """Send every message back as it came."""
    await ws.accept()
    async for message in ws:
        await ws.send(message)


async def main() -> None:
    """Serve, and be the client."""
    app = starlette.applications.Starlette()
    unisock.mount(app, "/ws", echo)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    serving = asyncio.create_task(server.serve([listener]))
    async with asyncio.timeout(30):
        async with websockets.connect(f"ws://127.0.0.1:{listener.getsockname()[1]}/ws") as client:
            await client.send("hello")
            assert await client.recv() == "hello"
        server.should_exit = True
        await serving
    print("echoed by", unisock.adapters.starlette.__file__)


installed = Path(unisock.adapters.starlette.__file__)
assert installed.is_relative_to(sysconfig.get_path("purelib")), installed
assert (Path(unisock.__file__).parent / "py.typed").is_file()
asyncio.run(main())
