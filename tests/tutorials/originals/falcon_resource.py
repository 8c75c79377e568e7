"""Falcon: a page and a WebSocket on one resource."""

from falcon import MEDIA_TEXT, WebSocketDisconnected
from falcon.asgi import App, Request, Response, WebSocket


class HelloResource:
    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        resp.content_type = MEDIA_TEXT
        resp.text = f"Hello, {name}!"

    async def on_websocket(self, req: Request, ws: WebSocket, name: str) -> None:
        try:
            await ws.accept()
            await ws.send_text(f"Hello, {name}!")
            while True:
                message = await ws.receive_text()
                await ws.send_text(f"{name}: {message}")
        except WebSocketDisconnected:
            print(f"{name} has left")


app = App()
app.add_route("/hello/{name}", HelloResource())
