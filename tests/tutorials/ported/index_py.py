"""Index.py's two forms of an echo, on unisock."""

from unisock import SocketView, WebSocket


async def simple_echo(websocket: WebSocket) -> None:
    try:
        await websocket.accept()
        while True:
            message = await websocket.receive_json()
            await websocket.send_json(message)
    finally:
        await websocket.close(code=1000)


class EchoView(SocketView):
    encoding = "json"

    async def on_connect(self) -> None:
        await self.websocket.accept()

    async def on_receive(self, data: object) -> None:
        await self.websocket.send_json(data)

    async def on_disconnect(self, close_code: int) -> None:
        print(f"EchoView ended with {close_code}")
        await self.websocket.close(code=close_code)
