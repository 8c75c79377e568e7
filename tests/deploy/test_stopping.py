"""What the Deploy page says of the end: each setting of its table, with a handler that sleeps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest
from websockets.sync.client import connect

from tests.deploy.proxied import PAGE, Service
from tests.deploy.test_nginx import KINDS
from tests.docs.documents import files, page

_DOCKER = 10.0
"""Seconds until Docker kills."""
_SEEN = """
import asyncio

from unisock import WebSocket


async def seen(ws: WebSocket) -> None:
    await ws.accept()
    await ws.send("I sleep")
    try:
        await asyncio.sleep(600)
    finally:
        print("the finally block has run")
"""
_RUN_APP = 'web.run_app(app, host="127.0.0.1", port=8000'
_WORKER_CONF = files(page("docs/how-to/asgi.md"))["gunicorn_conf.py"]


class Stop(NamedTuple):
    """What the page has for a server."""

    setting: str
    """As it stands in the table."""
    command: str
    others: Mapping[str, str] = MappingProxyType({})
    is_gentle: bool = True
    """Whether `finally` blocks run."""


def _with_option(option: str, name: str) -> Stop:
    return Stop(option, f"{KINDS[name].command} {option}")


STOPS = {
    "uvicorn": _with_option("--timeout-graceful-shutdown 8", "fastapi"),
    "aiohttp": Stop(
        "shutdown_timeout=8",
        KINDS["aiohttp"].command,
        {
            "aiohttp_app.py": files(PAGE)["aiohttp_app.py"].replace(
                _RUN_APP, f"{_RUN_APP}, shutdown_timeout=8"
            )
        },
    ),
    "gunicorn, uvicorn": Stop(
        "graceful_timeout = 8",
        "gunicorn -c gunicorn_conf.py app:app",
        {"gunicorn_conf.py": _WORKER_CONF.replace("timeout = 30", "timeout = 8")},
    ),
    "gunicorn, flask": _with_option("--graceful-timeout 8", "flask on gunicorn"),
    "gunicorn, aiohttp": _with_option("--graceful-timeout 8", "aiohttp on gunicorn"),
    "flask": Stop("5 seconds by default", KINDS["flask"].command),
    "hypercorn": _with_option("--graceful-timeout 8", "hypercorn"),
    "granian": Stop("none", KINDS["granian"].command, is_gentle=False),
}
_SHORT = ("uvicorn", "aiohttp")
_ROWS = [
    pytest.param(name, marks=() if name in _SHORT else pytest.mark.full_matrix) for name in STOPS
]


@pytest.mark.parametrize("name", _ROWS)
def test_the_end_is_before_docker_kills(name: str, tmp_path: Path) -> None:
    stop = STOPS[name]
    assert stop.setting in PAGE.read_text().partition("\n## Stopping\n")[2]
    with Service(stop.command, tmp_path, {"seen.py": _SEEN, **stop.others}) as service:
        url = f"ws://127.0.0.1:{service.port}/seen"
        with connect(url, proxy=None, close_timeout=0) as client:
            assert client.recv(30) == "I sleep"
            since = time.monotonic()
            service.stop()  # by SIGTERM
            assert time.monotonic() - since < _DOCKER
    assert ("the finally block has run" in service.log()) is stop.is_gentle
