"""The head of a request on gevent: it must come in time, and have an end."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import trustme

from tests.servers import Server, frame

SOURCE = """
import os, signal, sys
import flask, gevent, unisock
from gevent.pywsgi import WSGIServer
from unisock.adapters.flask import WebSocketHandler

app = flask.Flask(__name__)
app.get("/page", endpoint="page")(lambda: "the page")
app.post("/size", endpoint="size")(lambda: str(len(flask.request.get_data())))


async def echo(ws):
    await ws.accept()
    async for message in ws:
        await ws.send(message)


unisock.mount(app, "/ws", echo)
limits = {"head_timeout": 0.5, "max_head_size": 4000}

if os.environ["KIND"] == "gunicorn":
    from unisock.adapters.gunicorn import WebSocketWorker

    class Worker(WebSocketWorker):
        wsgi_handler = type("Handler", (WebSocketWorker.wsgi_handler,), limits)

    if __name__ == "__main__":
        folder, file = os.path.split(os.path.abspath(__file__))
        os.execv(sys.executable, [
            sys.executable, "-m", "gunicorn", "--worker-class", f"{file[:-3]}.Worker",
            "--bind", f"127.0.0.1:{os.environ['PORT']}", "--graceful-timeout=2",
            "--access-logfile=-", "--no-control-socket", "--chdir", folder, f"{file[:-3]}:app",
        ])
else:
    pem = os.environ["CERTIFICATE"]
    options = {"keyfile": pem, "certfile": pem} if os.environ["KIND"] == "tls" else {}
    options["handler_class"] = type("Handler", (WebSocketHandler,), limits)
    server = WSGIServer(("127.0.0.1", int(os.environ["PORT"])), app, **options)
    gevent.signal_handler(signal.SIGTERM, server.stop)
    server.serve_forever()
