"""The ported handlers on the framework that the environment names."""

import os

import unisock
from tests.tutorials.ported.falcon_resource import HelloResource
from tests.tutorials.ported.fastapi_page import websocket_endpoint
from tests.tutorials.ported.gevent_echo import echo
from tests.tutorials.ported.index_py import EchoView, simple_echo
from tests.tutorials.ported.starlette_endpoint import Echo
from unisock.frameworks import Service, find

app = find(os.environ["FRAMEWORK"]).application(Service(echo, "/echo"))
unisock.mount(app, "/endpoint", Echo)
unisock.mount(app, "/simple_echo", simple_echo)
unisock.mount(app, "/socket_view", EchoView)
unisock.mount(app, "/hello/{name}", HelloResource().on_websocket)
unisock.mount(app, "/ws", websocket_endpoint)
