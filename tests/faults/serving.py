"""Handlers that wait, err and chat."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import unisock
from unisock import SyncWebSocket, WebSocket

# For the tests of the soak run: of so many messages one is not answered, and
# nothing is let go.
LOSE = int(os.environ.get("LOSE", "0"))
KEPT: list[object] | None = [] if "KEEP" in os.environ else None


def tell(*words: object) -> None:
    """Tell the test, in a line of the log."""
    sys.stdout.write(f"told: {' '.join(map(str, words))}\n")  # one write: lines must not mix
    sys.stdout.flush()


# Handlers that are open when the server stops


async def waits(ws: WebSocket) -> None:
    """Wait as the path says, and tell the end of it."""
    how = ws.path_params["how"]
    try:
        if how == "before":
            tell("waits", how)
            await ws.wait_closed()
        await ws.accept()
        await ws.send("ready")
        await _WAITS[how](ws)
    finally:
        tell("finally", ws.url.path)


async def _send(ws: WebSocket) -> None:
    while True:
        await ws.send("more")
        await asyncio.sleep(0.02)


async def _sleep(ws: WebSocket) -> None:
    await asyncio.Event().wait()


async def _in_while_connected(ws: WebSocket) -> None:
    async with ws.while_connected():
        await _sleep(ws)


async def _drain(ws: WebSocket) -> None:
    try:
        await ws.receive()
    finally:
        await asyncio.sleep(0.3)
        tell("drained")


async def _close(ws: WebSocket) -> None:
    await ws.close(4000)
    await _sleep(ws)


async def _swallow(ws: WebSocket) -> None:
    try:
        await _sleep(ws)
    except asyncio.CancelledError:
        tell("swallowed")
    await ws.receive()


_WAITS: dict[str, Callable[[WebSocket], Any]] = {
    "receive": lambda ws: ws.receive(),
    "send": _send,
    "sleep": _sleep,
    "connected": _in_while_connected,
    "drain": _drain,
    "closing": _close,
    "swallow": _swallow,
}


def blocks(ws: SyncWebSocket) -> None:
    """As `waits`, in a plain function."""
    how = ws.path_params["how"]
    try:
        ws.accept()
        ws.send("ready")
        if how == "receive":
            ws.receive()
        while True:
            ws.send("more")
            with contextlib.suppress(TimeoutError):
                ws.receive(timeout=0.02)
    finally:
        tell("finally", ws.url.path)


async def keeps(ws: WebSocket) -> None:
    """Store each message, and say then which process has done so."""
    await ws.accept()
    async for message in ws.iter_text():
        tell("kept", message)
        await ws.send(f"{os.getpid()} {message}")


# Handlers that do what they should not


class Odd(BaseException):
    """An error that is no `Exception`."""


_ERRORS = (Odd, GeneratorExit, SystemExit, asyncio.CancelledError)
ERRORS: dict[str, type[BaseException]] = {each.__name__: each for each in _ERRORS}


async def raises(ws: WebSocket) -> None:
    """Raise what no handler should."""
    await ws.accept()
    raise ERRORS[ws.path_params["error"]]


def raises_plainly(ws: SyncWebSocket) -> None:
    """As `raises`, in a plain function."""
    ws.accept()
    raise ERRORS[ws.path_params["error"]]


async def stalls(ws: WebSocket) -> None:
    """Block the event loop, until the file is there that a message names."""
    await ws.accept()
    async for name in ws.iter_text():
        await ws.send("blocking")
        while not Path(name).exists():
            time.sleep(0.01)  # the fault
        await ws.send("blocked")


async def swallows(ws: WebSocket) -> None:
    """Swallow the cancellation that tells of the peer's end."""
    await ws.accept()
    try:
        async with ws.while_connected():
            with contextlib.suppress(asyncio.CancelledError):
                await ws.send("ready")
                await _sleep(ws)
            tell("went on")
    except unisock.WebSocketDisconnect as exc:
        tell("swallowed", exc.code)


