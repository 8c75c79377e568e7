"""The ported handlers on FastAPI."""

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, PlainTextResponse

import unisock
from tests.tutorials.apps.page import PAGE
from tests.tutorials.ported.falcon_resource import HelloResource
from tests.tutorials.ported.fastapi_page import websocket_endpoint
from tests.tutorials.ported.gevent_echo import echo
from tests.tutorials.ported.index_py import EchoView, simple_echo
from tests.tutorials.ported.starlette_endpoint import Echo

app = FastAPI()
html = PAGE.read_text("utf-8")


@app.get("/")
async def get() -> HTMLResponse:
    return HTMLResponse(html)


@app.get("/hello/{name}")
async def hello(name: str) -> PlainTextResponse:
    return PlainTextResponse(f"Hello, {name}!")


unisock.mount(app, "/endpoint", Echo)
unisock.mount(app, "/simple_echo", simple_echo)
unisock.mount(app, "/socket_view", EchoView)
unisock.mount(app, "/hello/{name}", HelloResource().on_websocket)
unisock.mount(app, "/ws", websocket_endpoint)
unisock.mount(app, "/echo", echo)