"""

MAX = 4000  # of `SOURCE`
HEAD = b"GET /page HTTP/1.1\r\nHost: localhost\r\n"
Connect = Callable[[], socket.socket]


@pytest.fixture(scope="module", params=["plain", "tls", "gunicorn"])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Connect]]:
    """A server, and what connects to it; in the end its log has no traceback."""
    path = tmp_path_factory.mktemp("heads")
    pem = str(path / "localhost.pem")
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with Server(path, SOURCE, KIND=request.param, CERTIFICATE=pem) as server, ExitStack() as stack:

        def open_socket() -> socket.socket:
            client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            if request.param == "tls":
                client = context.wrap_socket(client, server_hostname="localhost")
            return stack.enter_context(client)

        yield server, open_socket
        stack.close()
        log = server.stop()
    # In the log of TLS is one: the wait for the server to start is no TLS handshake.
    assert "pywsgi.py" not in log, log


@pytest.fixture
def server(running: tuple[Server, Connect]) -> Server:
    return running[0]


@pytest.fixture
def connect(running: tuple[Server, Connect]) -> Connect:
    return running[1]


def _answer(client: socket.socket) -> tuple[bytes, bytes]:
    """Status line and body of an answer."""
    file = client.makefile("rb", 0)  # what comes after it is left to others
    status, length = file.readline().rstrip(), 0
    while (line := file.readline()) not in (b"\r\n", b""):
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return status, file.read(length) or b""


PAGE = (b"HTTP/1.1 200 OK", b"the page")
NONE = (b"", b"")
LATE = (b"HTTP/1.1 408 Request Timeout", b"")
TOO_LARGE = (b"HTTP/1.1 431 Request Header Fields Too Large", b"")


@pytest.mark.parametrize(
    ("start", "answer"), [(HEAD + b"X: ", LATE), (b"GET /pa", NONE), (b"", NONE)]
)
def test_a_head_that_does_not_end_in_time(connect: Connect, start: bytes, answer: object) -> None:
    client = connect()
    client.sendall(start)
    assert _answer(client) == answer


@pytest.mark.parametrize("start", [b"GET /", HEAD + b"X: "])
def test_a_byte_now_and_then_does_not_help(connect: Connect, start: bytes) -> None:
    client = connect()
    client.sendall(start)
    with pytest.raises((ConnectionError, ssl.SSLError)):
        for _ in range(200):
            client.sendall(b"x")
            time.sleep(0.05)  # the pace of the client


def test_between_requests_there_is_no_limit_but_in_each(connect: Connect) -> None:
    client, late, silent = connect(), connect(), connect()
    for each in (client, late, silent):
        each.sendall(HEAD + b"\r\n")
        assert _answer(each) == PAGE
    late.sendall(HEAD)
    silent.sendall(b"GET")
    assert (_answer(late), _answer(silent)) == (LATE, NONE)
    client.sendall(HEAD + b"\r\n" + HEAD + b"\r\n")
    assert [_answer(client), _answer(client)] == [PAGE, PAGE]


def test_what_comes_after_the_head_takes_its_time(connect: Connect) -> None:
    page, ws = connect(), connect()
    page.sendall(b"POST /size HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\n")
    ws.sendall(
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert _answer(ws)[0] == b"HTTP/1.1 101 Switching Protocols"
    assert connect().recv(1) == b""  # that takes as long as a head may
    page.sendall(bytes(9000))
    assert _answer(page) == (b"HTTP/1.1 200 OK", b"9000")
    ws.sendall(frame(1, b"still"))
    assert ws.recv(7) == b"\x81\x05still"
    ws.sendall(frame(8, b""))
    assert ws.recv(2) == b"\x88\x00" and ws.recv(1) == b""


@pytest.mark.parametrize(("more", "answer"), [(0, PAGE), (1, TOO_LARGE)])
@pytest.mark.parametrize("count", [1, 50])
def test_larger_headers(connect: Connect, more: int, answer: object, count: int) -> None:
    client = connect()
    start = HEAD + b"X: y\r\n" * (count - 1) + b"X: "
    size = len(start.partition(b"\n")[2]) + len("\r\n\r\n")
    client.sendall(start + b"x" * (MAX - size + more) + b"\r\n\r\n")
    assert _answer(client) == answer


BAD = (b"HTTP/1.1 400 Bad Request", b"")
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


@pytest.mark.parametrize(
    "lines",
    [
        b"Origin : http://evil",
        b"Transfer-Encoding : chunked",
        b"X-Forwarded-For\t: 10.0.0.1",
        b"no colon",
        b": no name",
        b" folded",
        b"From x",
        b"From x: y",
        b"Na(me: x",
        b"N\xe9: x",
        b"X: a\rOrigin: http://evil",
        b"X: a\r",
        b"X: a\x00b",
        b"X: a\x1bb",
        b"X: a\r\n folded",
        b"X: a\r\n\tfolded",
        b"Content-Length: 0\r\nContent-Length: 5",
        b"Content-Length: 0\r\nContent-Length: 0",
        b"Content-Length: 0, 0",
        b"Content-Length: 0_0",
        b"Content-Length: +0",
        b"Content-Length: -0",
        b"Content-Length: \xb2",
        b"Content-Length:",
        b"Content-Length: 0\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: \x0bchunked",
    ],
)
@pytest.mark.parametrize("path", [b"/page", b"/ws"])
def test_malformed_headers_are_refused(connect: Connect, path: bytes, lines: bytes) -> None:
    """Else a header, and all behind it, is another one than a proxy has seen, or none."""
    clients = [connect() for _ in range(2)]
    for place, client in enumerate(clients):
        headers = [b"Host: localhost\r\n", UPGRADE if path == b"/ws" else b""]
        headers.insert(place, lines + b"\r\n")
        client.sendall(b"GET " + path + b" HTTP/1.1\r\n" + b"".join(headers) + b"\r\n")
    assert [_answer(client) for client in clients] == [BAD, BAD]


@pytest.mark.parametrize("hosts", [b"", b"Host: localhost\r\nHost: localhost\r\n"])
def test_a_handshake_has_one_host(connect: Connect, hosts: bytes) -> None:
    client = connect()
    client.sendall(b"GET /ws HTTP/1.1\r\n" + hosts + UPGRADE + b"\r\n")
    assert _answer(client)[0] == BAD[0]


def test_a_coding_is_of_http_1_1(connect: Connect) -> None:
    client = connect()
    head = b"POST /size HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"
    client.sendall(head + b"1\r\nx\r\n0\r\n\r\n")
    assert _answer(client) == BAD


@pytest.mark.parametrize("path", [b"/page", b"/ws"])
def test_headers_that_do_not_end_are_not_run(connect: Connect, server: Server, path: bytes) -> None:
    client = connect()
    client.sendall(b"GET " + path + b"?cut HTTP/1.1\r\nHost: localhost\r\n" + UPGRADE)
    client.shutdown(socket.SHUT_WR)
    if not isinstance(client, ssl.SSLSocket):
        assert _answer(client) == BAD
    client.close()
    server.wait_for_log("malformed header: b''")


def test_bodies_are_as_ever(connect: Connect) -> None:
    client = connect()
    for head, body, size in (
        (b"Transfer-Encoding: Chunked", b"3\r\nabc\r\n0\r\n\r\n", b"3"),
        (b"Content-Length: 00004 ", b"abcd", b"4"),
        (b"content-length:0", b"", b"0"),
    ):
        client.sendall(b"POST /size HTTP/1.1\nHost: localhost\n" + head + b"\n\n" + body)
        assert _answer(client) == (b"HTTP/1.1 200 OK", size)


@pytest.mark.parametrize("character", [b"\x85", b"\xa0", b"\x0b", b"\x1c", b"\x1b", b"\r", b"\xe9"])
@pytest.mark.parametrize(("path", "more"), [(b"/page", b""), (b"/ws", UPGRADE)])
def test_a_request_line_has_visible_ascii_alone(
    connect: Connect, path: bytes, more: bytes, character: bytes
) -> None:
    """Python takes more than a space for one: a rule of a proxy would see another path."""
    for line in (
        b"GET " + path + character + b" HTTP/1.1",
        b"GET" + character + path + b" HTTP/1.1",
        b"GET " + path + character + b"HTTP/1.1",
        b"GET " + path + b" HTTP/1.1" + character + b"x",
    ):
        client = connect()
        client.sendall(line + b"\r\nHost: localhost\r\n" + more + b"\r\n")
        assert _answer(client)[0] == BAD[0], line


def test_a_request_line_that_does_not_end_is_not_run(connect: Connect, server: Server) -> None:
    client = connect()
    client.sendall(b"GET /page?cut-off")
    client.close()
    server.wait_for_log("malformed request line: 'GET /page?cut-off'")


@pytest.mark.parametrize("length", [1, 9000])  # a longer one is refused before it is read
def test_the_access_log_escapes_what_is_not_printable(
    connect: Connect, server: Server, length: int
) -> None:
    client = connect()
    client.sendall(b"GET /\x1b[2J\rforged" + b"x" * length + b" HTTP/1.1\r\n\r\n")
    assert _answer(client)[0].split()[1] == (b"400" if length == 1 else b"414")
    log = server.wait_for_log(f'"GET /\\x1b[2J\\rforged{"x" * min(length, 8000)}')
    assert "\x1b" not in log
