"""A handler on Starlette: its routes, its middleware, its exceptions."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.routing import Router
from starlette.testclient import TestClient
from websockets.exceptions import ConnectionClosed, InvalidStatus

import unisock
from tests.adapters.client import Rejection, closing, rejection, say, talk
from tests.adapters.conftest import Serve
from tests.servers import Server
from unisock import WebSocket, WebSocketDisconnect
from unisock.adapters.starlette import endpoint

SOURCE = '''
from starlette.applications import Starlette
from starlette.exceptions import HTTPException, WebSocketException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route, Router, WebSocketRoute
import unisock
from unisock.adapters.starlette import endpoint

async def echo(ws):
    await ws.accept()
    async for message in ws:
        await ws.send(message)

class Tag:
    """ASGI middleware that leaves something in the state."""
    def __init__(self, app, tag):
        self.app, self.tag = app, tag
    async def __call__(self, scope, receive, send):
        scope.setdefault("state", {})["tag"] = self.tag
        await self.app(scope, receive, send)

async def tell(ws):
    await ws.accept()
    await ws.receive()
    request = ws.request
    await ws.send_json({
        "tag": getattr(ws.state, "tag", None),
        "session": request.session,
        "params": {k: str(v) for k, v in ws.path_params.items()},
        "path": ws.url.path,
        "app": request.app is app,
    })

async def log_in(request):
    request.session["user"] = "ada"
    return PlainTextResponse("in")

async def where(request):
    return PlainTextResponse(str(request.app.url_path_for("the-room", room="x")))

class Teapot(Exception):
    pass

def raises(make, accept):
    async def handler(ws):
        if accept:
            await ws.accept()
        raise make()
    return handler

async def custom(conn, exc):
    return JSONResponse({"custom": exc.detail}, exc.status_code, exc.headers)

app = Starlette(
    routes=[
        WebSocketRoute("/by-hand/{n:int}", endpoint(echo)),
        Route("/login", log_in),
        Route("/where", where),
        Mount("/sub", app=(sub := Starlette())),
        Mount("/routed", app=(routed := Router())),
    ],
    middleware=[Middleware(SessionMiddleware, secret_key="secret")],
)
custom_app = Starlette(exception_handlers={HTTPException: custom})
app.mount("/custom", custom_app)

unisock.mount(app, "/ws", echo)
unisock.mount(app, "/rooms/{room}", tell, name="the-room", middleware=[Middleware(Tag, tag="blue")])
unisock.mount(sub, "/rooms/{room}/{n:int}/{x:float}/{rest:path}", tell)
unisock.mount(routed, "/ws", echo)
router = Router()
unisock.mount(router, "/ws", echo)
app.mount("/router", router)

MAKERS = {
    "http": lambda: HTTPException(404, "no such room", {"X-Why": "gone"}),
    "ws": lambda: WebSocketException(4001, "why"),
    "bad-ws": lambda: WebSocketException(1005),
    "error": lambda: Teapot("a word of the error"),
    "group": lambda: ExceptionGroup("g", [HTTPException(404, "no such room")]),
    "strange": lambda: HTTPException(999, "strange"),
}
for target, prefix in ((app, "/"), (custom_app, "/"), (router, "/")):
    for name, make in MAKERS.items():
        unisock.mount(target, f"{prefix}before/{name}", raises(make, False))
        unisock.mount(target, f"{prefix}after/{name}", raises(make, True))
'''


@pytest.fixture(scope="module")
def server(serve: Serve) -> Server:
    return serve(SOURCE)


async def handler(ws: WebSocket) -> None:
    await ws.accept()
    async for message in ws:
        await ws.send(message)


@pytest.mark.parametrize("path", ["/ws", "/by-hand/5", "/routed/ws", "/router/ws"])
def test_every_way_to_mount(server: Server, path: str) -> None:
    assert say(server, path) == "hello"


def test_no_such_route_is_the_frameworks_403(server: Server) -> None:
    assert rejection(server, "/by-hand/five").status == 403


def test_middleware_of_the_route_and_of_the_application(server: Server) -> None:
    with talk(server, "/rooms/7") as client:
        client.send("?")
        assert client.recv(30) == (
            '{"tag":"blue","session":{},"params":{"room":"7"},"path":"/rooms/7","app":true}'
        )


def test_a_session_is_read_through_the_request(server: Server) -> None:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/login", timeout=30) as page:
        cookie = page.headers["set-cookie"].partition(";")[0]
    answer = say(server, "/rooms/7", additional_headers={"Cookie": cookie})
    assert '"session":{"user":"ada"}' in str(answer)


def test_a_prefix_and_every_converter(server: Server) -> None:
    answer = str(say(server, "/sub/rooms/a%20b/007/1.5/x/y"))
    assert '"params":{"room":"a b","n":"7","x":"1.5","rest":"x/y"}' in answer
    assert '"path":"/sub/rooms/a b/007/1.5/x/y"' in answer


def test_a_name_for_url_path_for(server: Server) -> None:
    assert server.get("/where") == (200, "/rooms/x")


class TestExceptions:
    @pytest.mark.parametrize("name", ["http", "group"])
    def test_before_accept_the_framework_answers(self, server: Server, name: str) -> None:
        assert rejection(server, f"/before/{name}") == Rejection(
            404, "text/plain; charset=utf-8", "no such room"
        )

    def test_with_a_handler_of_ones_own(self, server: Server) -> None:
        assert rejection(server, "/custom/before/http") == Rejection(
            404, "application/json", '{"custom":"no such room"}'
        )

    @pytest.mark.parametrize("prefix", ["", "/custom", "/router"])
    @pytest.mark.parametrize("name", ["http", "group"])
    def test_after_it_closes(self, server: Server, prefix: str, name: str) -> None:
        assert closing(server, f"{prefix}/after/{name}") == (4404, "no such room")

    def test_its_own_exception_to_close(self, server: Server) -> None:
        assert rejection(server, "/before/ws").status == 403
        assert closing(server, "/after/ws") == (4001, "why")

    @pytest.mark.parametrize("name", ["bad-ws", "error"])
    def test_what_cannot_be_sent_is_an_error(self, server: Server, name: str) -> None:
        assert rejection(server, f"/before/{name}").status == 500
        assert closing(server, f"/after/{name}") == (1011, "")

    def test_any_other_goes_on_once(self, serve: Serve) -> None:
        server = serve(SOURCE)
        assert closing(server, "/after/error") == (1011, "")
        assert rejection(server, "/before/error").status == 500
        log = server.stop()
        assert log.count("Teapot: a word of the error") == 2

    def test_what_is_answered_is_not_logged(self, serve: Serve) -> None:
        server = serve(SOURCE)
        for path in ("/before/http", "/before/ws"):
            rejection(server, path)
        for path in ("/after/http", "/after/ws"):
            closing(server, path)
        assert "Traceback" not in server.stop()


ERROR_HANDLERS = """
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, WebSocketRoute
import unisock
from unisock.adapters.starlette import endpoint

