"""Section 1 of the contract: a handler, and how it is mounted."""

from __future__ import annotations

from unisock import WebSocket

from .harness import Server, clause, journal, mounted


async def tell_room(ws: WebSocket) -> None:
    """Answer with the room; mounted on routers and registered by hand by the servers."""
    await ws.accept()
    await ws.send_json([ws.path_params["room"], ws.state.get("left_by_dependency")])
