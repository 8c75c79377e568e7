"""What frameworks and servers do each in their own way, and that unisock does not.

Each test shows the native behaviour on a small native application first, so
that it also tells when a framework has changed; then the same steps on a
handler of unisock, on the same framework and server.  Measured with starlette
1.10, falcon 4.4, uvicorn 0.54, hypercorn 0.18, gevent 26.9 and gevent-websocket
0.10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.servers import Server, uvicorn

Start = Callable[..., Server]

# Handlers of unisock, mounted by each source below at their names.
HANDLERS = """
import asyncio
import unisock
from unisock import InvalidMessage, InvalidState, WebSocketDisconnect

def tell(*words):
    print("unisock:", *words, flush=True)

async def wrong_kind(ws):
    await ws.accept()
    try:
        await ws.receive_text()
    except InvalidMessage as exc:
        await ws.send(f"{exc.code} {exc.message!r}")
    await ws.send(await ws.receive_text())

async def client_close(ws):
    await ws.accept()
    try:
        await ws.receive()
    except WebSocketDisconnect as exc:
        tell("closed", exc.code, repr(exc.reason))

async def queued(ws):
    await ws.accept()
    await ws.wait_closed()
    tell("received", [m async for m in ws])

async def two_receives(ws):
    await ws.accept()
    first = asyncio.create_task(ws.receive())
    await asyncio.sleep(0)
    try:
        await ws.receive()
    except InvalidState:
        tell("refused")
    await ws.send("go on")
    await ws.send(f"first got {await first}")

async def send_to_gone(ws):
    await ws.accept()
    await ws.wait_closed()
    errors = 0
    for _ in range(100):
        try:
            await ws.send("x")
        except WebSocketDisconnect:
            errors += 1
    tell("errors", errors)

async def close_with_reason(ws):
    await ws.accept()
    await ws.close(4003, "bye")

async def long_reason(ws):
    await ws.accept()
    await ws.close(4003, "é" * 100)

async def only_sends(ws):
    await ws.accept()
    tell("accepted")
    while True:
        await ws.send("tick")
        await asyncio.sleep(0.02)

async def returns(ws):
    await ws.accept()

async def raises(ws):
    await ws.accept()
    raise LookupError("a secret")

async def never_accepts(ws):
    return

async def two_sends(ws):
    await ws.accept()
    async with asyncio.TaskGroup() as group:
        for letter in (b"a", b"b"):
            group.create_task(ws.send(letter * SIZE))
    tell("sent both")

SIZE = 8 * 1024 * 1024
HANDLERS = [
    wrong_kind, client_close, queued, two_receives, send_to_gone, close_with_reason,
    long_reason, only_sends, returns, raises, never_accepts, two_sends,
]
"""

STARLETTE = (
    HANDLERS
    + """
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

def native(handler):
    async def endpoint(ws):
        try:
            await handler(ws)
        except Exception as exc:
            print("native:", handler.__name__, type(exc).__name__, flush=True)
            raise
    return WebSocketRoute(f"/native/{handler.__name__}", endpoint)

async def n_wrong_kind(ws):
    await ws.accept()
    text = await ws.receive_text()
    print("native: wrong kind", repr(text), flush=True)
    await ws.close()

async def n_client_close(ws):
    await ws.accept()
    event = await ws.receive()
    print("native: closed", event["code"], flush=True)

async def n_two_receives(ws):
    await ws.accept()
    both = asyncio.gather(ws.receive_text(), ws.receive_text())
    await asyncio.sleep(0)
    await ws.send_text("go on")
    print("native: both got", sorted(await both), flush=True)

async def n_send_to_gone(ws):
    await ws.accept()
    await ws.receive()
    for _ in range(100):
        # Past Starlette's own state, for what the server does is the question.
        await ws._send({"type": "websocket.send", "text": "x"})
    print("native: 100 sends went well", flush=True)

async def n_long_reason(ws):
    await ws.accept()
    await ws.close(4003, "é" * 100)

async def n_only_sends(ws):
    await ws.accept()
    print("native: accepted", flush=True)
    while True:
        await ws.send_text("tick")
        await asyncio.sleep(0.02)

async def n_returns(ws):
    await ws.accept()

async def n_raises(ws):
    await ws.accept()
    raise LookupError("a secret")

async def n_never_accepts(ws):
    return

