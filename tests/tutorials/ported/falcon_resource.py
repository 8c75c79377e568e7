"""Falcon's resource on unisock; its page stays with the framework."""

from unisock import WebSocket, WebSocketDisconnect


class HelloResource:
    async def on_websocket(self, ws: WebSocket) -> None:
        name = ws.path_params["name"]
        try:
            await ws.accept()
            await ws.send_text(f"Hello, {name}!")
            while True:
                message = await ws.receive_text()
                await ws.send_text(f"{name}: {message}")
        except WebSocketDisconnect:
            print(f"{name} has left")
