"""What Flask does with the answer to a handshake: ``after_request``, the session, its errors."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response

from tests.adapters.client import closing, rejection, say, talk
from tests.servers import Server

KINDS = ["unpatched", "patched", "stock"]

SOURCE = """
import os
if os.environ["KIND"] == "patched":
    from gevent import monkey
    monkey.patch_all()

import asyncio, logging, signal
import flask, gevent
from flask.sessions import SessionInterface, SessionMixin, SecureCookieSession
from gevent.pywsgi import WSGIServer
from geventwebsocket.handler import WebSocketHandler as StockHandler
import unisock
from unisock.adapters.flask import WebSocketHandler

logging.basicConfig()
app = flask.Flask("tested")
app.secret_key = "secret"
told = []


class Untracked(dict, SessionMixin):
    '''A session that does not note its changes.'''


class Stored(SessionInterface):
    '''A session that the server keeps, but for those who ask for a cookie.'''

    kept = {}

    def open_session(self, app, request):
        if "null" in request.args:
            return None  # as where there is no secret key
        if "stored" not in request.args:
            return cookies.open_session(app, request)
        kind = Untracked if "untracked" in request.args else SecureCookieSession
        return kind(self.kept.get(request.args["stored"]) or {})

    def save_session(self, app, session, response):
        if "stored" not in flask.request.args:
            return cookies.save_session(app, session, response)
        told.append(["saved", flask.request.path])
        self.kept[flask.request.args["stored"]] = dict(session)


cookies, app.session_interface = app.session_interface, Stored()


@app.teardown_request
def tear_down(exc):
    if "torn" in flask.request.args:
        told.append(["torn down", repr(exc)])


@app.after_request
def after(response):
    args = flask.request.args
    if flask.request.path == "/told":
        return response
    told.append([flask.request.path, response.status_code])
    response.headers["X-After"] = flask.g.get("left", "nothing")
    if "blocks" in args:
        gevent.sleep(float(args["blocks"]))
    if "fails" in args:
        raise LookupError("of after_request")
    if "replaces" in args:
        return flask.Response("replaced", 418, {"X-Replaced": "yes"})
    if "name" in args:
        response.headers[args["name"]] = "no name of a header"
    if "foreign" in args:
        response.headers["X-After"] = "\u20ac"
    if "breaks" in args:
        response.headers["Connection"] = "close"
        response.headers["Sec-WebSocket-Accept"] = "nonsense"
    return response


async def after_async(response):
    response.headers["X-Async"] = "yes"
    return response


# Flask runs it by asgiref, two of which get into each other's way where threads are greenlets.
if os.environ["KIND"] != "patched":
    app.after_request(after_async)


@app.errorhandler(LookupError)
def lookup_error(exc):
    told.append(["handled", str(exc)])
    return "handled", 500


@app.get("/told")
def tell():
    copy = list(told)
    told.clear()
    return copy


@app.get("/logout")
def log_out():
    del flask.session["user"]
    return "out"


@app.get("/session")
def show_session():
    return dict(flask.session)


@app.get("/cookie")
def cookie():
    flask.session["user"] = "ada"
    return "set"


def leave(name):
    flask.session["user"] = name
    flask.g.left = name

    @flask.after_this_request
    def once(response):
        response.set_cookie("once", "yes")
        response.headers.add("X-Twice", "1")
        response.headers.add("X-Twice", "2")
        return response


async def accepts(ws):
    leave("ada")
    await ws.accept(headers={"x-own": "own"})
    flask.session["late"] = "yes"
    async for message in ws:
        await ws.send(message)


def accepts_blocking(ws):
    leave("ada")
    ws.accept(headers={"x-own": "own"})
    flask.session["late"] = "yes"
    for message in ws:
        ws.send(message)


async def accepts_first(ws):
    await ws.accept()
    flask.session["user"] = "ada"


async def notes(ws):
    flask.session["seen"] = "yes"
    await ws.accept()
    async for message in ws:
        await ws.send(message)


