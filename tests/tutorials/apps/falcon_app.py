"""The ported handlers on Falcon."""

from falcon import MEDIA_HTML, MEDIA_TEXT
from falcon.asgi import App, Request, Response

import unisock
from tests.tutorials.apps.page import PAGE
from tests.tutorials.ported.falcon_resource import HelloResource
from tests.tutorials.ported.fastapi_page import websocket_endpoint
from tests.tutorials.ported.gevent_echo import echo
from tests.tutorials.ported.index_py import EchoView, simple_echo
from tests.tutorials.ported.starlette_endpoint import Echo
from unisock.adapters.falcon import responder


class PageResource:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.content_type = MEDIA_HTML
        resp.text = PAGE.read_text("utf-8")


class HelloPage:
    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        resp.content_type = MEDIA_TEXT
        resp.text = f"Hello, {name}!"

    on_websocket = responder(HelloResource().on_websocket)


app = App()
app.add_route("/", PageResource())
app.add_route("/hello/{name}", HelloPage())
unisock.mount(app, "/endpoint", Echo)
unisock.mount(app, "/simple_echo", simple_echo)
unisock.mount(app, "/socket_view", EchoView)
unisock.mount(app, "/ws", websocket_endpoint)
unisock.mount(app, "/echo", echo)
