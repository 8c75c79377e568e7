"""Each configuration of the Deploy page, in a real nginx before each server that it concerns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, unix_connect

from tests.deploy.proxied import BROWSER, CONFIGURATIONS, PAGE, SOCKET, Nginx, Service
from tests.docs.documents import blocks, commands, files

_STARLETTE = """
import unisock
from seen import seen
from starlette.applications import Starlette

app = Starlette()
unisock.mount(app, "/seen", seen)
"""
_FALCON = """
import falcon.asgi
import unisock
from seen import seen

app = falcon.asgi.App()
unisock.mount(app, "/seen", seen)
"""
_ASGI = """
from seen import seen
from unisock.adapters.asgi import ASGIApp

app = ASGIApp(seen, path="/seen")
"""
GUNICORN = "gunicorn -k unisock.adapters.gunicorn.WebSocketWorker flask_app:app"
GUNICORN_AIOHTTP = "gunicorn -k aiohttp.GunicornWebWorker aiohttp_app:app"
GRANIAN = "granian --interface asgi granian_app:app"


# What stands for the others: each adapter once, and each way in which a server hears of a proxy.
_SHORT = ("fastapi", "falcon", "flask", "aiohttp", "aiohttp on gunicorn")


def rows(*names: str) -> list[Any]:
    """Parameters for these kinds; some are of the full matrix alone."""
    full = pytest.mark.full_matrix
    return [pytest.param(name, marks=() if name in _SHORT else full) for name in names]


class Kind(NamedTuple):
    """A command of the page, and what stands in place of its files."""

    command: str
    others: Mapping[str, str] = MappingProxyType({})


KINDS = {
    "fastapi": Kind("uvicorn app:app"),
    "starlette": Kind("uvicorn app:app", {"app.py": _STARLETTE}),
    "falcon": Kind("uvicorn app:app", {"app.py": _FALCON}),
    "asgi": Kind("uvicorn app:app", {"app.py": _ASGI}),
    "hypercorn": Kind("hypercorn hypercorn_app:app --websocket-ping-interval 20"),
    "granian": Kind(GRANIAN),
    "flask": Kind("python flask_app.py"),
    "flask on gunicorn": Kind(GUNICORN),
    "aiohttp": Kind("python aiohttp_app.py"),
    "aiohttp on gunicorn": Kind(GUNICORN_AIOHTTP),
}
# With the prefix removed; Falcon is told apart below.
PREFIXED = {
    **dict.fromkeys(("fastapi", "starlette", "asgi"), "uvicorn app:app --root-path /app"),
    "hypercorn": "hypercorn hypercorn_app:app --root-path /app",
    "granian": f"{GRANIAN} --url-path-prefix /app",
    **{name: KINDS[name].command for name in ("flask", "flask on gunicorn")},
    **{name: KINDS[name].command for name in ("aiohttp", "aiohttp on gunicorn")},
}
ON_SOCKETS = {
    "fastapi": f"uvicorn app:app --uds {SOCKET} --forwarded-allow-ips '*'",
    "hypercorn": f"hypercorn hypercorn_app:app --bind unix:{SOCKET}",
    "granian": f"{GRANIAN} --uds {SOCKET}",
    "flask on gunicorn": f"{GUNICORN} --bind unix:{SOCKET}",
    "aiohttp on gunicorn": f"{GUNICORN_AIOHTTP} --bind unix:{SOCKET}",
}

WORKERS = {
    "uvicorn app:app --workers 2": True,
    "hypercorn hypercorn_app:app --workers 2": False,
    f"{GRANIAN} --workers 2": False,
    f"{GUNICORN} --workers 2": False,
    f"{GUNICORN_AIOHTTP} --workers 2": False,
}
"""Whether small messages are delayed."""


@pytest.fixture(scope="module", params=rows(*KINDS))
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    kind = KINDS[request.param]
    with Service(kind.command, tmp_path_factory.mktemp("service"), kind.others) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of nginx."""
    path = tmp_path / "nginx"
    path.mkdir()
    return path


def told(client: ClientConnection) -> Any:
    """What the handler has seen; and that it answers."""
    seen = json.loads(client.recv(30))
    client.send("hello")
    assert client.recv(30) == "hello"
    return seen


def test_tls(service: Service, folder: Path) -> None:
    """A page of the site gets in, and the handler sees its URL and its client."""
    with (
        Nginx("app.conf", service, folder) as nginx,
        nginx.connect("/seen?q=%20a") as client,
    ):
        assert told(client) == {"url": nginx.url("/seen?q=%20a"), "client": [BROWSER, 0]}


