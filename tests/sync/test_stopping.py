"""Servers that stop while plain functions block."""

from __future__ import annotations

import json
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.servers import RawClient, Server
from tests.sync.conftest import OTHERS

Eventually = Callable[[Callable[[], bool]], None]
Start = Callable[..., Server]

CLOSE = 8
STOPPED = (CLOSE, struct.pack("!H", 1012))
GREENLETS = ("flask", "flask-patched", "gunicorn")
# In how many connections at once a handler only receives.
MANY = 50
# The seconds that the server has where some handler does not end by itself.
BRIEF = "2"
# More than that, and less than what a connection has for its closing handshake.
_PATIENCE = 8
_CANCELLED = re.compile(
    r"ERROR: +Exception in ASGI application\n(?:(?!ERROR:).*\n)+?"
    r"asyncio.exceptions.CancelledError: Task cancelled, timeout graceful shutdown exceeded\n"
)


def _counts(server: Server) -> dict[str, int]:
    counts: dict[str, int] = json.loads(server.get("/left")[1])
    return counts


def _wait_until_stuck(server: Server, eventually: Eventually) -> None:
    """Wait until no more is sent to a peer that does not read."""
    sent = [-1]

    def stands_still() -> bool:
        sent.append(_counts(server)["sent"])
        return sent[-1] == sent[-2] > 0

    eventually(stands_still)


def _last_frame(client: RawClient) -> tuple[int, bytes]:
    """Read to the end, and answer a close frame; the last frame."""
    last = (-1, b"")
    while (received := client.read_frame())[0] != -1:
        last = received
        if received[0] == CLOSE:
            client.send_frame(*received)
    return last


def _told(log: str, where: str) -> list[str]:
    """What the handler has told, in order; many have told the same."""
    start = f"told: {where} "
    lines = [line.removeprefix(start) for line in log.splitlines() if line.startswith(start)]
    return list(dict.fromkeys(lines))


def _stop(server: Server) -> str:
    """Wait for a server to end that is told to stop; its log, in which is nothing amiss."""
    server.process.wait(_PATIENCE)
    # uvicorn 0.54 logs what it cancels itself, unless it is gone before.
    log = _CANCELLED.sub("", server.log())
    # uvicorn gives itself the signal again.
    assert server.process.returncode in (0, -signal.SIGTERM), log
    for amiss in ("Traceback", "never retrieved", "never awaited", "Exception ignored"):
        assert amiss not in log, log
    return log


def _open(server: Server, where: str) -> RawClient:
    client = server.raw(f"/blocks/{where}")
    assert b" 101 " in client.read_head()
    return client


@pytest.mark.parametrize("kind", ["starlette", "falcon", *OTHERS, *GREENLETS])
def test_calls_end_by_a_disconnect(kind: str, start: Start, eventually: Eventually) -> None:
    server = start(kind)
    open_ones = ["receive-in-turns", "wait_closed", "beside", "stubborn", "send"]
    clients = [(where, _open(server, where)) for where in ["receive"] * MANY + open_ones]
    connecting = server.raw("/blocks/before-accept-wait_closed")
    eventually(lambda: _counts(server)["waiting"] == len(clients) + 1)
    _wait_until_stuck(server, eventually)
    server.process.send_signal(signal.SIGTERM)
    for where, client in clients:
        with client:
            # That of a sender stands behind what was sent.
            assert _last_frame(client) == STOPPED, where
    with connecting:
        # uvicorn 0.54 answers by itself, and tells the application of a broken connection.
        on_uvicorn = kind in ("starlette", "falcon")
        status, code = (b" 500 ", 1006) if on_uvicorn else (b" 503 ", 1012)
        assert status in connecting.read_head()
    log = _stop(server)
    assert log.count("told: receive finally True 1012") == MANY
    for where in ("receive", "receive-in-turns", "beside", "send"):
        assert _told(log, where) == ["disconnect 1012", "finally True 1012"], (where, log)
    assert _told(log, "before-accept-wait_closed") == [f"finally True {code}"], log
    assert "finally True 1012" in _told(log, "wait_closed"), log
    assert "told: function returned 1012" in log
    gone = "disconnect 1012"
    assert _told(log, "stubborn")[0] == str([gone, gone, gone, 1012, None, gone]), log


