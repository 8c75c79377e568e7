"""A handler on Falcon: resources, middleware, hooks, error handlers."""

from __future__ import annotations

import falcon
import falcon.asgi
import pytest
from websockets.exceptions import ConnectionClosed

import unisock
from tests.adapters.client import Rejection, closing, rejection, say, talk
from tests.adapters.conftest import Serve
from tests.servers import Server
from unisock import WebSocket
from unisock.adapters.falcon import WebSocketResource, responder

SOURCE = '''
import falcon
import falcon.asgi
import unisock
from unisock.adapters.falcon import WebSocketResource, responder

async def tell(ws):
    await ws.accept()
    await ws.receive()
    await ws.send_json({
        "params": {k: str(v) for k, v in ws.path_params.items()},
        "context": {name: ws.state[name] for name in ws.state},
        "request": ws.request.path,
    })

class Middleware:
    async def process_request_ws(self, req, ws):
        req.context.first = "process_request_ws"
        if req.path == "/closed-by-middleware":
            await ws.close()
        if req.path == "/accepted-by-middleware":
            await ws.accept()

    async def process_resource_ws(self, req, ws, resource, params):
        req.context.second = type(resource).__name__

app = falcon.asgi.App(middleware=[Middleware()])

class OnClass:
    """As in Falcon's tutorial: a page and a WebSocket on one resource."""
    on_websocket = responder(tell)

    async def on_get(self, req, resp, room):
        resp.text = "the page"

class OnInstance:
    def __init__(self):
        self.on_websocket = responder(tell)

class Subclass(WebSocketResource):
    async def on_get(self, req, resp, room):
        resp.text = "the page"

class Suffix:
    on_websocket_chat = responder(tell)

async def hook(req, *args):
    req.context.hook = "ran"

async def closes(req, ws, resource, params):
    await ws.close()

async def refuses(req, ws, resource, params):
    raise falcon.HTTPUnauthorized(title="Who are you?", challenges=["Token"])

class HookOnMethod:
    on_websocket = falcon.before(hook)(responder(tell))

@falcon.before(hook)
class HookOnClass:
    on_websocket = responder(tell)

class HookCloses:
    on_websocket = falcon.before(closes)(responder(tell))

class HookRefuses:
    on_websocket = falcon.before(refuses)(responder(tell))

app.add_route("/on-class/{room}", OnClass())
app.add_route("/on-instance/{room}", OnInstance())
app.add_route("/resource/{room}", WebSocketResource(tell))
app.add_route("/subclass/{room}", Subclass(tell))
app.add_route("/suffix/{room}", Suffix(), suffix="chat")
app.add_route("/hook-on-method/{room}", HookOnMethod())
app.add_route("/hook-on-class/{room}", HookOnClass())
app.add_route("/hook-closes", HookCloses())
app.add_route("/hook-refuses", HookRefuses())
unisock.mount(app, "/mounted/{room}", tell)
unisock.mount(app, "/converted/{n:int}/{x:float}/{i:uuid}/{rest:path}", tell)
unisock.mount(app, "/clash/{ws}/{req}/{self}", tell)
unisock.mount(app, "/closed-by-middleware", tell)
unisock.mount(app, "/accepted-by-middleware", tell)

CUSTOM = ["error", "status", "close", "accept", "nothing"]

class Custom(Exception):
    pass

async def on_custom(req, resp, ex, params, ws=None):
    print(f"error handler: {ex} {ws.closed}", flush=True)
    match str(ex):
        case "error":
            raise falcon.HTTPConflict(title="Mine", headers={"X-Why": "mine"})
        case "status":
            raise falcon.HTTPStatus(410, text="gone", headers={"X-Why": "mine"})
        case "close":
            await ws.close(4001)
        case "accept":
            await ws.accept()
            await ws.send_text("from the error handler")
            await ws.close(4001, "mine")

app.add_error_handler(Custom, on_custom)

def raises(make, accept):
    async def handler(ws):
        if accept:
            await ws.accept()
        raise make()
    return handler

MAKERS = {
    "http": lambda: falcon.HTTPNotFound(title="No such room", headers={"X-Why": "gone"}),
    "status": lambda: falcon.HTTPStatus(410, text="gone"),
    "error": lambda: LookupError("a word of the error"),
    **{f"custom-{how}": lambda how=how: Custom(how) for how in CUSTOM},
}
for name, make in MAKERS.items():
    unisock.mount(app, f"/before/{name}", raises(make, False))
    unisock.mount(app, f"/after/{name}", raises(make, True))
'''
UUID = "0189dcd5-5311-7d40-8db0-9496a2eef37b"


