"""A handler on FastAPI: dependencies, routers, exceptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pydantic
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi import WebSocket as FastAPIWebSocket
from fastapi.dependencies.utils import get_parameterless_sub_dependant
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import unisock
from tests.adapters.client import Rejection, closing, rejection, say, talk
from tests.adapters.conftest import Serve
from tests.servers import Server
from unisock import InvalidMessage, SyncWebSocket, WebSocket
from unisock.adapters.fastapi import endpoint

SOURCE = '''
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
import unisock
from unisock.adapters.fastapi import endpoint

app = FastAPI()

async def tell(ws):
    await ws.accept()
    await ws.receive()
    await ws.send_json({
        "user": getattr(ws.state, "user", None),
        "params": {k: str(v) for k, v in ws.path_params.items()},
        "path": ws.url.path,
    })

async def knows(connection: HTTPConnection, token: str = Header(default="")):
    if not token:
        raise HTTPException(401, "who are you?", {"WWW-Authenticate": "Token"})
    connection.state.user = token

async def needs_number(number: int):
    """A parameter of the query that FastAPI checks."""

async def cleans_up():
    print("dependency: before", flush=True)
    yield
    print("dependency: after", flush=True)

async def prints(ws):
    await ws.accept()
    print("handler: begins", flush=True)
    async for _ in ws:
        pass
    print("handler: ends", flush=True)

def raises(make, accept):
    async def handler(ws):
        if accept:
            await ws.accept()
        raise make()
    return handler

unisock.mount(app, "/open", tell)
unisock.mount(app, "/guarded", tell, dependencies=[Depends(knows)])
unisock.mount(app, "/checked", tell, dependencies=[Depends(needs_number)])
app.add_api_websocket_route("/by-hand/{n}", endpoint(tell), dependencies=[Depends(knows)])
unisock.mount(app, "/cleaned", prints, dependencies=[Depends(cleans_up)])
unisock.mount(app, "/named/{room}", tell, name="the-room")

@app.get("/where")
async def where():
    return app.url_path_for("the-room", room="x")

router = APIRouter(prefix="/api", dependencies=[Depends(knows)])
unisock.mount(router, "/rooms/{room}/{n:int}/{rest:path}", tell)
app.include_router(router, prefix="/v1")

MAKERS = {
    "http": lambda: HTTPException(404, {"detail": "no such room"}),
    "starlette": lambda: StarletteHTTPException(404, "no such room"),
    "error": lambda: LookupError("a word of the error"),
}
for name, make in MAKERS.items():
    unisock.mount(app, f"/before/{name}", raises(make, False))
    unisock.mount(app, f"/after/{name}", raises(make, True))
'''
WHO = {"Token": "ada"}


@pytest.fixture(scope="module")
def server(serve: Serve) -> Server:
    return serve(SOURCE)


async def handler(ws: WebSocket) -> None:
    await ws.accept()
    async for message in ws:
        await ws.send(message)


def test_without_dependencies(server: Server) -> None:
    assert say(server, "/open") == '{"user":null,"params":{},"path":"/open"}'


@pytest.mark.parametrize("path", ["/guarded", "/by-hand/5", "/v1/api/rooms/a/5/x/y"])
def test_a_dependency_that_raises_rejects_with_the_frameworks_body(
    server: Server, path: str
) -> None:
    assert rejection(server, path) == Rejection(
        401, "application/json", '{"detail":"who are you?"}'
    )


@pytest.mark.parametrize("path", ["/guarded", "/by-hand/5", "/v1/api/rooms/a/5/x/y"])
def test_what_a_dependency_leaves_is_in_the_state(server: Server, path: str) -> None:
    answer = str(say(server, path, additional_headers=WHO))
    assert '"user":"ada"' in answer
    assert f'"path":"{path}"' in answer


def test_a_router_with_prefixes_and_converters(server: Server) -> None:
    answer = str(say(server, "/v1/api/rooms/a/007/x/y", additional_headers=WHO))
    assert '"params":{"room":"a","n":"7","rest":"x/y"}' in answer


def test_a_parameter_that_does_not_validate_rejects(server: Server) -> None:
    assert say(server, "/checked?number=5")
    assert rejection(server, "/checked?number=five").status == 403


def test_a_name(server: Server) -> None:
    assert server.get("/where") == (200, '"/named/x"')


def test_a_dependency_is_cleaned_up_after_the_end(serve: Serve) -> None:
    server = serve(SOURCE)
    with talk(server, "/cleaned"):
        server.wait_for_log("handler: begins")
    log = server.wait_for_log("dependency: after")
    order = ["dependency: before", "handler: begins", "handler: ends", "dependency: after"]
    assert [line for line in log.splitlines() if line in order] == order


class TestExceptions:
    def test_before_accept_the_framework_answers(self, server: Server) -> None:
        assert rejection(server, "/before/starlette") == Rejection(
            404, "application/json", '{"detail":"no such room"}'
        )
        assert rejection(server, "/before/http").body == '{"detail":{"detail":"no such room"}}'

    def test_after_it_closes(self, server: Server) -> None:
        assert closing(server, "/after/starlette") == (4404, "no such room")
        assert closing(server, "/after/http").code == 4404

    def test_any_other_goes_on_once(self, serve: Serve) -> None:
        server = serve(SOURCE)
        assert closing(server, "/after/error") == (1011, "")
        assert rejection(server, "/before/error").status == 500
        assert server.stop().count("LookupError: a word of the error") == 2


ERROR_HANDLERS = """
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.responses import JSONResponse
import unisock
from unisock.adapters.fastapi import endpoint

