"""The chat of the examples says the same on every framework."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.examples.app import PATIENCE, ROOT
from tests.frameworks import FRAMEWORKS

ARGUMENTS = ["serve", "examples.chat:Chat", "--path", "/rooms/{room}", "--port", "0"]


@pytest.fixture(scope="module", params=FRAMEWORKS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the chat is served, but for the room."""
    process = subprocess.Popen(
        [sys.executable, "-m", "unisock", *ARGUMENTS, "--on", request.param],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        yield url.removesuffix("room")
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def _tell(client: ClientConnection, **message: str) -> None:
    client.send(json.dumps(message))


def _heard(client: ClientConnection) -> Any:
    return json.loads(client.recv(PATIENCE))


def test_two_in_a_room_and_one_elsewhere(url: str) -> None:
    with ExitStack() as stack:
        ada, bob, eve = (stack.enter_context(connect(url + room)) for room in ("a", "a", "b"))
        _tell(ada, type="join", name="ada")
        assert _heard(ada) == {"names": ["ada"], "type": "members"}
        _tell(eve, type="join", name="eve")
        assert _heard(eve) == {"names": ["eve"], "type": "members"}
        _tell(bob, type="join", name="bob")
        for client in (ada, bob):
            assert _heard(client) == {"names": ["ada", "bob"], "type": "members"}
        _tell(ada, type="say", text="gr\u00fc\u00df dich")
        for client in (ada, bob):
            assert _heard(client) == {"name": "ada", "text": "gr\u00fc\u00df dich", "type": "said"}
        # Who has not joined is not heard.
        with connect(url + "a") as stranger:
            _tell(stranger, type="say", text="hello")
            with pytest.raises(ConnectionClosed):
                stranger.recv(PATIENCE)
        bob.close()
        assert _heard(ada) == {"names": ["ada"], "type": "members"}
        _tell(eve, type="say", text="alone")
        assert _heard(eve) == {"name": "eve", "text": "alone", "type": "said"}


@pytest.mark.parametrize(
    ("message", "closing"),
    [
        ('{"type": "say", "text": "hello"}', (4000, "join first")),
        ('{"type": "join"}', (1007, "$.name: missing")),
        ('{"type": "join", "name": 5}', (1007, "$.name: expected str, got int")),
    ],
)
def test_bad_messages(url: str, message: str, closing: tuple[int, str]) -> None:
    with connect(url + "c") as client:
        client.send('{"type": "shout"}')
        assert _heard(client) == {"type": "error", "reason": "unknown kind of message"}
        client.send(message)
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(PATIENCE)
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == closing
