"""Many WebSocket clients in one thread, on plain asyncio streams."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Self

from tests.servers import frame

TEXT, BINARY, CLOSE = 1, 2, 8

# What waits in a server's backlog is bounded, so not all knock at once.
_AT_ONCE = 50


class Member:
    """One client."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        self._reader = reader
        self._writer = writer
        self.head = head
        """The response to the handshake, without a body."""

    @classmethod
    async def connect(cls, port: int, path: str) -> Self:
        """Send a handshake, and read the response."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        return cls(reader, writer, await reader.readuntil(b"\r\n\r\n"))

    @property
    def status(self) -> int:
        """The status of the response."""
        return int(self.head.split(b" ", 2)[1])

    def say(self, text: str) -> None:
        """Send a text message."""
        self._writer.write(frame(TEXT, text.encode()))

    async def hear(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame; ``(-1, b"")`` at the end of the stream."""
        try:
            first, size = await self._reader.readexactly(2)
            if size == 126:
                (size,) = struct.unpack("!H", await self._reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self._reader.readexactly(8))
            return first & 15, await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return -1, b""

    async def close(self) -> None:
        """Close as RFC 6455 says."""
        self._writer.write(frame(CLOSE, struct.pack("!H", 1000)))
        while (await self.hear())[0] != -1:
            continue
        await self.vanish()

    async def vanish(self) -> None:
        """Let go of the socket without a word."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    async def reset(self) -> None:
        """Break the connection with a TCP reset."""
        sock: socket.socket = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self.vanish()


@asynccontextmanager
async def crowd(port: int, path: str, size: int) -> AsyncGenerator[list[Member]]:
    """So many clients with open connections; they let go of their sockets at the end."""
    doors = asyncio.Semaphore(_AT_ONCE)

    async def enter() -> Member:
        async with doors:
            return await Member.connect(port, path)

    members = await asyncio.gather(*(enter() for _ in range(size)))
    try:
        yield members
    finally:
        for member in members:
            await member.vanish()
