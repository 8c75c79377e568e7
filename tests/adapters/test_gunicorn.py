"""gunicorn with each worker that serves handlers: how it stops, reloads and restarts."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.docs.documents import files, page
from tests.servers import Server
from unisock.conformance.harness import leftovers

GRACE = 6
PATIENCE = 20

HANDLERS = """
import asyncio, os
import unisock

def tell(*words):
    print("told:", *words, flush=True)

async def sleeps(ws):
    await ws.accept()
    await ws.send(str(os.getpid()))
    try:
        await asyncio.Event().wait()
    finally:
        tell("sleeps")

async def receives(ws):
    await ws.accept()
    await ws.send(str(os.getpid()))
    try:
        await ws.receive()
    finally:
        tell("receives")

class Endpoint(unisock.WebSocketEndpoint):
    async def on_connect(self, ws):
        await ws.accept()
        await ws.send(str(os.getpid()))
        await asyncio.Event().wait()

    async def on_disconnect(self, ws, close_code):
        tell("endpoint", close_code)

def plain(ws):
    ws.accept()
    ws.send(str(os.getpid()))
    try:
        ws.receive()
    finally:
        tell("plain")

def mount_all(app):
    for name, handler in {
        "sleeps": sleeps, "receives": receives, "endpoint": Endpoint, "plain": plain
    }.items():
        unisock.mount(app, f"/{name}", handler)
    return app
"""
APPS = {
    "uvicorn": "from starlette.applications import Starlette\napp = mount_all(Starlette())\n",
    "aiohttp": "from aiohttp import web\napp = mount_all(web.Application())\n",
    "flask": (
        "from flask import Flask\napp = mount_all(Flask(__name__))\n"
        "@app.get('/page')\ndef page():\n    return str(os.getpid())\n"
    ),
}
WORKERS = {
    "uvicorn": "uvicorn.workers.UvicornWorker",
    "aiohttp": "aiohttp.GunicornWebWorker",
    "flask": "unisock.adapters.gunicorn.WebSocketWorker",
}
FORMS = ["sleeps", "receives", "endpoint", "plain"]
START = """
import os, sys
os.execv(sys.executable, [
    sys.executable, "-m", "gunicorn", f"--bind=127.0.0.1:{os.environ['PORT']}",
    "--no-control-socket", *os.environ["OPTIONS"].split(), "served:app",
])
"""


class Gunicorn(Server):
    """gunicorn with one worker, on an application with all handlers."""

    def __init__(self, folder: Path, kind: str, *options: str) -> None:
        (folder / "served.py").write_text(HANDLERS + APPS[kind])
        super().__init__(
            folder,
            START,
            OPTIONS=" ".join((f"--worker-class={WORKERS[kind]}", *options)),
            PYTHONPATH=str(folder),
        )

    def ready(self, stack: ExitStack, form: str) -> tuple[ClientConnection, str]:
        """A connection whose handler waits, and the worker's process."""
        client = stack.enter_context(connect(self.url(f"/{form}"), proxy=None))
        return client, client.recv(timeout=PATIENCE, decode=True)


def close_code(client: ClientConnection) -> int | None:
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(timeout=PATIENCE)
    return closed.value.rcvd.code if closed.value.rcvd else None


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.02)


def told(log: str) -> list[str]:
    return sorted(re.findall(r"^told: (.*)$", log, re.MULTILINE))


@pytest.mark.parametrize("kind", WORKERS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_every_handler_sees_its_end(kind: str, number: signal.Signals, tmp_path: Path) -> None:
    """Also one that sleeps, before gunicorn kills the worker."""
    options = [f"--graceful-timeout={GRACE}"]
    if kind == "uvicorn":
        # What the page tells; the arguments prevail.
        settings = tmp_path / "gunicorn_conf.py"
        settings.write_text(files(page("docs/how-to/asgi.md"))[settings.name])
        options += [f"--config={settings}"]
    with Gunicorn(tmp_path, kind, *options) as server, ExitStack() as stack:
        clients = [server.ready(stack, form)[0] for form in FORMS]
        server.process.send_signal(number)
        assert [close_code(client) for client in clients] == [1012] * len(FORMS)
        until(lambda: len(told(server.log())) == len(FORMS))
        log = server.stop()
    assert told(log) == ["endpoint 1012", "plain", "receives", "sleeps"]
    assert leftovers(log) == []
    for killed in ("SIGKILL", "Exception ignored", "destroyed"):
        assert killed not in log, log
    assert server.process.returncode == 0


def test_max_requests(tmp_path: Path) -> None:
    """The worker restarts; a connection counts when it begins, and ends with 1012."""
    with Gunicorn(tmp_path, "flask", "--max-requests=3") as server, ExitStack() as stack:
        client, worker = server.ready(stack, "receives")
        assert server.get("/page") == (200, worker)
        other, same = server.ready(stack, "plain")
        assert same == worker
        assert [close_code(each) for each in (client, other)] == [1012, 1012]
        _, next_worker = server.ready(stack, "receives")
        assert next_worker != worker
        log = server.log()
    assert told(log) == ["plain", "receives"]
    assert log.count("Autorestarting worker after current request.") == 1


def test_max_requests_with_jitter(tmp_path: Path) -> None:
    options = ("--max-requests=4", "--max-requests-jitter=4")
    with Gunicorn(tmp_path, "flask", *options) as server:
        workers = [server.get("/page")[1] for _ in range(3)]
        assert len(set(workers)) == 1
        assert "Autorestarting" not in server.log()
        for _ in range(5):
            server.get("/page")
        until(lambda: server.get("/page")[1] not in workers)
