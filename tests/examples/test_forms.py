"""The example of each form of a handler, by its command: on every framework it does the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from websockets.sync.client import connect

from tests.examples.app import PATIENCE, ROOT
from tests.frameworks import FRAMEWORKS


@pytest.fixture(params=["examples.endpoint:Echo", "examples.blocking:echo"])
def served(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """The example, served on every framework."""
    process = subprocess.Popen(
        [sys.executable, "-m", "unisock", "serve", request.param, "--on", "all", "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.communicate()


def test_an_example_echoes_and_sees_the_end(served: subprocess.Popen[str]) -> None:
    assert served.stdout is not None
    urls = dict(served.stdout.readline().split() for _ in FRAMEWORKS)
    assert urls.keys() == set(FRAMEWORKS)
    for url in urls.values():
        with connect(url) as connection:
            for message in ("hello", "", "żółw 🐢", b"\x00\xff", b""):
                connection.send(message)
                assert connection.recv(timeout=10) == message
            connection.close(4001)
        assert served.stdout.readline() == "5 messages, then 4001\n"