class Own(Exception):
    pass

class Loud(Own):
    pass

class OfTheOuter(Exception):
    pass

def plain(websocket, exc):  # runs in a thread of Starlette's
    return JSONResponse({"own": str(exc)}, 409, {"x-own": "yes"})

async def by_how(websocket, exc):
    print(f"error handler: {exc}", flush=True)
    match str(exc):
        case "streams":
            async def pieces():
                yield b"in "
                yield b"pieces"
            response = StreamingResponse(pieces(), 409)
            response.set_cookie("a", "1")
            response.set_cookie("b", "2")
            return response
        case "converts":
            raise HTTPException(410, "gone")
        case "closes":
            await websocket.close(4001)
        case "accepts":
            await websocket.accept()
            await websocket.send_text("from the error handler")
            await websocket.close(4001, "mine")

def anything(request, exc):
    return PlainTextResponse("anything", 418)

def raises(exc, before):
    async def handler(ws):
        if before == "rejected":
            await ws.reject(429)
        elif before == "after":
            await ws.accept()
        raise exc
    return handler

ERRORS = {how: Loud(how) for how in ("streams", "converts", "closes", "accepts", "nothing")}
ERRORS |= {"plain": Own("mine"), "outer": OfTheOuter("mine"), "any": LookupError("any")}
inner = Starlette(exception_handlers={Own: plain, Loud: by_how, Exception: anything})
for how, exc in ERRORS.items():
    for before in ("before", "rejected", "after"):
        unisock.mount(inner, f"/{before}/{how}", raises(exc, before))
