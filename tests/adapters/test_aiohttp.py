"""A handler on aiohttp: what the conformance suite does not ask of every framework."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import trustme
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect, unix_connect

import unisock
from tests.adapters.client import Rejection, rejection, say, talk
from tests.servers import RawClient, Server, frame
from unisock import WebSocket
from unisock.adapters.aiohttp import view

SOURCE = r"""
import asyncio, logging, os, ssl
from aiohttp import web
from unisock import Deflate, mount
from unisock.adapters.aiohttp import view

logging.basicConfig(level=logging.WARNING)
go, stopped = asyncio.Event(), asyncio.Event()

@web.middleware
async def middleware(request, handler):
    if "proxied" in request.query:
        request = request.clone(remote="203.0.113.7", scheme="https")
    request["tag"] = "left"
    if "until-left" in request.query:
        print("held until the client leaves")
        while request.transport is not None:
            await asyncio.sleep(0.01)
        print("the client has left")
    if "until-stopped" in request.query:
        print("held until the server stops")
        await stopped.wait()
    try:
        async with asyncio.timeout(0.2 if "timed" in request.query else None):
            return await handler(request)
    except LookupError as exc:
        print("middleware saw", type(exc).__name__)
        return web.Response(status=418, text="the middleware's answer")

async def add_header(request, response):
    response.headers["X-Prepared"] = str(response.status)

app = web.Application(middlewares=[middleware])
app.on_response_prepare.append(add_header)
async def echo(ws):
    await ws.accept()
    async for message in ws:
        await ws.send(message)
async def tell(ws):
    await ws.accept()
    await ws.receive()
    params = {k: f"{type(v).__name__} {v}" for k, v in ws.path_params.items()}
    about = {"tag": ws.state.tag, "scheme": ws.url.scheme, "client": ws.client}
    await ws.send_json({"params": params, **about})
async def waits(ws):
    print("waiting")
    print("waiting ended", await ws.wait_closed())
    stopped.set()
async def never_receives(ws):
    await ws.accept()
    print("sleeping ended", await ws.wait_closed())
async def accepts_when_told(ws):
    print("not yet accepted")
    await go.wait()
    await echo(ws)
async def reads_when_told(ws):
    await ws.accept()
    await go.wait()
    async for message in ws:
        await ws.send_text(str(len(message)))
async def closes_and_ends(ws):
    await ws.accept()
    await go.wait()
    await ws.close(4001)
async def closes_and_goes_on(ws):
    await closes_and_ends(ws)
    go.clear()
    await go.wait()
async def rejects(ws): await ws.reject(429)
async def fails(ws): raise KeyError
async def accepts_and_fails(ws):
    await ws.accept()
    await fails(ws)
async def rejects_and_fails(ws):
    await rejects(ws)
    await fails(ws)
async def gone(ws): raise web.HTTPGone
async def sends_large(ws):
    # Each of its own letter, so that what is interleaved is seen.
    await ws.accept()
    async def send_all(letter):
        for size in (100, 50_000, 10, 300_000, 17_000):
            await ws.send(letter * size)
    async with asyncio.TaskGroup() as group:
        for letter in "abcd":
            group.create_task(send_all(letter))
    late = asyncio.create_task(ws.send("e" * 3_000_000))
    await asyncio.sleep(0)
    await ws.close(4000, "all sent")
    await asyncio.gather(late, return_exceptions=True)
async def cancels_one(ws):
    await ws.accept()
    tasks = [asyncio.create_task(ws.send_bytes(bytes(16000))) for _ in range(2000)]
    for _ in range(5):  # until each is sent or waits for the peer
        await asyncio.sleep(0)
    waiting = [task for task in tasks if not task.done()]
    waiting.pop().cancel()
    print("one is cancelled")
    await asyncio.gather(*waiting)
    await ws.send("all sent")
