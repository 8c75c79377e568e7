"""Starlette: a class for a connection."""

from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket


class Echo(WebSocketEndpoint):
    encoding = "text"

    async def on_connect(self, websocket: WebSocket) -> None:
        await websocket.accept()

    async def on_receive(self, websocket: WebSocket, data: str) -> None:
        await websocket.send_text(f"You said: {data}")

    async def on_disconnect(self, websocket: WebSocket, close_code: int) -> None:
        print(f"Echo ended with {close_code}")


app = Starlette(routes=[WebSocketRoute("/endpoint", Echo)])
