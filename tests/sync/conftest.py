"""Servers for the tests of plain functions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.frameworks import FRAMEWORKS
from tests.servers import Server

SOURCE = Path(__file__).with_name("server.py")

Start = Callable[..., Server]

WITH_PAGES = ("asgi", "starlette", "fastapi", "falcon", "flask")
OTHERS = [name for name in FRAMEWORKS if name not in WITH_PAGES]
"""The frameworks whose application has no pages here: a socket tells what would be there."""


class ServerWithoutPages(Server):
    """Its pages are what a handler at their path sends."""

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """What a page would have."""
        with connect(self.url(path), additional_headers=headers) as client:
            return 200, client.recv(timeout=30, decode=True)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start a server of a kind; all stop when the module is done."""
    with ExitStack() as servers:

        def start(kind: str, **environment: str) -> Server:
            folder = tmp_path_factory.mktemp(kind)
            cls = ServerWithoutPages if kind in OTHERS else Server
            return servers.enter_context(cls(folder, SOURCE.read_text(), KIND=kind, **environment))

        yield start


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Wait until a condition holds that no event tells of."""

    def wait(condition: Callable[[], bool]) -> None:
        until = time.monotonic() + 15
        while not condition():
            assert time.monotonic() < until, "it never came to hold"
            time.sleep(0.02)

    return wait
