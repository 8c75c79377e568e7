"""What a handler does at its end, when the server is stopped as gevent's users do."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

SERVER = """
    import asyncio
    import signal
    import flask
    import gevent
    from gevent.pywsgi import WSGIServer
    import unisock
    from unisock.adapters.flask import WebSocketHandler

    async def in_a_coroutine(ws):
        await ws.accept()
        await ws.send("ready")
        try:
            async for _ in ws:
                pass
        finally:
            await asyncio.sleep(0.3)
            print("cleaned up", flush=True)

    def in_a_function(ws):
        ws.accept()
        ws.send("ready")
        try:
            for _ in ws:
                pass
        finally:
            gevent.sleep(0.3)
            print("cleaned up", flush=True)

    def beside(ws):
        try:
            ws.send("ready")
            for _ in ws:
                pass
        finally:
            gevent.sleep(0.3)
            print("cleaned up", flush=True)

    def in_a_function_beside(ws):
        ws.accept()
        ws.start_soon(beside, ws)
        ws.wait_closed()

    app = flask.Flask("stopping")
    for handler in (in_a_coroutine, in_a_function, in_a_function_beside):
        unisock.mount(app, f"/{handler.__name__}", handler)
    server = WSGIServer(("127.0.0.1", 0), app, handler_class=WebSocketHandler, log=None)
    server.stop_timeout = 5
    server.start()
    print(server.server_port, flush=True)
    gevent.signal_handler(signal.SIGTERM, server.stop)
    server.serve_forever()
"""

HANDLERS = ["in_a_coroutine", "in_a_function", "in_a_function_beside"]


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", textwrap.dedent(SERVER)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


@pytest.mark.parametrize("handler", HANDLERS)
def test_its_cleanup_runs_to_the_end(process: subprocess.Popen[str], handler: str) -> None:
    """Though ``serve_forever`` stops the server a second time while it is under way."""
    assert process.stdout is not None
    port = int(process.stdout.readline())
    with connect(f"ws://127.0.0.1:{port}/{handler}", proxy=None) as client:
        assert client.recv(timeout=10) == "ready"
        process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
    rest, _ = process.communicate(timeout=20)
    assert rest == "cleaned up\n"
    assert process.returncode == 0


def test_what_is_beside_a_handler_that_returns_is_told(process: subprocess.Popen[str]) -> None:
    """As on other servers: it sees the end in its call, and has time for its `finally`."""
    assert process.stdout is not None
    port = int(process.stdout.readline())
    with connect(f"ws://127.0.0.1:{port}/in_a_function_beside", proxy=None) as client:
        assert client.recv(timeout=10) == "ready"
        client.close(4001)
    assert process.stdout.readline() == "cleaned up\n"
