"""Servers for the tests of peers that break off, that break rules, and that are slow."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.faults.kinds import KINDS, MAIN, KindServer, handshake
from tests.servers import RawClient

__all__ = ["ROWS", "App", "Peer", "check_echo", "handshake", "wait_until_stuck"]

ROWS = KINDS

_PATIENCE = 20.0
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
        # Without keepalive, for the peers of most tests answer no ping.
        super().__init__(folder, row, "apps", **{"PING": "0", **environment})
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
    def undisturbed(self, noise: str = "") -> Generator[ClientConnection]:
        """A healthy connection beside the body; after it nothing is left.

        Nor is there a traceback in the log, but of errors that match `noise`: ``ValueError``,
        ``unisock: ValueError`` where unisock has a part in it.
        """
        if not self.before:
            self._warm_up()
        mark = len(self.log())
        with connect(self.url("/echo"), ping_interval=None) as healthy:
            check_echo(healthy)
            yield healthy
            check_echo(healthy)
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


def check_echo(healthy: ClientConnection) -> None:
    """A message comes back."""
    healthy.send("still there?")
    assert healthy.recv(timeout=_PATIENCE) == "still there?"


@pytest.fixture(scope="session", params=ROWS)
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A server of each row, for all tests."""
    with App(tmp_path_factory.mktemp(request.param), request.param) as running:
        yield running
