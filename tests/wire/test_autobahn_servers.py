"""The cases of `test_autobahn` against servers that the wire carries, by real sockets."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.servers import RawClient, Server

from . import test_autobahn as cases
from .peer import BINARY, CONT, PING, PONG, TEXT, Frame, Zip, frame, frames_of, octets
from .test_autobahn import *  # noqa: F403  # its cases are this module's

del test_12_and_13_compressed_messages  # noqa: F821  # it is below, in another form

HANDLER = """
import os
import unisock
PORT, WIDE = int(os.environ["PORT"]), unisock.Deflate(
    server_max_window_bits=15, client_max_window_bits=15
)
async def echo(ws):
    await ws.accept()
    try:
        async for message in ws:
            await ws.send(message)
    finally:
        print(f"ended {ws.url.query} {ws.close_code}.\\n", end="")  # in one write
"""
# What makes the application and serves it, by the row.
ROWS = {
    "aiohttp": """
from aiohttp import web
app = web.Application()
unisock.mount(app, "/echo", echo, compression=WIDE)
web.run_app(app, host="127.0.0.1", port=PORT, print=None)
""",
    "uvicorn unisock": """
import starlette.applications, uvicorn
from unisock.adapters.uvicorn import WebSocketProtocol
class Wide(WebSocketProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.deflate = WIDE
app = starlette.applications.Starlette()
unisock.mount(app, "/echo", echo)
uvicorn.run(app, host="127.0.0.1", port=PORT, ws=Wide, log_level="warning")
""",
}

_ids = itertools.count()


@pytest.fixture(scope="module", params=ROWS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The echo handler on one of the rows."""
    with Server(tmp_path_factory.mktemp("server"), HANDLER + ROWS[request.param]) as running:
        yield running


@pytest.fixture(autouse=True)
def by_sockets(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the cases talk to the server, and not to a handler in memory."""

    def converse(
        pieces: list[bytes], expected: list[Frame], *, sees: int | None = None, **_: Any
    ) -> None:
        with Conversation(server, pieces) as client:
            frames = [frame(f.opcode, f.payload, mask=None) for f in expected]
            assert client.file.read(sum(map(len, frames))) == b"".join(frames)
            client.end(of_server=sees is not None)
            client.wait_ended(sees or 1006)

    def fails(pieces: list[bytes], code: int, *before: Frame) -> None:
        with Conversation(server, pieces) as client:
            *answers, close = frames_of(client.file.read())
            assert answers == [*before]
            assert close.code == code
            client.wait_ended(code)

    monkeypatch.setattr(cases, "converse", converse)
    monkeypatch.setattr(cases, "fails", fails)


class Conversation(RawClient):
    """A client that sends pieces, while it reads what comes."""

    def __init__(self, server: Server, pieces: list[bytes], *lines: str) -> None:
        self._server, self._pieces = server, pieces
        self._query = f"id={next(_ids)}"
        super().__init__(server.port, f"/echo?{self._query}", *lines)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.head = b"".join(iter(self.file.readline, b"\r\n"))
        assert self.head.startswith(b"HTTP/1.1 101 ")
        self._writing = threading.Thread(target=self._write)
        self._writing.start()

    def _write(self) -> None:
        with suppress(ConnectionError):  # the server has ended it amid the pieces
            for piece in self._pieces:
                self.write(piece)

    def read_whole_frame(self) -> Frame:
        """The next frame, with its reserved bits."""
        first = self.file.peek(1)[0]
        return Frame(*self.read_frame(), rsv=first >> 4 & 7)

    def end(self, *, of_server: bool) -> None:
        """Nothing more comes but the end of the stream, by the server itself or after ours."""
        self._writing.join()
        if not of_server:
            self.socket.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):  # something was sent behind the close
            assert self.file.read() == b""

    def wait_ended(self, code: int) -> None:
        """Wait until the handler has seen the end, by this code."""
        self._writing.join()
        log = self._server.wait_for_log(f"ended {self._query} ")
        assert f"ended {self._query} {code}.\n" in log


@pytest.mark.parametrize(("offer", "answer"), cases.OFFERS)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [16, 1024, 131072])
def test_12_and_13_compressed_messages_by_sockets(
    server: Server, offer: str, answer: str, opcode: int, size: int
) -> None:
    """As in memory, with fewer sizes."""
    bits = 9 if "bits=9" in answer else 15
    client_zip, messages, pieces = Zip(receive_bits=bits), [], []
    for number in range(10):
        messages.append((f'{number} {{"a": [1, 2, 3]}} '.encode() * (size // 8))[:size])
        compressed = client_zip.compress(messages[-1])
        parts = octets(compressed, max(1, len(compressed) // (number % 3 + 1)))
        pieces.append(frame(opcode, parts[0], rsv=4, fin=len(parts) == 1))
        for n, part in enumerate(parts[1:], 2):
            pieces += [frame(PING), frame(CONT, part, fin=n == len(parts))]
        if "client_no_context_takeover" in answer:
            client_zip.compressor = Zip().compressor
    with Conversation(server, pieces, f"{cases.EXTENSIONS}: {offer}") as client:
        assert f"{cases.EXTENSIONS}: {answer}".encode() in client.head.split(b"\r\n")
        for message in messages:
            while (got := client.read_whole_frame()).opcode == PONG:
                continue
            assert (got.opcode, got.rsv) == (opcode, 4)
            assert client_zip.inflate(got.payload) == message
            if "server_no_context_takeover" in answer:
                client_zip.decompressor = Zip(receive_bits=bits).decompressor
        client.end(of_server=False)
        client.wait_ended(1006)
