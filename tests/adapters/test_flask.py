"""A handler on Flask: its rules, its context, its exceptions, its servers."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import quart
import trustme
from flask import Blueprint, Flask
from websockets.sync.client import connect, unix_connect

import unisock
from tests.adapters.client import Closed, Rejection, closing, rejection, say, talk
from tests.servers import Server
from unisock import WebSocket
from unisock.adapters.flask import view
from unisock.testing.servers import framework_of

SOURCE = """
import logging, os, signal
import flask, gevent
from gevent import socket as gevent_socket
from gevent.pywsgi import WSGIServer
import unisock
from unisock import WebSocketException
from unisock.adapters.flask import WebSocketHandler, view

logging.basicConfig()
app = flask.Flask("tested")
app.secret_key = "secret"

async def echo(ws):
    await ws.accept()
    async for message in ws:
        await ws.send(message)

async def tell(ws):
    await ws.accept()
    await ws.receive()
    await ws.send_json({
        "session": flask.session.get("user"),
        "current_app": flask.current_app.name,
        "g": flask.g.tag,
        "state": ws.state.tag,
        "arguments": flask.request.args.getlist("x"),
        "is flask's": ws.request is flask.request._get_current_object(),
        "endpoint": flask.request.endpoint,
        "scheme": ws.url.scheme,
        "client": ws.client is not None,
        "twice": ws.headers.getall("x-twice", []),
    })

@app.before_request
def leave():
    flask.g.tag = "left"

torn_down = []

@app.teardown_request
def tear_down(exc):
    torn_down.append(repr(exc))

@app.get("/login")
def login():
    flask.session["user"] = "ada"
    return "in"

@app.get("/where")
def where():
    return flask.url_for("room", n=7) + " " + flask.url_for("named")

@app.get("/ws")
def page():
    return "a page at the path of a socket"

class Teapot(Exception):
    pass

seen = []

@app.errorhandler(Teapot)
def see(exc):
    seen.append(repr(exc))
    return "seen by the error handler", 418

@app.get("/seen")
def show_seen():
    return "; ".join(seen)

@app.errorhandler(409)
def conflict(exc):
    return {"custom": exc.description}, 409

def raises(make, accept):
    async def handler(ws):
        if accept:
            await ws.accept()
        raise make()
    return handler

def aborting(status):
    def make():
        try:
            flask.abort(status)
        except Exception as exc:
            return exc
    return make

async def room(ws):
    await ws.accept()
    await ws.send_text(repr(ws.path_params["n"]))

unisock.mount(app, "/ws", echo)
unisock.mount(app, "/tell", tell)
unisock.mount(app, "/rooms/{n:int}", room)
unisock.mount(app, "/other/{n:int}", room)
unisock.mount(app, "/named", echo, name="named")
app.add_url_rule("/by-hand/<n>", "by_hand", view(room), websocket=True)
unisock.mount(app, "/before/404", raises(aborting(404), False))
unisock.mount(app, "/before/409", raises(aborting(409), False))
unisock.mount(
    app, "/before/response", raises(aborting(flask.Response("nope", 401, {"x-why": "so"})), False)
)
unisock.mount(app, "/open/response", raises(aborting(flask.Response("nope", 401)), True))
unisock.mount(app, "/open/404", raises(aborting(404), True))
unisock.mount(app, "/open/own", raises(lambda: WebSocketException(4001, "own"), True))
unisock.mount(app, "/open/teapot", raises(lambda: Teapot("once"), True))
unisock.mount(app, "/before/teapot", raises(lambda: Teapot("before"), False))
blueprint = flask.Blueprint("chat", "chat", url_prefix="/chat")
unisock.mount(blueprint, "/{n:int}", room)
app.register_blueprint(blueprint)
app.register_blueprint(blueprint, name="again", url_prefix="/again")

options = {}
if "CERTIFICATE" in os.environ:
    options = {"keyfile": os.environ["CERTIFICATE"], "certfile": os.environ["CERTIFICATE"]}
server = WSGIServer(
    ("127.0.0.1", int(os.environ["PORT"])), app, handler_class=WebSocketHandler, **options
)
if "UNIX" in os.environ:
    listener = gevent_socket.socket(gevent_socket.AF_UNIX)
    listener.bind(os.environ["UNIX"])
    listener.listen()
    WSGIServer(listener, app, handler_class=WebSocketHandler).start()
gevent.signal_handler(signal.SIGTERM, server.stop)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("flask")
    with Server(folder, SOURCE, UNIX=str(folder / "socket")) as running:
        yield running


