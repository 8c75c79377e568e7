"""Servers for the tests of peers that break off, that break rules, and that are slow."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.kinds import KINDS, MAIN, KindServer, handshake
from tests.servers import RawClient

__all__ = [
    "CLASS",
    "ON_WIRE",
    "ROWS",
    "App",
    "Healthy",
    "Peer",
    "check_echo",
    "handshake",
    "wait_until_stuck",
]

CLASS = "class"
"""The row of Starlette on uvicorn with `unisock.adapters.uvicorn`."""
ROWS = (*KINDS, CLASS)

_PATIENCE = 20.0
ON_WIRE = {CLASS, "aiohttp", "flask", "gunicorn"}
"""Rows whose frames unisock itself reads and writes."""
# How long an echo may take beside what other peers do, in seconds, and how often it is asked
# for.  It takes a millisecond, and on a busy machine a tenth of a second at times.
_SLOWEST = 5.0
_ASKED_EVERY = 0.02
_FURTHER = set(KINDS) - set(MAIN)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the further servers to the full matrix."""
    for item in items:
        kinds = (
            item.callspec.params.values()
            if isinstance(item, pytest.Function) and hasattr(item, "callspec")
            else ()
        )
        if Path(__file__).parent in item.path.parents and not _FURTHER.isdisjoint(map(str, kinds)):
            item.add_marker(pytest.mark.full_matrix)


class App(KindServer):
    """A server that tells what its handlers saw, and what is left in its process."""

    def __init__(self, folder: Path, row: str, **environment: str) -> None:
        kind = row
        if row == CLASS:
            kind = "starlette"
            environment["UVICORN_WS"] = "unisock.adapters.uvicorn:WebSocketProtocol"
        # Without keepalive, for the peers of most tests answer no ping.
        super().__init__(folder, kind, "apps", **{"PING": "0", **environment})
        self.row = row
        self._ids = 0
        self.before: dict[str, int] = {}

    def _warm_up(self) -> None:
        """Have made what is made once, so that all that is there afterwards is a leak."""
        for path in ("/echo", "/plain/receive"):
            self.peer(path).close()
        self.eventually(lambda: not self.left()["connections"])
        self.eventually(self._is_still)

    def _is_still(self) -> bool:
        last, self.before = self.before, self.left()
        return self.before == last

    def peer(self, path: str, *headers: str, accepted: bool = True) -> Peer:
        """A client of a handler, which has accepted it or is not asked yet."""
        self._ids += 1
        path, _, query = path.partition("?")
        request = handshake(f"{path}?id={self._ids}&{query}", *headers)
        peer = Peer(self, request, str(self._ids))
        assert not accepted or peer.read_head().startswith(b"HTTP/1.1 101")
        return peer

    def ask(self, what: str) -> Any:
        """What the application answers."""
        with Peer(self, handshake(f"/control/{what}")) as peer:
            peer.read_head()
            return json.loads(peer.read_frame()[1])

    def left(self) -> dict[str, int]:
        """What is in the process."""
        return dict(self.ask("left")[0])

    def peak(self) -> int:
        """How much memory the process had at most since it was last asked, in bytes."""
        return int(self.ask("left")[1])

    def eventually(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds that no event tells of."""
        until = time.monotonic() + _PATIENCE
        while not condition():
            assert time.monotonic() < until, (self.left(), self.before, self.ask("journal"))
            time.sleep(0.02)

    @contextmanager
    def undisturbed(self, noise: str = "", *, slowest: float = _SLOWEST) -> Generator[Healthy]:
        """A healthy connection beside the body; after it nothing is left.

        It is answered all the while, within `slowest` seconds.  Nor is there a traceback in
        the log, but of errors that match `noise`: ``ValueError``, ``unisock: ValueError`` where
        unisock has a part in it.
        """
        if not self.before:
            self._warm_up()
        mark = len(self.log())
        with self.peer("/echo") as peer:
            healthy = Healthy(peer)
            with healthy.asked_all_the_while(slowest):
                yield healthy
        self.eventually(lambda: all(n <= self.before[each] for each, n in self.left().items()))
        assert self.process.poll() is None
        log = self.log()[mark:]
        errors = re.findall(r"^Traceback .*\n((?:[ ].*\n)+)(\S+?):", log, re.MULTILINE)
        assert len(errors) == log.count("Traceback (most recent call last)"), log
        for stack, error in errors:
            ours = "unisock: " if re.search(r'/(unisock|adapters)/\w+\.py"', stack) else ""
            assert noise, log
            assert re.fullmatch(noise, ours + error), log


class Peer(RawClient):
    """A client that has sent something; handlers tell of it under its id."""

    def __init__(self, app: App, sent: bytes, id: str = "") -> None:
        address = ("127.0.0.1", app.port)
        self.socket = socket.create_connection(address, timeout=_PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")
        self.app = app
        self.id = id
        self.write(sent)

    def told(self, event: str) -> list[list[Any]]:
        """What the handler has told of `event`."""
        events = self.app.ask("journal")[0].get(self.id, [])
        return [words for name, *words in events if name == event]

    def wait_for(self, event: str) -> list[Any]:
        """Wait until the handler has told of `event`; the words that it told."""
        self.app.eventually(lambda: self.told(event))
        return self.told(event)[0]


def wait_until_stuck(*peers: Peer) -> None:
    """Wait until the handlers' sends have filled all buffers on the way."""
    seen: list[list[int]] = []

    def are_stuck() -> bool:
        sends = peers[0].app.ask("journal")[1]
        seen.append([sends.get(peer.id, 0) for peer in peers])
        return all(seen[-1]) and seen[-5:] == [seen[-1]] * 5

    peers[0].app.eventually(are_stuck)


class Healthy:
    """A connection that echoes, beside those that do harm.

    Args:
        peer: its client.

    Attributes:
        seconds: how long each echo has taken.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._lock = threading.Lock()
        self.seconds: list[float] = []

    def echo(self) -> None:
        """A message comes back."""
        with self._lock:
            start = time.perf_counter()
            self._peer.send_frame(1, b"still there?")
            while (got := self._peer.read_frame())[0] == 9:
                self._peer.send_frame(10, got[1])
            assert got == (1, b"still there?")
            self.seconds.append(time.perf_counter() - start)

    @contextmanager
    def asked_all_the_while(self, at_most: float) -> Generator[None]:
        """It is asked during the body, by a thread; the slowest echo is printed.

        That must have taken `at_most` so many seconds.
        """
        over = threading.Event()
        errors: list[BaseException] = []

        def ask() -> None:
            try:
                while not over.wait(_ASKED_EVERY):
                    self.echo()
            except BaseException as exc:  # noqa: BLE001  # raised by the test's thread
                errors.append(exc)

        self.echo()
        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        assert not errors, errors
        self.echo()
        slowest = max(self.seconds)
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0].rpartition("::")[2]
        print(f"{test}: the slowest of {len(self.seconds)} echoes took {slowest * 1000:.0f} ms")
        assert slowest < at_most, sorted(self.seconds)[-10:]


def check_echo(healthy: Healthy) -> None:
    """A message comes back."""
    healthy.echo()


@pytest.fixture(scope="session", params=ROWS)
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A server of each row, for all tests."""
    with App(tmp_path_factory.mktemp(request.param), request.param) as running:
        yield running
