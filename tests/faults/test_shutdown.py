"""Servers that are stopped, or reloaded, with a hundred connections in all states."""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from tests.faults.kinds import GEVENT, KINDS, MAIN, UVICORN, KindServer, handshake
from tests.servers import RawClient
from unisock.conformance.harness import leftovers

CLOSE = 8
GRACE = 2
# What a process takes beside its grace, on a slow machine.
_PATIENCE = 15
# How many connections are in which state.
STATES = {
    "/waits/receive": 25,
    "/waits/drain": 5,
    "/waits/send": 15,
    "/waits/sleep": 15,
    "/waits/connected": 15,
    "/waits/closing": 5,
    "/waits/before": 5,
    "/blocks/receive": 10,
    "/blocks/send": 5,
}
# What servers themselves log with a traceback, of handlers that they have to cancel.
_OF_SERVERS = {
    **dict.fromkeys(UVICORN, "Exception in ASGI application"),
    "hypercorn": "Exception in callback StreamReaderProtocol.connection_made",
}


def _open_all(server: KindServer, stack: ExitStack) -> list[tuple[str, RawClient]]:
    paths = Counter(STATES).elements()
    clients = [(path, stack.enter_context(server.raw(path))) for path in paths]
    for path, client in clients:
        if path != "/waits/before":
            assert b" 101 " in client.read_head()
            assert client.read_frame() == (1, b"ready")
        if path == "/waits/closing":
            assert client.read_frame() == (CLOSE, (4000).to_bytes(2))
    _until(lambda: server.log().count("told: waits before") == STATES["/waits/before"])
    return clients


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < until, "it never came to hold"
        time.sleep(0.02)


def _end_of(client: RawClient) -> int:
    """Read to the end, and answer a close frame; its code, or -1 where there was none."""
    code = -1
    while (received := client.read_frame())[0] != -1:
        if received[0] == CLOSE:
            code = int.from_bytes(received[1][:2])
            client.send_frame(*received)
    return code


def _check_log(kind: str, log: str) -> None:
    assert Counter(re.findall(r"^told: finally (.*)$", log, re.MULTILINE)) == STATES
    # hypercorn 0.18 lets the grace pass before it tells anybody: what is left then is chance.
    assert kind == "hypercorn" or log.count("told: drained") == STATES["/waits/drain"]
    assert leftovers(log) == []
    assert re.search(r"^(ERROR|WARNING):unisock", log, re.MULTILINE) is None, log
    # With the server's own words above each.
    own = log.count(_OF_SERVERS[kind]) if kind in _OF_SERVERS else 0
    assert log.count("Traceback (most recent call last)") == own, log


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        *((kind, signal.SIGTERM) for kind in KINDS),
        *((kind, signal.SIGINT) for kind in KINDS if kind != "gunicorn"),
    ],
)
def test_a_hundred_connections_are_told_and_the_process_ends(
    kind: str, number: signal.Signals, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(KindServer(tmp_path, kind, GRACE=str(GRACE)))
        late = socket.create_connection(("127.0.0.1", server.port), timeout=_PATIENCE)
        stack.enter_context(late)
        clients = _open_all(server, stack)
        server.process.send_signal(number)
        for path, client in clients:
            # And so is who closes then.
            codes = (1011, 1012) if (kind, path) == ("hypercorn", "/waits/drain") else (1012,)
            if path not in ("/waits/before", "/waits/closing"):
                assert _end_of(client) in codes, path
        # Those that have not answered their close frame hold the server in its grace.
        assert server.process.poll() is None
        # Only gevent's servers can answer: the others cut who has not yet asked.
        answer = b""
        with suppress(ConnectionError):
            late.sendall(handshake("/keeps"))
            answer = late.recv(12)[9:]
        assert answer == (b"503" if kind in GEVENT else b"")
        with pytest.raises(ConnectionRefusedError):
            server.raw()
        refused = b" 500 " if kind in UVICORN else b" 503 "  # uvicorn 0.54 answers by itself
        for path, client in clients:
            if path == "/waits/before":
                assert refused in client.read_head()
            elif path == "/waits/closing" and number == signal.SIGINT:
                client.close()  # else it is cut when the grace is over
        # uvicorn gives itself the signal again.
        assert server.process.wait(GRACE + _PATIENCE) in (0, -number, 128 + number)
        _check_log(kind, server.log())


def test_sigint_is_the_quick_shutdown_of_gunicorn(tmp_path: Path) -> None:
    """It cuts every connection, as its documentation says: no grace, and no `finally`."""
    with ExitStack() as stack:
        server = stack.enter_context(KindServer(tmp_path, "gunicorn", GRACE="60"))
        clients = _open_all(server, stack)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(_PATIENCE) == 0
        assert {_end_of(client) for path, client in clients if path != "/waits/before"} == {-1}
        log = server.log()
        assert "told: finally" not in log
        assert "Traceback" not in log
        assert leftovers(log) == []


@pytest.mark.parametrize("kind", MAIN)
def test_a_handler_that_swallows_its_cancellation_sees_the_end(kind: str, tmp_path: Path) -> None:
    with (
        KindServer(tmp_path, kind, GRACE=str(GRACE)) as server,
        server.raw("/waits/swallow") as client,
    ):
        client.read_head()
        assert client.read_frame() == (1, b"ready")
        server.process.send_signal(signal.SIGTERM)
        assert _end_of(client) in (1001, 1012)
        server.process.wait(GRACE + _PATIENCE)
        assert "told: finally /waits/swallow" in server.log()


class _Keeper(threading.Thread):
    """A client that sends numbers, and connects anew where it was told to go."""

    def __init__(self, server: KindServer, name: str) -> None:
        super().__init__(name=name)
        self.url, self.done = server.url("/keeps"), threading.Event()
        self.acknowledged: list[str] = []
        self.pids: list[str] = []
        self.codes: list[int | None] = []
        self.start()

    def run(self) -> None:
        while not self.done.is_set():
            try:
                with connect(self.url) as client:
                    while not self.done.is_set():
                        self._send(client, f"{self.name} {len(self.acknowledged)}")
            except ConnectionClosed as exc:
                self.codes.append(exc.rcvd.code if exc.rcvd else None)
            except (InvalidHandshake, OSError):
                self.done.wait(0.02)  # between the old worker and the new one

    def _send(self, client: ClientConnection, message: str) -> None:
        client.send(message)
        pid, _, kept = client.recv(_PATIENCE, decode=True).partition(" ")
        assert kept == message
        self.acknowledged.append(message)
        if pid not in self.pids:
            self.pids.append(pid)


def test_a_reload_of_gunicorn_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    with KindServer(tmp_path, "gunicorn", GRACE=str(GRACE)) as server:
        keepers = [_Keeper(server, f"k{n}") for n in range(8)]
        try:
            _until(lambda: all(len(each.acknowledged) > 10 for each in keepers))
            server.process.send_signal(signal.SIGHUP)
            _until(lambda: all(len(each.pids) == 2 for each in keepers))
        finally:
            for keeper in keepers:
                keeper.done.set()
                keeper.join(_PATIENCE)
        log = server.stop()
    kept = set(re.findall(r"^told: kept (.*)$", log, re.MULTILINE))
    for keeper in keepers:
        assert keeper.codes[:1] == [1012], keeper.codes
        assert set(keeper.acknowledged) <= kept
    assert len({tuple(keeper.pids) for keeper in keepers}) == 1, "two workers, all in this order"
    assert "Traceback" not in log
    assert leftovers(log) == []
