"""Starlette's class for a connection, on unisock."""

from unisock import WebSocket, WebSocketEndpoint


class Echo(WebSocketEndpoint):
    encoding = "text"

    async def on_connect(self, websocket: WebSocket) -> None:
        await websocket.accept()

    async def on_receive(self, websocket: WebSocket, data: str) -> None:
        await websocket.send_text(f"You said: {data}")

    async def on_disconnect(self, websocket: WebSocket, close_code: int) -> None:
        print(f"Echo ended with {close_code}")
