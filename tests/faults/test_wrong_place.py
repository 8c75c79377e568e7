"""Handlers that do what they should not: the connection beside them goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.faults.kinds import KindServer
from tests.faults.serving import ERRORS
from tests.servers import RawClient

_PATIENCE = 10.0


@pytest.fixture(scope="module", params=["starlette", "flask", "falcon"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KindServer]:
    with KindServer(tmp_path_factory.mktemp(request.param), request.param) as server:
        yield server


class Bystander:
    """A connection that was there before, and is to notice nothing."""

    def __init__(self, client: ClientConnection) -> None:
        self.client, self.number = client, 0

    def send(self) -> None:
        for number in range(self.number, self.number + 3):
            self.client.send(f"{number} x")

    def receive(self) -> None:
        for _ in range(3):
            assert self.client.recv(_PATIENCE) == f"{self.number} {self.number} x"
            self.number += 1


@pytest.fixture
def bystander(server: KindServer) -> Iterator[Bystander]:
    """Checked before the test and after it."""
    with connect(server.url("/chat")) as client:
        bystander = Bystander(client)
        bystander.send()
        bystander.receive()
        yield bystander
        bystander.send()
        bystander.receive()


def _ending(server: KindServer, path: str, *messages: bytes) -> tuple[int, bytes]:
    """The code and reason of the one close frame that comes after `messages`, and is the last."""
    with RawClient(server.port, path) as client:
        assert b" 101 " in client.read_head()
        for message in messages:
            assert client.read_frame() == (1, message)
        opcode, payload = client.read_frame()
        assert opcode == 8
        client.send_frame(opcode, payload)
        assert client.read_frame() == (-1, b""), "more came after the close frame"
    return int.from_bytes(payload[:2]), payload[2:]


@pytest.mark.parametrize("form", ["raises", "raises-plainly"])
@pytest.mark.parametrize("error", ERRORS)
def test_an_error_that_is_no_exception(
    form: str, error: str, server: KindServer, bystander: Bystander
) -> None:
    if (server.kind, error) != ("flask", "SystemExit"):
        assert _ending(server, f"/{form}/{error}") == (1011, b"")


@pytest.mark.parametrize("form", ["raises", "raises-plainly"])
def test_an_exit_in_a_greenlet(form: str, tmp_path: Path) -> None:
    """Ends the process, as gevent has it, when the peer was told."""
    with KindServer(tmp_path, "flask") as server:
        assert _ending(server, f"/{form}/SystemExit") == (1011, b"")
        assert server.process.wait(_PATIENCE) == 0


def test_a_blocked_loop_loses_nothing(
    server: KindServer, bystander: Bystander, tmp_path: Path
) -> None:
    """What comes while it is blocked is answered afterwards, in order."""
    with connect(server.url("/stalls")) as blocker:
        blocker.send(str(tmp_path / "go on"))
        assert blocker.recv(_PATIENCE) == "blocking"
        bystander.send()
        with RawClient(server.port, "/chat") as newcomer:
            (tmp_path / "go on").touch()
            bystander.receive()
            assert b" 101 " in newcomer.read_head()
        assert blocker.recv(_PATIENCE) == "blocked"


def test_a_swallowed_cancellation(server: KindServer, bystander: Bystander) -> None:
    """The block of `while_connected` raises the disconnect all the same."""
    with connect(server.url("/swallows")) as client:
        assert client.recv(_PATIENCE) == "ready"
        client.close(4005)
    server.wait_for_log("told: swallowed 4005")


@pytest.mark.parametrize("path", ["/closes-twice", "/closes-twice-plainly"])
def test_two_closes_at_once_send_one_frame(
    path: str, server: KindServer, bystander: Bystander
) -> None:
    code, reason = _ending(server, path)
    assert (code, reason) in ((4001, b"one"), (4002, b"two"))
    server.wait_for_log(f"told: closed {code}")


def test_a_task_that_outlives_the_handler(server: KindServer, bystander: Bystander) -> None:
    assert _ending(server, "/leaks", b"last") == (1000, b"")
    server.wait_for_log("told: leaked send WebSocketDisconnect")
    server.wait_for_log("told: leaked receive WebSocketDisconnect")


@pytest.mark.parametrize("call", ["receive", "send"])
def test_a_call_on_another_event_loop_raises(
    call: str, server: KindServer, bystander: Bystander
) -> None:
    with connect(server.url("/strays")) as client:
        for _ in range(2):  # the connection is unharmed
            client.send(call)
            assert client.recv(_PATIENCE) in ("RuntimeError", "InvalidState")