def test_what_flask_knows_of_a_request_is_live_in_the_handler(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as plain:
        plain.sendall(b"GET /login HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head = plain.makefile("rb").read().decode()
    cookie = next(
        line.partition(": ")[2].partition(";")[0]
        for line in head.split("\r\n")
        if line.startswith("Set-Cookie")
    )
    headers = [("Cookie", cookie), ("X-Twice", "1"), ("X-Twice", "2")]
    told = json.loads(say(server, "/tell?x=1&x=2", additional_headers=headers))
    assert told == {
        "session": "ada",
        "current_app": "tested",
        "g": "left",
        "state": "left",
        "arguments": ["1", "2"],
        "is flask's": True,
        "endpoint": "tell",
        "scheme": "ws",
        "client": True,
        "twice": ["1", "2"],
    }


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/rooms/7", "7"),
        ("/other/8", "8"),
        ("/by-hand/9", "'9'"),
        ("/chat/10", "10"),
        ("/again/11", "11"),
    ],
)
def test_every_way_to_mount(server: Server, path: str, answer: str) -> None:
    with talk(server, path) as client:
        assert client.recv(30) == answer


def test_endpoints_have_names(server: Server) -> None:
    # Flask knows that such a rule is no page.
    assert server.get("/where") == (200, f"{server.url('/rooms/7')} {server.url('/named')}")


def test_a_page_and_a_socket_share_a_path(server: Server) -> None:
    assert server.get("/ws") == (200, "a page at the path of a socket")
    assert say(server, "/ws") == "hello"


@pytest.mark.parametrize("path", ["/nowhere", "/rooms/x", "/rooms/-1", "/rooms/7/", "/rooms"])
def test_no_such_route_is_flask_s_404(server: Server, path: str) -> None:
    assert rejection(server, path).status == 404


def test_abort_before_accept_gets_flask_s_answer(server: Server) -> None:
    response = rejection(server, "/before/404")
    assert (response.status, response.content_type) == (404, "text/html; charset=utf-8")
    assert "<h1>Not Found</h1>" in response.body
    custom = rejection(server, "/before/409")
    assert custom[:2] == (409, "application/json")
    assert "conflict" in json.loads(custom.body)["custom"]


def test_abort_with_a_response(server: Server) -> None:
    assert rejection(server, "/before/response")[::2] == (401, "nope")
    assert closing(server, "/open/response").code == 4401


def test_abort_after_accept_closes(server: Server) -> None:
    assert closing(server, "/open/404") == Closed(4404, "Not Found")
    assert closing(server, "/open/own") == Closed(4001, "own")


@pytest.mark.parametrize("target", [quart.Quart("quart"), quart.Blueprint("quart", "quart")])
def test_quart_is_no_flask(target: object) -> None:
    """Though its classes are derived from what Flask's are."""
    message = r"quart.*mount on one of flask\.Flask, flask\.Blueprint;.*ASGIApp\(handler\)"
    with pytest.raises(TypeError, match=message):
        unisock.mount(target, "/ws", _handler)


def test_quart_is_served_as_the_asgi_application_that_it_is() -> None:
    assert framework_of(quart.Quart("quart")) == "asgi"


def test_a_subclass_of_flask_is_one() -> None:
    class Mine(Flask):
        pass

    class MyBlueprint(Blueprint):
        pass

    app, blueprint = Mine("mine"), MyBlueprint("below", "below", url_prefix="/below")
    unisock.mount(app, "/ws", _handler)
    unisock.mount(blueprint, "/ws", _handler)
    app.register_blueprint(blueprint)
    assert {rule.rule for rule in app.url_map.iter_rules() if rule.websocket} == {
        "/ws",
        "/below/ws",
    }


def test_other_errors_go_on_to_flask_once(server: Server) -> None:
    assert closing(server, "/open/teapot") == Closed(1011, "")
    assert rejection(server, "/before/teapot") == Rejection(
        418, "text/html; charset=utf-8", "seen by the error handler"
    )
    seen = server.get("/seen")[1]
    assert seen.count("Teapot('once')") == 1
    assert seen.count("Teapot('before')") == 1


def test_a_unix_socket_has_no_client_address(server: Server) -> None:
    path = str(Path(server.log_path).parent / "socket")
    with unix_connect(path, uri="ws://localhost/tell", open_timeout=30) as client:
        client.send("go")
        assert json.loads(client.recv(30))["client"] is False


