"""Decorators around handlers: which work, and which are refused at mount."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import WSServerHandshakeError, web
from aiohttp.test_utils import TestClient, TestServer
from fastapi import FastAPI
from flask import Blueprint, Flask
from flask_login import login_required  # type: ignore[import-untyped]  # has no stubs
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.routing import Router

import unisock
from tests.adapters.client import rejection, say
from tests.servers import Server
from unisock import WebSocket, WebSocketEndpoint
from unisock.adapters.aiohttp import view as aiohttp_view
from unisock.adapters.flask import view
from unisock.adapters.starlette import endpoint
from unisock.testing import connect


async def handler(websocket: WebSocket) -> None:
    await websocket.accept()


def own(function: Callable[..., Any]) -> Any:
    """A decorator as users write them."""

    @functools.wraps(function)
    async def wrapper(*args: Any) -> None:
        await function(*args)

    return wrapper


class Endpoint(WebSocketEndpoint):
    @requires("authenticated")
    async def on_connect(self, websocket: WebSocket) -> None: ...


class Derived(Endpoint):
    """Its hook is inherited."""


class CallableObject:
    @requires("authenticated")
    async def __call__(self, websocket: WebSocket) -> None: ...


class Methods:
    @requires("authenticated")
    async def room(self, websocket: WebSocket) -> None: ...

    @classmethod
    @requires("authenticated")
    async def shared(cls, websocket: WebSocket) -> None: ...

    @login_required  # type: ignore[untyped-decorator]  # has no stubs
    async def view(self, websocket: WebSocket) -> None: ...

    @own
    async def plain(self, websocket: WebSocket) -> None:
        await websocket.accept()


required = requires("authenticated")(handler)


async def with_room(room: str, websocket: WebSocket) -> None: ...


@pytest.mark.parametrize(
    "required",
    [
        required,
        own(required),
        requires("authenticated")(own(handler)),
        functools.partial(requires("authenticated")(with_room), "tea"),
        Endpoint,
        Derived,
        CallableObject(),
        Methods().room,
        Methods.shared,
        functools.partial(Methods().room),
    ],
    ids=[
        "handler",
        "within",
        "around",
        "partial",
        "hook",
        "inherited",
        "object",
        "method",
        "class method",
        "partial of a method",
    ],
)
def test_starlette_s_requires_is_refused_at_mount(required: Any) -> None:
    for app in (Starlette(), Router(), FastAPI()):
        with pytest.raises(
            TypeError, match=r"@requires .* ws\.request\.auth\.scopes .*middleware="
        ):
            unisock.mount(app, "/ws", required)
    with pytest.raises(TypeError, match="@requires"):
        endpoint(required)


def test_a_decorator_of_views_on_an_async_handler_is_refused_at_mount() -> None:
    for decorated in (login_required(handler), own(login_required(handler)), Methods().view):
        for app in (Flask("x"), Blueprint("b", "b")):
            with pytest.raises(TypeError, match=r"has a decorator of views.*decorators="):
                unisock.mount(app, "/ws", decorated)
        with pytest.raises(TypeError, match="decorators="):
            view(decorated)
        with pytest.raises(TypeError, match="decorators="), connect(decorated, on="flask"):
            pass


def test_a_decorator_of_views_on_a_hook_is_refused_with_the_class() -> None:
    with pytest.raises(TypeError, match="is `async def`, but a decorator makes a plain function"):
        hook = login_required(WebSocketEndpoint.on_connect)
        type("Decorated", (WebSocketEndpoint,), {"on_connect": hook})


def test_flask_s_decorators_are_a_list() -> None:
    for app in (Flask("x"), Blueprint("b", "b")):
        with pytest.raises(TypeError, match="decorators= is a list"):
            unisock.mount(app, "/ws", handler, decorators=login_required)


@pytest.mark.parametrize("decorated", [own(handler), own(own(handler)), Methods().plain])
def test_a_decorator_of_one_s_own_works(decorated: Any) -> None:
    for app in (Starlette(), FastAPI(), Flask("x")):
        unisock.mount(app, "/ws", decorated)
    with connect(decorated, on="flask"):
        pass


def test_on_aiohttp_a_decorator_goes_around_the_view() -> None:
    def cookie_required(function: Any) -> Any:
        async def wrapper(request: web.Request) -> web.StreamResponse:
            if "user" not in request.cookies:
                raise web.HTTPUnauthorized
            response: web.StreamResponse = await function(request)
            return response

        return wrapper

    async def check() -> None:
        app = web.Application()
        app.router.add_get("/ws", cookie_required(aiohttp_view(handler)))
        async with TestClient(TestServer(app)) as client:
            with pytest.raises(WSServerHandshakeError, match="401"):
                await client.ws_connect("/ws")
            async with client.ws_connect("/ws", headers={"Cookie": "user=ada"}) as ws:
                assert (await ws.receive()).data == 1000

    asyncio.run(check())


SOURCE = """
import functools, signal
import flask, gevent, os
from flask import g, request, session
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user
from gevent.pywsgi import WSGIServer
import unisock
from unisock.adapters.flask import WebSocketHandler, view

