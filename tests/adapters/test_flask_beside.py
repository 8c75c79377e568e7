"""What is written for gevent-websocket runs beside a unisock handler, in one process.

On the servers with unisock's own request handler; on those of gevent-websocket it is at home.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import socketio  # type: ignore[import-untyped]  # has no stubs
from websockets.exceptions import ConnectionClosed

from tests.adapters.client import closing, rejection, say, talk
from tests.servers import Server

KINDS = ["WSGIServer unpatched", "WSGIServer patched", "gunicorn"]

SOURCE = """
import os, sys

kind = os.environ["KIND"]
if __name__ == "__main__" and kind == "gunicorn":
    folder, name = os.path.split(os.path.abspath(__file__))
    os.execv(sys.executable, [
        sys.executable, "-m", "gunicorn", "-k", "unisock.adapters.gunicorn.WebSocketWorker",
        "--bind=127.0.0.1:" + os.environ["PORT"], "--chdir=" + folder, "--graceful-timeout=2",
        "--no-control-socket", name.removesuffix(".py") + ":application",
    ])
if kind.endswith(" patched"):
    from gevent import monkey
    monkey.patch_all()

import json, logging, signal
import flask, flask_socketio, gevent, socketio
from gevent.pywsgi import WSGIServer
from geventwebsocket import WebSocketApplication, WebSocketError, Resource
from geventwebsocket.protocols.base import BaseProtocol
from geventwebsocket.websocket import WebSocket as StockWebSocket
from werkzeug.middleware.dispatcher import DispatcherMiddleware
import unisock
from unisock.adapters.flask import WebSocketHandler

logging.basicConfig()
app = flask.Flask("tested")
app.secret_key = "secret"


async def echo(ws):
    await ws.accept()
    async for message in ws:
        await ws.send(message)


def blocking_echo(ws):
    ws.accept()
    for message in ws:
        ws.send(message)


kept = {}

async def uses_both(ws):
    def use():
        try:
            ws.request.environ["wsgi.websocket"].send("stray")
        except RuntimeError as exc:
            return str(exc)
    kept["served"] = ws.request.environ["wsgi.websocket"]
    before = use()
    await ws.accept()
    await ws.send_json([before, use()])


unisock.mount(app, "/ws", echo)
unisock.mount(app, "/blocking", blocking_echo)
unisock.mount(app, "/both", uses_both)


# Views as they were written for gevent-websocket

@app.get("/old", websocket=True)
def old():
    ws = flask.request.environ.get("wsgi.websocket")
    if not ws or ws is None:
        return "no WebSocket", 400
    try:
        while not ws.closed:
            message = ws.receive()
            if message is not None:
                ws.send(message)
    except WebSocketError:
        pass
    return ""


@app.get("/old/receives-first", websocket=True)
def receives_first():
    ws = flask.request.environ["wsgi.websocket"]
    ws.send(ws.receive()[::-1])
    return ""


@app.get("/old/tells", websocket=True)
def tells():
    environ = flask.request.environ
    ws = environ["wsgi.websocket"]
    assert isinstance(ws, StockWebSocket)
    told = [
        environ["wsgi.websocket_version"], ws.version, ws.path, ws.origin, ws.protocol,
        ws.environ["PATH_INFO"], ws.closed, hasattr(ws, "nonsense"),
        hasattr(ws, "utf8validate_last"),
        ws.handler.active_client.ws is ws, len(ws.handler.server.clients),
    ]
    ws.send_frame(json.dumps(told), ws.OPCODE_TEXT)
    ws.close()
    return ""


@app.get("/old/closes", websocket=True)
def closes():
    flask.request.environ["wsgi.websocket"].close()
    return ""


@app.get("/old/fails", websocket=True)
def fails():
    flask.request.environ["wsgi.websocket"].send("before it fails")
    raise LookupError("of the view")


@app.get("/old/refuses", websocket=True)
def refuses():
    kept["refused"] = flask.request.environ["wsgi.websocket"]
    return "not today", 403


@app.get("/old/late")
def late():
    def use(ws):
        try:
            return ws.send("late")
        except Exception as exc:
            return str(exc)
    return {name: use(ws) for name, ws in kept.items()}