def notes_blocking(ws):
    flask.session["seen"] = "yes"
    ws.accept()
    for message in ws:
        ws.send(message)


async def rejects(ws):
    leave("eve")
    await ws.reject(403, b"no", {"x-own": "own"})


def rejects_blocking(ws):
    leave("eve")
    ws.reject(403, b"no", {"x-own": "own"})


async def aborts(ws):
    leave("eve")
    flask.abort(409)


async def fails(ws):
    raise LookupError("of the handler")


async def fails_open(ws):
    await ws.accept()
    raise LookupError("of the open handler")


async def waits(ws):
    told.append(["waits", 0])
    told.append(["left", await ws.wait_closed()])


async def echoes(ws):
    await ws.accept()
    async for message in ws:
        await ws.send(message)


async def ends_while_it_accepts(ws):
    task = asyncio.create_task(ws.accept())
    await asyncio.sleep(0.05)
    app.kept = task


async def times_out(ws):
    try:
        async with asyncio.timeout(0.05):
            await ws.accept()
    except TimeoutError:
        await ws.send_text("timed out")
        raise


for handler in (accepts, accepts_blocking, accepts_first, notes, notes_blocking,
                rejects, rejects_blocking, aborts, fails, fails_open, echoes, waits,
                ends_while_it_accepts, times_out):
    unisock.mount(app, "/" + handler.__name__, handler)

