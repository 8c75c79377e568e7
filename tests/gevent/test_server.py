"""`unisock.adapters.flask.WSGIServer`, run as its users do: in one line, until a signal comes."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect, unix_connect

TIMEOUT = 30
SIGNALS = [signal.SIGTERM, signal.SIGINT]

APP = """
import asyncio
import os
import signal
import socket
import threading
import flask
import gevent
import unisock
from unisock.adapters.flask import WSGIServer

async def function(ws):
    await ws.accept()
    await ws.send("ready")
    try:
        await ws.receive()
    finally:
        await asyncio.sleep(0.2)
        print("finally", flush=True)

async def sleeps(ws):
    await ws.accept()
    await ws.send("ready")
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.2)
        print("finally", flush=True)

class endpoint(unisock.WebSocketEndpoint):
    async def on_connect(self, ws):
        await ws.accept()
        await ws.send("ready")

    async def on_disconnect(self, ws, close_code):
        await asyncio.sleep(0.2)
        print("finally", flush=True)

def plain(ws):
    ws.accept()
    ws.send("ready")
    try:
        ws.receive()
    finally:
        gevent.sleep(0.2)
        print("finally", flush=True)

async def stubborn(ws):
    await ws.accept()
    await ws.send("ready")
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

app = flask.Flask("served")
for handler in (function, sleeps, endpoint, plain, stubborn):
    unisock.mount(app, f"/{handler.__name__}", handler)
"""
FORMS = ["function", "sleeps", "endpoint", "plain"]
PATCH = "from gevent import monkey\nmonkey.patch_all()\n"
SERVE = 'WSGIServer(("127.0.0.1", 0), app).serve_forever()'


class Program:
    """A program that serves; it tells where in the first line of its stderr."""

    def __init__(self, source: str, cwd: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", source],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.told = self.process.stderr.readline().rstrip("\n")

    @property
    def url(self) -> str:
        """What it has told, for a WebSocket."""
        return self.told.split()[2].replace("http", "ws", 1).rstrip("/,")

    def ready(self, stack: ExitStack, form: str) -> ClientConnection:
        """A connection whose handler waits."""
        client = stack.enter_context(connect(f"{self.url}/{form}", proxy=None))
        assert client.recv(timeout=TIMEOUT) == "ready"
        return client

    def end(self) -> tuple[int, str, str]:
        """Its exit status, stdout, and what has come on stderr but the access log."""
        output, errors = self.process.communicate(timeout=TIMEOUT)
        lines = [line for line in errors.splitlines() if '"GET /' not in line]
        return self.process.returncode, output, "\n".join(lines)


Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a program with the application."""
    with ExitStack() as stack:

        def start(serve: str = SERVE, first: str = "") -> Program:
            program = Program(first + APP + textwrap.dedent(serve), tmp_path)
            stack.enter_context(program.process)
            stack.callback(program.process.kill)
            return program

        yield start