# A page, and one beside it that is no WebSocket's

@app.get("/page")
def page():
    return "the page " + str(flask.request.environ.get("wsgi.websocket"))


@app.before_request
def upgrade_early():
    if "early" in flask.request.args:
        assert not flask.request.environ["wsgi.websocket"].closed


# Flask-SocketIO

flask_sio = flask_socketio.SocketIO(app, async_mode="gevent", path="/flask-socketio")

@flask_sio.on("shout")
def shout(data):
    flask_socketio.emit("shouted", data.upper())


# As flask-sockets has it: a function that gets the WebSocket before Flask has the request

def sockets(environ, start_response):
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("400 Bad Request", [])
        return [b"no WebSocket"]
    with app.request_context(environ):
        if "silent" not in environ["QUERY_STRING"]:
            ws.send("of flask-sockets: " + ws.receive())
    return []


# gevent-websocket's own applications

class Shout(WebSocketApplication):
    class protocol_class(BaseProtocol):
        PROTOCOL_NAME = "shouting"

    def on_message(self, message):
        if message is not None:
            self.ws.send(message.upper())


resource = Resource([("^/$", Shout), ("^/page$", lambda environ, start_response: (
    start_response("200 OK", []), [b"a page of the resource"])[1])])

# python-socketio around all of it

sio = socketio.Server(async_mode="gevent")

@sio.event
def double(sid, data):
    return data + data


class Application:
    app_protocol = staticmethod(lambda path: "shouting" if path.startswith("/resource") else "")

    def __call__(self, environ, start_response):
        return wsgi(environ, start_response)


wsgi = socketio.WSGIApp(
    sio, DispatcherMiddleware(app, {"/sockets": sockets, "/resource": resource}),
    socketio_path="python-socketio",
)
application = Application()

if __name__ == "__main__":
    server = WSGIServer(
        ("127.0.0.1", int(os.environ["PORT"])), application, handler_class=WebSocketHandler
    )
    gevent.signal_handler(signal.SIGTERM, server.stop)
    server.serve_forever()
