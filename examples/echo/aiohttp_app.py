"""The echo service on aiohttp."""

import os
from pathlib import Path

from aiohttp import web

import unisock

from .handler import echo


async def page(request: web.Request) -> web.FileResponse:
    return web.FileResponse(
        Path(__file__).with_name("index.html"),
        headers={"Content-Type": "text/html; charset=utf-8"},
    )


app = web.Application()
app.router.add_get("/", page)
unisock.mount(app, "/ws", echo)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