@pytest.fixture(scope="module")
def server(serve: Serve) -> Server:
    return serve(SOURCE)


async def handler(ws: WebSocket) -> None:
    await ws.accept()


class Page:
    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.text = "the page"


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/on-class/7", "OnClass"),
        ("/on-instance/7", "OnInstance"),
        ("/resource/7", "WebSocketResource"),
        ("/subclass/7", "Subclass"),
        ("/suffix/7", "Suffix"),
        ("/mounted/7", "WebSocketResource"),
    ],
)
def test_every_way_to_mount_and_the_middleware_before_it(
    server: Server, path: str, resource: str
) -> None:
    assert say(server, path) == (
        f'{{"params":{{"room":"7"}},"context":{{"first":"process_request_ws","second":"{resource}"}}'
        f',"request":"{path}"}}'
    )


@pytest.mark.parametrize("path", ["/on-class/7", "/subclass/7"])
def test_a_page_on_the_same_resource(server: Server, path: str) -> None:
    assert server.get(path) == (200, "the page")


def test_a_resource_without_a_page(server: Server) -> None:
    assert server.get("/mounted/7")[0] == 405


@pytest.mark.parametrize("path", ["/hook-on-method/7", "/hook-on-class/7"])
def test_hooks_run_before_the_handler(server: Server, path: str) -> None:
    assert '"hook":"ran"' in str(say(server, path))


@pytest.mark.parametrize("path", ["/hook-closes", "/closed-by-middleware"])
def test_what_closes_before_the_handler_rejects(server: Server, path: str) -> None:
    assert rejection(server, path).status == 403


def test_a_hook_that_raises_rejects(server: Server) -> None:
    # Falcon's own answer: to it every rejection is a 403.
    assert rejection(server, "/hook-refuses").status == 403


def test_middleware_that_accepts_is_told(serve: Serve) -> None:
    server = serve(SOURCE)
    assert closing(server, "/accepted-by-middleware").code == 1011
    assert "leave that to the handler" in server.stop()


def test_every_converter(server: Server) -> None:
    answer = str(say(server, f"/converted/007/1.5/{UUID}/x/y"))
    expected = f'{{"n":"7","x":"1.5","i":"{UUID}","rest":"x/y"}}'
    assert expected in answer


@pytest.mark.parametrize(
    "path", [f"/converted/-7/1.5/{UUID}/x", f"/converted/7/1e5/{UUID}/x", "/converted/7/1/x/x"]
)
def test_a_converter_that_does_not_match_is_no_such_route(server: Server, path: str) -> None:
    assert rejection(server, path).status == 403


def test_parameters_may_be_called_like_falcons_own_arguments(server: Server) -> None:
    assert '{"ws":"a","req":"b","self":"c"}' in str(say(server, "/clash/a/b/c"))