by_hand = endpoint(raises(Own("by hand"), "before"))
inner.routes.append(WebSocketRoute("/by-hand", by_hand))
app = Starlette(routes=[Mount("/", inner)], exception_handlers={OfTheOuter: plain})
"""


@pytest.fixture(scope="module")
def handling_server(serve: Serve) -> Server:
    return serve(ERROR_HANDLERS)


class TestErrorHandlers:
    """Those of the application's for its own exceptions."""

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/before/plain", '{"own":"mine"}'),
            ("/by-hand", '{"own":"by hand"}'),
            ("/before/outer", '{"own":"mine"}'),
        ],
    )
    def test_before_accept_its_response_is_the_answer(
        self, handling_server: Server, path: str, body: str
    ) -> None:
        assert rejection(handling_server, path) == Rejection(409, "application/json", body)

    def test_a_response_in_pieces(self, handling_server: Server) -> None:
        with pytest.raises(InvalidStatus) as caught:
            talk(handling_server, "/before/streams")
        response = caught.value.response
        assert (response.status_code, response.body) == (409, b"in pieces")
        cookies = response.headers.get_all("set-cookie")
        assert [cookie.partition(";")[0] for cookie in cookies] == ["a=1", "b=2"]

    def test_what_else_it_may_do(self, handling_server: Server) -> None:
        assert rejection(handling_server, "/before/converts") == Rejection(
            410, "text/plain; charset=utf-8", "gone"
        )
        assert rejection(handling_server, "/before/closes").status == 403
        assert rejection(handling_server, "/before/nothing").status == 500
        with talk(handling_server, "/before/accepts") as client:
            assert client.recv(30) == "from the error handler"
            with pytest.raises(ConnectionClosed, match=r"received 4001 .* mine"):
                client.recv(30)

    def test_one_for_any_error_is_asked_at_http_only(self, handling_server: Server) -> None:
        """That is Starlette's doing."""
        assert rejection(handling_server, "/before/any").status == 500

    def test_one_that_comes_too_late(self, serve: Serve) -> None:
        server = serve(ERROR_HANDLERS)
        for how in ("plain", "streams", "converts", "closes", "nothing"):
            assert rejection(server, f"/rejected/{how}").status == 429
            assert closing(server, f"/after/{how}") == (1011, "")
        log = server.stop()
        assert log.count("error handler: streams") == 2
        assert "Traceback" not in log


def test_a_router_without_an_application_has_nobody_to_answer(serve: Serve) -> None:
    server = serve(SOURCE + "\napp = router\n")
    assert rejection(server, "/before/http") == Rejection(
        404, "text/plain; charset=utf-8", "no such room"
    )


class TestTestClient:
    """Starlette's own client, that its users test with."""

    def test_it_talks(self) -> None:
        app = Starlette()
        unisock.mount(app, "/ws", handler)
        with TestClient(app).websocket_connect("/ws") as client:
            client.send_text("hello")
            assert client.receive_text() == "hello"
            client.send_bytes(b"\0")
            assert client.receive_bytes() == b"\0"

    def test_the_close_of_the_client_is_seen(self) -> None:
        seen = []

        async def watch(ws: WebSocket) -> None:
            await ws.accept()
            with pytest.raises(WebSocketDisconnect):
                await ws.receive()
            seen.append(ws.close_code)

        app = Starlette()
        unisock.mount(app, "/ws", watch)
        with TestClient(app).websocket_connect("/ws") as client:
            client.close(4005)
        assert seen == [4005]


class TestMounting:
    def test_what_is_wrong_is_told_at_once(self) -> None:
        app = Starlette()
        with pytest.raises(TypeError, match="did you mean 'origins'"):
            unisock.mount(app, "/ws", handler, origin="*")
        with pytest.raises(TypeError, match="dependencies= takes unisock's Depends"):
            unisock.mount(app, "/ws", handler, dependencies=[handler])
        with pytest.raises(ValueError, match="max_queue"):
            endpoint(handler, max_queue=0)
        assert not app.routes

    def test_a_router_knows_its_name(self) -> None:
        router = Router()
        unisock.mount(router, "/rooms/{room}", handler)
        assert router.url_path_for("handler", room="x") == "/rooms/x"