app = flask.Flask("tested")
app.secret_key = "secret"
manager = LoginManager(app)


class User(UserMixin):
    def __init__(self, name):
        self.id = name


manager.user_loader(User)

@app.get("/login")
def log_in():
    login_user(User("ada"))
    return "in"


@app.get("/login-page")
def login_page():
    return "log in here"


async def tell(ws):
    await ws.accept()
    await ws.receive()
    name = current_user.id if current_user.is_authenticated else None
    await ws.send_json([name, g.get("steps", []), dict(ws.path_params)])


def tell_blocking(ws):
    ws.accept()
    ws.receive()
    ws.send_json([current_user.id, g.get("steps", []), dict(ws.path_params)])


class Tell(unisock.WebSocketEndpoint):
    async def on_receive(self, ws, data):
        await ws.send_json([current_user.id, g.get("steps", []), dict(ws.path_params)])


def step(name):
    def decorate(view):
        @functools.wraps(view)
        def stepping(**params):
            g.setdefault("steps", []).append(name)
            return view(**params)
        return stepping
    return decorate


class Nameless:
    '''A decorator that leaves no name.'''
    def __init__(self, view):
        self.view = view
    def __call__(self, **params):
        return self.view(**params)


def to_page(view):
    @functools.wraps(view)
    def decorated(**params):
        if not current_user.is_authenticated:
            return flask.redirect("/login-page")
        return view(**params)
    return decorated


unisock.mount(app, "/rooms/{room}", tell, decorators=[login_required])
unisock.mount(app, "/blocking", tell_blocking, decorators=[login_required])
unisock.mount(app, "/class", Tell, decorators=[login_required])
unisock.mount(app, "/plain", login_required(tell_blocking))
unisock.mount(app, "/steps", tell, decorators=[step("inner"), step("outer")])
unisock.mount(app, "/nameless", tell, decorators=[Nameless])
unisock.mount(app, "/page", tell, decorators=[to_page])
app.add_url_rule("/by-hand", "by_hand", view(tell, decorators=[login_required]), websocket=True)
blueprint = flask.Blueprint("chat", "chat", url_prefix="/chat")
unisock.mount(blueprint, "/{n:int}", tell, decorators=[login_required])
app.register_blueprint(blueprint)

server = WSGIServer(("127.0.0.1", int(os.environ["PORT"])), app, handler_class=WebSocketHandler)
gevent.signal_handler(signal.SIGTERM, server.stop)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("decorators"), SOURCE) as running:
        yield running


@pytest.fixture(scope="module")
def cookie(server: Server) -> str:
    """The session of one who is logged in."""
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/login") as response:
        return str(response.headers["Set-Cookie"]).partition(";")[0]


@pytest.mark.parametrize(
    "path", ["/rooms/tea", "/blocking", "/class", "/plain", "/by-hand", "/chat/7"]
)
def test_flask_login_lets_in_who_is_logged_in(server: Server, cookie: str, path: str) -> None:
    assert rejection(server, path).status == 401
    told = json.loads(say(server, path, additional_headers={"Cookie": cookie}))
    params = {"/rooms/tea": {"room": "tea"}, "/chat/7": {"n": 7}}.get(path, {})
    assert told == ["ada", [], params]


def test_decorators_are_applied_in_their_order(server: Server) -> None:
    assert json.loads(say(server, "/steps")) == [None, ["outer", "inner"], {}]
    assert json.loads(say(server, "/nameless")) == [None, [], {}]


def test_a_decorator_may_answer_with_a_response(server: Server, cookie: str) -> None:
    client = server.raw("/page")
    with client.socket, client.file:
        assert b" 302 " in client.read_head()
    assert json.loads(say(server, "/page", additional_headers={"Cookie": cookie}))[0] == "ada"
