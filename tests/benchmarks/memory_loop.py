"""unisock beside a framework's own WebSocket in one process, without a server.

    python -m tests.benchmarks.memory_loop

The peer is a pair of ASGI callables, so what is measured is framework and handler.
In the load "waiting" the next message comes, as from a server, by a call of the event
loop after the reply to the last one; in "ready" it is there before it is asked for.
Two run in turn, and the ratio of each turn counts: a busy machine slows both.  Exits
with 1 if a median is above its bound.  On a server the ratios are nearer to 1, for most
of the time of a message is the server's.

``--count`` counts instructions with valgrind: of those two, and of uvicorn's protocol class
with the framework and the handler, on a socket in memory: uvicorn's own class beside ours.
There "ready" are 32 messages in one read.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, MutableMapping
from functools import cache
from pathlib import Path
from typing import Any

from tests.benchmarks.client import MASK, TEXT, frame
from tests.benchmarks.servers import CLASS, ROOT, SUBJECTS, ws_of

BOUNDS = {
    ("Starlette", "waiting"): 1.6,
    ("Starlette", "ready"): 1.8,
    ("Falcon", "waiting"): 0.8,
    ("Falcon", "ready"): 0.75,
}
"""The CPU time per message that unisock may take, in those of the framework's own handler.

A sixth above what is measured.  No server is in these: it takes most of a message's time.
"""

MESSAGE = {"type": "websocket.receive", "text": "unisock." * 4}
SCOPE: dict[str, Any] = {
    "type": "websocket", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1",
    "scheme": "ws", "server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 50000),
    "root_path": "", "path": "/text", "raw_path": b"/text", "query_string": b"",
    "headers": [(b"host", b"127.0.0.1:8000")], "subprotocols": [],
    "extensions": {"websocket.http.response": {}},
}  # fmt: skip


async def converse(app: Any, load: str, messages: int) -> float:
    """The CPU seconds that a connection with so many messages takes."""
    call_soon = asyncio.get_running_loop().call_soon
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    inbox.put_nowait({"type": "websocket.connect"})
    for _ in range(messages if load == "ready" else 0):
        inbox.put_nowait(MESSAGE)
    replies = 0

    async def send(event: MutableMapping[str, Any]) -> None:
        nonlocal replies
        if event["type"] == "websocket.send":
            if event["text"] != MESSAGE["text"]:
                raise ValueError(f"not an echo: {event}")
            replies += 1
        if replies == messages:
            call_soon(inbox.put_nowait, {"type": "websocket.disconnect", "code": 1000})
        elif load == "waiting":
            call_soon(inbox.put_nowait, MESSAGE)

    start = time.process_time()
    await app(dict(SCOPE, state={}), inbox.get, send)
    took = time.process_time() - start
    if replies != messages:
        raise ValueError(f"{replies} replies to {messages} messages")
    return took


IN_ONE_READ = 32
ON_UVICORN = (
    "Starlette",
    "unisock on Starlette",
    f"unisock on Starlette{CLASS}",
    f"unisock on Starlette, wrapped{CLASS}",
)
"""What `count` counts with uvicorn's protocol classes."""


