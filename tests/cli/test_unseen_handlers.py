"""Handlers that nothing here was built on run everywhere: only ``--on`` changes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.cli.command import Start
from tests.frameworks import FRAMEWORKS

CHAT = """
members = set()


async def room(ws):
    await ws.accept()
    members.add(ws)
    try:
        await ws.send_json({"members": len(members)})
        async for text in ws.iter_text():
            for member in list(members):
                await member.send_text(text)
    finally:
        members.discard(ws)
"""

TICKER = """
import asyncio
from itertools import count


async def ticks(ws):
    await ws.accept()
    for number in count():
        await ws.send_text(str(number))
        await asyncio.sleep(0.1)
"""

GUARDED = """
import hmac

from unisock import HandshakeRejected


async def secret(ws):
    token = ws.headers.get("authorization", "")
    if not hmac.compare_digest(token, "Bearer open sesame"):
        raise HandshakeRejected(401, b"who are you?", {"www-authenticate": "Bearer"})
    await ws.accept()
    await ws.send_text("welcome")
"""


@pytest.fixture(params=[*FRAMEWORKS, "all"])
def on(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def serve(start: Start, directory: Path, source: str, handler: str, on: str) -> Iterator[str]:
    """The URLs on which `handler` of a file with `source` is served, one after the other."""
    (directory / "unseen.py").write_text(source)
    command = start("serve", f"unseen:{handler}", "--on", on, "--port=0", "--log-level=warning")
    yield from command.urls().values() if on == "all" else [command.line()]
    command.send(signal.SIGTERM)
    assert command.wait() == 0
    assert command.errors() == ""


def test_chat_room(unisock: Start, tmp_path: Path, on: str) -> None:
    for url in serve(unisock, tmp_path, CHAT, "room", on):
        with ExitStack() as stack:
            guests = [stack.enter_context(connect(url)) for _ in range(3)]
            assert [guest.recv(timeout=10) for guest in guests] == [
                '{"members":1}', '{"members":2}', '{"members":3}',
            ]  # fmt: skip
            for text in ("from the first", "once more"):
                guests[0].send(text)
            guests[0].recv(timeout=10)
            for guest in guests[1:]:
                assert guest.recv(timeout=10) == "from the first"
                assert guest.recv(timeout=10) == "once more"


def test_ticker(unisock: Start, tmp_path: Path, on: str) -> None:
    for url in serve(unisock, tmp_path, TICKER, "ticks", on):
        with connect(url) as connection:
            assert [connection.recv(timeout=10) for _ in range(5)] == list("01234")


def test_authentication(unisock: Start, tmp_path: Path, on: str) -> None:
    for url in serve(unisock, tmp_path, GUARDED, "secret", on):
        with pytest.raises(InvalidStatus) as caught, connect(url):
            pytest.fail("it was let in")
        assert caught.value.response.status_code == 401
        assert caught.value.response.body == b"who are you?"
        assert caught.value.response.headers["www-authenticate"] == "Bearer"
        with connect(url, additional_headers={"Authorization": "Bearer open sesame"}) as connection:
            assert connection.recv(timeout=10) == "welcome"
