"""A running server of `server.py`, and raw clients for it."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Self

SERVER = Path(__file__).with_name("server.py")


class GeventServer:
    """A running server."""

    def __init__(self, kind: str, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(SERVER), str(self.port), kind], stdout=out, stderr=out
            )
        until = time.monotonic() + 30
        while not self._accepts():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < until, self.log()
            time.sleep(0.02)  # for a process that starts there is nothing to wait on

    def _accepts(self) -> bool:
        try:
            return self.get("/page") == "the page"
        except OSError:
            return False

    def url(self, path: str) -> str:
        """The URL of a handler."""
        return f"ws://127.0.0.1:{self.port}{path}"

    def get(self, path: str) -> str:
        """What a page says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as page:
            return str(page.read().decode())

    def log(self) -> str:
        """What the process has printed."""
        return self._log.read_text()

    def stop(self) -> int:
        """Stop it as an operator does; return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(15)
        finally:
            self.process.kill()

    def raw(self, path: str) -> RawClient:
        """A socket on which the handshake is done."""
        return RawClient(self.port, path)


class RawClient:
    """A WebSocket client that does what no decent one does."""

    def __init__(self, port: int, path: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.file = self.socket.makefile("rb")
        self.write(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def handshake(self) -> bytes:
        """Read the response's head; return its status line."""
        status = self.file.readline()
        while self.file.readline() not in (b"\r\n", b""):
            continue
        return status

    def write(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.socket.sendall(data)

    def read_frame(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload; ``(-1, b"")`` at the end."""
        head = self.file.read(2)
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
    """A masked frame (the mask is zero)."""
    first = bytes([opcode | (0x80 if fin else 0)])
    size = len(payload)
    if size < 126:
        head = bytes([0x80 | size])
    elif size < 65536:
        head = struct.pack("!BH", 0x80 | 126, size)
    else:
        head = struct.pack("!BQ", 0x80 | 127, size)
    return first + head + bytes(4) + payload
