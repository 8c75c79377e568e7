"""The ported handlers on aiohttp."""

import os

from aiohttp import web

import unisock
from tests.tutorials.apps.page import PAGE
from tests.tutorials.ported.falcon_resource import HelloResource
from tests.tutorials.ported.fastapi_page import websocket_endpoint
from tests.tutorials.ported.gevent_echo import echo
from tests.tutorials.ported.index_py import EchoView, simple_echo
from tests.tutorials.ported.starlette_endpoint import Echo


async def get(request: web.Request) -> web.FileResponse:
    return web.FileResponse(PAGE)


app = web.Application()
app.router.add_get("/", get)
unisock.mount(app, "/endpoint", Echo)
unisock.mount(app, "/simple_echo", simple_echo)
unisock.mount(app, "/socket_view", EchoView)
unisock.mount(app, "/hello/{name}", HelloResource().on_websocket)
unisock.mount(app, "/ws", websocket_endpoint)
unisock.mount(app, "/echo", echo)


def run() -> None:
    """Serve it."""
    web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]))
