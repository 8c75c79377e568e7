"""`route` and `Router`: handlers that are mounted by decorator, and together."""

from __future__ import annotations

from typing import Annotated, Any

import falcon.asgi
import fastapi
import pytest
from aiohttp import web
from flask import Blueprint, Flask
from starlette.applications import Starlette

import unisock
from unisock import Depends, HandshakeRejected, Header, Router, WebSocket
from unisock.testing import ConnectionRejected, connect

CALLED: list[str] = []

APPLICATIONS: dict[str, Any] = {
    "aiohttp": web.Application,
    "falcon": falcon.asgi.App,
    "fastapi": fastapi.FastAPI,
    "flask": lambda: Flask(__name__),
    "starlette": Starlette,
}


def first() -> None:
    CALLED.append("first")


def second() -> None:
    CALLED.append("second")


def third(token: Annotated[str, Header(alias="x-token")] = "") -> None:
    CALLED.append("third")
    if token != "good":
        raise HandshakeRejected(401, b"no such token")


async def room(ws: WebSocket, room: str) -> None:
    await ws.accept()
    await ws.send_json(room)


class Recorder:
    """An application of which tests see what is mounted on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mounted: list[tuple[str, object, dict[str, Any]]] = []
        monkeypatch.setattr("unisock.routing.mount_handler", self._mount)

    def _mount(self, app: object, path: str, handler: object, **options: Any) -> None:
        assert app is self
        self.mounted.append((path, handler, options))

    @property
    def paths(self) -> list[str]:
        return [path for path, _, _ in self.mounted]


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_on_every_framework(name: str) -> None:
    router = Router(prefix="/v1", dependencies=[Depends(first)])
    router.route("/rooms/{room}", dependencies=[Depends(third)], max_message_size=5)(room)
    router.route("")(echo)

    def connected(url: str, **headers: str) -> Any:
        app = APPLICATIONS[name]()  # aiohttp's is served once
        assert unisock.route(app, "/echo")(echo) is echo
        unisock.mount(app, "/api", router, origins=["https://app.example"])
        with connect(app, url, headers=headers) as peer:
            return peer.receive_json()

    assert connected("/echo") == "echo"
    assert connected("/api/v1") == "echo"
    CALLED.clear()
    headers = {"X-Token": "good", "Origin": "https://app.example"}
    assert connected("/api/v1/rooms/lobby", **headers) == "lobby"
    assert CALLED == ["first", "third"]
    with pytest.raises(ConnectionRejected) as info:
        connected("/api/v1/rooms/lobby")
    assert (info.value.status_code, info.value.body) == (401, b"no such token")


@pytest.mark.parametrize("prefix", ["", "/v1"])
@pytest.mark.parametrize("below", ["/", "/api", ""])
def test_the_path_of_each(app: Recorder, prefix: str, below: str) -> None:
    router = Router(prefix)
    assert router.route("/rooms/{room}")(room) is room
    router.route("/")(room)
    if prefix:
        router.route("")(room)
    unisock.mount(app, below, router)
    whole = below.rstrip("/") + prefix
    assert app.paths == [f"{whole}/rooms/{{room}}", f"{whole}/", *([whole] if prefix else [])]


def test_a_router_on_a_router(app: Recorder) -> None:
    inner, outer = Router("/inner", origins="*"), Router("/outer", max_queue=5, origins=[])
    inner.route("/a", max_queue=6)(room)
    outer.route("/b")(room)
    unisock.mount(outer, "/x", inner)
    unisock.mount(outer, "/", inner, max_queue=7, name="inner")
    unisock.mount(app, "/", outer)
    inner.route("/late")(room)
    assert [(path, options) for path, _, options in app.mounted] == [
        ("/outer/b", {"max_queue": 5, "origins": []}),
        ("/outer/x/inner/a", {"max_queue": 6, "origins": "*"}),
        ("/outer/inner/a", {"max_queue": 6, "origins": "*", "name": "inner"}),
    ]
    # A router may be mounted more than once.
    unisock.mount(app, "/again", outer)
    assert app.paths[3:] == ["/again/outer/b", "/again/outer/x/inner/a", "/again/outer/inner/a"]


def test_dependencies_are_added_up(app: Recorder) -> None:
    one, two, three = Depends(first), Depends(second), Depends(third)
    router = Router(dependencies=[two])
    router.route("/a", dependencies=[three])(room)
    router.route("/b")(room)
    unisock.mount(app, "/", router, dependencies=[one])
    assert [options["dependencies"] for _, _, options in app.mounted] == [
        [one, two, three],
        [one, two],
    ]


@pytest.mark.parametrize("prefix", ["v1", "/v1/", "/", "/{a", "/<v>"])
def test_a_malformed_prefix(prefix: str, app: Recorder) -> None:
    with pytest.raises(ValueError):
        Router(prefix)
    if prefix != "/":
        with pytest.raises(ValueError):
            unisock.mount(app, prefix, Router())


def test_what_is_wrong_is_told_where_it_is_written() -> None:
    router = Router("/v1")
    with pytest.raises(ValueError, match="a path starts with a slash: 'rooms'"):
        Router().route("rooms")(room)
    with pytest.raises(ValueError, match=r"write '/v1/\{room\}'"):
        router.route("/<room>")(room)
    with pytest.raises(TypeError, match="a handler is"):
        router.route("/a")(None)  # type: ignore[type-var]  # that is the mistake
    with pytest.raises(TypeError, match="a handler is"):
        unisock.route(Starlette(), "/a")(5)  # type: ignore[type-var]  # as above


def test_a_decorator_without_a_path() -> None:
    for decorate, name in (
        (Router().route, "@router.route"),
        (lambda given: unisock.route(Starlette(), given), "@unisock.route"),
    ):
        with pytest.raises(TypeError, match=f"{name} takes a path: write {name}"):
            decorate(room)  # type: ignore[arg-type]  # that is the mistake


class TestDependencies:
    """``dependencies=`` of `mount`."""

    def test_they_run_before_the_handler_s_own(self) -> None:
        def own() -> int:
            CALLED.append("own")
            return 5

        async def handler(ws: WebSocket, n: Annotated[int, Depends(own)]) -> None:
            await ws.accept()

        handler.__annotations__["n"] = Annotated[int, Depends(own)]
        CALLED.clear()
        with connect(handler, dependencies=[Depends(first), Depends(second), Depends(first)]):
            pass
        assert CALLED == ["first", "second", "own"]

    def test_of_a_handler_that_takes_the_websocket_alone(self) -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()

        connecting = connect(handler, dependencies=[Depends(third)])
        with pytest.raises(ConnectionRejected) as info, connecting:
            pass
        assert info.value.status_code == 401

    @pytest.mark.parametrize("wrong", [5, [first], [fastapi.Depends(first)]])
    def test_what_they_are(self, wrong: Any) -> None:
        with pytest.raises(TypeError, match="dependencies= takes"):
            unisock.mount(Starlette(), "/", room, dependencies=wrong)

    def test_fastapi_s_and_unisock_s_side_by_side(self) -> None:
        def fastapis() -> None:
            CALLED.append("fastapi's")

        app = fastapi.FastAPI()
        both = [Depends(first), fastapi.Depends(fastapis)]
        unisock.mount(app, "/{room}", room, dependencies=both)
        CALLED.clear()
        with connect(app, "/lobby") as peer:
            assert peer.receive_json() == "lobby"
        assert CALLED == ["fastapi's", "first"]


class TestEmptyPath:
    """``""`` on a framework's router that has a prefix."""

    def test_fastapi(self) -> None:
        app, router = fastapi.FastAPI(), fastapi.APIRouter(prefix="/ws")
        unisock.mount(router, "", echo)
        app.include_router(router)
        with connect(app, "/ws") as peer:
            assert peer.receive_json() == "echo"

    def test_flask(self) -> None:
        app, router = Flask(__name__), Blueprint("router", __name__, url_prefix="/ws")
        unisock.mount(router, "", echo)
        app.register_blueprint(router)
        with connect(app, "/ws") as peer:
            assert peer.receive_json() == "echo"

    @pytest.mark.parametrize("name", [*APPLICATIONS, "APIRouter"])
    def test_without_a_prefix(self, name: str) -> None:
        app: Any = fastapi.APIRouter() if name == "APIRouter" else APPLICATIONS[name]()
        with pytest.raises(ValueError, match="an empty path is for a router with a prefix"):
            unisock.mount(app, "", echo)


async def echo(ws: WebSocket) -> None:
    await ws.accept()
    await ws.send_json("echo")