def close_code(client: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(timeout=TIMEOUT)
    assert closed.value.rcvd is not None, "it ended without a close frame"
    return closed.value.rcvd.code


@pytest.mark.parametrize("first", ["", PATCH], ids=["unpatched", "patched"])
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal(start: Start, first: str, number: signal.Signals) -> None:
    program = start(first=first)
    with ExitStack() as stack:
        clients = [program.ready(stack, form) for form in FORMS]
        program.process.send_signal(number)
        assert [close_code(client) for client in clients] == [1012] * len(FORMS)
    assert program.end() == (0, "finally\n" * len(FORMS), "")


def test_a_second_signal_strikes_no_cleanup(start: Start) -> None:
    program = start()
    with ExitStack() as stack:
        client = program.ready(stack, "function")
        program.process.send_signal(signal.SIGINT)
        assert close_code(client) == 1012
        program.process.send_signal(signal.SIGINT)
    assert program.end() == (0, "finally\n", "")


def test_the_time_that_handlers_have(start: Start) -> None:
    """A handler that swallows its end holds the process no longer."""
    program = start("""
        server = WSGIServer(("127.0.0.1", 0), app)
        server.serve_forever(stop_timeout=0.5)
        print(server.stop_timeout)
    """)
    with ExitStack() as stack:
        client = program.ready(stack, "stubborn")
        program.process.send_signal(signal.SIGTERM)
        assert close_code(client) == 1012
        assert program.end() == (0, "0.5\n", "")


def test_beside_a_signal_handler_of_the_program_s_own(start: Start) -> None:
    program = start(
        """
        server = WSGIServer(("127.0.0.1", 0), app)
        gevent.signal_handler(signal.SIGTERM, print, "of the program", flush=True)
        gevent.signal_handler(signal.SIGTERM, server.stop)
        server.serve_forever()
        """
    )
    with ExitStack() as stack:
        client = program.ready(stack, "function")
        program.process.send_signal(signal.SIGTERM)
        assert close_code(client) == 1012
    assert program.end() == (0, "of the program\nfinally\n", "")


def test_signals_are_as_they_were_afterwards(start: Start) -> None:
    program = start("""
        def handle(number, frame):
            print("handled", flush=True)

        signal.signal(signal.SIGTERM, handle)
        WSGIServer(("127.0.0.1", 0), app).serve_forever()
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """)
    program.process.send_signal(signal.SIGTERM)
    assert program.end() == (0, "handled\ninterrupted\n", "")


def test_two_of_which_one_ends_before(start: Start) -> None:
    """A signal stops the other one as before."""
    program = start("""
        first = WSGIServer(("127.0.0.1", 0), app, log=None)
        other = WSGIServer(("127.0.0.1", 0), app)
        first.start()
        serving = gevent.spawn(first.serve_forever)
        gevent.spawn(first.stop)
        serving.join()
        other.serve_forever()
    """)
    with ExitStack() as stack:
        client = program.ready(stack, "function")
        program.process.send_signal(signal.SIGTERM)
        assert close_code(client) == 1012
    assert program.end() == (0, "finally\n", "")


@pytest.mark.parametrize("first", ["", PATCH], ids=["unpatched", "patched"])
def test_two_at_once(start: Start, first: str) -> None:
    program = start(
        """
        first = WSGIServer(("127.0.0.1", 0), app, log=None)
        other = WSGIServer(("127.0.0.1", 0), app)
        serving = [gevent.spawn(each.serve_forever) for each in (first, other)]
        gevent.joinall(serving[:1])
        print("the first has ended", flush=True)
        gevent.joinall(serving)
        """,
        first,
    )
    with ExitStack() as stack:
        client = program.ready(stack, "function")
        program.process.send_signal(signal.SIGTERM)
        assert close_code(client) == 1012
        # It has nothing to wait for; the other's handler must not be struck by this one.
        assert program.process.stdout is not None
        assert program.process.stdout.readline() == "the first has ended\n"
        program.process.send_signal(signal.SIGTERM)
    assert program.end() == (0, "finally\n", "")


def test_outside_the_main_thread(start: Start) -> None:
    """No signal comes there: the program stops it."""
    program = start(
        """
        def serve():
            global server, stop
            server = WSGIServer(("127.0.0.1", 0), app)
            stop = gevent.get_hub().loop.async_()
            stop.start(server.close)
            server.serve_forever()
            print("returned", flush=True)

        thread = threading.Thread(target=serve)
        thread.start()
        input()
        stop.send()
        thread.join()
    """.replace("input()", "signal.sigwait([signal.SIGUSR1])"),
        ("import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n"),
    )
    with ExitStack() as stack:
        client = program.ready(stack, "function")
        program.process.send_signal(signal.SIGUSR1)
        assert close_code(client) == 1012
    assert program.end() == (0, "finally\nreturned\n", "")


@pytest.mark.parametrize("first", ["", PATCH], ids=["unpatched", "patched"])
def test_tls(start: Start, tmp_path: Path, first: str) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    program = start(
        'WSGIServer(("127.0.0.1", 0), app, keyfile="server.pem", certfile="server.pem")'
        ".serve_forever()",
        first,
    )
    assert program.told.startswith("serving on https://127.0.0.1:")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with connect(f"{program.url}/function", ssl=context, proxy=None) as client:
        assert client.recv(timeout=TIMEOUT) == "ready"
        program.process.send_signal(signal.SIGTERM)
        assert close_code(client) == 1012
    assert program.end() == (0, "finally\n", "")


LISTENERS = {
    "a socket": ("socket.create_server(('127.0.0.1', 0))", "http://127.0.0.1:{port}/"),
    "a string": ("'127.0.0.1:0'", "http://127.0.0.1:{port}/"),
    "every address": (
        "':0'",
        "http://127.0.0.1:{port}/, and on every address of this machine",
    ),
    "IPv6": ("('::1', 0)", "http://[::1]:{port}/"),
    "every address, IPv6": (
        "('', 0)",
        "http://[::1]:{port}/, and on every address of this machine",
    ),
}


@pytest.mark.parametrize("listener", LISTENERS)
def test_where_it_listens(start: Start, listener: str) -> None:
    if "IPv6" in listener and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    expression, told = LISTENERS[listener]
    program = start(f"WSGIServer({expression}, app).serve_forever()")
    with ExitStack() as stack:
        program.ready(stack, "function")
        port = program.url.rpartition(":")[2]
        assert program.told == f"serving on {told.format(port=port)}"


def test_where_it_listens_on_a_unix_socket(start: Start, tmp_path: Path) -> None:
    program = start("""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("server.sock")
        listener.listen()
        WSGIServer(listener, app).serve_forever()
    """)
    assert program.told == "serving on unix:server.sock"
    path = os.path.relpath(tmp_path / "server.sock")  # an absolute one may be too long
    with unix_connect(path, "ws://localhost/function") as client:
        assert client.recv(timeout=TIMEOUT) == "ready"
        program.process.send_signal(signal.SIGTERM)
        assert close_code(client) == 1012
    assert program.end() == (0, "finally\n", "")


def test_a_handler_class_of_the_program_s_own(start: Start) -> None:
    """And no log: then nothing is told."""
    program = start("""
        from unisock.adapters.flask import WebSocketHandler

        class Patient(WebSocketHandler):
            head_timeout = 60

        server = WSGIServer(("127.0.0.1", 0), app, handler_class=Patient, log=None)
        print(server.handler_class.__name__, WSGIServer.handler_class.__name__, flush=True)
        server.start()
        gevent.spawn(server.stop)
        server.serve_forever()
    """)
    assert program.told == ""
    assert program.end() == (0, "Patient WebSocketHandler\n", "")
