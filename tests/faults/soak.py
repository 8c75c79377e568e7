"""Random behaviour against every adapter's server, for as long as is wanted.

::

    python -m tests.faults.soak --minutes 30 --on falcon flask
    python -m tests.faults.soak --load --idle 5000 --minutes 2

The exit status is 1 where a message was lost or came out of order, and where a
server has grown, or keeps something of connections that have ended.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import resource
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.faults.kinds import KINDS, MAIN, KindServer
from unisock.conformance.harness import leftovers

# Connections at a time, to each server; and those that chat beside the idle ones.
VISITORS, BUSY = 12, 200
# The KiB that a server may grow by after the first quarter of the run.
GROWTH = 80 * 1024
_NO_FRAMES = (b"\xff" * 20, b"\x81\x05hello", b"\x8b\x80\0\0\0\0")


class Run:
    """One server, what is done to it, and what was seen."""

    def __init__(self, server: KindServer, options: argparse.Namespace) -> None:
        self.server, self.patience = server, options.patience
        self.seconds: float = options.seconds or options.minutes * 60
        self.random = random.Random(f"{server.kind} {options.seed}")
        self.connections = self.messages = 0
        self.wrong: list[str] = []
        # KiB: after the first quarter, at the end, and for each idle connection.
        self.memory = (0, 0)
        self.each_idle: float | None = None
        self.began = time.monotonic()

    def is_over(self) -> bool:
        """Whether nobody is to come any more."""
        return time.monotonic() >= self.began + self.seconds

    def connect(self, path: str = "/chat") -> connect:
        """A client that pings nobody, and opens when it is entered or awaited."""
        url, patience = self.server.url(path), self.patience
        return connect(url, ping_interval=None, open_timeout=60, close_timeout=patience)

    async def chat(self, client: ClientConnection, count: int, size: int = 500) -> None:
        """Send numbers, eight at a time, and see each answered in its turn, until it is over."""
        for first in range(0, count, 8):
            if self.is_over():
                return
            batch = range(first, min(first + 8, count))
            for number in batch:
                await client.send(f"{number} {'x' * size}")
            for number in batch:
                await self.check(client, number)

    async def check(self, client: ClientConnection, number: int) -> None:
        """Receive the answer to a number."""
        answer = await asyncio.wait_for(client.recv(decode=True), self.patience)
        if answer.split(" ")[:2] != [str(number)] * 2:
            raise ValueError(f"{number} was answered with {answer[:20]!r}")
        self.messages += 1

    async def vanish(self, client: ClientConnection, number: int) -> None:
        """Leave by a reset, with an answer under way."""
        await client.send(f"{number} unanswered")
        sock = client.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.transport.abort()

    async def break_rules(self, client: ClientConnection, number: int) -> None:
        """Send what is no frame."""
        client.transport.write(self.random.choice(_NO_FRAMES))
        await client.wait_closed()

    async def never_read(self, client: ClientConnection, number: int) -> None:
        """Send until nobody takes any more, and leave."""
        client.transport.pause_reading()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                for each in range(number, number + 400):
                    await client.send(f"{each} {'x' * 20_000}")
        client.transport.abort()

    async def read_slowly(self, client: ClientConnection, number: int) -> None:
        """Send much at once, and take the answers one by one."""
        for each in range(number, number + 60):
            await client.send(f"{each} {'x' * 2_000}")
        for each in range(number, number + 60):
            await asyncio.sleep(0.005)
            await self.check(client, each)

    async def visit(self) -> None:
        """Come, chat, mostly do one of these, and go."""
        does = (self.vanish, self.break_rules, self.never_read, self.read_slowly)
        async with self.connect() as client:
            self.connections += 1
            await self.chat(client, count := self.random.randrange(60))
            if not self.is_over() and self.random.random() < 0.8:
                await self.random.choices(does, [4, 2, 1, 2])[0](client, count)

    async def keep_visiting(self) -> None:
        """Visit again and again."""
        while not self.is_over():
            await self.note(self.visit())

    async def note(self, step: Awaitable[None]) -> None:
        """Await it; what goes wrong is written down."""
        try:
            await step
        except (ValueError, OSError, ConnectionClosed, InvalidHandshake) as exc:
            self.wrong.append(repr(exc))

    async def count(self, census: ClientConnection) -> dict[str, int]:
        """What there is in the server's process."""
        await census.send("count")
        return dict(json.loads(await census.recv()))

    async def watch(self, census: ClientConnection) -> None:
        """Print the figures every minute; the memory must not grow after the first quarter."""
        sizes: list[int] = []
        while not self.is_over():
            await asyncio.sleep(min(60.0, self.seconds / 4))
            sizes.append(await self.report(census))
        first, last = sizes[(len(sizes) - 1) // 4], sizes[-1]
        self.memory = self.memory if any(self.memory) else (first, last)
        if last > first + GROWTH:
            self.wrong.append(f"it has grown from {first} to {last} KiB")

    async def report(self, census: ClientConnection) -> int:
        """Print the figures; return the memory in KiB."""
        counted, seconds = await self.count(census), time.monotonic() - self.began
        done = f"connections={self.connections} echoed={self.messages} wrong={len(self.wrong)}"
        there = " ".join(f"{name}={value}" for name, value in counted.items())
        print(f"{self.server.kind} {seconds:.0f}s {done} {there}", flush=True)
        return counted["rss"]

    def total(self) -> str:
        """What is to be said of it when all is over."""
        first, last = (f"{size / 1024:.1f} MiB" for size in self.memory)
        idle = "" if self.each_idle is None else f", {self.each_idle:.1f} KiB an idle connection"
        return (
            f"{self.server.kind} TOTAL: {self.connections} connections, {self.messages} messages"
            f" echoed, {len(self.wrong)} wrong; memory {first} after the first quarter,"
            f" {last} at the end{idle}"
        )

    async def left(self, census: ClientConnection, before: dict[str, int]) -> dict[str, int]:
        """What there is more of than before, memory aside, when all have had time to go."""
        until = time.monotonic() + self.patience
        while True:
            now = await self.count(census)
            left = {n: v for n, v in now.items() if n != "rss" and v > before.get(n, v)}
            if not left or time.monotonic() > until:
                return left
            await asyncio.sleep(0.1)


async def soak(run: Run, census: ClientConnection) -> None:
    """Random visitors."""
    async with asyncio.TaskGroup() as group:
        group.create_task(run.watch(census))
        for _ in range(VISITORS):
            group.create_task(run.keep_visiting())


async def loads(run: Run, census: ClientConnection, idle: int) -> None:
    """A load, and a short one after it, which finds room in what the first has left.

    Of the memory that is free again an allocator gives back to the system what it can.
    """
    await load(run, census, idle)
    await run.left(census, {"websockets": 1})
    first = await run.report(census)
    run.seconds /= 10
    await load(run, census, idle)
    await run.left(census, {"websockets": 1})
    second = await run.report(census)
    if second > first + GROWTH:
        run.wrong.append(f"a load has left {first} KiB, and another one {second} KiB")


async def load(run: Run, census: ClientConnection, idle: int) -> None:
    """Many that are idle, and `BUSY` that chat; at the end the idle ones do so too."""
    turns = asyncio.Semaphore(50)

    async def open_one() -> ClientConnection:
        async with turns:
            run.connections += 1
            return await run.connect()

    before = (await run.count(census))["rss"]
    clients = await asyncio.gather(*(open_one() for _ in range(idle)))
    run.each_idle = run.each_idle or ((await run.count(census))["rss"] - before) / max(idle, 1)
    clients += await asyncio.gather(*(open_one() for _ in range(BUSY)))
    run.began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        group.create_task(run.watch(census))
        for client in clients[idle:]:
            group.create_task(run.note(run.chat(client, sys.maxsize)))
    for client in clients[:idle]:
        await run.note(client.send("0 x"))
        await run.note(run.check(client, 0))
    await asyncio.gather(*(client.close() for client in clients))


async def run_on(kind: str, options: argparse.Namespace) -> Run:
    """Run it on one server."""
    with tempfile.TemporaryDirectory() as folder, KindServer(Path(folder), kind) as server:
        run = Run(server, options)
        async with run.connect("/census") as census:
            await run.note(run.visit())  # what is made once
            await run.left(census, {"websockets": 1})
            before = await run.count(census)
            run.began = time.monotonic()
            await (loads(run, census, options.idle) if options.load else soak(run, census))
            if left := await run.left(census, before):
                run.wrong.append(f"left behind: {left}, of {before} before")
            await run.report(census)
        run.wrong += leftovers(server.stop())
    for wrong, times in Counter(run.wrong).items():
        print(f"{kind} WRONG, {times} times: {wrong}", flush=True)
    return run


async def run_all(options: argparse.Namespace) -> bool:
    """Run on all that are wanted: a load on one after another, else on all at once.

    Returns whether all was well.
    """
    if options.load:
        runs = [await run_on(kind, options) for kind in options.on]
    else:
        runs = await asyncio.gather(*(run_on(kind, options) for kind in options.on))
    print(*(run.total() for run in runs), sep="\n", flush=True)
    return not any(run.wrong for run in runs)


def main() -> int:
    """Parse the command line, and run."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, help="instead of --minutes")
    parser.add_argument("--patience", type=float, default=20.0, help="seconds for an answer")
    parser.add_argument("--on", nargs="+", choices=KINDS, default=MAIN)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--load", action="store_true", help="many idle connections, and some busy")
    parser.add_argument("--idle", type=int, default=5000, help="how many, with --load")
    options = parser.parse_args()
    # The server's processes inherit it.
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    options.idle = min(options.idle, files - BUSY - 500)
    print(f"{files} descriptors; {vars(options)}", flush=True)
    return 0 if asyncio.run(run_all(options)) else 1


if __name__ == "__main__":
    sys.exit(main())
