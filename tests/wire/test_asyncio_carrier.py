"""asyncio's transports as carriers, on real sockets."""

from __future__ import annotations

import asyncio
import socket

import pytest

from unisock.asyncio_carrier import AsyncioCarrier


class _Told(asyncio.Protocol):
    """What a protocol is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.carrier = AsyncioCarrier(transport, asyncio.get_running_loop())

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


async def _connected() -> tuple[_Told, socket.socket]:
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    _, told = await loop.create_connection(_Told, sock=ours)
    theirs.settimeout(10)
    return told, theirs


@pytest.mark.parametrize("how", ["close", "abort"])
def test_an_end_after_an_end_is_none(how: str) -> None:
    async def main() -> None:
        told, peer = await _connected()
        with peer:
            getattr(told.carrier, how)()
            told.carrier.write_eof()
            told.carrier.close()
            told.carrier.abort()
            await asyncio.wait_for(told.lost.wait(), 10)
            assert peer.recv(10) == b""

    asyncio.run(main())


def test_the_limit_of_one_tells_when_all_is_taken() -> None:
    async def main() -> None:
        told, peer = await _connected()
        with peer:
            told.carrier.write(bytes(4_000_000))
            assert told.told == ["pause"]
            told.carrier.set_write_buffer_limits(1)
            read = 0
            while read < 4_000_000:
                read += len(await asyncio.to_thread(peer.recv, 100_000))
            await asyncio.sleep(0.05)
            assert told.told == ["pause", "resume"]
            told.carrier.write_eof()
            assert await asyncio.to_thread(peer.recv, 10) == b""
            told.carrier.abort()
            await asyncio.wait_for(told.lost.wait(), 10)

    asyncio.run(main())