@pytest.mark.parametrize("kind", ["starlette", *OTHERS, "flask", "gunicorn"])
def test_a_send_to_a_peer_that_never_reads(kind: str, start: Start, eventually: Eventually) -> None:
    server = start(kind, GRACE=BRIEF)
    with _open(server, "send"):
        _wait_until_stuck(server, eventually)
        server.process.send_signal(signal.SIGTERM)
        log = _stop(server)
    assert _told(log, "send") == ["disconnect 1012", "finally True 1012"], log


@pytest.mark.parametrize("kind", GREENLETS)
def test_a_greenlet_that_waits_elsewhere_is_killed(
    kind: str, start: Start, eventually: Eventually
) -> None:
    server = start(kind)
    connecting = server.raw("/blocks/before-accept-sleep")
    clients = [_open(server, where) for where in ("sleep", "sleep-beside")]
    # This one's handler has ended; its greenlet waits for a close frame that never comes.
    closing = _open(server, "nothing")
    assert closing.read_frame() == (CLOSE, struct.pack("!H", 1000))
    eventually(lambda: _counts(server)["waiting"] == 3)
    server.process.send_signal(signal.SIGTERM)
    with connecting:
        assert b" 503 " in connecting.read_head()
    for client in clients:
        with client:
            assert _last_frame(client) == STOPPED
    with closing:
        assert closing.read_frame() == (-1, b"")
        log = _stop(server)
    assert _told(log, "nothing") == ["finally False None"], log
    assert _told(log, "before-accept-sleep") == ["finally True 1012"], log
    assert _told(log, "sleep") == ["finally True 1012"], log
    assert _told(log, "sleep-beside") == ["disconnect 1012", "finally True 1012"], log
    assert _told(log, "function") == ["killed True"], log


@pytest.mark.parametrize("kind", ["starlette", "embedded"])
def test_a_thread_that_waits_elsewhere_keeps_no_process_from_its_end(
    kind: str, start: Start, eventually: Eventually
) -> None:
    server = start(kind, GRACE=BRIEF)
    connecting = server.raw("/blocks/before-accept-sleep")
    clients = [_open(server, where) for where in ("sleep", "sleep-beside")]
    eventually(lambda: _counts(server)["waiting"] == 3)
    server.process.send_signal(signal.SIGTERM)
    with connecting:
        assert b" 500 " in connecting.read_head()  # uvicorn's own
    for client in clients:
        with client:
            assert _last_frame(client) == STOPPED
    log = _stop(server)
    # It goes with the process, wherever it waits.
    assert _told(log, "sleep") == []
    assert _told(log, "sleep-beside") == ["disconnect 1012", "finally True 1012"], log


# Of a loop that is in haste: nothing waits for the thread until the process ends.
_HASTY = """
import asyncio, atexit, threading, time
from unisock.asyncio_runtime import ThreadWorkers

started, ending = threading.Event(), threading.Event()

def handler():
    started.set()
    try:
        ending.wait()
    finally:
        time.sleep(0.2)
        print("finally", flush=True)

async def main():
    running = asyncio.create_task(ThreadWorkers(str).run("handler", handler, bool))
    await asyncio.to_thread(started.wait)
    running.cancel()

asyncio.run(main())
"""


def _run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stderr == ""
    return done.stdout


def test_a_process_does_not_end_in_the_middle_of_a_finally_block() -> None:
    assert _run(_HASTY + "atexit.register(ending.set)") == "finally\n"


def test_a_process_does_not_wait_for_a_thread_that_never_ends() -> None:
    assert _run(_HASTY) == ""
