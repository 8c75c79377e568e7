"""The server of these tests: Flask on gevent's WSGIServer, patched or not.

Takes its port and its kind from the environment: ``PORT``, ``KIND``.
"""

from __future__ import annotations

import os

if os.environ["KIND"] == "patched":
    from gevent import monkey

    monkey.patch_all()

import asyncio
import logging
import resource
import signal
import sys
import threading
from typing import Any

import flask
import gevent
import gevent.event
from gevent.pywsgi import WSGIServer

import unisock
from unisock import WebSocket
from unisock.adapters.flask import WebSocketHandler
from unisock.adapters.gevent_loop import hub_event_loop

app = flask.Flask(__name__)
port = int(os.environ["PORT"])


async def echo(ws: WebSocket) -> None:
    """Echo."""
    await ws.accept()
    try:
        async for message in ws:
            await ws.send(message)
    finally:
        counts["echoes ended"] += 1


async def _fetch() -> str:
    """An HTTP request with asyncio's own network client."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    response = await reader.read()
    writer.close()
    await writer.wait_closed()
    return response.rpartition(b"\r\n\r\n")[2].decode()


async def _time_out() -> str:
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)
    except TimeoutError:
        return "timed out"
    return "slept"


async def _queue() -> str:
    queue: asyncio.Queue[str] = asyncio.Queue()
    async with asyncio.TaskGroup() as group:
        group.create_task(queue.put("from a queue"))
        getting = group.create_task(queue.get())
    return getting.result()


async def _subprocess() -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "print('child', end='')", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return out.decode()


async def uses_asyncio(ws: WebSocket) -> None:
    """Do what handlers do, as often as messages come; tell what came of it."""
    await ws.accept()
    async for message in ws:
        async with asyncio.TaskGroup() as group:
            tasks = {
                "timeout": group.create_task(_time_out()),
                "queue": group.create_task(_queue()),
                "thread": group.create_task(asyncio.to_thread(lambda: "from a thread")),
                "client": group.create_task(_fetch()),
            }
            if message == "subprocess":
                tasks["subprocess"] = group.create_task(_subprocess())
        assert asyncio.get_running_loop() is hub_event_loop()
        await ws.send_json({name: task.result() for name, task in tasks.items()})


async def sends_much(ws: WebSocket) -> None:
    """Send for ever; tell by ``/sent`` how much was taken."""
    await ws.accept()
    try:
        while True:
            await ws.send_bytes(b"x" * 65536)
            counts["sent"] += 1
    finally:
        counts["sending ended"] += 1


async def sleeps(ws: WebSocket) -> None:
    """Read nothing, but notice the end."""
    await ws.accept()
    await ws.send_text("sleeping")
    try:
        counts["code"] = await ws.wait_closed()
    finally:
        counts["woken"] += 1


async def reads_late(ws: WebSocket) -> None:
    """Read only when told by another way."""
    await ws.accept()
    await ws.send_text("accepted")
    await read_now.wait()
    async for message in ws:
        await ws.send(message)


async def waits_to_accept(ws: WebSocket) -> None:
    """Never accept; notice a client that leaves."""
    counts["waiting"] += 1
    counts["code"] = await ws.wait_closed()
    counts["waiting ended"] += 1


async def struck(ws: WebSocket) -> None:
    """Wait for what never comes, in a request that the application times out."""
    await ws.accept()
    try:
        await asyncio.Event().wait()
    finally:
        counts["struck"] += 1


async def gives_up_sending(ws: WebSocket) -> None:
    """Time out many sends to a peer that does not read; tell what waits then."""
    await ws.accept()
    given_up = 0
    while given_up < 20:
        try:
            async with asyncio.timeout(0.01):
                await ws.send_bytes(b"x" * 65536)
        except TimeoutError:
            given_up += 1
    wire: Any = ws._transport.wire  # type: ignore[attr-defined]  # gevent's
    counts["write waiters"] = len(wire._write_waiters)
    counts["given up"] += 1


async def exits(ws: WebSocket) -> None:
    """End the process as `sys.exit` in a task does under `asyncio.run`."""
    await ws.accept()
    sys.exit(3)


async def queued(ws: WebSocket) -> None:
    """Send on what an ordinary view puts into an asyncio queue."""
    await ws.accept()
    await ws.send_text("ready")
    await ws.send_text(await from_views.get())


async def shared(ws: WebSocket) -> None:
    """Be used by views; send what they put into a queue."""
    await ws.accept()
    queue: asyncio.Queue[str] = asyncio.Queue()
    used_by_views.append((ws, asyncio.get_running_loop(), queue))
    ws.start_soon(pump, ws, queue)
    try:
        async for message in ws:
            await ws.send(message)
    finally:
        used_by_views.clear()


async def pump(ws: WebSocket, queue: asyncio.Queue[str]) -> None:
    """Send what is in the queue."""
    while True:
        await ws.send_text(await queue.get())


async def _stray(ws: WebSocket, method: str) -> str:
    """Call a method where the handler does not run; what it raises."""
    try:
        if method == "send":
            await ws.send(b"x" * 2**25)  # more than lies between: it would wait
        elif method == "close":
            await ws.close(4000)
        else:
            ws.start_soon(ws.send_text, "stray")
    except unisock.InvalidState as exc:
        return str(exc)
    return "nothing was raised"


used_by_views: list[tuple[WebSocket, asyncio.AbstractEventLoop, asyncio.Queue[str]]] = []
counts = dict.fromkeys(
    (
        "sent",
        "sending ended",
        "waiting",
        "waiting ended",
        "echoes ended",
        "struck",
        "given up",
        "write waiters",
        "woken",
        "code",
    ),
    0,
)
read_now = asyncio.Event()
from_views: asyncio.Queue[str] = asyncio.Queue()


@app.before_request
def time_out() -> None:
    """A timeout of the application's own, as for slow pages."""
    if flask.request.path == "/struck":
        gevent.Timeout.start_new(0.1)