handler_class = StockHandler if os.environ["KIND"] == "stock" else WebSocketHandler
server = WSGIServer(("127.0.0.1", int(os.environ["PORT"])), app, handler_class=handler_class)
server.stop_timeout = 5
gevent.signal_handler(signal.SIGTERM, server.stop)
server.serve_forever()
"""

FORMS = ["", "_blocking"]


@pytest.fixture(scope="module", params=KINDS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FlaskServer]:
    with FlaskServer(tmp_path_factory.mktemp("answers"), request.param) as running:
        yield running


class FlaskServer(Server):
    """A server of one of the kinds."""

    def __init__(self, folder: Path, kind: str) -> None:
        super().__init__(folder, SOURCE, KIND=kind)
        self.kind = kind


def stock(server: FlaskServer) -> bool:
    """Whether the 101 is sent before Flask is asked."""
    return server.kind == "stock"


def told(server: Server, count: int = 0) -> list[list[object]]:
    """What the application has told since this was last asked for: so much at least."""
    listed: list[list[object]] = []
    until = time.monotonic() + 30
    while True:
        listed += json.loads(server.get("/told")[1])
        if len(listed) >= count:
            return listed
        assert time.monotonic() < until, listed


def rejected(server: FlaskServer, path: str) -> Response:
    with pytest.raises(InvalidStatus) as caught, talk(server, path):
        pass
    return caught.value.response


@pytest.mark.parametrize("form", FORMS)
def test_after_request_sees_the_101_and_what_it_adds_is_sent(
    server: FlaskServer, form: str
) -> None:
    told(server)
    with talk(server, f"/accepts{form}") as client:
        # Now, and not when the connection has ended.
        assert told(server) == [[f"/accepts{form}", 101]]
        client.send("on")
        assert client.recv(30) == "on"
        assert client.response is not None
        headers = client.response.headers
    assert told(server) == []
    if stock(server):
        assert "Set-Cookie" not in headers
        return
    cookies = headers.get_all("Set-Cookie")
    assert [cookie.partition("=")[0] for cookie in cookies] == ["once", "session"]
    assert headers.get_all("X-Twice") == ["1", "2"]
    assert (headers["X-Own"], headers["X-After"]) == ("own", "ada")
    assert headers.get("X-Async") == (None if server.kind == "patched" else "yes")
    assert not {"Content-Type", "Content-Length"} & {name.title() for name in headers}
    # It is Flask's session, of before the connection was accepted.
    session = cookies[1].partition(";")[0]
    assert json.loads(server.get("/session", Cookie=session)[1]) == {"user": "ada"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["", "&untracked"])
def test_a_session_that_the_server_keeps_has_later_changes_too(
    server: FlaskServer, form: str, kind: str
) -> None:
    name = f"s{form}-{kind[1:]}{kind}"
    with talk(server, f"/accepts{form}?stored={name}"):
        pass
    until = time.monotonic() + 30
    while json.loads(server.get(f"/session?stored={name}")[1]) != {"user": "ada", "late": "yes"}:
        assert time.monotonic() < until


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", ["/notes", "/echoes"])
@pytest.mark.parametrize("kind", ["", "&untracked"])
def test_a_session_that_nobody_changes_after_the_answer_is_saved_with_it_alone(
    server: FlaskServer, path: str, form: str, kind: str
) -> None:
    """At the end it is old: another request may have changed it meanwhile."""
    if (path, form) == ("/echoes", "_blocking"):
        return
    if stock(server) and path == "/notes":  # its change comes after the 101
        return
    name = f"logged-in-{path[1:]}{form}-{kind[1:]}{kind}"
    with talk(server, f"/accepts_first?stored={name}"):
        pass
    until = time.monotonic() + 30
    while json.loads(server.get(f"/session?stored={name}")[1]) != {"user": "ada"}:
        assert time.monotonic() < until
    told(server)
    with talk(server, f"{path}{form}?stored={name}&torn") as client:
        client.send("on")
        assert client.recv(30) == "on"
        assert server.get(f"/logout?stored={name}")[0] == 200
    listed = told(server)
    while not any("torn down" in each for each in listed):
        assert time.monotonic() < until
        listed += told(server)
    assert "user" not in json.loads(server.get(f"/session?stored={name}")[1])
    saved = [each[1] for each in listed if each[0] == "saved"]
    assert saved == [f"{path}{form}", "/logout"]


@pytest.mark.parametrize("form", FORMS)
def test_after_request_sees_a_rejection_and_what_it_adds_is_sent(
    server: FlaskServer, form: str
) -> None:
    told(server)
    if stock(server):
        assert closing(server, f"/rejects{form}").code == 1008
        assert told(server, 1) == [[f"/rejects{form}", 101]]
        return
    response = rejected(server, f"/rejects{form}")
    assert (response.status_code, response.body) == (403, b"no")
    headers = response.headers
    assert [c.partition("=")[0] for c in headers.get_all("Set-Cookie")] == ["once", "session"]
    assert (headers["X-Own"], headers["X-After"]) == ("own", "eve")
    assert headers.get_all("Content-Length") == ["2"]
    assert headers["Content-Type"].startswith("text/plain")
    assert told(server) == [[f"/rejects{form}", 403]]


def test_flask_s_own_answers_are_as_ever(server: FlaskServer) -> None:
    told(server)
    if stock(server):
        assert closing(server, "/aborts").code == 4409
        assert told(server, 1) == [["/aborts", 101]]
        return
    response = rejected(server, "/aborts")
    assert response.status_code == 409
    assert [c.partition("=")[0] for c in response.headers.get_all("Set-Cookie")] == [
        "once",
        "session",
    ]
    assert told(server) == [["/aborts", 409]]


def test_an_error_is_handled_once_and_after_request_sees_what_was_answered(
    server: FlaskServer,
) -> None:
    told(server)
    assert closing(server, "/fails_open").code == 1011
    assert told(server, 2) == [["/fails_open", 101], ["handled", "of the open handler"]]
    if stock(server):
        assert closing(server, "/fails").code == 4500
        assert told(server, 2) == [["/fails", 101], ["handled", "of the handler"]]
        return
    assert rejection(server, "/fails").status == 500
    assert sorted(told(server, 2), key=str) == [["/fails", 500], ["handled", "of the handler"]]


def test_what_belongs_to_the_handshake_is_not_sent_twice(server: FlaskServer) -> None:
    assert say(server, "/accepts?breaks") == "hello"


@pytest.mark.parametrize("path", ["accepts", "accepts_blocking", "rejects", "rejects_blocking"])
def test_an_error_of_after_request_is_a_500_and_flask_s(server: FlaskServer, path: str) -> None:
    told(server)
    if stock(server):
        with talk(server, f"/{path}?fails"):
            pass
    else:
        assert rejection(server, f"/{path}?fails").status == 500
    status = 101 if stock(server) else 403 if "rejects" in path else 101
    assert told(server, 2) == [[f"/{path}", status], ["handled", "of after_request"]]


def test_a_header_that_cannot_be_sent_is_a_500(server: FlaskServer) -> None:
    if stock(server):
        return
    assert rejection(server, "/accepts?foreign").status == 500
    assert "UnicodeEncodeError" in server.wait_for_log("codec can't encode")


@pytest.mark.parametrize("path", ["accepts", "accepts_blocking", "rejects", "rejects_blocking"])
@pytest.mark.parametrize("name", ["X-A: 1%0D%0AX-Forged", "X A", "", "X-%C3%A9"])
def test_a_name_that_no_header_has_is_a_500(server: FlaskServer, path: str, name: str) -> None:
    if stock(server):
        return
    answer = rejected(server, f"/{path}?name={name.replace(' ', '%20')}")
    assert answer.status_code == 500
    assert "X-Forged" not in answer.headers
    assert "is not a header name" in server.wait_for_log("is not a header name")


@pytest.mark.parametrize("path", ["accepts", "accepts_blocking", "rejects", "rejects_blocking"])
def test_after_request_may_answer_otherwise(server: FlaskServer, path: str) -> None:
    if stock(server):  # it is too late
        with talk(server, f"/{path}?replaces"):
            return
    response = rejected(server, f"/{path}?replaces")
    assert (response.status_code, response.body) == (418, b"replaced")
    assert response.headers["X-Replaced"] == "yes"


@pytest.mark.parametrize("form", FORMS)
def test_what_blocks_in_after_request_keeps_nobody_else(server: FlaskServer, form: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(_handshake(f"/accepts{form}?blocks=60"))
        assert say(server, f"/accepts{form}") == "hello"


def test_a_handler_that_gives_up_while_it_accepts_has_accepted(server: FlaskServer) -> None:
    if stock(server):  # there is nothing to wait for
        return
    with talk(server, "/times_out?blocks=0.3") as client:
        assert client.recv(30) == "timed out"


def test_a_handler_that_ends_while_it_accepts_sends_no_frame_before_the_101(
    server: FlaskServer,
) -> None:
    if stock(server):
        return
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
        raw.sendall(_handshake("/ends_while_it_accepts?blocks=0.3"))
        answer = raw.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 "), answer


def test_a_handshake_that_is_none_is_seen_as_such(server: FlaskServer) -> None:
    if stock(server):
        return
    told(server)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
        raw.sendall(_handshake("/accepts").replace(b"Version: 13", b"Version: 7"))
        assert raw.makefile("rb").read().startswith(b"HTTP/1.1 426 ")
    assert told(server) == [["/accepts", 426]]


def test_a_client_that_leaves_before_the_answer(server: FlaskServer) -> None:
    if stock(server):
        return
    told(server)
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(_handshake("/waits"))
        assert told(server, 1) == [["waits", 0]]
    assert told(server, 2) == [["left", 1006], ["/waits", 499]]


@pytest.mark.parametrize("path", ["accepts", "accepts_blocking", "rejects", "rejects_blocking"])
def test_a_client_that_leaves_while_after_request_runs(server: FlaskServer, path: str) -> None:
    if stock(server):
        return
    told(server)
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(_handshake(f"/{path}?blocks=0.5&torn"))
        assert told(server, 1) == [[f"/{path}", 403 if "rejects" in path else 101]]
    assert told(server, 1) == [["torn down", "None"]]


def test_a_session_that_is_none(server: FlaskServer) -> None:
    assert say(server, "/echoes?null") == "hello"
    assert "session is unavailable" not in server.log()


def _handshake(path: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