class Own(Exception):
    pass

app = FastAPI()

@app.exception_handler(Own)
async def on_own(websocket, exc):
    print("error handler: Own", flush=True)
    return JSONResponse({"own": str(exc)}, 409)

@app.exception_handler(WebSocketRequestValidationError)
async def on_invalid(websocket, exc):
    return JSONResponse({"invalid": exc.errors()[0]["loc"]}, 422)

async def needs_number(number: int):
    pass

async def cleans_up():
    print("dependency: before", flush=True)
    try:
        yield
    except Own:
        print("dependency: sees Own", flush=True)
        raise
    print("dependency: after", flush=True)

async def converts():
    try:
        yield
    except Own:
        raise HTTPException(410, "gone")

def raises(make, accepts):
    async def handler(ws):
        if accepts:
            await ws.accept()
        raise make()
    return handler

router = APIRouter()
for when in ("before", "after"):
    own = raises(lambda: Own("mine"), when == "after")
    cleaned, converted = [Depends(cleans_up)], [Depends(converts)]
    unisock.mount(app, f"/{when}/plain", own)
    unisock.mount(app, f"/{when}/with-dependency", own, dependencies=cleaned)
    unisock.mount(router, f"/{when}/router", own, dependencies=cleaned)
    app.add_api_websocket_route(f"/{when}/by-hand", endpoint(own), dependencies=cleaned)
    unisock.mount(app, f"/{when}/converted", own, dependencies=converted)
app.include_router(router)
own = raises(lambda: Own("mine"), False)
unisock.mount(app, "/checked", own, dependencies=[Depends(needs_number)])
unisock.mount(app, "/invalid", raises(lambda: RequestValidationError([]), False))
"""


@pytest.fixture(scope="module")
def handling_server(serve: Serve) -> Server:
    return serve(ERROR_HANDLERS)


class TestErrorHandlers:
    """Those of the application's for its own exceptions."""

    @pytest.mark.parametrize("how", ["plain", "with-dependency", "router", "by-hand"])
    def test_before_accept_its_response_is_the_answer(
        self, handling_server: Server, how: str
    ) -> None:
        assert rejection(handling_server, f"/before/{how}") == Rejection(
            409, "application/json", '{"own":"mine"}'
        )

    def test_fastapis_own(self, handling_server: Server) -> None:
        assert rejection(handling_server, "/invalid") == Rejection(
            422, "application/json", '{"detail":[]}'
        )

    def test_one_for_a_parameter_that_does_not_validate(self, handling_server: Server) -> None:
        assert rejection(handling_server, "/checked?number=five") == Rejection(
            422, "application/json", '{"invalid":["query","number"]}'
        )

    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize("how", ["with-dependency", "router", "by-hand"])
    def test_a_dependency_with_yield_sees_the_error_first(
        self, serve: Serve, when: str, how: str
    ) -> None:
        server = serve(ERROR_HANDLERS)
        if when == "before":
            rejection(server, f"/before/{how}")
        else:
            assert closing(server, f"/after/{how}") == (1011, "")
        log = server.stop()
        order = ["dependency: before", "dependency: sees Own", "error handler: Own"]
        told = [line for line in log.splitlines() if line.startswith(("dep", "error handler"))]
        assert told == order
        assert "Traceback" not in log

    def test_an_http_error_in_its_place_is_answered(self, serve: Serve) -> None:
        server = serve(ERROR_HANDLERS)
        assert rejection(server, "/before/converted") == Rejection(
            410, "application/json", '{"detail":"gone"}'
        )
        assert closing(server, "/after/converted") == (1011, "")
        assert "Traceback" not in server.stop()


