"""What the project's own servers listen on: connections that do not delay small messages."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from contextlib import closing
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.cli.command import Start
from tests.frameworks import FRAMEWORKS
from unisock import WebSocket
from unisock.serving import bind
from unisock.testing import serve

QUIET = "--log-level=warning"
# Seconds: half of what a peer may take until it acknowledges what it has got.
AT_ONCE = 0.02

SOURCE = """\
async def two(ws):
    await ws.accept()
    async for _ in ws:
        await ws.send("first")
        await ws.send("second")
"""


async def two(ws: WebSocket) -> None:
    """Answer each message with two."""
    await ws.accept()
    async for _ in ws:
        await ws.send("first")
        await ws.send("second")


def seconds_for_two(connection: ClientConnection) -> float:
    took = []
    for _ in range(20):
        start = time.perf_counter()
        connection.send("go")
        assert [connection.recv(timeout=10) for _ in range(2)] == ["first", "second"]
        took.append(time.perf_counter() - start)
    return statistics.median(took)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_command(unisock: Start, tmp_path: Path, name: str) -> None:
    (tmp_path / "service.py").write_text(SOURCE)
    command = unisock("serve", "service:two", f"--on={name}", "--port=0", QUIET)
    with connect(command.line()) as connection:
        assert seconds_for_two(connection) < AT_ONCE


def test_all_of_the_command(unisock: Start, tmp_path: Path) -> None:
    """Their sockets are made by another process than that which serves."""
    (tmp_path / "service.py").write_text(SOURCE)
    for name, url in unisock("serve", "service:two", "--on=all", "--port=0", QUIET).urls().items():
        with connect(url) as connection:
            assert seconds_for_two(connection) < AT_ONCE, name


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_server_of_a_test(name: str) -> None:
    with serve(two, on=name) as url, connect(url) as connection:
        assert seconds_for_two(connection) < AT_ONCE


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_option_itself(host: str) -> None:
    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")

    async def read_option() -> int:
        option: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                accepted = transport.get_extra_info("socket")
                option.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

        with bind(host, 0) as listener:
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Protocol, sock=listener)
            with closing(server), socket.create_connection(listener.getsockname()[:2]):
                return await option

    assert asyncio.run(read_option()) == 1
