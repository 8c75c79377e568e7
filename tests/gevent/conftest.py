"""One server process for each way to run gevent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers import Server

SOURCE = Path(__file__).with_name("server.py")


def _start(kind: str, folder: Path) -> Server:
    return Server(folder, SOURCE.read_text(), KIND=kind)


@pytest.fixture(scope="module", params=["unpatched", "patched"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server, with and without ``monkey.patch_all()``."""
    with _start(request.param, tmp_path_factory.mktemp("gevent")) as running:
        yield running


@pytest.fixture(params=["unpatched", "patched"])
def spare_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server of a test's own, to be stopped."""
    with _start(request.param, tmp_path) as running:
        yield running


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Wait until a condition holds that no event tells of."""

    def wait(condition: Callable[[], bool]) -> None:
        until = time.monotonic() + 15
        while not condition():
            assert time.monotonic() < until, "it never came to hold"
            time.sleep(0.01)

    return wait
