"""FastAPI's echo on unisock; its page stays with the framework."""

from unisock import WebSocket


async def websocket_endpoint(websocket: WebSocket) -> None:
    await websocket.accept()
    while True:
        data = await websocket.receive_text()
        await websocket.send_text(f"Message text was: {data}")
