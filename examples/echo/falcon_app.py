"""The echo service on Falcon, on uvicorn."""

import os
from pathlib import Path

import falcon
import falcon.asgi
import uvicorn

import unisock

from .handler import echo


class PageResource:
    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.content_type = falcon.MEDIA_HTML
        resp.text = Path(__file__).with_name("index.html").read_text("utf-8")


app = falcon.asgi.App()
app.add_route("/", PageResource())
unisock.mount(app, "/ws", echo)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
