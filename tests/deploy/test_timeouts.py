"""nginx's timeouts against keepalive."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosedError

from tests.deploy.proxied import PAGE, PATIENCE, Nginx, Service
from tests.deploy.test_nginx import KINDS, rows, told
from tests.docs.documents import files

_SHORT = {"proxy_read_timeout 60s;": "proxy_read_timeout 2s;"}
# The page's handler, which tells how it ends as well.
_TELLING = files(PAGE)["seen.py"] + '    print("closed with", ws.close_code, flush=True)\n'
_SILENT = """
import unisock
from seen import seen
from starlette.applications import Starlette
from unisock import WebSocket


async def sink(ws: WebSocket) -> None:
    await ws.accept()
    async for message in ws:
        pass
    print("closed with", ws.close_code, flush=True)


async def flood(ws: WebSocket) -> None:
    await ws.accept()
    try:
        while True:
            await ws.send(bytes(65536))
    finally:
        print("closed with", ws.close_code, flush=True)


app = Starlette()
unisock.mount(app, "/sink", sink)
unisock.mount(app, "/flood", flood)
"""


# Each server once: which framework it is on makes no difference to a ping.
_NAMES = ("fastapi", "hypercorn", "flask", "flask on gunicorn", "aiohttp")


@pytest.mark.parametrize("name", rows(*_NAMES, "granian"))
def test_a_timeout_below_the_ping_interval(name: str, tmp_path: Path) -> None:
    """It cuts a silent connection, long before a ping: both ends see 1006."""
    kind = KINDS[name]
    folder = tmp_path / "nginx"
    folder.mkdir()
    with (
        Service(kind.command, tmp_path, {**kind.others, "seen.py": _TELLING}) as service,
        Nginx("app.conf", service, folder, _SHORT) as nginx,
        nginx.connect("/seen") as client,
    ):
        told(client)
        since = time.monotonic()
        with pytest.raises(ConnectionClosedError) as caught:
            client.recv(PATIENCE)
        assert time.monotonic() - since < 15
        assert caught.value.rcvd is None
        service.wait_for(lambda: "closed with 1006" in service.log())


def _pinging(name: str) -> tuple[str, dict[str, str]]:
    """A kind's command and files with a ping each half second, or each second."""
    command, others = KINDS[name]
    if command.startswith("uvicorn"):
        return f"{command} --ws-ping-interval 0.5", dict(others)
    if command.startswith("hypercorn"):
        return command.replace("interval 20", "interval 1"), dict(others)
    mount = 'unisock.mount(app, "/seen", seen'
    sources = files(PAGE).items()
    return command, {n: text.replace(mount, f"{mount}, ping_interval=0.5") for n, text in sources}


@pytest.mark.parametrize("name", rows(*_NAMES))
def test_pings_keep_a_silent_connection_open(name: str, tmp_path: Path) -> None:
    """For twice as long as the timeout; where the server has pings."""
    folder = tmp_path / "nginx"
    folder.mkdir()
    command, others = _pinging(name)
    with (
        Service(command, tmp_path, others) as service,
        Nginx("app.conf", service, folder, _SHORT) as nginx,
        nginx.connect("/seen") as client,
    ):
        told(client)
        with pytest.raises(TimeoutError):
            client.recv(4.5)
        client.send("still here")
        assert client.recv(PATIENCE) == "still here"


def test_what_the_client_sends_counts_as_well(tmp_path: Path) -> None:
    folder = tmp_path / "nginx"
    folder.mkdir()
    with (
        Service("uvicorn app:app", tmp_path, {"app.py": _SILENT}) as service,
        Nginx("app.conf", service, folder, _SHORT) as nginx,
        nginx.connect("/sink") as client,
    ):
        for _ in range(5):
            client.send("the handler says nothing")
            time.sleep(1)
        client.close()
        service.wait_for(lambda: "closed with 1000" in service.log())


def test_a_client_that_does_not_read_is_cut_by_send_timeout(tmp_path: Path) -> None:
    folder = tmp_path / "nginx"
    folder.mkdir()
    changes = {"proxy_read_timeout 60s;": "proxy_read_timeout 60s; send_timeout 2s;"}
    with (
        Service("uvicorn app:app", tmp_path, {"app.py": _SILENT}) as service,
        Nginx("app.conf", service, folder, changes) as nginx,
        nginx.connect("/flood"),
    ):
        service.wait_for(lambda: "closed with 1006" in service.log())
