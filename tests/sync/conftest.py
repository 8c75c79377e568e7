"""Servers for the tests of plain functions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.servers import Server

SOURCE = Path(__file__).with_name("server.py")

Start = Callable[..., Server]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start a server of a kind; all stop when the module is done."""
    with ExitStack() as servers:

        def start(kind: str, **environment: str) -> Server:
            folder = tmp_path_factory.mktemp(kind)
            return servers.enter_context(
                Server(folder, SOURCE.read_text(), KIND=kind, **environment)
            )

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
