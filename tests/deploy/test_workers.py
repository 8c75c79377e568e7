"""Several workers: what the Deploy page says of small messages."""

from __future__ import annotations

import socket
import statistics
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.deploy.proxied import Nginx, Process, Service
from tests.deploy.test_nginx import ON_SOCKETS, WORKERS

_SEEN = """
from unisock import WebSocket


async def seen(ws: WebSocket) -> None:
    await ws.accept()
    async for message in ws:
        await ws.send(message)
        await ws.send(message)
"""
# A delayed acknowledgement takes 40 ms on Linux; without one it is well below a millisecond.
_DELAY = 0.02


def answered_in(client: ClientConnection) -> float:
    """The median time until both answers to a message are there."""
    times = []
    for _ in range(20):
        since = time.perf_counter()
        client.send("hello")
        for _ in range(2):
            assert client.recv(30) == "hello"
        times.append(time.perf_counter() - since)
    return statistics.median(times)


@pytest.mark.full_matrix  # of servers, and not of unisock
@pytest.mark.parametrize(
    ("command", "delays"),
    [*WORKERS.items(), ("uvicorn app:app --reload", True), ("uvicorn app:app", False)],
)
def test_small_messages(command: str, delays: bool, tmp_path: Path) -> None:
    if command.startswith("uvicorn"):
        command += " --loop asyncio"  # and not uvloop, where it is installed
    with (
        Service(command, tmp_path, {"seen.py": _SEEN}) as service,
        connect(f"ws://127.0.0.1:{service.port}/seen", proxy=None, compression=None) as client,
    ):
        assert (answered_in(client) > _DELAY) is delays


@pytest.mark.full_matrix
@pytest.mark.parametrize("on_socket", [False, True])
def test_small_messages_behind_nginx(on_socket: bool, tmp_path: Path) -> None:
    """The delay is between uvicorn and nginx, and not where there is no TCP."""
    folder = tmp_path / "nginx"
    folder.mkdir()
    command = ON_SOCKETS["fastapi"] if on_socket else "uvicorn app:app"
    configuration = "unix.conf" if on_socket else "app.conf"
    with (
        Service(f"{command} --workers 2 --loop asyncio", tmp_path, {"seen.py": _SEEN}) as service,
        Nginx(configuration, service, folder) as nginx,
        nginx.connect("/seen") as client,
    ):
        assert (answered_in(client) < _DELAY) is on_socket


@contextmanager
def _on_descriptor(folder: Path, no_delay: bool) -> Generator[int]:
    """uvicorn with a listening socket that is handed over; its port."""
    (folder / "seen.py").write_text(_SEEN)
    (folder / "app.py").write_text(
        "from seen import seen\nfrom unisock.adapters.asgi import ASGIApp\napp = ASGIApp(seen)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, no_delay)
        listener.set_inheritable(True)
        fd = listener.fileno()
        command = [sys.executable, "-m", "uvicorn", "app:app", "--loop", "asyncio", "--fd", f"{fd}"]
        with Process(command, folder, pass_fds=(fd,)):
            yield listener.getsockname()[1]


@pytest.mark.full_matrix
@pytest.mark.parametrize("no_delay", [False, True])
def test_a_socket_that_is_handed_over(no_delay: bool, tmp_path: Path) -> None:
    """The option on it is that of its connections."""
    with (
        _on_descriptor(tmp_path, no_delay) as port,
        connect(f"ws://127.0.0.1:{port}/", proxy=None, compression=None) as client,
    ):
        assert (answered_in(client) < _DELAY) is no_delay