async def fills(ws):
    await ws.accept()
    sent = 0
    try:
        while True:
            await ws.send(bytes(100_000))
            sent += 1
            print("sent", sent)
    finally:
        print("sending ended", ws.close_code)
async def tell_to_go(request):
    go.set()
    return web.Response(text=str(app.router["the-room"].url_for(room="x")))
mount(app, "/ws", echo)
mount(app, "/rooms/{room}", tell, name="the-room")
mount(app, "/gr\u00fc\u00dfe/{n:int}/{rest:path}", tell)
plain = [accepts_and_fails, accepts_when_told, cancels_one, fails, gone, rejects,
         rejects_and_fails, sends_large]
for each in (*plain, waits):
    mount(app, f"/{each.__name__}", each)
mount(app, "/goes-on", closes_and_goes_on, max_queue=1)
mount(app, "/ends", closes_and_ends, max_queue=1, close_timeout=3600)
mount(app, "/small", echo, max_message_size=1000, close_timeout=1)
mount(app, "/plain", sends_large, compression=None)
mount(app, "/pinged", never_receives, ping_interval=0.1, ping_timeout=0.3, close_timeout=1)
mount(app, "/pinged-often", never_receives, ping_interval=0.1, ping_timeout=600)
mount(app, "/pinged-for-ever", never_receives, ping_interval=0.1, ping_timeout=None)
mount(app, "/pinged-late", reads_when_told, ping_interval=0.1, ping_timeout=0.1, max_queue=1)
mount(app, "/patient", echo, close_timeout=3600)
mount(app, "/fills", fills, close_timeout=3600)
mount(app, "/small-window", echo, compression=Deflate(server_max_window_bits=9))
async def page(request): return web.Response(text="the page")
app.router.add_get("/page-first", page)
mount(app, "/page-first", echo)
mount(app, "/page-last", echo)
app.router.add_get("/page-last", page)
app.router.add_get("/rooms/lobby", page)
mount(app, "/rooms/echo", echo)
mount(app, "/form", echo)
app.router.add_post("/form", page)
table = web.RouteTableDef()
mount(table, "/table/{room}", echo)
table.get("/table/{room}")(page)
app.add_routes(table)
below = web.Application()
mount(below, "/both", echo)
below.router.add_get("/both", page)
below.router.add_get("/page", page)
below.router.add_get("/long/page", page)
mount(app, "/sub/page", echo)
mount(app, "/sub/{rest:path}", tell)
app.add_subapp("/sub", below)
async def own(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_str("aiohttp's own")
    return socket
app.router.add_get("/old/long", own)
mount(app, "/old/{rest:path}", tell)
app.router.add_get("/old/last/{n}", own)
app.add_routes([
    web.get("/rooms/by-hand", view(echo)),
    web.get("/by-hand", view(never_receives, ping_interval=None)),
    web.post("/posted", view(echo)),
    web.get("/go", tell_to_go),
])
serve = {"host": "127.0.0.1", "port": int(os.environ["PORT"]), "path": os.environ.get("UNIX")}
if "CERTIFICATE" in os.environ:
    serve["ssl_context"] = context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(os.environ["CERTIFICATE"])
grace = float(os.environ.get("GRACE", "30"))
web.run_app(app, **serve, shutdown_timeout=grace, print=None)
"""

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
NO_MASK = b"\x81\x01x"
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def handler(ws: WebSocket) -> None:
    await ws.accept()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    unix, warn = str(folder / "socket"), "default::UserWarning"
    with Server(folder, SOURCE, UNIX=unix, PYTHONWARNINGS=warn) as running:
        yield running


@pytest.fixture
def spare_server(tmp_path: Path) -> Iterator[Server]:
    """A server for a test that reads its log, stops it or tells its handlers to go on."""
    with Server(tmp_path, SOURCE) as running:
        yield running


def read_close(client: RawClient) -> tuple[int, str]:
    """The next close frame; what comes before it is dropped."""
    while (got := client.read_frame())[0] not in (CLOSE, -1):
        continue
    assert got[0] == CLOSE, "the connection was cut"
    return int.from_bytes(got[1][:2], "big"), got[1][2:].decode()


def until_closed(client: ClientConnection) -> Iterator[str]:
    with suppress(ConnectionClosed):
        while True:
            yield str(client.recv(30))


def write_what_is_taken(client: RawClient, data: bytes) -> bytes:
    """Write until the server takes no more for a while; return the rest."""
    client.socket.settimeout(0.5)
    with suppress(TimeoutError):
        while data:
            data = data[client.socket.send(data[:65536]) :]
    client.socket.settimeout(30)
    assert data, "all of it was read"
    return data


def exchange(server: Server, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(request)
        with client.makefile("rb") as file:
            return b"".join(iter(file.readline, b"\r\n"))


class TestRoutes:
    def test_a_literal_that_is_not_ascii_beside_a_parameter(self, server: Server) -> None:
        told = json.loads(say(server, "/gr%C3%BC%C3%9Fe/7/a/b"))
        assert told["params"] == {"n": "int 7", "rest": "str a/b"}

    def test_a_slash_that_is_encoded_is_in_no_segment(self, server: Server) -> None:
        assert rejection(server, "/rooms/a%2Fb").status == 404

    def test_a_name_for_url_for(self, server: Server) -> None:
        assert server.get("/go") == (200, "/rooms/x")

    @pytest.mark.parametrize("path", ["/page-first", "/page-last", "/table/a%20b", "/sub/both"])
    def test_a_page_at_the_same_path(self, server: Server, path: str) -> None:
        assert server.get(path) == (200, "the page")
        assert say(server, path) == "hello"

    def test_a_page_whose_path_is_the_longer_one(self, server: Server) -> None:
        """aiohttp's own rule."""
        assert server.get("/rooms/lobby") == (200, "the page")
        assert rejection(server, "/rooms/lobby") == Rejection(
            200, "text/plain; charset=utf-8", "the page"
        )

    @pytest.mark.parametrize("path", ["/old/long", "/old/last/7"])
    def test_aiohttps_own_socket_whose_path_is_the_longer_one(
        self, server: Server, path: str
    ) -> None:
        with talk(server, path) as client:
            assert client.recv(30) == "aiohttp's own"
        assert json.loads(say(server, "/old/other"))["params"] == {"rest": "str other"}

    def test_a_socket_beside_a_sub_application(self, server: Server) -> None:
        """Where a page of that has the path, the longer path counts too."""
        assert server.get("/sub/page") == (200, "the page")
        assert say(server, "/sub/page") == "hello"
        assert rejection(server, "/sub/long/page").status == 200
        assert json.loads(say(server, "/sub/other"))["params"] == {"rest": "str other"}

    @pytest.mark.parametrize("path", ["/rooms/echo", "/rooms/by-hand"])
    def test_of_two_sockets_the_longer_path_counts(self, server: Server, path: str) -> None:
        assert json.loads(say(server, "/rooms/x"))["params"] == {"room": "str x"}
        assert say(server, path) == "hello"

    @pytest.mark.parametrize("path", ["/ws", "/rooms/{room}", "/{n:int}/{rest:path}"])
    def test_two_at_one_path(self, path: str) -> None:
        app = web.Application()
        unisock.mount(app, path, handler)
        with pytest.raises(ValueError, match="has a handler already"):
            unisock.mount(app, path, handler)
        assert len(app.router.resources()) == 1

    @pytest.mark.parametrize(
        ("method", "path", "status", "allowed"),
        [
            ("GET", "/ws", 426, None),
            ("POST", "/ws", 405, "GET"),
            ("HEAD", "/ws", 405, "GET"),
            ("GET", "/form", 426, None),
            ("POST", "/form", 200, None),
            ("PUT", "/form", 405, "GET,POST"),
            ("GET", "/nowhere", 404, None),
        ],
    )
    def test_what_is_no_handshake_and_has_no_page(
        self, server: Server, method: str, path: str, status: int, allowed: str | None
    ) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request(method, path)
        response = connection.getresponse()
        assert (response.status, response.headers["Allow"]) == (status, allowed)
        connection.close()

    def test_what_is_wrong_is_told_at_once(self) -> None:
        with pytest.raises(ValueError, match="ping_interval= is above 0"):
            view(lambda ws: None, ping_interval=0)
        with pytest.raises(ValueError, match="ping_timeout= is above 0"):
            view(lambda ws: None, ping_timeout=-1)
        with pytest.raises(TypeError, match="RouteTableDef"):
            unisock.mount(web.Response(), "/ws", lambda ws: None)


class TestHandshake:
    def test_the_state_is_read_without_a_warning(self, server: Server) -> None:
        assert json.loads(say(server, "/rooms/x"))["tag"] == "left"
        # aiohttp warns of keys that are no RequestKey, of the middleware's one here.
        assert "handshake.py" not in server.wait_for_log("NotAppKeyWarning")

    def test_behind_a_proxy_the_middleware_knows(self, server: Server) -> None:
        told = json.loads(say(server, "/rooms/x?proxied"))
        assert told["client"] == ["203.0.113.7", 0]
        assert told["scheme"] == "wss"

    def test_a_unix_socket_has_no_client_address(self, server: Server) -> None:
        with unix_connect(
            str(server.log_path.parent / "socket"), uri="ws://localhost/rooms/x", open_timeout=30
        ) as client:
            client.send("?")
            assert json.loads(client.recv(30))["client"] is None

    @pytest.mark.parametrize(
        ("change", "status"),
        [
            ((b"Key: dGhl", b"Key: dGh!"), b"400"),
            ((b"Version: 13", b"Version: 13\r\nSec-WebSocket-Version: 12"), b"426"),
            ((b"Connection: Upgrade", b"Connection: keep-alive"), b"400"),
            ((b"Upgrade: websocket", b"Upgrade: h2c"), b"426"),
            ((b"HTTP/1.1", b"HTTP/1.0"), b"400"),
            ((b"GET /ws", b"POST /posted"), b"405"),
            ((b"Host: x", b"Host: x\r\nContent-Length: 8"), b"400"),
            ((b"Host: x", b"Host: x\r\nTransfer-Encoding: chunked"), b"400"),
        ],
    )
    def test_what_is_no_handshake(
        self, server: Server, change: tuple[bytes, bytes], status: bytes
    ) -> None:
        assert exchange(server, HANDSHAKE).startswith(b"HTTP/1.1 101")
        answer = exchange(server, HANDSHAKE.replace(*change))
        assert answer.split(b" ")[1] == status, answer
        assert b"X-Prepared: %s\r\n" % status in answer
        if status == b"426":
            assert b"sec-websocket-version: 13\r\n" in answer

    def test_a_body_of_no_bytes(self, server: Server) -> None:
        request = HANDSHAKE.replace(b"Host: x", b"Host: x\r\nContent-Length: 0")
        assert exchange(server, request).startswith(b"HTTP/1.1 101")

    @pytest.mark.parametrize("path", ["/rejects", "/gone"])
    def test_bytes_after_a_refused_upgrade_are_no_request(self, server: Server, path: str) -> None:
        with server.raw(path) as client:
            client.write(b"GET /go HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 101 " not in client.read_head()
            rest = b""
            with suppress(ConnectionError):  # cut, with bytes that nobody has read
                while data := client.file.read1():
                    rest += data
            assert b"/rooms/x" not in rest

    def test_what_comes_before_accept_waits_for_it(self, spare_server: Server) -> None:
        messages = [b"%d" % number * 100_000 for number in range(200)]
        with spare_server.raw("/accepts_when_told") as client:
            spare_server.wait_for_log("not yet accepted")
            data = b"".join(frame(BINARY, message) for message in messages)
            rest = write_what_is_taken(client, frame(PING, b"early") + data)
            assert spare_server.get("/go")[0] == 200
            assert b" 101 " in client.read_head()
            writing = Thread(target=client.write, args=[rest])
            writing.start()
            assert client.read_frame() == (PONG, b"early")
            for message in messages:
                assert client.read_frame() == (BINARY, message)
            writing.join()

    def test_a_client_that_has_left_already(self, spare_server: Server) -> None:
        with spare_server.raw("/ws?until-left") as client:
            spare_server.wait_for_log("held until the client leaves")
            client.reset()
        spare_server.wait_for_log("the client has left")
        assert say(spare_server) == "hello"
        assert "Traceback" not in spare_server.stop()


class TestConnections:
    def test_middleware_answers_before_accept(self, server: Server) -> None:
        answer = Rejection(418, "text/plain; charset=utf-8", "the middleware's answer")
        assert rejection(server, "/fails") == answer

    @pytest.mark.parametrize("path", ["/rejects_and_fails", "/accepts_and_fails"])
    def test_what_middleware_answers_later_is_not_written(
        self, spare_server: Server, path: str
    ) -> None:
        with spare_server.raw(path) as client:
            if b" 429 " not in client.read_head():
                assert client.read_frame() == (CLOSE, struct.pack("!H", 1011))
                client.send_frame(CLOSE, struct.pack("!H", 1011))
            assert client.file.read() == b""
        assert "Traceback" not in spare_server.wait_for_log("middleware saw KeyError")

    def test_a_handler_that_middleware_cancels(self, server: Server) -> None:
        with server.raw("/by-hand?timed") as client:
            client.read_head()
            assert read_close(client) == (1012, "")
            client.send_frame(CLOSE, struct.pack("!H", 1012))
            assert client.read_frame() == (-1, b"")

    def test_a_peer_whose_frame_was_bad_gets_the_end(self, server: Server) -> None:
        with server.raw("/patient") as client:
            client.read_head()
            client.write(NO_MASK)
            assert read_close(client) == (1002, "a client masks its frames")
            client.send_frame(CLOSE, struct.pack("!H", 1002))
            assert client.read_frame() == (-1, b"")  # though its close timeout is an hour

    @pytest.mark.parametrize("path", ["/goes-on", "/ends"])
    @pytest.mark.parametrize("then", ["answers", "has closed", "breaks the protocol"])
    def test_a_close_with_much_unread(self, spare_server: Server, path: str, then: str) -> None:
        """The end comes long before the close timeout, whether the handler runs on or not."""
        last = NO_MASK if then == "breaks the protocol" else frame(CLOSE, struct.pack("!H", 4001))
        unread = frame(TEXT, b"") * 3 + frame(PING, b"")
        with spare_server.raw(path) as client:
            client.read_head()
            if then == "has closed":
                rest = b""
                client.write(unread + last)
            else:
                rest = write_what_is_taken(client, frame(BINARY, bytes(100_000)) * 300) + last
            spare_server.get("/go")
            assert read_close(client) == (4001, "")
            client.socket.settimeout(5)
            client.write(rest)
            while (got := client.read_frame()[0]) == PONG:
                continue
            assert got == -1
            spare_server.get("/go")
        assert "Traceback" not in spare_server.stop()

    def test_a_cancelled_send_cancels_no_other(self, server: Server) -> None:
        with server.raw("/cancels_one") as client:
            client.read_head()
            server.wait_for_log("one is cancelled")
            while (got := client.read_frame()) != (TEXT, b"all sent"):
                assert got == (BINARY, bytes(16000))

    def test_large_messages_keep_their_order(self, server: Server) -> None:
        with talk(server, "/sends_large", max_size=None) as client:
            assert client.response is not None
            assert "Sec-WebSocket-Extensions" in client.response.headers
            got = list(until_closed(client))
        for letter in "abcd":
            sizes = [len(message) for message in got if message[0] == letter]
            assert sizes == [100, 50_000, 10, 300_000, 17_000]
        assert all(set(message) == {message[0]} for message in got)
        assert got[20:] == ["e" * 3_000_000]
        assert client.close_code == 4000

    def test_the_close_frame_is_the_last(self, server: Server) -> None:
        with server.raw("/plain") as client:
            client.read_head()
            opcodes: list[int] = []
            while (opcode := client.read_frame()[0]) != -1:
                opcodes.append(opcode)
                if opcode == CLOSE:
                    client.socket.shutdown(socket.SHUT_WR)
        # The last message is sent whole, or not at all where it had to wait.
        assert opcodes[20:] in ([TEXT, CLOSE], [CLOSE])
        assert opcodes[:20] == [TEXT] * 20


class TestKeepalive:
    def test_a_peer_that_is_heard_of_stays(self, server: Server) -> None:
        with server.raw("/pinged") as client:
            client.read_head()
            for number in range(6):
                assert client.read_frame() == (PING, b"")
                client.send_frame(PONG if number % 2 else TEXT, b"")

    def test_a_peer_that_answers_is_pinged_again_after_the_interval(self, server: Server) -> None:
        """And not after the timeout as well: a proxy cuts what is silent for too long."""
        with server.raw("/pinged-often") as client:
            client.read_head()
            for _ in range(6):
                assert client.read_frame() == (PING, b"")
                client.send_frame(PONG, b"")

    def test_a_peer_of_which_nothing_is_heard_is_gone(self, spare_server: Server) -> None:
        with spare_server.raw("/pinged") as client:
            client.read_head()
            assert client.read_frame()[0] == PING
            assert read_close(client) == (1011, "keepalive ping timeout")
            assert client.read_frame() == (-1, b"")  # nor is the close answered
        spare_server.wait_for_log("sleeping ended 1006")

    def test_without_a_timeout_pings_go_on_unanswered(self, server: Server) -> None:
        with server.raw("/pinged-for-ever") as client:
            client.read_head()
            assert [client.read_frame()[0] for _ in range(6)] == [PING] * 6

    def test_a_sign_of_life_behind_unread_messages_is_no_timeout(
        self, spare_server: Server
    ) -> None:
        with spare_server.raw("/pinged-late") as client:
            client.read_head()
            # The inbox takes one: reading pauses, so an answer would not be read.
            for _ in range(3):
                client.send_frame(BINARY, bytes(200_000))
            assert [client.read_frame()[0] for _ in range(6)] == [PING] * 6
            spare_server.get("/go")
            for _ in range(3):
                while (got := client.read_frame()) == (PING, b""):
                    client.send_frame(PONG, b"")
                assert got == (TEXT, b"200000")


class TestShutdown:
    def test_every_connection_is_closed(self, spare_server: Server) -> None:
        with (
            spare_server.raw("/by-hand") as client,
            spare_server.raw("/waits") as waiting,
            spare_server.raw("/ws?until-stopped") as held,
        ):
            client.read_head()
            spare_server.wait_for_log("waiting")
            spare_server.wait_for_log("held until the server stops")
            spare_server.process.send_signal(signal.SIGTERM)
            assert read_close(client) == (1012, "")
            assert b" 503 " in waiting.read_head()
            assert b" 503 " in held.read_head()
            client.close()
        assert spare_server.process.wait(20) == 0  # long before aiohttp would cut them
        ends = {"sleeping ended 1012", "waiting ended 1012"}
        assert ends <= {*(log := spare_server.log()).splitlines()}
        assert "Traceback" not in log

    @pytest.mark.parametrize("path", ["/patient", "/ends"])
    def test_a_client_that_waits_for_the_end_gets_it(self, spare_server: Server, path: str) -> None:
        """Though its close timeout is an hour, and aiohttp reads no answer any more."""
        with spare_server.raw(path) as client:
            client.read_head()
            if path == "/ends":
                spare_server.get("/go")
                assert read_close(client) == (4001, "")
            spare_server.process.send_signal(signal.SIGTERM)
            if path == "/patient":
                assert read_close(client) == (1012, "")
            assert client.read_frame() == (-1, b"")
        assert spare_server.process.wait(20) == 0

    def test_a_peer_that_does_not_read(self, tmp_path: Path) -> None:
        """It is cut after half of the time, though its close timeout is an hour."""
        with Server(tmp_path, SOURCE, GRACE="8") as server, server.raw("/fills"):
            server.wait_for_log("sent 1\n")
            sent = ""
            while sent != (sent := server.log()):  # until a send waits
                time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            server.wait_for_log("sending ended 1012")
            # aiohttp itself would wait for 8 seconds, and again.
            assert server.process.wait(12) == 0
            assert "Traceback" not in server.log()


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"ping_interval": 0}, ValueError),
            ({"ping_timeout": "20"}, TypeError),
            ({"compression": "gzip"}, ValueError),
            ({"compression": True}, TypeError),
            ({"compress": True}, TypeError),
        ],
    )
    def test_a_wrong_one_is_an_error_at_mount(
        self, options: dict[str, Any], error: type[Exception]
    ) -> None:
        with pytest.raises(error, match=next(iter(options))):
            view(handler, **options)
        with pytest.raises(error, match=next(iter(options))):
            unisock.mount(web.Application(), "/ws", handler, **options)

    @pytest.mark.parametrize(
        ("path", "extensions"),
        [
            ("/ws", ["permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"]),
            (
                "/small-window",
                ["permessage-deflate; server_max_window_bits=9; client_max_window_bits=12"],
            ),
            ("/plain", []),
        ],
    )
    def test_compression(self, server: Server, path: str, extensions: list[str]) -> None:
        with talk(server, path, max_size=None) as client:
            assert client.response is not None
            assert client.response.headers.get_all("Sec-WebSocket-Extensions") == extensions
            if path != "/plain":
                client.send("hello " * 1000)
                assert client.recv(30) == "hello " * 1000


