"""The echo handler: it runs, unchanged, on every framework."""

from unisock import WebSocket


async def echo(ws: WebSocket) -> None:
    """Send every message back as it came."""
    await ws.accept()
    async for message in ws:
        await ws.send(message)