@pytest.mark.parametrize("host", ["", "proxy_set_header Host $host;"])
def test_a_host_that_is_not_the_browser_s(service: Service, folder: Path, host: str) -> None:
    """nginx's default, and without the port: the own page is refused, and the log says why."""
    right = "proxy_set_header Host $http_host;"
    with Nginx("app.conf", service, folder, {right: host}) as nginx:
        with pytest.raises(InvalidStatus) as caught, nginx.connect("/seen"):
            pass
        assert caught.value.response.status_code == 403
        compared = "app.example" if host else f"127.0.0.1:{service.port}"
        reason = f"origin {nginx.origin!r} is not this host: the Host header says {compared!r}"
        service.wait_for(lambda: reason in service.log())
        assert right.rstrip(";") in service.log()


@pytest.mark.parametrize("name", rows(*PREFIXED))
def test_a_prefix_that_is_removed(name: str, tmp_path: Path, folder: Path) -> None:
    """The handler is mounted without it, and sees the URL with it."""
    with (
        Service(PREFIXED[name], tmp_path, KINDS[name].others) as service,
        Nginx("prefix.conf", service, folder) as nginx,
        nginx.connect("/app/seen") as client,
    ):
        assert told(client) == {"url": nginx.url("/app/seen"), "client": [BROWSER, 0]}


def test_falcon_with_a_root_path(tmp_path: Path, folder: Path) -> None:
    """No route matches; without the option one does, and the prefix is not known."""
    for option, status in ((" --root-path /app", 403), ("", 101)):
        part = folder / str(status)
        part.mkdir()
        with (
            Service(f"uvicorn app:app{option}", tmp_path, {"app.py": _FALCON}) as service,
            Nginx("prefix.conf", service, part) as nginx,
        ):
            if status == 101:
                with nginx.connect("/app/seen") as client:
                    assert told(client)["url"] == nginx.url("/seen")
            else:
                with pytest.raises(InvalidStatus, match=str(status)), nginx.connect("/app/seen"):
                    pass


@pytest.mark.parametrize("name", rows(*(name for name in KINDS if "gunicorn" not in name)))
def test_a_prefix_that_stays(name: str, tmp_path: Path, folder: Path) -> None:
    """The handler is mounted with it: that needs no option of any server."""
    kind = KINDS[name]
    sources = {**files(PAGE), **kind.others}
    others = {file: text.replace('"/seen"', '"/app/seen"') for file, text in sources.items()}
    with (
        Service(kind.command, tmp_path, others) as service,
        Nginx("app.conf", service, folder) as nginx,
        nginx.connect("/app/seen") as client,
    ):
        assert told(client) == {"url": nginx.url("/app/seen"), "client": [BROWSER, 0]}


_GEVENT = "WSGIServer(listener, app, handler_class=WebSocketHandler).serve_forever()"


def _on_socket(name: str) -> tuple[str, dict[str, str]]:
    """The command that serves on a unix socket, and the page's files for it."""
    sources = files(PAGE)
    if name == "flask":
        fragment = next(b.text for b in blocks(PAGE) if _GEVENT in b.text)
        head = sources["flask_app.py"].partition("if __name__")[0]
        return "python flask_app.py", {"flask_app.py": head + fragment}
    if name == "aiohttp":
        call = f'web.run_app(app, path="{SOCKET}")'
        assert call in PAGE.read_text()
        head = sources["aiohttp_app.py"].partition("if __name__")[0]
        return "python aiohttp_app.py", {"aiohttp_app.py": head + call}
    trusting = sources["granian_app.py"].replace('"127.0.0.1"', '"*"')
    return ON_SOCKETS[name], {"granian_app.py": trusting}


@pytest.mark.parametrize("name", rows(*ON_SOCKETS, "flask", "aiohttp"))
def test_a_unix_socket(name: str, tmp_path: Path, folder: Path) -> None:
    """The client that the proxy gives is known; without a proxy there is none."""
    command, others = _on_socket(name)
    with Service(command, tmp_path, others) as service:
        for headers, address in (({}, None), ({"X-Forwarded-For": "203.0.113.9:1"}, 1)):
            with unix_connect(
                service.socket_path, "ws://x/seen", additional_headers=headers
            ) as client:
                assert told(client)["client"] == (address and ["203.0.113.9", address])
        with (
            Nginx("unix.conf", service, folder) as nginx,
            nginx.connect("/seen") as client,
        ):
            assert told(client) == {"url": nginx.url("/seen"), "client": [BROWSER, 0]}


def test_every_command_of_the_page_is_run() -> None:
    run = {kind.command for kind in KINDS.values()} | set(PREFIXED.values())
    run |= set(ON_SOCKETS.values()) | set(WORKERS)
    assert set(commands(PAGE)) - run == {
        "gunicorn -k uvicorn_worker.UvicornWorker --workers 2 app:app"
    }
    assert set(PREFIXED.values()) | set(ON_SOCKETS.values()) | set(WORKERS) <= set(commands(PAGE))


def test_every_configuration_of_the_page_is_run() -> None:
    assert set(CONFIGURATIONS) == {"websocket.conf", "app.conf", "prefix.conf", "unix.conf"}