async def closes_twice(ws: WebSocket) -> None:
    """Close in two tasks at once."""
    await ws.accept()
    await asyncio.gather(ws.close(4001, "one"), ws.close(4002, "two"))
    tell("closed", ws.close_code)


def closes_twice_plainly(ws: SyncWebSocket) -> None:
    """As `closes_twice`, in two threads or greenlets."""
    ws.accept()
    ws.start_soon(ws.close, 4001, "one")
    ws.close(4002, "two")
    tell("closed", ws.close_code)


_leaked: set[asyncio.Task[None]] = set()


async def leaks(ws: WebSocket) -> None:
    """Leave a task behind that uses the connection."""
    await ws.accept()
    _leaked.add(asyncio.create_task(_use_late(ws)))
    await ws.send("last")


async def _use_late(ws: WebSocket) -> None:
    await ws.wait_closed()
    tell("leaked send", await _outcome(ws.send("late")))
    tell("leaked receive", await _outcome(ws.receive()))


async def _outcome(call: Awaitable[object]) -> str:
    """The name of what a call raises."""
    try:
        await asyncio.wait_for(call, 5)
    except Exception as exc:  # noqa: BLE001  # which one it is, the test looks at
        return type(exc).__name__
    return "nothing"


async def strays(ws: WebSocket) -> None:
    """Use the connection on the event loop of another thread, as the message says."""
    await ws.accept()
    async for name in ws.iter_text():
        call = ws.receive() if name == "receive" else ws.send("stray")
        await ws.send(await asyncio.to_thread(asyncio.run, _outcome(call)))


# What the soak run talks to


async def chat(ws: WebSocket) -> None:
    """Answer each number with one's own and it, and tell where it is not the next."""
    await ws.accept()
    if KEPT is not None:
        KEPT.append((ws, b"x" * 6_000_000))
    received = sent = 0
    async for message in ws.iter_text():
        number, _, rest = message.partition(" ")
        if int(number) != received:
            await ws.send(f"expected {received}")
        received = int(number) + 1
        if LOSE and received % LOSE == 0:
            continue
        await ws.send(f"{sent} {number} {rest}")
        sent += 1


async def census(ws: WebSocket) -> None:
    """Answer each message with what there is in this process."""
    await ws.accept()
    async for _ in ws:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # give free memory back: malloc_trim(3)
        types = Counter(map(type, gc.get_objects()))
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        await ws.send_json(
            {
                "rss": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
                "fds": len(os.listdir("/proc/self/fd")),
                "tasks": len(asyncio.all_tasks()),
                # The event loop's own pool keeps those that it has once started.
                "threads": sum(not t.name.startswith("asyncio_") for t in threading.enumerate()),
                "greenlets": sum(n for t, n in types.items() if t.__name__ == "Greenlet"),
                "websockets": types[WebSocket],
            }
        )


async def open_to(ws: WebSocket) -> None:
    """Be open to whom the origins of the path allow."""
    await ws.accept()
    await ws.wait_closed()


_ORIGINS = json.loads(os.environ.get("ORIGINS", "null"))
HANDLERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "/waits/{how}": (waits, {}),
    "/blocks/{how}": (blocks, {}),
    "/keeps": (keeps, {}),
    "/raises/{error}": (raises, {}),
    "/raises-plainly/{error}": (raises_plainly, {}),
    "/stalls": (stalls, {}),
    "/swallows": (swallows, {}),
    "/closes-twice": (closes_twice, {}),
    "/closes-twice-plainly": (closes_twice_plainly, {}),
    "/leaks": (leaks, {}),
    "/strays": (strays, {}),
    "/chat": (chat, {}),
    "/census": (census, {}),
    "/origins": (open_to, {}),
    "/origins/listed": (open_to, {"origins": _ORIGINS}),
    "/origins/any": (open_to, {"origins": "*"}),
}