"""


@pytest.fixture(scope="module", params=KINDS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("beside"), SOURCE, KIND=request.param) as running:
        yield running


@pytest.mark.parametrize("path", ["/ws", "/blocking"])
def test_a_unisock_handler_has_the_connection_to_itself(server: Server, path: str) -> None:
    assert say(server, path) == "hello"
    with talk(server, "/both") as client:
        for error in json.loads(client.recv(30)):
            assert "a unisock handler serves this connection" in error


def test_an_old_view_is_as_it_was(server: Server) -> None:
    with talk(server, "/old") as client:
        for message in ("text", "", b"bytes", "x" * 70_000):
            client.send(message)
            assert client.recv(30) == message
        assert client.ping().wait(30)
    assert say(server, "/old/receives-first") == "olleh"


def test_an_old_view_knows_what_it_knew(server: Server) -> None:
    options = {"origin": f"http://127.0.0.1:{server.port}", "subprotocols": ["a", "b"]}
    with talk(server, "/old/tells", **options) as client:
        assert json.loads(client.recv(30)) == [
            "13", "13", "/old/tells", f"http://127.0.0.1:{server.port}", "a, b",
            "/old/tells", False, False, False, True, 1,
        ]  # fmt: skip
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(30)
        assert caught.value.rcvd is not None


def test_an_old_view_may_do_nothing_but_close(server: Server) -> None:
    # gevent-websocket sends no code, whatever it is given.
    assert closing(server, "/old/closes").code == 1005


def test_an_old_view_that_fails_has_closed(server: Server) -> None:
    with talk(server, "/old/fails") as client:
        assert client.recv(30) == "before it fails"
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(30)
        assert caught.value.rcvd is not None
    assert "of the view" in server.wait_for_log("LookupError")


def test_an_old_view_that_uses_no_websocket_answers_as_any_view(server: Server) -> None:
    assert rejection(server, "/old/refuses")[::2] == (403, "not today")


def test_a_websocket_that_is_used_too_late_says_so(server: Server) -> None:
    rejection(server, "/old/refuses")
    with talk(server, "/both"):
        pass
    status, body = server.get("/old/late")
    told = json.loads(body)
    assert status == 200
    assert "the handshake is answered" in told["refused"]
    assert "a unisock handler serves" in told["served"]


def test_a_page_has_none(server: Server) -> None:
    assert server.get("/page") == (200, "the page None")
    assert server.get("/old")[0] == 400
    assert server.get("/resource/page") == (200, "a page of the resource")


def test_a_handshake_that_is_none_gets_its_status_and_no_traceback(server: Server) -> None:
    for header, status in (("Sec-WebSocket-Version: 7", b"426"), ("X-None: 1", b"400")):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(
                b"GET /old HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                + (b"" if status == b"426" else b"Sec-WebSocket-Version: 13\r\n")
                + header.encode()
                + b"\r\n\r\n"
            )
            answer = raw.makefile("rb").read()
        assert answer.split()[1] == status, answer
        assert answer.count(b"HTTP/1.1") == 1
    assert "GreenletExit" not in server.log()


def test_a_unisock_handler_takes_over_what_middleware_has_upgraded(server: Server) -> None:
    assert say(server, "/ws?early") == "hello"


def test_a_function_of_flask_sockets(server: Server) -> None:
    assert say(server, "/sockets") == "of flask-sockets: hello"
    # The package upgrades before it calls the function, which need do nothing.
    assert closing(server, "/sockets?silent").code == 1005


def test_an_application_of_gevent_websocket(server: Server) -> None:
    assert say(server, "/resource/") == "HELLO"
    with talk(server, "/resource/", subprotocols=["other", "shouting"]) as client:
        assert client.subprotocol == "shouting"
    with talk(server, "/resource/", subprotocols=["other"]) as client:
        assert client.subprotocol is None


@pytest.mark.parametrize("transports", [["websocket"], ["polling"], ["polling", "websocket"]])
@pytest.mark.parametrize("path", ["flask-socketio", "python-socketio"])
def test_socket_io_with_its_own_client(server: Server, path: str, transports: list[str]) -> None:
    with socketio.SimpleClient() as client:
        url = f"http://127.0.0.1:{server.port}"
        client.connect(url, transports=transports, socketio_path=path, wait_timeout=30)
        assert client.transport == transports[-1]
        for _ in range(3):
            if path == "flask-socketio":
                client.emit("shout", "hello")
                assert client.receive(30) == ["shouted", "HELLO"]
            else:
                assert client.call("double", "ab", timeout=30) == "abab"
        # Meanwhile, in the same process.
        assert say(server) == "hello"


TWO_ON_A_UNIX_SOCKET = """
import socket
import flask, gevent
from unisock.adapters.flask import WSGIServer

app = flask.Flask("tested")


@app.get("/old", websocket=True)
def old():
    ws = flask.request.environ["wsgi.websocket"]
    ws.send("ready")
    assert ws.handler.active_client.ws is ws
    ws.receive()
    return ""


listener = socket.socket(socket.AF_UNIX)
listener.bind("server.sock")
listener.listen()
server = WSGIServer(listener, app)
server.start()
head = (
    b"GET /old HTTP/1.1\\r\\nHost: x\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\nSec-WebSocket-Version: 13\\r\\n\\r\\n"
)


def serve():
    clients = []
    for _ in range(2):
        client = gevent.socket.socket(gevent.socket.AF_UNIX)
        client.settimeout(20)
        client.connect("server.sock")
        client.sendall(head)
        file = client.makefile("rb")
        while file.readline() != b"\\r\\n":
            pass
        assert file.read(7) == b"\\x81\\x05ready"
        clients.append((client, file))
    listed = list(server.clients.values())
    print(len(listed), len({each.ws for each in listed}))
    for client, file in clients:
        client.shutdown(gevent.socket.SHUT_WR)
        file.read()
        print(len(server.clients))


gevent.spawn(serve).get()
"""


def test_old_views_on_a_unix_socket_are_each_listed(tmp_path: Path) -> None:
    """A client of a unix socket has no address that would tell it from others."""
    done = subprocess.run(
        [sys.executable, "-c", TWO_ON_A_UNIX_SOCKET],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.split("\n")[-4:] == ["2 2", "1", "0", ""], done.stderr
    assert "Traceback" not in done.stderr
