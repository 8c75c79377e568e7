"""unisock beside a framework's own WebSocket in one process, without a server.

    python -m tests.benchmarks.memory_loop

The peer is a pair of ASGI callables, so what is measured is framework and handler.
In the load "waiting" the next message comes, as from a server, by a call of the event
loop after the reply to the last one; in "ready" it is there before it is asked for.
Two run in turn, and the ratio of each turn counts: a busy machine slows both.  Exits
with 1 if a median is above its bound.  On a server the ratios are nearer to 1, for most
of the time of a message is the server's.
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
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from tests.benchmarks.servers import ROOT, SUBJECTS

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


def count(subject: str, messages: int) -> tuple[float, float]:
    """Instructions and allocations per message, counted by valgrind: steady on any machine.

    What a run without messages does is subtracted.  Python's own allocator is off, so
    that valgrind sees each object.
    """

    def run(number: int) -> tuple[int, int]:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "dhat.json")
            command = (
                f"valgrind --tool=dhat --dhat-out-file={out} {sys.executable} -m {__spec__.name}"
            )
            done = subprocess.run(
                [*command.split(), "--converse", subject, str(number)],
                env={**os.environ, "PYTHONMALLOC": "malloc", "PYTHONHASHSEED": "0"},
                cwd=ROOT, stderr=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            total = re.search(r"Total: +[\d,]+ bytes in ([\d,]+) blocks", done.stderr)
            assert total is not None, done.stderr
            return int(json.loads(out.read_text())["te"]), int(total[1].replace(",", ""))

    base, more = run(0), run(messages)
    return (more[0] - base[0]) / messages, (more[1] - base[1]) / messages


def main() -> int:
    """The command; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.memory_loop",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer messages and rounds")
    parser.add_argument("--bound", type=float, help="one for all, in place of BOUNDS")
    parser.add_argument("--count", action="store_true", help="instructions as well; takes minutes")
    parser.add_argument("--converse", nargs=2, help=argparse.SUPPRESS)  # what valgrind runs
    options = parser.parse_args()
    if options.converse:
        subject, messages = options.converse
        gc.disable()  # a collection more or less is a tenth of it all
        asyncio.run(converse(SUBJECTS[subject](), "waiting", int(messages)))
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
    if options.count and shutil.which("valgrind") is None:
        print("there is no valgrind to count instructions")
    elif options.count:
        for framework, _ in [*BOUNDS][::2]:
            for subject in (framework, f"unisock on {framework}"):
                instructions, allocations = count(subject, 2000)
                print(f"{subject:21}{instructions:.0f} instructions, {allocations:.2f} allocations")
    return status


if __name__ == "__main__":
    sys.exit(main())