class _Socket(asyncio.Transport):
    """A peer in memory, which sends again when it has the replies.

    Args:
        received: called with what is sent to the server.
        load: "waiting": one message at a time; "ready": `IN_ONE_READ`.
        messages: how many it sends.
    """

    def __init__(self, received: Callable[[bytes], object], load: str, messages: int) -> None:
        super().__init__()
        self._received = received
        self._at_once = 1 if load == "waiting" else IN_ONE_READ
        self._left = messages
        payload = MESSAGE["text"].encode()
        self._request = frame(TEXT, payload, MASK)
        self._reply = frame(TEXT, payload)
        self._pending = b""
        self._is_open = False
        self._loop = asyncio.get_running_loop()
        self.ended = self._loop.create_future()

    def write(self, data: Any) -> None:
        self._pending += data
        if not self._is_open:
            head, end, self._pending = self._pending.partition(b"\r\n\r\n")
            if not end or not head.startswith(b"HTTP/1.1 101 "):
                raise ValueError(f"no handshake: {head!r}")
            self._is_open = True
        elif self._pending[:1] == b"\x88" or len(self._pending) < self._at_once * len(self._reply):
            return
        elif self._pending != self._at_once * self._reply:
            raise ValueError(f"not an echo: {self._pending!r}")
        self._pending = b""
        if self._left <= 0:
            self._loop.call_soon(self._received, frame(8, b"\x03\xe8", MASK))
        else:
            self._left -= self._at_once
            self._loop.call_soon(self._received, self._at_once * self._request)

    def close(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    abort = close

    def is_closing(self) -> bool:
        return self.ended.done()

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


async def converse_on_uvicorn(subject: str, load: str, messages: int) -> None:
    """One connection to uvicorn's protocol class, with so many messages."""
    import uvicorn
    from uvicorn.server import ServerState

    config = uvicorn.Config(SUBJECTS[subject](), ws=ws_of(subject), log_config=None, lifespan="off")
    config.load()
    protocol: Any = config.ws_protocol_class
    server_state: Any = ServerState()
    connection = protocol(config, server_state, {}, asyncio.get_running_loop())
    peer = _Socket(connection.data_received, load, messages)
    connection.connection_made(peer)
    connection.data_received(
        b"GET /text HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\n"
        b"connection: upgrade\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    await peer.ended
    connection.connection_lost(None)
    await asyncio.gather(*server_state.tasks)


def compare(framework: str, load: str, rounds: int, messages: int) -> tuple[float, list[float]]:
    """Seconds per message on unisock, and its ratio to the framework's own in each round."""
    apps = [SUBJECTS[framework](), SUBJECTS[f"unisock on {framework}"]()]
    took: list[list[float]] = [[], []]
    with asyncio.Runner() as runner:
        for number in range(rounds + 1):
            for one in (0, 1) if number % 2 else (1, 0):
                took[one].append(runner.run(converse(apps[one], load, messages)))
    # The first round warms up.
    ratios = [ours / native for native, ours in zip(*took, strict=True)][1:]
    return statistics.median(took[1][1:]) / messages, ratios


@cache
def count(subject: str, load: str, messages: int, on_uvicorn: bool) -> tuple[int, int]:
    """Instructions and allocations of a process, counted by valgrind: steady on any machine.

    Python's own allocator is off, so that valgrind sees each object.

    Args:
        subject: one of `SUBJECTS`.
        load: "waiting" or "ready".
        messages: how many.
        on_uvicorn: whether uvicorn's protocol class is in it.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "dhat.json")
        command = f"valgrind --tool=dhat --dhat-out-file={out} {sys.executable} -m {__spec__.name}"
        converse = "--converse-on-uvicorn" if on_uvicorn else "--converse"
        done = subprocess.run(
            [*command.split(), converse, subject, load, str(messages)],
            env={**os.environ, "PYTHONMALLOC": "malloc", "PYTHONHASHSEED": "0"},
            cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        total = re.search(r"Total: +[\d,]+ bytes in ([\d,]+) blocks", done.stderr)
        if done.returncode or total is None:
            raise RuntimeError(done.stderr)
        return int(json.loads(out.read_text())["te"]), int(total[1].replace(",", ""))


def count_all(messages: int) -> None:
    """Print the counts per message: what a run without messages does is subtracted."""
    print(f"{'':52}{'load':9}{'instructions':>12}{'allocations':>13}  a message")
    rows = [
        (f"{on}{framework}", "waiting", False)
        for framework in ("Starlette", "Falcon")
        for on in ("", "unisock on ")
    ]
    rows += [(subject, load, True) for subject in ON_UVICORN for load in ("waiting", "ready")]
    for subject, load, on_uvicorn in rows:
        # Without messages both loads are the same.
        base = count(subject, "waiting", 0, on_uvicorn)
        more = count(subject, load, messages, on_uvicorn)
        instructions, allocations = ((a - b) / messages for a, b in zip(more, base, strict=True))
        where = f"{subject}{' (uvicorn)' if on_uvicorn else ''}"
        print(f"{where:52}{load:9}{instructions:12,.0f}{allocations:13.2f}", flush=True)


def main() -> int:
    """The command; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.memory_loop",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer messages and rounds")
    parser.add_argument("--bound", type=float, help="one for all, in place of BOUNDS")
    parser.add_argument("--count", action="store_true", help="count instructions, and no more")
    parser.add_argument("--messages", type=int, default=2048, help="of a count (2048)")
    # What valgrind runs:
    parser.add_argument("--converse", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--converse-on-uvicorn", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.converse or options.converse_on_uvicorn:
        gc.disable()  # a collection more or less is a tenth of it all
        subject, load, messages = options.converse or options.converse_on_uvicorn
        if options.converse:
            asyncio.run(converse(SUBJECTS[subject](), load, int(messages)))
        else:
            asyncio.run(converse_on_uvicorn(subject, load, int(messages)))
        return 0
    if options.count:
        if shutil.which("valgrind") is None:
            parser.error("--count needs valgrind")
        count_all(options.messages)
        return 0
    status = 0
    for (framework, load), bound in BOUNDS.items():
        at_most = options.bound or bound
        took, ratios = compare(framework, load, *((5, 2000) if options.quick else (9, 10_000)))
        is_within = (median := statistics.median(ratios)) <= at_most
        status = status if is_within else 1
        print(
            f"{framework:10} {load:8} {took * 1e6:6.2f} us a message, {median:.2f} times "
            f"{framework}'s own (rounds {min(ratios):.2f}-{max(ratios):.2f}), "
            f"{'within' if is_within else 'EXCEEDS'} {at_most:.2f}"
        )
    return status


if __name__ == "__main__":
    sys.exit(main())
