"""The echo service as a bare ASGI application, on uvicorn."""

import os
from pathlib import Path

import uvicorn

from unisock.adapters.asgi import ASGIApp, Receive, Scope, Send

from .handler import echo

PAGE = Path(__file__).with_name("index.html").read_bytes()
HTML = [(b"content-type", b"text/html; charset=utf-8")]
websocket = ASGIApp(echo)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http" and scope["path"] == "/":
        await send({"type": "http.response.start", "status": 200, "headers": HTML})
        await send({"type": "http.response.body", "body": PAGE})
    else:
        await websocket(scope, receive, send)


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
