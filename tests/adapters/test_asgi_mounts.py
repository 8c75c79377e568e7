"""`ASGIApp` below the routers of other frameworks, each of which leaves the path in its own way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.adapters.client import Closed, closing, rejection, talk
from tests.adapters.conftest import Serve
from tests.servers import Server

TELL = """
import json
from unisock.adapters.asgi import ASGIApp

async def tell(ws):
    await ws.accept()
    await ws.send_json([ws.url.path, dict(ws.path_params)])

async def fail(ws):
    if ws.url.path.endswith("after"):
        await ws.accept()
        raise LookupError("after the answer")
    raise LookupError("before the answer")

failing = ASGIApp(fail)
by_path = ASGIApp(tell, path="/rooms/{n:int}")
rest = ASGIApp(tell, path="/files/{rest:path}")
by_router = ASGIApp(tell)
at_the_top = ASGIApp(tell, path="/")
"""
LITESTAR = f"""{TELL}
from litestar import Litestar, asgi

def mount(path, app):
    return asgi(path, is_mount=True, copy_scope=True)(app)

app = Litestar([
    mount("/chat", by_path),
    mount("/kept", rest),
    mount("/top", at_the_top),
    mount("/failing", failing),
    asgi("/one/{{n:int}}", copy_scope=True)(by_router),
])
"""
LITESTAR_AT_THE_ROOT = f"""{TELL}
from litestar import Litestar, asgi

app = Litestar([asgi("/", is_mount=True, copy_scope=True)(by_path)])
"""
CHANNELS = f"""{TELL}
import django
from django.conf import settings

settings.configure(SECRET_KEY="for the tests", ALLOWED_HOSTS=["*"])
django.setup()

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path, re_path

routes = URLRouter([
    path("one/<int:n>", by_router),
    re_path(r"^two/(?P<name>[a-z]+)$", by_router),
    path("rooms/<int:m>", by_path),
    re_path(r"^chat/(?P<name>[a-z]+)/", by_path),
    re_path("^failing/", failing),
    path("in/<str:name>/", URLRouter([path("one/<int:n>", by_router)])),
])
app = ProtocolTypeRouter({{"http": get_asgi_application(), "websocket": routes}})
"""
STARLETTE = f"""{TELL}
from starlette.applications import Starlette
from starlette.routing import Mount

app = Starlette(routes=[
    Mount("/in/{{name}}", by_path),
    Mount("/kept", rest),
    Mount("/top", at_the_top),
    Mount("/failing", failing),
    Mount("/", by_path),
])
"""
FASTAPI = f"""{TELL}
from fastapi import FastAPI

app = FastAPI()
app.mount("/in/{{name}}", by_path)
below = FastAPI()
below.mount("/chat", by_path)
app.mount("/below", below)
app.mount("/kept", rest)
app.mount("/top", at_the_top)
app.mount("/failing", failing)
app.mount("/", by_path)
"""
HYPERCORNS = f"""{TELL}
from hypercorn.middleware import DispatcherMiddleware

app = DispatcherMiddleware({{
    "/chat": by_path, "/top": at_the_top, "/kept": rest, "/failing": failing
}})
"""

FRAMEWORKS: dict[str, tuple[str, dict[str, dict[str, Any]], tuple[str, ...]]] = {
    "litestar": (
        LITESTAR,
        {
            "/chat/rooms/7": {"n": 7},
            "/one/7": {"n": 7},
            "/kept/files/a/b": {"rest": "a/b"},
            "/kept/files/a/b/": {"rest": "a/b/"},
            "/kept/files/a%2F": {"rest": "a/"},
            "/top": {},
        },
        ("/chat/rooms/x", "/chat/other", "/chat/rooms/7/", "/chat/chat/rooms/7"),
    ),
    "litestar at the root": (
        LITESTAR_AT_THE_ROOT,
        {"/rooms/7": {"n": 7}},
        ("/rooms/7/", "/rooms/x", "/other", "/"),
    ),
    "channels": (
        CHANNELS,
        {
            "/one/7": {"n": 7},
            "/two/abc": {"name": "abc"},
            "/rooms/7": {"m": 7, "n": 7},
            "/chat/abc/rooms/7": {"name": "abc", "n": 7},
            "/in/abc/one/7": {"name": "abc", "n": 7},
        },
        ("/chat/abc/other", "/chat/abc/rooms/x"),
    ),
    "starlette": (
        STARLETTE,
        {
            "/rooms/7": {"n": 7},
            "/in/abc/rooms/7": {"name": "abc", "n": 7},
            "/kept/files/a/b": {"rest": "a/b"},
            "/kept/files/a/b/": {"rest": "a/b/"},
            "/top/": {},
        },
        ("/rooms/7/", "/in/abc/other"),
    ),
    "fastapi": (
        FASTAPI,
        {
            "/rooms/7": {"n": 7},
            "/in/abc/rooms/7": {"name": "abc", "n": 7},
            "/below/chat/rooms/7": {"n": 7},
            "/kept/files/a/b/": {"rest": "a/b/"},
            "/top/": {},
        },
        ("/rooms/7/", "/below/chat/rooms/7/", "/in/abc/other"),
    ),
    "hypercorn's dispatcher": (
        HYPERCORNS,
        {
            "/chat/rooms/7": {"n": 7},
            "/kept/files/a%2Fb/": {"rest": "a/b/"},
            "/top": {},
            "/top/": {},
        },
        ("/chat/other", "/chatty/rooms/7", "/chatrooms/7"),
    ),
}


@pytest.fixture(scope="module", params=FRAMEWORKS)
def mounts(request: pytest.FixtureRequest, serve: Serve) -> tuple[str, Server]:
    source, _, _ = FRAMEWORKS[request.param]
    lifespan = "on" if request.param.startswith("litestar") else "off"
    return request.param, serve(source, lifespan=lifespan)


def test_the_path_and_its_parameters_below_a_router(mounts: tuple[str, Server]) -> None:
    name, server = mounts
    _, served, _ = FRAMEWORKS[name]
    for path, params in served.items():
        with talk(server, path) as client:
            told = client.recv(30)
        assert told == json_of([path.replace("%2F", "/"), params]), path


def test_another_path_below_a_router_is_a_404(mounts: tuple[str, Server]) -> None:
    name, server = mounts
    _, _, unserved = FRAMEWORKS[name]
    for path in unserved:
        assert rejection(server, path).status == 404, path


FAILING = pytest.mark.parametrize(
    "mounts", [name for name in FRAMEWORKS if name != "litestar at the root"], indirect=True
)


@FAILING
def test_an_error_before_accept_below_a_router_is_a_500(mounts: tuple[str, Server]) -> None:
    name, server = mounts
    assert rejection(server, "/failing/before").status == 500
    if name != "litestar":  # it closes, which uvicorn drops here, and logs nothing by itself
        server.wait_for_log("before the answer")


@FAILING
def test_an_error_after_accept_below_a_router_closes_with_1011(mounts: tuple[str, Server]) -> None:
    _, server = mounts
    assert closing(server, "/failing/after") == Closed(1011, "")
    server.wait_for_log("after the answer")


def json_of(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