def test_a_handler_sees_the_disconnect_where_aiohttp_would_cancel_it() -> None:
    ended: list[int | None] = []

    async def echo(ws: WebSocket) -> None:
        await ws.accept()
        async for message in ws:
            await ws.send(message)
        for _ in range(10):  # a cancellation would have come by then
            await asyncio.sleep(0)
        ended.append(ws.close_code)

    async def run() -> None:
        app = web.Application()
        app.router.add_get("/ws", view(echo))
        async with TestClient(TestServer(app)) as client:  # it sets `handler_cancellation`
            _, writer = await asyncio.open_connection("127.0.0.1", client.port)
            writer.write(HANDSHAKE)
            ws = await client.ws_connect("/ws")
            writer.transport.abort()
            async with asyncio.timeout(20):
                while not ended:
                    await ws.send_str("time passes")
                    await ws.receive_str()

    asyncio.run(run())
    assert ended == [1006, 1000]


def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "localhost.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with Server(tmp_path, SOURCE, CERTIFICATE=str(tmp_path / "localhost.pem")) as server:

        def connect_to(path: str) -> ClientConnection:
            url = f"wss://localhost:{server.port}{path}"
            return connect(url, ssl=context, max_size=None, open_timeout=30)

        with connect_to("/sends_large") as client:
            assert len(list(until_closed(client))) == 21
            assert client.close_code == 4000
        with connect_to("/small") as client:
            client.send(bytes(5000))
            list(until_closed(client))
            assert client.close_code == 1009
        assert server.stop() == ""
