"""Section 10 of the contract: limits."""

from __future__ import annotations

from unisock import WebSocket

from .harness import journal, mounted


@mounted("/probe/echo")
async def echo(ws: WebSocket) -> None:
    await ws.accept()
    async for message in ws:
        await ws.send(message)
    journal(ws, "end", code=ws.close_code, reason=ws.close_reason)
