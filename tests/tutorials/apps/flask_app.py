"""The ported handlers on Flask."""

from flask import Flask, Response, send_file

import unisock
from tests.tutorials.apps.page import PAGE
from tests.tutorials.ported.falcon_resource import HelloResource
from tests.tutorials.ported.fastapi_page import websocket_endpoint
from tests.tutorials.ported.gevent_echo import echo
from tests.tutorials.ported.index_py import EchoView, simple_echo
from tests.tutorials.ported.starlette_endpoint import Echo

app = Flask(__name__)


@app.get("/")
def get() -> Response:
    return send_file(PAGE)


@app.get("/hello/<name>")
def hello(name: str) -> str:
    return f"Hello, {name}!"


unisock.mount(app, "/endpoint", Echo)
unisock.mount(app, "/simple_echo", simple_echo)
unisock.mount(app, "/socket_view", EchoView)
unisock.mount(app, "/hello/{name}", HelloResource().on_websocket)
unisock.mount(app, "/ws", websocket_endpoint)
unisock.mount(app, "/echo", echo)
