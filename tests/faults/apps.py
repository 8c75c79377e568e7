"""The application of the tests of bad peers, the same on each framework.

Takes from the environment ``PORT``, its row as ``KIND``, and ``PING``, the seconds between
keepalive pings and until a peer that answers none counts as gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import unisock
from unisock import SyncWebSocket, WebSocket, WebSocketDisconnect
from unisock.adapters.asgi import ASGIApp
from unisock.serving import FRAMEWORKS, Service, bind

KIND = os.environ.get("KIND", "")
PING = float(os.environ["PING"]) if "PING" in os.environ else None
ON_GEVENT = KIND in ("flask", "gunicorn")
GRACE = 3
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


HANDLERS: dict[str, Any] = {
    "/echo": echo,
    "/waits/{where}": waits,
    "/plain/{where}": waits_plainly,
    "/rejects": lambda ws: ws.reject(418, b"a teapot"),
    "/control/{what}": control,
}


def make_app(framework: str) -> Any:
    """An application with all handlers."""
    if framework == "asgi":
        return _bare_asgi()
    options: dict[str, Any] = {"close_timeout": 1.0}
    if framework in ("flask", "aiohttp"):
        options |= {"ping_interval": PING, "ping_timeout": PING}
    app = FRAMEWORKS[framework].app(Service(echo, "/unused"))
    for path, handler in HANDLERS.items():
        unisock.mount(app, path, handler, **options)
    return app


def _bare_asgi() -> Any:
    # An ASGIApp serves one path; whose a request is, the beginning says.
    table = {p.partition("{")[0]: ASGIApp(h, path=p) for p, h in HANDLERS.items()}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        found = [each for start, each in table.items() if path.startswith(start)]
        await (found or [table["/echo"]])[0](scope, receive, send)

    return app


def main() -> None:
    """Serve until a signal comes."""
    logging.basicConfig(level=logging.INFO)
    port = int(os.environ["PORT"])
    if KIND == "gunicorn":
        command = [sys.executable, "-m", "gunicorn", "--no-control-socket"]
        command += ["--worker-class=unisock.adapters.gunicorn.WebSocketWorker"]
        command += [f"--bind=127.0.0.1:{port}", f"--graceful-timeout={GRACE}"]
        os.execv(sys.executable, [*command, "tests.faults.apps:make_app('flask')"])
    elif KIND in ("flask", "aiohttp"):
        server = FRAMEWORKS[KIND].server(make_app(KIND), GRACE, False)
        server.run(bind("127.0.0.1", port), lambda: None)
    elif KIND == "hypercorn":
        from hypercorn.asyncio import serve
        from hypercorn.config import Config

        config = Config.from_mapping(bind=f"127.0.0.1:{port}", graceful_timeout=GRACE)
        asyncio.run(serve(make_app("starlette"), config))
    else:
        import uvicorn

        # By default without keepalive, for the peers of most tests answer no ping.
        pings: dict[str, Any] = {"ws_ping_interval": PING, "ws_ping_timeout": PING}
        app = make_app(KIND)
        uvicorn.run(app, port=port, access_log=False, timeout_graceful_shutdown=GRACE, **pings)
