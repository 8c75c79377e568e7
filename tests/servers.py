"""A server in a process of its own, from a few lines of source."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

# For a process that starts there is no event to wait on.
_POLL = 0.02
_PATIENCE = 30.0

UVICORN = """
import os, uvicorn
uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), **UVICORN)
"""
"""The end of a source whose ``app`` runs on uvicorn."""


class Server:
    """A running server.

    Its source finds the port to listen on in the environment, as ``PORT``;
    what it prints is its log.
    """

    def __init__(self, folder: Path, source: str, **environment: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.log_path = folder / f"server-{self.port}.log"
        script = folder / f"server_{self.port}.py"
        script.write_text(textwrap.dedent(source))
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-u", str(script)],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment, "PORT": str(self.port)},
            )
        try:
            self._wait_until_it_accepts()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _wait_until_it_accepts(self) -> None:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=_PATIENCE).close()
            except OSError:
                assert self.process.poll() is None, f"it did not start:\n{self.log()}"
                assert time.monotonic() < until, f"it did not start in time:\n{self.log()}"
                time.sleep(_POLL)
            else:
                return

    def url(self, path: str = "/ws") -> str:
        """The URL of a handler."""
        return f"ws://127.0.0.1:{self.port}{path}"

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and body of a plain HTTP request."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def raw(self, path: str = "/ws", *lines: str) -> RawClient:
        """A socket on which a handshake was sent, with more lines in its head."""
        return RawClient(self.port, path, *lines)

    def log(self) -> str:
        """What the process has printed so far."""
        return self.log_path.read_text()

    def wait_for_log(self, text: str) -> str:
        """Wait until `text` is in the log; return the log."""
        until = time.monotonic() + _PATIENCE
        while text not in (log := self.log()):
            assert time.monotonic() < until, f"{text!r} never came:\n{log}"
            time.sleep(_POLL)
        return log

    def stop(self) -> str:
        """Stop it as an operator does; return the whole log."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
        return self.log()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def uvicorn(folder: Path, source: str, **options: Any) -> Server:
    """A server on uvicorn; `options` are those of ``uvicorn.run``."""
    options = {"loop": "asyncio", **options}  # wherever uvloop is installed
    return Server(folder, f"{textwrap.dedent(source)}\nUVICORN = {options!r}\n{UVICORN}")


class RawClient:
    """A WebSocket client that does what no decent one does."""

    def __init__(self, port: int, path: str, *lines: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
        self.file = self.socket.makefile("rb")
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Version: 13\r\n".encode()
            + "".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1")
        )

    def read_head(self) -> bytes:
        """Read the response's head; return its status line."""
        status = self.file.readline()
        while self.file.readline() not in (b"\r\n", b""):
            continue
        return status

    def write(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.socket.sendall(data)

    def send_frame(self, opcode: int, payload: bytes, fin: bool = True) -> None:
        """Send a frame."""
        self.write(frame(opcode, payload, fin))

    def read_frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame; ``(-1, b"")`` at the end of the stream."""
        try:
            head = self.file.read(2)
        except ConnectionError:
            return -1, b""
        if len(head) < 2:
            return -1, b""
        size = head[1] & 127
        if size == 126:
            (size,) = struct.unpack("!H", self.file.read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self.file.read(8))
        return head[0] & 15, self.file.read(size)

    def reset(self) -> None:
        """Break the connection with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Let go of the socket."""
        self.file.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def frame(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    """The bytes of a frame whose mask is zero."""
    first = opcode | (0x80 if fin else 0)
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    return head + bytes(4) + payload
