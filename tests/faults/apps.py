"""Handlers that echo and wait, and tell what they saw."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

from tests.faults.kinds import GEVENT, KIND
from unisock import SyncWebSocket, WebSocket, WebSocketDisconnect

ON_GEVENT = KIND in GEVENT
MIB = b"x" * (1 << 20)

counts = Counter[str]()
# What each connection has told, by the id in its query, and how many sends returned.
events = defaultdict[str, list[list[Any]]](list)
sends = Counter[str]()


def tell(ws: WebSocket | SyncWebSocket, *words: Any) -> None:
    """Tell the test."""
    events[ws.query_params.get("id", "")].append(list(words))


@contextlib.contextmanager
def told(ws: WebSocket | SyncWebSocket) -> Generator[None]:
    """Tell how a handler ends."""
    counts["connections"] += 1
    try:
        yield
    except WebSocketDisconnect as exc:
        tell(ws, "disconnect", exc.code)
        raise
    finally:
        tell(ws, "finally")
        counts["connections"] -= 1


async def echo(ws: WebSocket) -> None:
    """Echo."""
    with told(ws):
        await ws.accept()
        async for message in ws:
            await ws.send(message)


async def waits(ws: WebSocket) -> None:
    """Wait as the path says."""
    with told(ws):
        if "early" not in ws.query_params:
            await ws.accept()
        tell(ws, "ready")
        await _WAITS.get(ws.path_params["where"], WebSocket.receive)(ws)


async def _send(ws: WebSocket) -> None:
    while True:
        await ws.send(MIB)
        sends[ws.query_params["id"]] += 1


async def _sleep(ws: WebSocket) -> None:
    """Wait for what the connection has no part in, and then for that."""
    before = counts["releases"]
    while counts["releases"] == before:
        await asyncio.sleep(0.01)
    if "early" in ws.query_params:
        await ws.accept()
    await ws.receive()


async def _connected(ws: WebSocket) -> None:
    async with ws.while_connected():
        try:
            await asyncio.Event().wait()
        finally:
            tell(ws, "cancelled")


async def _close(ws: WebSocket) -> None:
    with contextlib.suppress(ValueError):
        await ws.close(4000, "no text: \ud800")
    await ws.close(4000, "a\r\nb: 1\0")
    await ws.receive()


_WAITS = {"send": _send, "connected": _connected, "close": _close, "sleep": _sleep}


def waits_plainly(ws: SyncWebSocket) -> None:
    """As `waits`, a plain function."""
    with told(ws):
        ws.accept()
        tell(ws, "ready")
        if ws.path_params["where"] == "receive":
            ws.receive()
        while True:
            ws.send(MIB)
            sends[ws.query_params["id"]] += 1


def left() -> Any:
    """What is in the process now, and how much memory it had at most since the last call."""
    gc.collect()
    greenlet = sys.modules["greenlet"].greenlet if ON_GEVENT else ()
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")  # count the peak anew: proc(5)
    here = {
        "connections": counts["connections"],
        "tasks": 0 if ON_GEVENT else len(asyncio.all_tasks()),
        # A greenlet of a patched process that asks for its thread counts as a dummy of one.
        "threads": sum(not t.name.startswith("Dummy") for t in threading.enumerate()),
        "greenlets": sum(isinstance(g, greenlet) and not g.dead for g in gc.get_objects()),
        "fds": len(os.listdir("/proc/self/fd")),
    }
    return here, int(status.partition("VmHWM:")[2].split()[0]) * 1024


async def control(ws: WebSocket) -> None:
    """Answer what a test asks; wake the handlers that sleep."""
    await ws.accept()
    what = ws.path_params["what"]
    if what == "release":
        counts["releases"] += 1
    await ws.send_json(left() if what == "left" else (events, sends))


_OPTIONS = {"close_timeout": 1.0}
HANDLERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "/echo": (echo, _OPTIONS),
    "/waits/{where}": (waits, _OPTIONS),
    "/plain/{where}": (waits_plainly, _OPTIONS),
    "/rejects": (lambda ws: ws.reject(418, b"a teapot"), _OPTIONS),
    "/control/{what}": (control, _OPTIONS),
}