@app.get("/close-server")
def close_server() -> str:
    """Stop to take connections, and go on with those that there are."""
    server.close()
    return "closed"


@app.get("/page")
def page() -> str:
    """A page beside the sockets."""
    return "the page"


@app.get("/counts")
def show_counts() -> dict[str, int]:
    """What handlers counted, and what is there now."""
    return counts | {
        "threads": threading.active_count(),
        "fds": len(os.listdir("/proc/self/fd")),
        "KiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "tasks": len(asyncio.all_tasks(hub_event_loop())),
    }


@app.get("/read-now")
def let_read() -> str:
    """Let `reads_late` go on."""
    read_now.set()
    return ""


@app.get("/put")
def put() -> str:
    """From an ordinary greenlet to a handler."""
    from_views.put_nowait("from a view")
    return ""


@app.get("/asyncio-run")
def run_loop() -> str:
    """An event loop of this greenlet's own."""

    async def main() -> str:
        for _ in range(20):
            await asyncio.sleep(0.001)
        return "ran"

    return asyncio.run(main())


@app.get("/async-view")
async def async_view() -> str:
    """Flask's own async view."""
    await asyncio.sleep(0.001)
    return "async"


@app.get("/stray/<method>")
def stray(method: str) -> str:
    """Use a connection on an event loop of this greenlet's own."""
    ((ws, _, _),) = used_by_views
    return asyncio.run(_stray(ws, method))


@app.get("/async-stray/<method>")
async def async_stray(method: str) -> str:
    """The same in Flask's own async view."""
    ((ws, _, _),) = used_by_views
    return await _stray(ws, method)


@app.get("/remedy/<method>")
def remedy(method: str) -> str:
    """Do what the message of such an error says."""
    ((ws, loop, queue),) = used_by_views
    if method == "send":
        loop.call_soon_threadsafe(queue.put_nowait, "from a view")
    elif method == "close":
        asyncio.run_coroutine_threadsafe(ws.close(4000), loop)
    else:
        loop.call_soon_threadsafe(ws.start_soon, ws.send_text, "from a view")
    return "done"


@app.get("/running-loop")
def running_loop() -> str:
    """Whether another greenlet's loop shows in this one."""
    return repr(asyncio._get_running_loop())


for path, handler, options in (
    ("/echo", echo, {}),
    ("/small", echo, {"max_message_size": 1000}),
    ("/asyncio", uses_asyncio, {}),
    ("/much", sends_much, {"ping_interval": None}),
    ("/much-pinged", sends_much, {"ping_interval": 0.2, "ping_timeout": 0.2}),
    ("/sleeps", sleeps, {}),
    ("/pinged", sleeps, {"ping_interval": 0.1, "ping_timeout": 0.1}),
    ("/pinged-late", reads_late, {"ping_interval": 0.1, "ping_timeout": 0.1, "max_queue": 1}),
    ("/pinged-untimed", sleeps, {"ping_interval": 0.05, "ping_timeout": None}),
    ("/waits", waits_to_accept, {}),
    ("/struck", struck, {}),
    ("/gives-up", gives_up_sending, {"close_timeout": 0.2}),
    ("/exits", exits, {}),
    ("/queued", queued, {}),
    ("/shared", shared, {}),
    ("/hasty", echo, {"close_timeout": 0.2}),
):
    unisock.mount(app, path, handler, name=path[1:], **options)

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    server = WSGIServer(("127.0.0.1", port), app, handler_class=WebSocketHandler, log=None)
    server.start()
    # Not serve_forever: one test closes the server and goes on with the process.
    stopping = gevent.event.Event()
    gevent.signal_handler(signal.SIGTERM, stopping.set)
    stopping.wait()
    server.stop()