app = Starlette(routes=[native(f) for f in (
    n_wrong_kind, n_client_close, n_two_receives, n_send_to_gone, n_long_reason,
    n_only_sends, n_returns, n_raises, n_never_accepts,
)])
for handler in HANDLERS:
    unisock.mount(app, f"/{handler.__name__}", handler)
"""
)

FALCON = (
    HANDLERS
    + """
import falcon.asgi

app = falcon.asgi.App()

class Native:
    def __init__(self, handler):
        self.handler = handler

    async def on_websocket(self, req, ws):
        try:
            await self.handler(ws)
        except Exception as exc:
            print("native:", self.handler.__name__, type(exc).__name__, flush=True)
            raise

async def n_wrong_kind(ws):
    await ws.accept()
    await ws.receive_text()

async def n_client_close(ws):
    await ws.accept()
    try:
        await ws.receive_text()
    except falcon.WebSocketDisconnected as exc:
        print("native: closed", exc.code, hasattr(exc, "reason"), flush=True)

async def n_queued(ws):
    await ws.accept()
    got = []
    # Until Falcon's pump has seen the end behind the messages.
    while ws.ready:
        await asyncio.sleep(0)
    while ws.ready:
        got.append(await ws.receive_text())
    print("native: received", got, flush=True)

async def n_two_receives(ws):
    await ws.accept()
    first = asyncio.create_task(ws.receive_text())
    await asyncio.sleep(0)
    try:
        await ws.receive_text()
    finally:
        first.cancel()

async def n_returns(ws):
    await ws.accept()

async def n_raises(ws):
    await ws.accept()
    raise LookupError("a secret")

async def n_never_accepts(ws):
    return

for handler in (n_wrong_kind, n_client_close, n_queued, n_two_receives, n_returns, n_raises,
                n_never_accepts):
    app.add_route(f"/native/{handler.__name__}", Native(handler))
for handler in HANDLERS:
    unisock.mount(app, f"/{handler.__name__}", handler)
"""
)

HYPERCORN = """
import asyncio, os
from hypercorn.asyncio import serve
from hypercorn.config import Config

config = Config()
config.bind = [f"127.0.0.1:{os.environ['PORT']}"]
asyncio.run(serve(app, config))
"""

GEVENT = (
    HANDLERS
    + """
import os
import flask
from gevent.pywsgi import WSGIServer
from unisock.adapters.flask import WebSocketHandler

app = flask.Flask(__name__)
for handler in HANDLERS:
    unisock.mount(app, f"/{handler.__name__}", handler)
address = ("127.0.0.1", int(os.environ["PORT"]))
WSGIServer(address, app, handler_class=WebSocketHandler).serve_forever()
"""
)

NATIVE_GEVENT = """
import os
import gevent
from gevent.pywsgi import WSGIServer
from geventwebsocket.handler import WebSocketHandler

SIZE = 8 * 1024 * 1024

def tell(*words):
    print("native:", *words, flush=True)

def wrong_kind(ws):
    tell("wrong kind", type(ws.receive()).__name__)

def client_close(ws):
    message = ws.receive()
    known = {"code", "reason", "close_code", "close_reason"} & {*dir(ws)}
    tell("received", message, "then", sorted(known))

def two_receives(ws):
    def receive():
        try:
            ws.receive()
        except Exception as exc:
            tell("two receives", type(exc).__name__, exc)

    both = [gevent.spawn(receive), gevent.spawn(receive)]
    gevent.sleep(0)
    ws.send("go on")
    gevent.joinall(both)

def close_with_reason(ws):
    ws.close(4003, "bye")

def returns(ws):
    return

def raises(ws):
    raise LookupError("a secret")

def two_sends(ws):
    def send(letter):
        try:
            ws.send(letter * SIZE)
        except BaseException as exc:
            tell("two sends", type(exc).__name__)

    gevent.joinall([gevent.spawn(send, letter) for letter in (b"a", b"b")])

def app(environ, start_response):
    handler = globals()[environ["PATH_INFO"].rpartition("/")[2].removeprefix("n_")]
    handler(environ["wsgi.websocket"])
    return []