class Move(pydantic.BaseModel):
    x: int
    y: int = 0


def test_a_pydantic_model_is_a_type_of_json() -> None:
    got: list[object] = []

    async def moves(ws: WebSocket) -> None:
        await ws.accept()
        try:
            async for move in ws.iter_json(Move):
                got.append(move)  # noqa: PERF401  # what came before an error counts
        except InvalidMessage as exc:
            got.append(exc.code)
        await ws.send("seen")

    app = FastAPI()
    unisock.mount(app, "/ws", moves)
    with TestClient(app).websocket_connect("/ws") as client:
        client.send_text('{"x": 1}')
        client.send_bytes(b'{"x": "2", "y": 3}')
        client.send_text('{"y": 1}')
        assert client.receive_text() == "seen"
    assert got == [Move(x=1), Move(x=2, y=3), 1007]


def test_wrong_arguments_are_told_at_once() -> None:
    for app in (FastAPI(openapi_url=None), APIRouter()):
        before = len(app.routes)
        with pytest.raises(TypeError, match="did you mean 'origins'"):
            unisock.mount(app, "/ws", handler, origin="*")
        with pytest.raises(ValueError, match="max_queue"):
            endpoint(handler, max_queue=0)
        assert len(app.routes) == before


@pytest.mark.parametrize("annotation", [WebSocket, SyncWebSocket, WebSocket | None])
def test_a_decorated_handler_is_told_what_to_write(annotation: Any) -> None:
    app = FastAPI(openapi_url=None)

    async def decorated(ws: Any) -> None:
        await ws.accept()

    decorated.__annotations__["ws"] = annotation
    for decorate in (app.websocket, APIRouter().websocket):
        with pytest.raises(TypeError, match=r"write unisock\.mount\(app, path, handler\)"):
            decorate("/ws")(decorated)


def test_a_model_may_hold_a_connection() -> None:
    class Member(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
        ws: WebSocket | None

    assert Member(ws=None).ws is None
    with pytest.raises(pydantic.ValidationError, match="instance of WebSocket"):
        Member(ws="another")  # type: ignore[arg-type]  # that is the test


# The way past FastAPI's machinery


async def _secret(ws: WebSocket) -> None:
    await ws.accept()
    await ws.send("secret")


async def _refuse() -> None:
    raise HTTPException(403)


class _Guarded(FastAPI):
    """Puts a check of its own around each endpoint."""

    def add_api_websocket_route(
        self, path: str, endpoint: Callable[..., Any], *args: Any, **more: Any
    ) -> None:
        async def guarded(websocket: FastAPIWebSocket) -> None:
            if "token" not in websocket.headers:
                await websocket.close()
                return
            await endpoint(websocket)

        super().add_api_websocket_route(path, guarded, *args, **more)


class _Foremost(FastAPI):
    """Has its newest route first."""

    def add_api_websocket_route(self, *args: Any, **more: Any) -> None:
        super().add_api_websocket_route(*args, **more)
        self.router.routes.insert(0, self.router.routes.pop())


def test_a_subclass_that_guards_each_endpoint_guards_a_mounted_one() -> None:
    app = _Guarded()
    unisock.mount(app, "/secret", _secret)
    with pytest.raises(WebSocketDisconnect), TestClient(app).websocket_connect("/secret"):
        pass
    with TestClient(app).websocket_connect("/secret", headers={"token": "x"}) as client:
        assert client.receive_text() == "secret"


def test_no_other_route_is_touched() -> None:
    app = _Foremost(openapi_url=None)

    async def other(websocket: FastAPIWebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("other")

    app.add_api_websocket_route("/other", other)
    unisock.mount(app, "/secret", _secret)
    with TestClient(app).websocket_connect("/other") as client:
        assert client.receive_text() == "other"


def test_a_dependency_that_a_route_gets_later_counts() -> None:
    app = FastAPI(openapi_url=None)
    unisock.mount(app, "/secret", _secret)
    route: Any = app.routes[-1]
    dependant = get_parameterless_sub_dependant(depends=Depends(_refuse), path=route.path_format)
    route.dependant.dependencies.append(dependant)
    with pytest.raises(WebSocketDisconnect), TestClient(app).websocket_connect("/secret"):
        pass
