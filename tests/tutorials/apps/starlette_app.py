"""The ported handlers on Starlette."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse
from starlette.routing import Route

import unisock
from tests.tutorials.apps.page import PAGE
from tests.tutorials.ported.falcon_resource import HelloResource
from tests.tutorials.ported.fastapi_page import websocket_endpoint
from tests.tutorials.ported.gevent_echo import echo
from tests.tutorials.ported.index_py import EchoView, simple_echo
from tests.tutorials.ported.starlette_endpoint import Echo


async def get(request: Request) -> FileResponse:
    return FileResponse(PAGE)


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"Hello, {request.path_params['name']}!")


app = Starlette(routes=[Route("/", get), Route("/hello/{name}", hello)])
unisock.mount(app, "/endpoint", Echo)
unisock.mount(app, "/simple_echo", simple_echo)
unisock.mount(app, "/socket_view", EchoView)
unisock.mount(app, "/hello/{name}", HelloResource().on_websocket)
unisock.mount(app, "/ws", websocket_endpoint)
unisock.mount(app, "/echo", echo)