class TestExceptions:
    def test_before_accept_status_and_body_are_falcons(self, server: Server) -> None:
        assert rejection(server, "/before/http") == Rejection(
            404, "application/json", '{"title": "No such room"}'
        )
        assert rejection(server, "/before/status") == Rejection(
            410, "text/plain; charset=utf-8", "gone"
        )

    def test_after_it_closes(self, server: Server) -> None:
        assert closing(server, "/after/http") == (4404, "No such room")
        assert closing(server, "/after/status") == (4410, "Gone")

    def test_before_accept_a_handler_of_ones_own_answers(self, server: Server) -> None:
        """By an error that it raises, as Falcon has it: it gets no response."""
        assert rejection(server, "/before/custom-error") == Rejection(
            409, "application/json", '{"title": "Mine"}'
        )
        assert rejection(server, "/before/custom-status") == Rejection(
            410, "text/plain; charset=utf-8", "gone"
        )
        assert rejection(server, "/before/custom-close").status == 403
        assert rejection(server, "/before/custom-nothing").status == 500
        with talk(server, "/before/custom-accept") as client:
            assert client.recv(30) == "from the error handler"
            with pytest.raises(ConnectionClosed, match=r"received 4001 .* mine"):
                client.recv(30)

    def test_a_handler_of_ones_own_sees_others_once(self, serve: Serve) -> None:
        server = serve(SOURCE)
        for how in ("error", "close", "nothing"):
            rejection(server, f"/before/custom-{how}")
            assert closing(server, f"/after/custom-{how}") == (1011, "")
        log = server.stop()
        for how in ("error", "close", "nothing"):
            assert log.count(f"error handler: {how} False") == 1  # before
            assert log.count(f"error handler: {how} True") == 1
        assert "Traceback" not in log

    def test_without_one_they_are_logged_once(self, serve: Serve) -> None:
        server = serve(SOURCE)
        assert rejection(server, "/before/error").status == 500
        assert closing(server, "/after/error") == (1011, "")
        assert server.stop().count("LookupError: a word of the error") == 2


class TestMounting:
    def test_a_wsgi_application_is_told(self) -> None:
        with pytest.raises(TypeError, match=r"falcon\.asgi\.App"):
            unisock.mount(falcon.App(), "/ws", handler)

    def test_beside_a_page_that_is_there_already(self, serve: Serve) -> None:
        server = serve("""
            import falcon.asgi, unisock

            class Page:
                async def on_get(self, req, resp):
                    resp.text = "a page"

            async def echo(ws):
                await ws.accept()
                async for message in ws:
                    await ws.send(message)

            app = falcon.asgi.App()
            app.add_route("/", Page())
            unisock.mount(app, "/", echo)
        """)
        assert server.get("/") == (200, "a page")
        assert say(server, "/") == "hello"

    def test_beside_another_socket_is_told(self) -> None:
        class Socket:
            async def on_websocket(self, req: object, ws: object) -> None:
                raise AssertionError

        app = falcon.asgi.App()
        app.add_route("/", Socket())
        app.add_route("/page", Page())
        unisock.mount(app, "/page", handler)
        for path in ("/", "/page"):
            with pytest.raises(ValueError, match="on_websocket already"):
                unisock.mount(app, path, handler)

    def test_twice_at_one_path(self) -> None:
        app = falcon.asgi.App()
        unisock.mount(app, "/rooms/{room}", handler)
        with pytest.raises(ValueError, match="already"):
            unisock.mount(app, "/rooms/{room}", handler)

    @pytest.mark.parametrize("page", ["/{room}", "/{room}/history"])
    def test_beside_a_page_with_a_parameter(self, serve: Serve, page: str) -> None:
        """At the same path, and below it: Falcon's router takes one kind of field there."""
        server = serve(f"""
            import falcon.asgi, unisock

            class Page:
                async def on_get(self, req, resp, room):
                    resp.text = f"the page of {{room}}"

            async def echo(ws):
                await ws.accept()
                async for message in ws:
                    await ws.send(message)

            app = falcon.asgi.App()
            app.add_route("{page}", Page())
            unisock.mount(app, "/{{room}}", echo)
        """)
        assert server.get(page.format(room="blue")) == (200, "the page of blue")
        assert say(server, "/blue") == "hello"
        assert rejection(server, "/").status == 403

    def test_two_that_differ(self) -> None:
        app = falcon.asgi.App()
        unisock.mount(app, "/rooms/{room}", handler)
        unisock.mount(app, "/rooms/lobby", handler)
        unisock.mount(app, "/rooms", handler)

    @pytest.mark.parametrize("make", [responder, WebSocketResource])
    def test_wrong_arguments_are_told_at_once(self, make: type[WebSocketResource]) -> None:
        with pytest.raises(TypeError, match="did you mean 'origins'"):
            make(handler, origin="*")  # type: ignore[call-arg]  # that is the test
        with pytest.raises(TypeError, match="not 'handler'"):
            make("handler")  # type: ignore[arg-type]  # that is the test
        with pytest.raises(ValueError, match="max_queue"):
            make(handler, max_queue=0)
