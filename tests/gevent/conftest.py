"""One server process for each way to run gevent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gevent.running import GeventServer


@pytest.fixture(scope="module", params=["unpatched", "patched"])
def server(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[GeventServer]:
    """A server, with and without ``monkey.patch_all()``."""
    running = GeventServer(request.param, tmp_path_factory.mktemp("gevent") / "log")
    yield running
    running.stop()


@pytest.fixture(params=["unpatched", "patched"])
def spare_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GeventServer]:
    """A server of a test's own, to be stopped."""
    running = GeventServer(request.param, tmp_path / "log")
    yield running
    running.process.kill()
    running.process.wait()


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Wait until a condition holds that no event tells of."""

    def wait(condition: Callable[[], bool]) -> None:
        until = time.monotonic() + 15
        while not condition():
            assert time.monotonic() < until, "it never came to hold"
            time.sleep(0.01)

    return wait