PREFIXED = """
import os
import flask
from gevent.pywsgi import WSGIServer
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
import unisock
from unisock.adapters.flask import WebSocketHandler

async def where(ws):
    await ws.accept()
    await ws.receive()
    await ws.send(ws.url.partition("//")[2].partition("/")[2])

app = flask.Flask("below")
unisock.mount(app, "/where/{rest:path}", where)

def rewriting(environ, start_response):
    environ["PATH_INFO"] = environ["PATH_INFO"].replace("/old/", "/where/")
    return app(environ, start_response)

both = DispatcherMiddleware(rewriting, {"/sub/deep": app})
WSGIServer(
    ("127.0.0.1", int(os.environ["PORT"])),
    ProxyFix(both, x_prefix=1),
    handler_class=WebSocketHandler,
).serve_forever()
"""


@pytest.mark.parametrize(
    ("prefix", "path", "url"),
    [
        (None, "/where/a%20b", "/where/a%20b"),
        (None, "/sub/deep/where/a%20b", "/sub/deep/where/a%20b"),
        ("/app", "/where/a%20b", "/app/where/a%20b"),
        ("/where", "/where/a%2Fb/%C3%BC", "/where/where/a%2Fb/%C3%BC"),
        ("/app", "/sub/deep/where/a", "/app/sub/deep/where/a"),
        # In WSGI a prefix is decoded, and bytes.
        ("/gr\u00c3\u00bc\u00c3\u009fe", "/where/a", "/gr%C3%BC%C3%9Fe/where/a"),
        ("/%", "/where/a", "/%25/where/a"),
        ("/\xff", "/where/a", "/%EF%BF%BD/where/a"),
        # The path was rewritten: what the client has sent counts, as far as it is known.
        ("/app", "/old/a", "/old/a"),
    ],
)
def test_the_url_behind_a_prefix(prefixed: Server, prefix: str | None, path: str, url: str) -> None:
    with prefixed.raw(path, *([f"X-Forwarded-Prefix: {prefix}"] if prefix else [])) as client:
        assert b" 101 " in client.read_head()
        client.send_frame(1, b"?")
        assert client.read_frame() == (1, url.removeprefix("/").encode())


@pytest.fixture(scope="module")
def prefixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("prefixed"), PREFIXED) as running:
        yield running


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """Who signs; a key with its certificate for localhost is in ``localhost.pem``."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "localhost.pem"))
    return authority


def test_tls(tmp_path: Path, authority: trustme.CA) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with Server(tmp_path, SOURCE, CERTIFICATE=str(tmp_path / "localhost.pem")) as server:

        def url(path: str) -> str:
            return f"wss://localhost:{server.port}{path}"

        with connect(url("/ws"), ssl=context, max_size=None, sock=_to(server)) as client:
            for message in ("text", bytes(3_000_000)):
                client.send(message)
                assert client.recv(30) == message
        with connect(url("/tell"), ssl=context, sock=_to(server)) as client:
            client.send("go")
            assert json.loads(client.recv(30))["scheme"] == "wss"
        for path, status in (("/before/404", 404), ("/nowhere", 404), ("/before/teapot", 418)):
            with pytest.raises(Exception, match=str(status)):
                connect(url(path), ssl=context, sock=_to(server))
        # The wait for the server to start is no TLS handshake, and logged as such.
        assert "run_application" not in server.stop()


def _to(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port))


def test_a_server_without_websockets_is_told_so(tmp_path: Path) -> None:
    source = SOURCE.replace("handler_class=WebSocketHandler", "log=None")
    with Server(tmp_path, source) as server:
        assert rejection(server).status == 500
        log = server.wait_for_log("RuntimeError")
    assert "unisock.adapters.flask.WSGIServer(…).serve_forever()" in log


async def _handler(ws: WebSocket) -> None:
    await ws.accept()


@pytest.mark.parametrize("option", ["ping_interval", "ping_timeout"])
def test_keepalive_options_are_checked_at_mount(option: str) -> None:
    with pytest.raises(ValueError, match=option):
        unisock.mount(Flask("x"), "/ws", _handler, **{option: 0})
    with pytest.raises(TypeError):
        unisock.mount(Flask("x"), "/ws", _handler, **{option: "soon"})


def test_wrong_arguments_raise_at_mount() -> None:
    for app in (Flask("x"), Blueprint("b", "b")):
        with pytest.raises(TypeError, match="unknown option 'colour'"):
            unisock.mount(app, "/ws", _handler, colour="red")
        with pytest.raises(ValueError, match="slash"):
            unisock.mount(app, "ws", _handler)
    with pytest.raises(TypeError, match="takes one argument"):
        view(lambda: None)  # type: ignore[arg-type]  # that is the test


def test_callables_have_endpoints_too() -> None:
    class Echo:
        async def __call__(self, ws: WebSocket) -> None:
            await ws.accept()

    app = Flask("x")
    unisock.mount(app, "/a", Echo())
    unisock.mount(app, "/b", Echo())
    assert {"Echo", "Echo_2"} <= set(app.view_functions)