address = ("127.0.0.1", int(os.environ["PORT"]))
WSGIServer(address, app, handler_class=WebSocketHandler).serve_forever()
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start a server by its name, once; all stop when the module is done."""
    running: dict[str, Server] = {}
    with ExitStack() as stack:

        def make(name: str) -> Server:
            folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
            match name:
                case "starlette uvicorn":
                    return uvicorn(folder, STARLETTE)
                case "starlette uvicorn, short pings":
                    return uvicorn(folder, STARLETTE, ws_ping_interval=0.2, ws_ping_timeout=0.2)
                case "falcon uvicorn":
                    return uvicorn(folder, FALCON)
                case "starlette hypercorn":
                    return Server(folder, STARLETTE + HYPERCORN)
                case "gevent":
                    return Server(folder, GEVENT)
                case _:
                    return Server(folder, NATIVE_GEVENT)

        def get(name: str) -> Server:
            if name not in running:
                running[name] = stack.enter_context(make(name))
            return running[name]

        yield get


def talk(server: Server, path: str, **options: Any) -> ClientConnection:
    client: ClientConnection = connect(
        server.url(path), open_timeout=30, close_timeout=30, **options
    )
    return client


def close_code(server: Server, path: str) -> tuple[int, str]:
    """The close frame that the client gets; 1006 where the stream just ends."""
    with talk(server, path) as client:
        with pytest.raises(ConnectionClosed):
            client.recv(30)
        assert client.close_code is not None
        return client.close_code, client.close_reason or ""


def status(server: Server, path: str) -> int:
    with pytest.raises(InvalidStatus) as caught:
        talk(server, path).close()
    return caught.value.response.status_code


@pytest.mark.parametrize(
    ("servers", "native"),
    [
        (("starlette uvicorn",) * 2, "native: n_wrong_kind KeyError"),
        (("starlette hypercorn",) * 2, "native: wrong kind None"),
        (("falcon uvicorn",) * 2, "native: n_wrong_kind PayloadTypeError"),
        (("native gevent", "gevent"), "native: wrong kind bytearray"),
    ],
)
def test_a_binary_message_where_text_is_expected(
    start: Start, servers: tuple[str, str], native: str
) -> None:
    old, new = (start(name) for name in servers)
    with talk(old, "/native/n_wrong_kind") as client:
        client.send(b"binary")
        old.wait_for_log(native)
    with talk(new, "/wrong_kind") as client:
        client.send(b"binary")
        client.send("text")
        assert client.recv(30) == "1003 b'binary'"
        assert client.recv(30) == "text"


@pytest.mark.parametrize(
    ("servers", "native", "told"),
    [
        (("falcon uvicorn",) * 2, "native: closed 4005 False", "closed 4005 'why'"),
        (("native gevent", "gevent"), "native: received None then []", "closed 4005 'why'"),
        # hypercorn itself has neither: a declared capability that is lacking.
        (("starlette hypercorn",) * 2, "native: closed 1006", "closed 1006 ''"),
    ],
)
def test_code_and_reason_of_the_client(
    start: Start, servers: tuple[str, str], native: str, told: str
) -> None:
    old, new = (start(name) for name in servers)
    with talk(old, "/native/n_client_close") as client:
        client.close(4005, "why")
    old.wait_for_log(native)
    with talk(new, "/client_close") as client:
        client.close(4005, "why")
    new.wait_for_log(f"unisock: {told}")


def test_messages_still_queued_when_the_client_closes(start: Start) -> None:
    server = start("falcon uvicorn")
    for path in ("/native/n_queued", "/queued"):
        with talk(server, path) as client:
            for text in "abc":
                client.send(text)
    server.wait_for_log("native: received []")
    server.wait_for_log("unisock: received ['a', 'b', 'c']")


@pytest.mark.parametrize(
    ("servers", "native"),
    [
        (("starlette uvicorn",) * 2, "native: both got ['one', 'two']"),
        (("falcon uvicorn",) * 2, "native: n_two_receives AssertionError"),
        (("native gevent", "gevent"), "native: two receives RuntimeError reentrant call"),
    ],
)
def test_two_receives_at_once(start: Start, servers: tuple[str, str], native: str) -> None:
    old, new = (start(name) for name in servers)
    with talk(old, "/native/n_two_receives") as client:
        if "both" in native:
            client.send("one")
            client.send("two")
        old.wait_for_log(native)
    with talk(new, "/two_receives") as client:
        assert client.recv(30) == "go on"
        client.send("one")
        assert client.recv(30) == "first got one"
    new.wait_for_log("unisock: refused")


def test_sending_to_a_client_that_has_left(start: Start) -> None:
    server = start("starlette hypercorn")
    for path in ("/native/n_send_to_gone", "/send_to_gone"):
        with talk(server, path) as client:
            client.close()
    server.wait_for_log("native: 100 sends went well")
    server.wait_for_log("unisock: errors 100")


def test_closing_with_a_code_and_a_reason(start: Start) -> None:
    old, new = start("native gevent"), start("gevent")
    assert close_code(old, "/native/close_with_reason")[0] == 1006
    assert close_code(new, "/close_with_reason") == (4003, "bye")


def test_the_echo_of_a_close_with_a_reason(start: Start) -> None:
    old, new = start("native gevent"), start("gevent")
    echoes = []
    for server, path in ((old, "/native/client_close"), (new, "/client_close")):
        with server.raw(path) as client:
            assert b" 101 " in client.read_head()
            client.send_frame(8, (4005).to_bytes(2, "big") + b"why")
            opcode, payload = client.read_frame()
            assert opcode == 8
            echoes.append(payload)
    assert b"bytearray(" in echoes[0]
    assert echoes[1][:2] == (4005).to_bytes(2, "big")
    assert b"bytearray(" not in echoes[1]


def test_a_reason_that_is_too_long(start: Start) -> None:
    server = start("starlette uvicorn")
    assert close_code(server, "/native/n_long_reason")[0] == 1006
    assert close_code(server, "/long_reason") == (4003, "é" * 61)


def test_a_message_that_nobody_reads_while_the_handler_only_sends(start: Start) -> None:
    """The server pings five times a second and takes an answer for 0.2 seconds."""
    server = start("starlette uvicorn, short pings")
    ends = []
    for path in ("/native/n_only_sends", "/only_sends"):
        with server.raw(path) as client:
            client.read_head()
            client.send_frame(1, b"nobody reads this")
            pongs, opcode, payload = 0, -1, b""
            while pongs < 10 and opcode != 8:
                opcode, payload = client.read_frame()
                if opcode == 9:
                    client.send_frame(10, payload)
                    pongs += 1
            ends.append((opcode, payload[2:].decode(errors="replace"), pongs))
    native, ours = ends
    # Killed though every ping was answered; ours outlives ten of them.
    assert native[:2] == (8, "keepalive ping timeout")
    assert native[2] < 3
    assert ours[0] == 9
    assert ours[2] == 10


@pytest.mark.parametrize(
    ("servers", "native"),
    [
        (("starlette uvicorn",) * 2, {"returns": 1006, "raises": 1006}),
        (("starlette hypercorn",) * 2, {"returns": 1011}),
        (("falcon uvicorn",) * 2, {"returns": 1000, "raises": 1011}),
        (("native gevent", "gevent"), {"returns": 1005, "raises": 1005}),
    ],
)
def test_the_end_of_a_handler(
    start: Start, servers: tuple[str, str], native: dict[str, int]
) -> None:
    old, new = (start(name) for name in servers)
    for name, code in native.items():
        assert close_code(old, f"/native/n_{name}")[0] == code
    assert close_code(new, "/returns") == (1000, "")
    assert close_code(new, "/raises") == (1011, "")


@pytest.mark.parametrize(("name", "native"), [("starlette uvicorn", 500), ("falcon uvicorn", 403)])
def test_a_handler_that_never_accepts(start: Start, name: str, native: int) -> None:
    server = start(name)
    assert status(server, "/native/n_never_accepts") == native
    assert status(server, "/never_accepts") == 403


def test_two_tasks_that_send_to_a_slow_client(start: Start) -> None:
    old, new = start("native gevent"), start("gevent")
    with old.raw("/native/two_sends") as client:
        client.read_head()
        # It does not read before both have tried.
        old.wait_for_log("native: two sends ConcurrentObjectUseError")
    with new.raw("/two_sends") as client:
        client.read_head()
        for letter in (b"a", b"b"):
            opcode, payload = client.read_frame()
            assert (opcode, len(payload)) == (2, 8 * 1024 * 1024)
            assert payload.count(letter) == len(payload)
        assert client.read_frame() == (8, (1000).to_bytes(2, "big"))
    new.wait_for_log("unisock: sent both")
